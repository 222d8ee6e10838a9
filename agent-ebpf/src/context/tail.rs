//! Saving the markers of a thread whose segment the daemon never saw, while its memory is still there.

use core::ffi::c_void;

use agent_ebpf::wire::{
    Counter, Name, RecordKind, Tail, Thread,
    record::TAIL_EVENTS,
    thread::{LANE_ANNOUNCED, lane_line},
};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_loop};

use crate::{
    emit::{self, Urgency},
    kernel::{Task, read_user, read_user_into},
    maps::{NAME, TAIL, count_by},
};

use super::lane::{Line, u32_at, u64_at};

/// What the copying of a marker ring needs to know.
#[repr(C)]
struct Copying {
    ring: u64,
    mask: u64,
    grown_at: u64,
    next: u64,
    end: u64,
    lost: u64,
    /// Address of the name table.
    names: u64,
    /// The lane.
    va: u64,
    tgid: u32,
    /// Name id sent last.
    named: u32,
}

/// Copies the markers still in the current thread's ring to the daemon, 16 to a record.
#[inline(always)]
pub(crate) fn save_tail(thread: &mut Thread, task: Task) {
    let Some(line) = read_user::<Line>(thread.lane_va) else {
        return;
    };
    let log2 = u32_at(&line, lane_line::RING_LOG2_AT) & 0xffff;
    if log2 > u32::from(lane_line::GROWN_LOG2) {
        return;
    }
    let head = thread.head;
    let first = u64_at(&line, lane_line::FIRST_INDEX_AT);
    let grown_at = u64_at(&line, lane_line::GROWN_AT);
    let slots = 1u64 << if grown_at != 0 { u32::from(lane_line::GROWN_LOG2) } else { log2 & 15 };
    let kept = if head.saturating_sub(first) < slots { head.saturating_sub(first) } else { slots };
    let Some(tail) = TAIL.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: per-CPU scratch of this program; nothing else on this CPU exits meanwhile.
    let tail = unsafe { &mut *tail };
    tail.kind = RecordKind::Tail as u32;
    tail.tid = task.tid();
    tail.tgid = task.tgid();
    tail.generation = thread.lane_gen;
    tail.serial = thread.serial;
    tail.va = thread.lane_va;
    // SAFETY: the helper has no preconditions.
    tail.at = unsafe { bpf_ktime_get_ns() };
    let mut copying = Copying {
        ring: thread.lane_va + lane_line::RING_AT,
        mask: (1u64 << (log2 & 15)) - 1,
        grown_at,
        next: head - kept,
        end: head,
        lost: head.saturating_sub(first) - kept,
        names: (thread.lane_va + lane_line::RING_AT)
            .wrapping_sub(u64_at(&line, lane_line::RING_OFF_AT))
            + lane_line::NAMES_AT,
        va: thread.lane_va,
        tgid: tail.tgid,
        named: 0,
    };
    // SAFETY: the callback has the signature the helper demands and only touches `copying`.
    unsafe {
        bpf_loop(
            (1 << lane_line::GROWN_LOG2) / TAIL_EVENTS as u32,
            copy_batch as *mut c_void,
            (&raw mut copying).cast(),
            0,
        );
    }
    if thread.flags & LANE_ANNOUNCED == 0 {
        count_by(Counter::TailMarkersLost, copying.lost);
    }
}

/// Sends the name behind `id`; a span without one is still a span.
#[inline(always)]
fn send_name(copying: &Copying, id: u32) {
    if id == 0 || id > lane_line::NAME_CAP {
        return;
    }
    let Some(name) = NAME.get_ptr_mut(0) else { return };
    // SAFETY: per-CPU scratch, as in `save_tail`.
    let name: &mut Name = unsafe { &mut *name };
    name.kind = RecordKind::Name as u32;
    name.tgid = copying.tgid;
    name.va = copying.va;
    // SAFETY: the helper has no preconditions.
    name.at = unsafe { bpf_ktime_get_ns() };
    name.id = id;
    name.pad = 0;
    let at = copying.names + u64::from(id - 1) * lane_line::NAME_STRIDE;
    if read_user_into(&mut name.entry, at) {
        emit::record(name, Urgency::Now, Counter::NamesRingFull);
    }
}

/// One record of up to 16 markers. Returns 1 to stop.
unsafe extern "C" fn copy_batch(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `save_tail` passes its `Copying`.
    let copying = unsafe { &mut *context.cast::<Copying>() };
    let Some(tail) = TAIL.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: as in `save_tail`.
    let tail: &mut Tail = unsafe { &mut *tail };
    if copying.next >= copying.end {
        return 1;
    }
    if emit::is_half_full() {
        // Dying processes must not push everybody else's records out.
        copying.lost += copying.end - copying.next;
        return 1;
    }
    tail.first = copying.next;
    let mut filled = 0u64;
    for slot in &mut tail.events {
        if copying.next >= copying.end {
            break;
        }
        let mask = if copying.grown_at != 0 && copying.next >= copying.grown_at {
            (1 << lane_line::GROWN_LOG2) - 1
        } else {
            copying.mask
        };
        let at = copying.ring + (copying.next & mask) * lane_line::EVENT_LEN as u64;
        if !read_user_into(slot, at) {
            break;
        }
        copying.next += 1;
        filled += 1;
        let id = u32::from_le_bytes([
            slot[lane_line::EVENT_NAME_AT],
            slot[lane_line::EVENT_NAME_AT + 1],
            slot[lane_line::EVENT_NAME_AT + 2],
            slot[lane_line::EVENT_NAME_AT + 3],
        ]);
        if slot[lane_line::EVENT_OP_AT] == lane_line::EVENT_SET && id != copying.named {
            copying.named = id;
            send_name(copying, id);
        }
    }
    if filled == 0 {
        copying.lost += copying.end - copying.next;
        return 1;
    }
    tail.count = filled;
    count_by(Counter::TailMarkersCaptured, filled);
    if !emit::offer(tail, Urgency::Now) {
        count_by(Counter::TailMarkersRingFull, filled);
        // What followed would show the daemon a gap, which it counts itself.
        copying.lost += filled + (copying.end - copying.next);
        return 1;
    }
    0
}
