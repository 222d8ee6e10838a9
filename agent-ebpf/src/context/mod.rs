//! What a thread published: one door to whatever source of its active span it has. A source gives its
//! *head*, the number of markers published so far; what they say is the daemon's to read. The one source
//! there is today is the [`lane`].

mod lane;
mod tail;

use agent_ebpf::wire::{
    Thread,
    settings::Live,
    thread::{HEAD_KNOWN, LANE_KNOWN, UNREADABLE},
};

use crate::kernel::Task;

pub(crate) use lane::{find, observe_last, of_waker, runs_ahead};

/// What the current thread has published so far; its account keeps it, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// It has no source, or none any more.
    None,
    /// So many markers.
    Known(u64),
    /// Its source cannot be read at this moment.
    Unreadable,
}

/// Observes the current thread, of which something may have become known since the last time. Only in the
/// thread's own context: the memory of another thread's process is not there.
#[inline(always)]
pub(crate) fn observe(thread: &mut Thread, task: Task, live: &Live) -> Head {
    find(thread, task, live);
    if thread.flags & LANE_KNOWN == 0 {
        return Head::None;
    }
    lane::read_head(thread, task);
    if thread.flags & UNREADABLE != 0 {
        Head::Unreadable
    } else if thread.flags & HEAD_KNOWN != 0 {
        Head::Known(thread.head)
    } else {
        Head::None
    }
}

/// The same at the end of a wait, for a thread whose head could not be read when it began: unreadable is
/// late, not lost, for nothing was published while the thread was away.
#[inline(always)]
pub(crate) fn observe_late(thread: &mut Thread, task: Task) {
    if thread.flags & (HEAD_KNOWN | LANE_KNOWN) == LANE_KNOWN {
        lane::read_head(thread, task);
    }
}
