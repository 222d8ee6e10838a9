//! What a thread knows about its lane, and how it writes an event there.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};

use crate::abi::{
    EventWords, GROW_LAP_NS, LaneControl, RING_LOG2_MAX, WARN_LAP_NS, growth_index, op,
};
use crate::config::{Clock, config};
use crate::joint::{self, Publisher};
use crate::kernel;
use crate::lane::{self, Claim, Slot};
use crate::process::{self, ProcessPage};
use crate::ring::{Word, write_slot};

/// Stands for a page that never lives, so that a fresh thread takes the slow path.
static NEVER: AtomicU64 = AtomicU64::new(0);

/// What a thread knows about its lane. Constant-initialised and without a destructor, so that
/// reaching it is one address computation, also in a signal handler.
pub(crate) struct ThreadState {
    busy: AtomicBool,
    /// The thread's exit destructor has run.
    pub(crate) ended: Cell<bool>,
    pub(crate) clock: Cell<Clock>,
    ring_log2: Cell<u32>,
    /// The process page's number and the one this state belongs to: equal = the lane is ours.
    live: Cell<*const AtomicU64>,
    incarnation: Cell<u64>,
    pub(crate) lane: Cell<*const LaneControl>,
    ring: Cell<*const Slot>,
    mask: Cell<u64>,
    /// The newest event, to skip a SET that changes nothing.
    newest: Cell<*const Slot>,
    /// The next index at which `new_lap` must look.
    check_at: Cell<u64>,
    /// The index at which the ring grows; 0 = not asked for.
    grow_at: Cell<u64>,
    lap_began_ns: Cell<u64>,
    /// The incarnation in which this thread found no lane.
    without_lane_in: Cell<u64>,
}

/// What the slow path found.
pub(crate) enum Standing {
    Attached,
    WithoutLane,
    Disabled,
    /// Another copy of the publisher serves this process.
    Elsewhere(&'static Publisher),
}

/// Where word 6 of an event has the kind of its timestamp.
const TS_KIND_MASK: u64 = 0xFF << 16;

// === impl ThreadState ===

impl ThreadState {
    pub(crate) const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            ended: Cell::new(false),
            clock: Cell::new(Clock::None),
            ring_log2: Cell::new(0),
            live: Cell::new(&raw const NEVER),
            // Differs from NEVER's value.
            incarnation: Cell::new(u64::MAX),
            lane: Cell::new(ptr::null()),
            ring: Cell::new(ptr::null()),
            mask: Cell::new(0),
            newest: Cell::new(ptr::null()),
            check_at: Cell::new(0),
            grow_at: Cell::new(0),
            lap_began_ns: Cell::new(0),
            without_lane_in: Cell::new(0),
        }
    }

    /// Refuses whoever interrupts this thread's own publishing.
    #[inline(always)]
    pub(crate) fn enter(&self) -> bool {
        if self.busy.load(Ordering::Relaxed) {
            refuse();
            return false;
        }
        self.busy.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        true
    }

    #[inline(always)]
    pub(crate) fn leave(&self) {
        compiler_fence(Ordering::SeqCst);
        self.busy.store(false, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn is_live(&self) -> bool {
        // SAFETY: points to `NEVER` or to the process page, both there for ever.
        unsafe { &*self.live.get() }.load(Ordering::Relaxed) == self.incarnation.get()
    }

    /// The slow path: first use on this thread, or in this process, or after a fork.
    #[cold]
    #[inline(never)]
    pub(crate) fn settle(&self) -> Standing {
        let _errno = kernel::keep_errno();
        if let Some(other) = joint::elsewhere() {
            return Standing::Elsewhere(other);
        }
        let Ok(page) = process::ready() else {
            process::COUNTERS.count_publish_refused();
            return Standing::Disabled;
        };
        let incarnation = page.live.load(Ordering::Acquire);
        if self.ended.get() || self.without_lane_in.get() == incarnation {
            return Standing::WithoutLane;
        }
        // Whatever was here belongs to a parent.
        self.detach();
        if lane::acquire(page, self) {
            return Standing::Attached;
        }
        self.without_lane_in.set(incarnation);
        Standing::WithoutLane
    }

    /// Makes a claimed lane this thread's own.
    pub(crate) fn attach(&self, claim: Claim, page: &ProcessPage) {
        self.borrow_ring(claim);
        self.live.set(&raw const page.live);
        self.incarnation.set(page.live.load(Ordering::Relaxed));
    }

    /// Points the ring part of this state at a claimed lane.
    pub(crate) fn borrow_ring(&self, claim: Claim) {
        let log2 = claim.ring_log2();
        let head = claim.lane.head.load(Ordering::Relaxed);
        self.clock.set(config().clock);
        self.ring_log2.set(log2);
        self.lane.set(&raw const *claim.lane);
        self.ring.set(claim.ring);
        self.mask.set((1 << log2) - 1);
        self.newest.set(claim.ring);
        self.check_at.set(head.next_multiple_of(1 << log2));
        self.grow_at.set(0);
        self.lap_began_ns.set(0);
    }

    pub(crate) fn detach(&self) {
        self.live.set(&raw const NEVER);
        self.incarnation.set(u64::MAX);
        self.lane.set(ptr::null());
    }

    /// Whether a write is straight-line: no new lap, and a clock of one instruction or none.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        let index = self.held_lane().head.load(Ordering::Relaxed);
        index < self.check_at.get() && self.clock.get().is_plain()
    }

    /// The lane, for a thread that is live or has just claimed it.
    #[inline(always)]
    pub(crate) fn held_lane(&self) -> &'static LaneControl {
        // SAFETY: the claim made it a mapped lane of this incarnation, whose fields are atomics.
        unsafe { &*self.lane.get() }
    }

    /// The newest event of a live thread.
    #[inline(always)]
    fn newest(&self) -> &Slot {
        // SAFETY: a claim or a write pointed it into the lane's ring, mapped while live.
        unsafe { &*self.newest.get() }
    }

    #[inline(always)]
    pub(crate) fn is_set(&self) -> bool {
        self.newest()[6].load(Ordering::Relaxed) as u8 == op::SET
    }

    /// Whether the newest event says the same; the kind of its timestamp does not matter.
    #[inline(always)]
    pub(crate) fn is_current(&self, words: &EventWords) -> bool {
        let newest = self.newest();
        let same = |word: usize| newest[word].load(Ordering::Relaxed) == words[word];
        let small = newest[6].load(Ordering::Relaxed) & !TS_KIND_MASK;
        same(4) && same(7) && small == words[6] && same(2) && same(3) && same(5)
    }

    #[inline(always)]
    pub(crate) fn stamp(&self, words: &mut EventWords, (ts, kind): (u64, u8)) {
        words[1] = ts;
        words[6] |= u64::from(kind) << 16;
    }

    /// Stores an event with every clock and at any index.
    #[inline(never)]
    pub(crate) fn append(&self, mut words: EventWords, caller_ts: u64) {
        let index = self.held_lane().head.load(Ordering::Relaxed);
        if index >= self.check_at.get() {
            self.new_lap(index);
        }
        self.stamp(&mut words, self.clock.get().now(caller_ts));
        self.write(&words);
    }

    /// Stores an event, takes the record's validity away, moves `head`, and for a SET makes the
    /// record valid again.
    ///
    /// A reader that interrupts this thread sees either `valid` with the record of `head`, or no
    /// `valid` and the event at `head - 1`.
    #[inline(always)]
    pub(crate) fn write(&self, words: &EventWords) {
        let lane = self.held_lane();
        let record = &lane.record;
        let index = lane.head.load(Ordering::Relaxed);
        // SAFETY: the mask keeps the slot inside the ring, whose address space the lane reserves.
        let slot = unsafe { &*self.ring.get().add((index & self.mask.get()) as usize) };
        write_slot(slot, index, words);
        record.valid_flags_size.store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let [op, trace_flags, ..] = words[6].to_le_bytes();
        if op == op::SET {
            AtomicU64::store_pair(&record.trace_id, [words[2], words[3]]);
            record.span_id.store(words[4], Ordering::Relaxed);
        }
        // The moment of publication. Pairs with the reader's acquire of `head`.
        lane.head.store(index + 1, Ordering::Release);
        self.newest.set(slot);
        compiler_fence(Ordering::SeqCst);
        if op == op::SET {
            let valid = 1 | u32::from(trace_flags) << 8;
            record.valid_flags_size.store(valid, Ordering::Relaxed);
        }
    }

    /// A lap ends, or the ring may grow now.
    #[cold]
    fn new_lap(&self, index: u64) {
        let lane = self.held_lane();
        let mut log2 = self.ring_log2.get();
        if self.grow_at.get() != 0 && index >= self.grow_at.get() {
            log2 = RING_LOG2_MAX;
            self.grow_at.set(0);
            self.ring_log2.set(log2);
            self.mask.set((1 << log2) - 1);
            // The first lap of the large ring began somewhere in its middle.
            self.lap_began_ns.set(0);
            // Before the first event under the larger mask, hence before the head that shows it.
            lane.grown_at.store(index, Ordering::Release);
        }
        let lap = 1 << log2;
        if index.is_multiple_of(lap) {
            let now = kernel::monotonic_ns();
            let took = now.wrapping_sub(self.lap_began_ns.replace(now));
            if took < WARN_LAP_NS {
                lane.lap_warnings.fetch_add(1, Ordering::Relaxed);
            }
            if took < GROW_LAP_NS && log2 < RING_LOG2_MAX && self.grow_at.get() == 0 {
                self.grow_at.set(growth_index(index + 1, log2, RING_LOG2_MAX));
            }
        }
        let next_lap = (index + 1).next_multiple_of(lap);
        self.check_at.set(match self.grow_at.get() {
            0 => next_lap,
            at => next_lap.min(at),
        });
    }
}

#[cold]
#[inline(never)]
fn refuse() {
    process::COUNTERS.count_publish_refused();
}
