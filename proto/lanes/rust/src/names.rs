//! The name table: operation names to small ids, append-only, without a lock.
//!
//! ```text
//!   INDEX  hash -> id           an accelerator; may lag behind ORDER, never ahead
//!   ORDER  id-1 -> cell + 1     the truth: one compare-exchange appends a name
//!   CELLS  length + bytes       written by one thread before ORDER names it
//! ```
//! `ORDER` fills from the front and nothing is ever taken back, so any instant's copy is a valid
//! table: a fork child, made while another thread was inside, simply goes on with it.
//! Every segment holds a copy; whoever finds a copy behind brings it up to date.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::abi::{NAME_CAP, NAME_LEN_MAX, NAME_STRIDE};
use crate::process;
use crate::segment::Segment;

const WORDS: usize = NAME_STRIDE / 8;
/// Threads that lose a race for a place leave their cell unused; these are spare.
const CELL_COUNT: usize = NAME_CAP + 512;
const INDEX_COUNT: usize = 2 * NAME_CAP;

pub(crate) type NameWords = [u64; WORDS];

static TABLE: NameTable = NameTable::new();

/// The process's table; everything is an atomic so that sharing needs no promise.
struct NameTable {
    cells: [[AtomicU64; WORDS]; CELL_COUNT],
    cells_used: AtomicU32,
    order: [AtomicU16; NAME_CAP],
    count: AtomicU32,
    index: [AtomicU16; INDEX_COUNT],
    indexed: AtomicU32,
}

/// Interns a name for this process. 0 when it is empty, too long, or the table is full.
pub(crate) fn intern(name: &[u8]) -> u32 {
    if name.is_empty() {
        return 0;
    }
    let known = TABLE.count.load(Ordering::Relaxed);
    match TABLE.intern(name) {
        Some(id) => {
            if id > known {
                process::for_each_segment(publish_into);
            }
            id
        }
        None => {
            process::COUNTERS.count_name_refused();
            0
        }
    }
}

/// Brings a segment's copy of the table up to date.
pub(crate) fn publish_into(segment: Segment) {
    let count = &segment.header().name_count;
    loop {
        let done = count.load(Ordering::Acquire);
        // SeqCst: see `process::publish_segment`, which orders "segment listed" and "name added".
        if done >= TABLE.count.load(Ordering::SeqCst) {
            return;
        }
        let words = TABLE.words(done as usize);
        // Several threads may store the same words here; readers look after the count moved.
        for (shared, word) in segment.name_entry(done as usize).iter().zip(words) {
            shared.store(word, Ordering::Relaxed);
        }
        let _ = count.compare_exchange(done, done + 1, Ordering::Release, Ordering::Relaxed);
    }
}

fn to_words(name: &[u8]) -> NameWords {
    let mut bytes = [0; NAME_STRIDE];
    bytes[0] = name.len() as u8;
    bytes[1..=name.len()].copy_from_slice(name);
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

/// FNV-1a over the words that hold something.
fn hash(words: &NameWords) -> usize {
    let used = 1 + (words[0] as u8 as usize) / 8;
    let mixed = words[..used].iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, word| {
        (hash ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(29)
    });
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(20) as usize % INDEX_COUNT
}

// === impl NameTable ===

impl NameTable {
    const fn new() -> Self {
        Self {
            cells: [const { [const { AtomicU64::new(0) }; WORDS] }; CELL_COUNT],
            cells_used: AtomicU32::new(0),
            order: [const { AtomicU16::new(0) }; NAME_CAP],
            count: AtomicU32::new(0),
            index: [const { AtomicU16::new(0) }; INDEX_COUNT],
            indexed: AtomicU32::new(0),
        }
    }

    fn intern(&self, name: &[u8]) -> Option<u32> {
        if name.len() > NAME_LEN_MAX {
            return None;
        }
        let words = to_words(name);
        let start = hash(&words);
        // Read before the look-up: what is indexed later is found by the scan below instead.
        let mut seen = self.indexed.load(Ordering::Acquire);
        if let Some(id) = self.look_up(start, &words) {
            return Some(id);
        }
        let mut cell = None;
        loop {
            self.catch_up();
            let count = self.count.load(Ordering::SeqCst);
            for place in seen..count {
                if self.words(place as usize) == words {
                    return Some(place + 1);
                }
            }
            seen = count;
            if count as usize == NAME_CAP {
                return None;
            }
            if cell.is_none() {
                cell = Some(self.new_cell(&words)?);
            }
            let number = cell.unwrap_or_default();
            let order = &self.order[count as usize];
            if order.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                self.catch_up();
                return Some(count + 1);
            }
        }
    }

    fn look_up(&self, start: usize, words: &NameWords) -> Option<u32> {
        for step in 0..INDEX_COUNT {
            let id = self.index[(start + step) % INDEX_COUNT].load(Ordering::Acquire);
            if id == 0 {
                return None;
            }
            if self.words(usize::from(id) - 1) == *words {
                return Some(u32::from(id));
            }
        }
        None
    }

    /// Writes a private cell; its number (from 1) is what `order` will hold.
    fn new_cell(&self, words: &NameWords) -> Option<u16> {
        let used = &self.cells_used;
        let number = used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                ((used as usize) < CELL_COUNT).then_some(used + 1)
            })
            .ok()?;
        for (cell, word) in self.cells[number as usize].iter().zip(words) {
            cell.store(*word, Ordering::Relaxed);
        }
        Some(number as u16 + 1)
    }

    /// Moves `count` past every name in `order`, and puts every counted name into the index.
    fn catch_up(&self) {
        loop {
            let count = self.count.load(Ordering::SeqCst);
            if (count as usize) < NAME_CAP && self.order[count as usize].load(Ordering::SeqCst) != 0
            {
                let _ = self.count.compare_exchange(
                    count,
                    count + 1,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                continue;
            }
            let indexed = self.indexed.load(Ordering::Acquire);
            if indexed >= count {
                return;
            }
            self.put_into_index(indexed as u16 + 1);
            let _ = self.indexed.compare_exchange(
                indexed,
                indexed + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }

    /// Slots are never emptied, so every thread that adds this id ends at the same slot.
    fn put_into_index(&self, id: u16) {
        let start = hash(&self.words(usize::from(id) - 1));
        for step in 0..INDEX_COUNT {
            let slot = &self.index[(start + step) % INDEX_COUNT];
            match slot.compare_exchange(0, id, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) if other == id => return,
                Err(_) => {}
            }
        }
    }

    fn words(&self, place: usize) -> NameWords {
        let number = self.order[place].load(Ordering::Acquire);
        let cell = &self.cells[usize::from(number).saturating_sub(1)];
        core::array::from_fn(|word| cell[word].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Box<NameTable> {
        // SAFETY: all-zero bytes are a valid, empty table; built on the heap for its size.
        unsafe { Box::<NameTable>::new_zeroed().assume_init() }
    }

    #[test]
    fn ids_are_dense_and_idempotent() {
        let table = table();
        assert_eq!(table.intern(b"GET /checkout"), Some(1));
        assert_eq!(table.intern(b"GET /cart"), Some(2));
        assert_eq!(table.intern(b"GET /checkout"), Some(1));
        assert_eq!(table.intern(&[b'x'; 127]), Some(3));
        assert_eq!(table.intern(&[b'x'; 128]), None);
        assert_eq!(table.words(0), to_words(b"GET /checkout"));
    }

    #[test]
    fn the_table_ends_at_its_capacity() {
        let table = table();
        let names = if cfg!(miri) { 40 } else { NAME_CAP };
        table.count.store((NAME_CAP - names) as u32, Ordering::Relaxed);
        table.indexed.store((NAME_CAP - names) as u32, Ordering::Relaxed);
        for number in 0..names {
            let id = table.intern(format!("name {number}").as_bytes());
            assert_eq!(id, Some((NAME_CAP - names + number + 1) as u32));
        }
        assert_eq!(table.intern(b"one more"), None);
        assert_eq!(table.intern(b"name 7"), Some((NAME_CAP - names + 8) as u32));
    }

    #[test]
    fn racing_threads_agree_on_every_id() {
        let table = table();
        let names = if cfg!(miri) { 6 } else { 500 };
        let ids = |table: &NameTable, turn: usize| -> Vec<(usize, u32)> {
            let order = (0..names).map(|number| (number + turn * names / 4) % names);
            order.map(|n| (n, table.intern(format!("{n}").as_bytes()).unwrap())).collect()
        };
        let mut all: Vec<Vec<(usize, u32)>> = std::thread::scope(|scope| {
            let turns: Vec<_> = (0..4)
                .map(|turn| {
                    scope.spawn({
                        let t = &table;
                        move || ids(t, turn)
                    })
                })
                .collect();
            turns.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        all.iter_mut().for_each(|ids| ids.sort_unstable());
        assert!(all.iter().all(|ids| *ids == all[0]));
        let mut given: Vec<u32> = all[0].iter().map(|(_, id)| *id).collect();
        given.sort_unstable();
        assert_eq!(given, (1..=names as u32).collect::<Vec<_>>());
    }
}
