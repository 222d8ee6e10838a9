//! The marker ring: where an event lives, how it is stored and how a reader copies it.
//!
//! ```text
//!            writer (the owner thread)               reader (any process, any time)
//!   seq = 0                    relaxed                seq == index + 1 ?       acquire
//!   ------------------- fence(release)                copy the other words     relaxed
//!   the other words            relaxed                -------------------- fence(acquire)
//!   seq = index + 1            release                seq unchanged ?          relaxed
//!   head = index + 1           release  (caller)
//! ```
//! A reader that saw any word of a newer event must then see `seq` cleared or newer, because
//! the two fences pair. The code is generic over the word so that tests can check the very same
//! lines in an interleaving model and over plain heap memory.

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// One 64-bit word of shared memory.
pub trait Word: Sized {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn fence(order: Ordering);

    /// Two relaxed stores, in any order.
    #[inline(always)]
    fn store_pair(pair: &[Self; 2], values: [u64; 2]) {
        pair[0].store(values[0], Ordering::Relaxed);
        pair[1].store(values[1], Ordering::Relaxed);
    }
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    #[inline(always)]
    fn fence(order: Ordering) {
        fence(order);
    }

    /// By one instruction: the number of stores is most of what a publish costs.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    fn store_pair(pair: &[Self; 2], [first, second]: [u64; 2]) {
        use core::arch::x86_64::_mm_set_epi64x;
        // SAFETY:
        // - the pair is 16 bytes that may change behind a shared reference;
        // - the instruction acts as two relaxed stores, and SSE2 is part of x86-64.
        unsafe {
            core::arch::asm!(
                "movups [{place}], {values}",
                place = in(reg) pair.as_ptr(),
                values = in(xmm_reg) _mm_set_epi64x(second.cast_signed(), first.cast_signed()),
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Stores the event with this index. `words[0]` is ignored: it becomes the sequence number.
#[inline(always)]
pub(crate) fn write_slot<W: Word, const N: usize>(slot: &[W; N], index: u64, words: &[u64; N]) {
    slot[0].store(0, Ordering::Relaxed);
    // Pairs with the acquire fence in `read_slot`: no later store may be seen before seq = 0.
    W::fence(Ordering::Release);
    const { assert!(N >= 2 && N.is_multiple_of(2)) };
    let (pairs, values) = (slot.as_chunks::<2>().0, words.as_chunks::<2>().0);
    // The first pair is the sequence number and word 1.
    slot[1].store(words[1], Ordering::Relaxed);
    for pair in 1..N / 2 {
        W::store_pair(&pairs[pair], values[pair]);
    }
    slot[0].store(index.wrapping_add(1), Ordering::Release);
}

/// Copies the event with this index, or `None` if the slot holds another one or is being written.
#[inline]
pub fn read_slot<W: Word, const N: usize>(slot: &[W; N], index: u64) -> Option<[u64; N]> {
    let seq = index.wrapping_add(1);
    if slot[0].load(Ordering::Acquire) != seq {
        return None;
    }
    let mut words = [seq; N];
    for word in 1..N {
        words[word] = slot[word].load(Ordering::Relaxed);
    }
    W::fence(Ordering::Acquire);
    (slot[0].load(Ordering::Relaxed) == seq).then_some(words)
}

/// The slot an event lives in. Events from `grown_at` on (if it is not 0) use the larger ring.
#[inline]
pub const fn slot_of(index: u64, ring_log2: u32, grown_at: u64, ring_log2_max: u32) -> u64 {
    let log2 = if grown_at != 0 && index >= grown_at { ring_log2_max } else { ring_log2 };
    index & ((1 << log2) - 1)
}

/// The first index at or after `index` at which a ring may grow.
///
/// Growth waits until the larger ring's next slots lie clear of the small ring, and stay so for
/// at least one small lap: what a reader has not drained yet survives that long.
pub const fn growth_index(index: u64, ring_log2: u32, ring_log2_max: u32) -> u64 {
    let small = 1_u64 << ring_log2;
    let large = 1_u64 << ring_log2_max;
    let place = index & (large - 1);
    if place < small {
        index + (small - place)
    } else if place > large - small {
        index + (large - place) + small
    } else {
        index
    }
}

#[cfg(all(test, not(miri)))]
mod model {
    //! Every interleaving, and every order the memory model allows, of one writer and one reader.

    use std::sync::atomic::AtomicUsize;

    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64 as ModelWord;

    use super::*;

    impl Word for ModelWord {
        fn load(&self, order: Ordering) -> u64 {
            ModelWord::load(self, order)
        }

        fn store(&self, value: u64, order: Ordering) {
            ModelWord::store(self, value, order);
        }

        fn fence(order: Ordering) {
            loom::sync::atomic::fence(order);
        }
    }

    const SLOTS: u64 = 2;

    struct Ring {
        head: ModelWord,
        slots: [[ModelWord; 4]; SLOTS as usize],
    }

    /// How often a reader accepted an event, over all executions.
    fn explore(write: fn(&[ModelWord; 4], u64, &[u64; 4])) -> usize {
        static ACCEPTED: AtomicUsize = AtomicUsize::new(0);
        ACCEPTED.store(0, Ordering::SeqCst);
        loom::model(move || {
            let word = || ModelWord::new(0);
            let slot = || [word(), word(), word(), word()];
            let ring = Arc::new(Ring { head: word(), slots: [slot(), slot()] });
            let writer = loom::thread::spawn({
                let ring = ring.clone();
                move || {
                    for index in 0..SLOTS + 1 {
                        let slot = &ring.slots[(index % SLOTS) as usize];
                        write(slot, index, &[0, index + 10, index + 20, index + 30]);
                        ring.head.store(index + 1, Ordering::Release);
                    }
                }
            });
            let head = ring.head.load(Ordering::Acquire);
            for index in 0..head {
                match read_slot(&ring.slots[(index % SLOTS) as usize], index) {
                    Some(words) => {
                        assert_eq!(words, [index + 1, index + 10, index + 20, index + 30]);
                        ACCEPTED.fetch_add(1, Ordering::SeqCst);
                    }
                    // Only the event that the third one overwrites may be missing.
                    None => assert_eq!(index, 0),
                }
            }
            writer.join().expect("the writer does not panic");
        });
        ACCEPTED.load(Ordering::SeqCst)
    }

    #[test]
    fn a_reader_accepts_whole_events_only() {
        assert!(explore(write_slot) > 0);
    }

    /// The same without the fence must fail, or the model proves nothing.
    #[test]
    #[should_panic(expected = "left == right")]
    fn without_the_fence_the_model_finds_a_torn_event() {
        explore(|slot, index, words| {
            slot[0].store(0, Ordering::Relaxed);
            for word in 1..4 {
                slot[word].store(words[word], Ordering::Relaxed);
            }
            slot[0].store(index + 1, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> [AtomicU64; 8] {
        [const { AtomicU64::new(0) }; 8]
    }

    #[test]
    fn an_event_reads_back_only_under_its_own_index() {
        let slot = slot();
        assert_eq!(read_slot(&slot, 0), None);
        write_slot(&slot, 5, &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(read_slot(&slot, 5), Some([6, 1, 2, 3, 4, 5, 6, 7]));
        assert_eq!(read_slot(&slot, 4), None);
        assert_eq!(read_slot(&slot, 6), None);
    }

    #[test]
    fn a_half_written_event_is_refused() {
        let slot = slot();
        write_slot(&slot, 0, &[0, 1, 2, 3, 4, 5, 6, 7]);
        slot[0].store(0, Ordering::Relaxed);
        assert_eq!(read_slot(&slot, 0), None);
    }

    #[test]
    fn concurrent_copies_are_whole_or_refused() {
        let slot = std::sync::Arc::new(slot());
        let rounds = if cfg!(miri) { 60 } else { 20_000 };
        let writer = std::thread::spawn({
            let slot = slot.clone();
            move || (0..rounds).for_each(|index| write_slot(&slot, index, &[index; 8]))
        });
        let mut accepted = 0;
        while !writer.is_finished() {
            for index in 0..rounds {
                if let Some(words) = read_slot(&slot, index) {
                    accepted += 1;
                    assert!(words[1..].iter().all(|word| *word == index), "{index}: {words:?}");
                }
            }
        }
        writer.join().unwrap();
        assert_eq!(read_slot(&slot, rounds - 1).map(|words| words[7]), Some(rounds - 1));
        assert!(accepted > 0 || cfg!(miri));
    }

    #[test]
    fn growth_keeps_clear_of_the_small_ring() {
        for log2 in if cfg!(miri) { 9..10 } else { 4..13 } {
            let (small, large) = (1_u64 << log2, 1_u64 << 13);
            for index in (0..3 * large).step_by(if cfg!(miri) { 61 } else { 1 }) {
                let at = growth_index(index, log2, 13);
                assert!(at >= index && at - index < 2 * small);
                let place = at & (large - 1);
                assert!((small..=large - small).contains(&place), "{log2} {index} {at}");
            }
        }
        assert_eq!(growth_index(1024, 10, 13), 1024);
        assert_eq!(growth_index(7168, 10, 13), 7168);
        assert_eq!(growth_index(7169, 10, 13), 8192 + 1024);
    }

    #[test]
    fn slots_follow_the_ring_the_event_was_stored_in() {
        assert_eq!(slot_of(5000, 10, 0, 13), 5000 & 1023);
        assert_eq!(slot_of(5000, 10, 4999, 13), 5000);
        assert_eq!(slot_of(4998, 10, 4999, 13), 4998 & 1023);
        assert_eq!(slot_of(4999, 10, 4999, 13), 4999);
        assert_eq!(slot_of(8192 + 3, 10, 4999, 13), 3);
    }
}
