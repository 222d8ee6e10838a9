//! Taking a lane for the calling thread, and giving it back when the thread ends.
//!
//! ```text
//!   gen   0 ──CAS──► 1 (owned) ──► 2 (free) ──CAS──► 3 (owned) ...      only ever grows
//!                    └ owner died without giving back: CAS 1 ──► 3, by one reclaimer at a time
//! ```
//! `owner_tid` is 0 whenever a lane is free or changing hands, so no reader and no reclaimer ever
//! takes the former owner for the present one.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::abi::{
    EVENT_WORDS, LANE_CAP, LANE_MAGIC, LANE_OFF, LANE_STRIDE, LaneControl, RING_IN_LANE,
    RING_LOG2_MAX, SEGMENT_NAME_NUL, SEGMENTS_MAX, lane_kind, op,
};
use crate::config::config;
use crate::event::ownership;
use crate::kernel;
use crate::otel;
use crate::process::{self, ProcessPage};
use crate::segment::Segment;
use crate::thread::ThreadState;

/// The pthread key whose destructor gives lanes back, plus one; 0 = none made yet.
/// A key, not a Rust destructor: registering the latter may allocate, and it would run before
/// those of the program's own thread-locals, which may still publish.
static EXIT_KEY: AtomicU32 = AtomicU32::new(0);

/// One slot of a ring.
pub(crate) type Slot = [AtomicU64; EVENT_WORDS];

/// A lane the calling thread has just claimed.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) lane: &'static LaneControl,
    pub(crate) ring: *const Slot,
    generation: u32,
    ring_off: u64,
    /// The former owner, if it died while it held the lane; else 0.
    orphan_of: u32,
}

/// Gives the calling thread a lane, or leaves it without one and counts that.
pub(crate) fn acquire(page: &ProcessPage, thread: &ThreadState) -> bool {
    let tid = kernel::gettid();
    let Some(claim) = claim(page) else {
        process::COUNTERS.count_thread_without_lane();
        return false;
    };
    open(claim, tid, thread);
    thread.attach(claim, page);
    let (ts, _) = config().clock.now(0);
    claim.lane.acquire_ts.store(ts, Ordering::Relaxed);
    thread.append(ownership(op::LANE_BEGIN, tid, claim.generation), 0);
    // Only now is every field true that the breadcrumb invites to read.
    otel::point_at((&raw const claim.lane.record).cast());
    kernel::leave_breadcrumb((&raw const *claim.lane).cast(), SEGMENT_NAME_NUL);
    release_at_exit();
    true
}

/// Ends the calling thread's lane. The thread state must be attached and live.
pub(crate) fn release(thread: &ThreadState, lane: &LaneControl) {
    let generation = lane.generation.load(Ordering::Relaxed);
    let tid = lane.owner_tid.load(Ordering::Relaxed);
    lane.record.valid_flags_size.store(0, Ordering::Relaxed);
    thread.append(ownership(op::LANE_END, tid, generation), 0);
    otel::take_back((&raw const lane.record).cast());
    thread.detach();
    lane.owner_tid.store(0, Ordering::Relaxed);
    // Pairs with the acquire of the next claim: it goes on from this head and this ring.
    lane.generation.store(generation.wrapping_add(1), Ordering::Release);
}

fn claim(page: &ProcessPage) -> Option<Claim> {
    for ordinal in 0..SEGMENTS_MAX {
        let segment = match page.segment(ordinal) {
            Some(segment) => segment,
            // Everything made so far is taken: look for lanes of the dead before making more.
            None => match claim_orphan(page) {
                Some(claim) => return Some(claim),
                None => page.segment_or_new(ordinal).ok()?,
            },
        };
        if segment.header().creator_pid != kernel::getpid() {
            // A vfork child borrows its parent's memory; a lane taken here would outlive it.
            return None;
        }
        if let Some(claim) = claim_free(segment) {
            return Some(claim);
        }
    }
    None
}

fn claim_free(segment: Segment) -> Option<Claim> {
    (0..LANE_CAP).find_map(|number| {
        let lane = segment.lane(number);
        let free = lane.generation.load(Ordering::Relaxed);
        let owned = free.wrapping_add(1);
        let claimed = free.is_multiple_of(2)
            && lane
                .generation
                .compare_exchange(free, owned, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        claimed.then(|| Claim::new(segment, number, owned, 0))
    })
}

/// Takes over a lane whose owner is gone. One thread at a time: a lane half taken over still
/// looks like an orphan to another.
fn claim_orphan(page: &ProcessPage) -> Option<Claim> {
    let reclaiming = &page.reclaiming;
    reclaiming.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
    let lanes = (0..SEGMENTS_MAX)
        .map_while(|ordinal| page.segment(ordinal))
        .flat_map(|segment| (0..LANE_CAP).map(move |number| (segment, number)));
    let mut found = None;
    for (segment, number) in lanes {
        let lane = segment.lane(number);
        let owned = lane.generation.load(Ordering::Acquire);
        let owner = lane.owner_tid.load(Ordering::Relaxed);
        if owned.is_multiple_of(2) || owner == 0 || kernel::thread_is_alive(owner) {
            continue;
        }
        let next = owned.wrapping_add(2);
        let exchanged =
            lane.generation.compare_exchange(owned, next, Ordering::AcqRel, Ordering::Relaxed);
        if exchanged.is_ok() {
            // At once, so that the next reclaimer does not see the dead owner again.
            lane.owner_tid.store(0, Ordering::Relaxed);
            found = Some(Claim::new(segment, number, next, owner));
            break;
        }
    }
    reclaiming.store(0, Ordering::Release);
    found
}

/// Fills the control line of a claimed lane.
fn open(claim: Claim, tid: u32, thread: &ThreadState) {
    let lane = claim.lane;
    lane.magic.store(LANE_MAGIC, Ordering::Relaxed);
    lane.ring_log2.store(config().ring_log2 as u16, Ordering::Relaxed);
    lane.kind.store(lane_kind::THREAD, Ordering::Relaxed);
    lane.flags.store(0, Ordering::Relaxed);
    lane.ring_off.store(claim.ring_off, Ordering::Relaxed);
    lane.record.valid_flags_size.store(0, Ordering::Relaxed);
    if claim.orphan_of != 0 {
        // What its owner could not say any more.
        thread.borrow_ring(claim);
        let ended = claim.generation.wrapping_sub(2);
        thread.append(ownership(op::LANE_END, claim.orphan_of, ended), 0);
    }
    lane.first_index.store(lane.head.load(Ordering::Relaxed), Ordering::Relaxed);
    let name = kernel::thread_name();
    for (word, bytes) in lane.thread_name.iter().zip(name.as_chunks().0) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    lane.owner_tid.store(tid, Ordering::Release);
}

fn release_at_exit() {
    let mut key = EXIT_KEY.load(Ordering::Acquire);
    if key == 0 {
        let mut fresh = 0;
        // SAFETY: `fresh` is writable; the destructor is a function of this program.
        if unsafe { libc::pthread_key_create(&raw mut fresh, Some(at_thread_exit)) } != 0 {
            // The lanes of dead threads are then taken back by whoever needs one.
            return;
        }
        match EXIT_KEY.compare_exchange(0, fresh + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => key = fresh + 1,
            Err(winner) => {
                // SAFETY: the key was just made and nobody else knows it.
                unsafe { libc::pthread_key_delete(fresh) };
                key = winner;
            }
        }
    }
    // SAFETY: the key exists; the value only has to differ from null.
    unsafe { libc::pthread_setspecific(key - 1, core::ptr::without_provenance(1)) };
}

unsafe extern "C" fn at_thread_exit(_: *mut core::ffi::c_void) {
    crate::publish::end_of_thread();
}

// === impl Claim ===

impl Claim {
    fn new(segment: Segment, number: usize, generation: u32, orphan_of: u32) -> Self {
        segment.header().lanes_high_water.fetch_max(number as u32 + 1, Ordering::Release);
        let ring_off = LANE_OFF + number * LANE_STRIDE + RING_IN_LANE;
        Self {
            lane: segment.lane(number),
            ring: segment.base().wrapping_add(ring_off).cast_const().cast(),
            generation,
            ring_off: ring_off as u64,
            orphan_of,
        }
    }

    /// The mask of the ring as it is now: a grown ring stays grown.
    pub(crate) fn ring_log2(&self) -> u32 {
        match self.lane.grown_at.load(Ordering::Relaxed) {
            0 => config().ring_log2,
            _ => RING_LOG2_MAX,
        }
    }
}
