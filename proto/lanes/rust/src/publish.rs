//! The hot path: one marker into the calling thread's ring.
//!
//! Straight-line: no lock, no system call, no allocation. Four predictable branches leave it: the
//! thread is already publishing (a signal handler interrupted it), the process is not the one this
//! thread state belongs to (first use, or a fork), the ring begins a new lap, or the clock is a
//! function call.

use crate::abi::{EventWords, op};
use crate::event::small_fields;
use crate::joint;
use crate::lane;
use crate::thread::{Standing, ThreadState};
use crate::{Disabled, Span};

thread_local! {
    static THREAD: ThreadState = const { ThreadState::new() };
}

#[inline]
pub(crate) fn set(span: &Span, caller_ts: u64) -> Result<(), Disabled> {
    THREAD.with(|thread| {
        if !thread.enter() {
            return Ok(());
        }
        if !(thread.is_live() && thread.is_plain()) {
            return set_slowly(span, caller_ts);
        }
        let mut words = words_of(span);
        if !thread.is_current(&words) {
            thread.stamp(&mut words, thread.clock.get().plain_now());
            thread.write(&words);
        }
        thread.leave();
        Ok(())
    })
}

/// Entered with `busy` set, and by a tail call, so that the fast path saves no registers.
#[cold]
#[inline(never)]
fn set_slowly(span: &Span, caller_ts: u64) -> Result<(), Disabled> {
    THREAD.with(|thread| {
        let standing = if thread.is_live() { Standing::Attached } else { thread.settle() };
        if let Standing::Attached = standing {
            let words = words_of(span);
            if !thread.is_current(&words) {
                thread.append(words, caller_ts);
            }
        }
        thread.leave();
        match standing {
            Standing::Attached | Standing::WithoutLane => Ok(()),
            Standing::Disabled => Err(Disabled),
            Standing::Elsewhere(other) => other.forward_set(span, caller_ts),
        }
    })
}

#[inline]
pub(crate) fn clear() {
    THREAD.with(|thread| {
        if !thread.enter() {
            return;
        }
        if !(thread.is_live() && thread.is_plain()) {
            return clear_slowly();
        }
        if thread.is_set() {
            let mut words = CLEARED;
            thread.stamp(&mut words, thread.clock.get().plain_now());
            thread.write(&words);
        }
        thread.leave();
    });
}

/// Entered with `busy` set.
#[cold]
#[inline(never)]
fn clear_slowly() {
    THREAD.with(|thread| {
        if thread.is_live() {
            if thread.is_set() {
                thread.append(CLEARED, 0);
            }
            return thread.leave();
        }
        // Nothing is set on a thread without a lane, unless another copy keeps the lane.
        let other = joint::elsewhere();
        thread.leave();
        if let Some(other) = other {
            other.forward_clear();
        }
    });
}

/// Runs once per thread, when it ends.
pub(crate) fn end_of_thread() {
    THREAD.with(|thread| {
        if !thread.enter() {
            return;
        }
        if thread.is_live() {
            lane::release(thread, thread.held_lane());
        }
        thread.ended.set(true);
        thread.leave();
    });
}

/// In a fork child, before anybody runs: the record belongs to the parent.
pub(crate) fn forget_record_in_child() {
    THREAD.with(|thread| {
        let lane = thread.lane.get();
        if !lane.is_null() && !thread.is_live() {
            // The lane is not mapped here; only the address is compared.
            crate::otel::take_back(lane.cast::<u8>().wrapping_add(crate::abi::lane::RECORD));
        }
    });
}

const CLEARED: EventWords = [0, 0, 0, 0, 0, 0, small_fields(op::CLEAR, 0, 0, 0), 0];

#[inline(always)]
fn words_of(span: &Span) -> EventWords {
    let trace = span.trace_id.as_chunks().0;
    [
        0,
        0,
        u64::from_le_bytes(trace[0]),
        u64::from_le_bytes(trace[1]),
        u64::from_le_bytes(span.span_id),
        u64::from_le_bytes(span.local_root_span_id.unwrap_or_default()),
        small_fields(op::SET, span.trace_flags, 0, span.name.0),
        u64::from_le_bytes(span.parent_span_id.unwrap_or_default()),
    ]
}
