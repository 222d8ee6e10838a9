//! What belongs to the process: its segments, its counters and the page that knows a fork.
//!
//! All of it hangs on one private page that the kernel wipes in every child (MADV_WIPEONFORK),
//! also after a raw clone. In a child the page therefore reads as "nothing made yet", at once and
//! without a handler. Every first-time step is a compare-exchange that losers accept, so no thread
//! and no signal handler ever waits for another.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::Reason;
use crate::abi::{PAGE, SEGMENTS_MAX};
use crate::config;
use crate::kernel;
use crate::names;
use crate::segment::Segment;

/// The page; null until the first use. Its address survives a fork, its contents do not.
static PAGE_OF_PROCESS: AtomicPtr<ProcessPage> = AtomicPtr::new(ptr::null_mut());

/// Why this process does not publish; 0 while it may.
static DISABLED: AtomicU8 = AtomicU8::new(0);

/// How many incarnations this line of processes has had. Copied by fork, so a child's number
/// differs from that of every ancestor whose thread state it may have inherited.
static INCARNATIONS: AtomicU64 = AtomicU64::new(0);

pub(crate) static COUNTERS: Counters = Counters {
    threads_without_lane: AtomicU64::new(0),
    names_refused: AtomicU64::new(0),
    publishes_refused: AtomicU64::new(0),
};

#[repr(C)]
pub(crate) struct ProcessPage {
    /// This incarnation's number, 0 until it has a segment. Compared at every publish.
    pub(crate) live: AtomicU64,
    /// 1 while a thread takes back the lanes of dead ones.
    pub(crate) reclaiming: AtomicU32,
    key_and_padding: [AtomicU32; 13],
    segments: [AtomicPtr<u8>; SEGMENTS_MAX],
}

const _: () = assert!(size_of::<ProcessPage>() <= PAGE);

/// Losses of this process; also shown in the header of its first segment.
pub(crate) struct Counters {
    pub(crate) threads_without_lane: AtomicU64,
    pub(crate) names_refused: AtomicU64,
    pub(crate) publishes_refused: AtomicU64,
}

pub(crate) fn disabled() -> Option<Reason> {
    Reason::from_code(DISABLED.load(Ordering::Relaxed))
}

fn disable(reason: Reason) -> Reason {
    DISABLED.store(reason as u8, Ordering::Relaxed);
    reason
}

/// The process, with at least one segment.
pub(crate) fn ready() -> Result<&'static ProcessPage, Reason> {
    if let Some(reason) = disabled() {
        return Err(reason);
    }
    let page = match page() {
        Some(page) => page,
        None => {
            if config::switched_off() {
                return Err(disable(Reason::SwitchedOff));
            }
            make_page().ok_or_else(|| disable(Reason::NoWipeOnFork))?
        }
    };
    if page.segment(0).is_none() && INCARNATIONS.load(Ordering::Relaxed) > 0 {
        // A child: what its parent lost is not its own loss.
        COUNTERS.reset();
    }
    page.segment_or_new(0).map_err(disable)?;
    if page.live.load(Ordering::Acquire) == 0 {
        let number = INCARNATIONS.fetch_add(1, Ordering::Relaxed) + 1;
        let _ = page.live.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
    }
    Ok(page)
}

pub(crate) fn page() -> Option<&'static ProcessPage> {
    // SAFETY: a page stored here is mapped for ever and consists of atomics, for which both zero
    // pages and whatever this module stored are valid.
    unsafe { PAGE_OF_PROCESS.load(Ordering::Acquire).as_ref() }
}

fn make_page() -> Option<&'static ProcessPage> {
    let fresh = kernel::map(PAGE, None)?;
    // SAFETY: the page is ours and empty; wiping it in children loses nothing.
    let made = unsafe { kernel::advise(fresh, PAGE, libc::MADV_WIPEONFORK) }
        && PAGE_OF_PROCESS
            .compare_exchange(ptr::null_mut(), fresh.cast(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
    if !made {
        // SAFETY: the page was not published.
        unsafe { kernel::unmap(fresh, PAGE) };
    }
    page()
}

/// Calls for every segment this incarnation has.
pub(crate) fn for_each_segment(visit: impl Fn(Segment)) {
    if let Some(page) = page() {
        (0..SEGMENTS_MAX).map_while(|ordinal| page.segment(ordinal)).for_each(visit);
    }
}

// === impl ProcessPage ===

impl ProcessPage {
    pub(crate) fn segment(&self, ordinal: usize) -> Option<Segment> {
        // SeqCst: see `segment_or_new`.
        Segment::from_base(self.segments[ordinal].load(Ordering::SeqCst))
    }

    pub(crate) fn segment_or_new(&self, ordinal: usize) -> Result<Segment, Reason> {
        if let Some(segment) = self.segment(ordinal) {
            return Ok(segment);
        }
        let fresh = Segment::create(ordinal)?;
        names::publish_into(fresh);
        // A name added meanwhile reaches this segment either by its adder, who sees the segment
        // listed, or by us, who see the name counted: both sides write, then read, all SeqCst.
        match self.segments[ordinal].compare_exchange(
            ptr::null_mut(),
            fresh.base(),
            Ordering::SeqCst,
            Ordering::SeqCst,
        ) {
            Ok(_) => {
                names::publish_into(fresh);
                if ordinal == 0 {
                    COUNTERS.show(fresh);
                }
                Ok(fresh)
            }
            Err(winner) => {
                fresh.discard();
                Segment::from_base(winner).ok_or(Reason::MapFailed)
            }
        }
    }
}

// === impl Counters ===

impl Counters {
    pub(crate) fn count_publish_refused(&self) {
        self.publishes_refused.fetch_add(1, Ordering::Relaxed);
        self.show_in_first_segment();
    }

    pub(crate) fn count_name_refused(&self) {
        self.names_refused.fetch_add(1, Ordering::Relaxed);
        self.show_in_first_segment();
    }

    pub(crate) fn count_thread_without_lane(&self) {
        self.threads_without_lane.fetch_add(1, Ordering::Relaxed);
        self.show_in_first_segment();
    }

    fn reset(&self) {
        self.threads_without_lane.store(0, Ordering::Relaxed);
        self.names_refused.store(0, Ordering::Relaxed);
        self.publishes_refused.store(0, Ordering::Relaxed);
    }

    fn show_in_first_segment(&self) {
        if let Some(segment) = page().and_then(|page| page.segment(0)) {
            self.show(segment);
        }
    }

    fn show(&self, segment: Segment) {
        let header = segment.header();
        let shown = [
            (&header.threads_without_lane, &self.threads_without_lane),
            (&header.publishes_refused, &self.publishes_refused),
        ];
        for (shared, own) in shown {
            shared.fetch_max(own.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let names = u32::try_from(self.names_refused.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        header.names_refused.fetch_max(names, Ordering::Relaxed);
    }
}
