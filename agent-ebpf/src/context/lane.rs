//! The lane of a thread: finding it, reading its `head` and catching the breadcrumb of a new one.

use agent_ebpf::wire::{
    Counter, LaneSeen, RecordKind, Thread,
    settings::Live,
    thread::{HEAD_FINAL, HEAD_KNOWN, LANE_ANNOUNCED, LANE_KNOWN, UNREADABLE, lane_line},
};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};

use crate::{
    emit::{self, Urgency},
    kernel::{Task, read_user},
    maps::{ATTACHED, LANE_SEEN, LANES, PARKED_LANES, count, live},
    storage,
};

use super::tail::save_tail;

/// A lane's control line, in words.
pub(crate) type Line = [u64; lane_line::LEN / 8];

/// Markers a lane may run ahead of the daemon's last round before the daemon is called: a quarter
/// of the smallest ring.
const RUN_AHEAD: u64 = 256;

/// `BPF_NOEXIST` and `BPF_EXIST` of uapi bpf.h: make an entry; replace one.
const NOEXIST: u64 = 1;
const EXIST: u64 = 2;

/// A word of four bytes of it.
#[inline(always)]
pub(crate) fn u32_at(line: &Line, at: usize) -> u32 {
    (line[at / 8] >> ((at % 8) * 8)) as u32
}

/// One of eight.
#[inline(always)]
pub(crate) fn u64_at(line: &Line, at: usize) -> u64 {
    line[at / 8]
}

/// Asks the daemon's lane map again when it has changed: for lanes older than the programs.
#[inline(always)]
pub(crate) fn find(thread: &mut Thread, task: Task, live: &Live) {
    if thread.lane_epoch == live.lane_epoch {
        return;
    }
    thread.lane_epoch = live.lane_epoch;
    let tid = task.tid();
    // SAFETY: the value is copied; the daemon replaces entries whole.
    let Some(entry) = (unsafe { LANES.get(&tid) }) else {
        return;
    };
    // The entry names the thread by its start in clock ticks (USER_HZ, 100 on every Linux ABI):
    // a reused tid must not inherit a lane.
    if entry.start_ticks != task.start_boottime() / 10_000_000 {
        return;
    }
    // What the thread itself announced is newer.
    if thread.flags & LANE_KNOWN != 0 {
        return;
    }
    thread.lane_va = entry.va;
    thread.lane_gen = entry.generation;
    thread.lane_owner = entry.owner_tid;
    thread.flags |= LANE_KNOWN | LANE_ANNOUNCED;
}

/// What a look at a lane found.
enum Look {
    /// Its head.
    Head(u64),
    /// Released by its owner and another thread's by now.
    Passed,
    /// Not readable at this moment.
    Absent,
    /// Not the lane it was.
    Other,
}

/// Reads the lane of the current thread.
#[inline(always)]
fn look(va: u64, generation: u32, owner: u32) -> Look {
    let Some(line) = read_user::<Line>(va) else {
        return Look::Absent;
    };
    let magic = u32_at(&line, lane_line::MAGIC_AT) == lane_line::MAGIC;
    let passed = u32_at(&line, lane_line::GENERATION_AT).wrapping_sub(generation);
    if magic && passed > 1 && passed < 1 << 31 {
        return Look::Passed;
    }
    // Released but not yet taken (`passed` is 1, the owner gone): `head` is still its last.
    if !magic || passed > 1 || (passed == 0 && u32_at(&line, lane_line::OWNER_AT) != owner) {
        return Look::Other;
    }
    Look::Head(u64_at(&line, lane_line::HEAD_AT))
}

/// Reads `head` of the current thread's lane into `thread.head`.
#[inline(always)]
pub(super) fn read_head(thread: &mut Thread, task: Task) {
    if thread.flags & HEAD_FINAL != 0 {
        thread.flags |= HEAD_KNOWN;
        return;
    }
    if !task.has_mm() {
        // Exiting, its memory gone: what was read before says nothing of what came after.
        thread.flags &= !HEAD_KNOWN;
        return;
    }
    match look(thread.lane_va, thread.lane_gen, thread.lane_owner) {
        Look::Head(head) => {
            thread.head = head;
            thread.flags = (thread.flags | HEAD_KNOWN) & !UNREADABLE;
        }
        // What this thread published ends with its LANE_END.
        Look::Passed => thread.flags &= !(LANE_KNOWN | UNREADABLE | HEAD_KNOWN),
        Look::Absent => thread.flags = (thread.flags | UNREADABLE) & !HEAD_KNOWN,
        Look::Other => {
            count(Counter::LaneMismatch);
            thread.flags = (thread.flags | UNREADABLE) & !(LANE_KNOWN | HEAD_KNOWN);
        }
    }
}

/// The head of the current thread's lane plus one, for whoever it wakes; 0 without a readable lane.
#[inline(always)]
pub(crate) fn of_waker(thread: &Thread, task: Task) -> u64 {
    if !task.has_mm() {
        return 0;
    }
    match look(thread.lane_va, thread.lane_gen, thread.lane_owner) {
        Look::Head(head) => head.wrapping_add(1),
        _ => 0,
    }
}

/// Whether the lane has run so far since the daemon's last round that it should drain now.
#[inline(always)]
pub(crate) fn runs_ahead(thread: &mut Thread, live: &Live) -> Urgency {
    if thread.round != live.round {
        thread.round = live.round;
        thread.head_at_round = thread.head;
        return Urgency::Timer;
    }
    if thread.head.wrapping_sub(thread.head_at_round) > RUN_AHEAD {
        Urgency::Now
    } else {
        Urgency::Timer
    }
}

/// A thread names its new lane with a `prctl` that no kernel knows. 6.14 and later have a tracepoint
/// for exactly those: `task_prctl_unknown(option, arg2, ...)`; nobody else pays for it.
#[btf_tracepoint(function = "task_prctl_unknown")]
fn lane_breadcrumb(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u64>(0) as u32 == lane_line::BREADCRUMB_OPTION {
        lane_named(ctx.arg::<u64>(1));
    }
    0
}

/// The same on older kernels, at the entry of `prctl` itself. An enabled system call tracepoint
/// slows every system call of the host by some 50 ns, so this is second choice. The arguments lie
/// from byte 16 of the event (events/syscalls/sys_enter_prctl/format).
#[tracepoint]
fn lane_breadcrumb_syscall(ctx: TracePointContext) -> i32 {
    // SAFETY: reads words of the event within the five arguments of the call.
    let argument = |n: usize| unsafe { ctx.read_at::<u64>(16 + 8 * n) }.unwrap_or(0);
    if argument(0) as u32 == lane_line::BREADCRUMB_OPTION {
        lane_named(argument(1));
    }
    0
}

/// Takes over the lane at `address` of the current thread: recognised by its magic alone.
#[inline(always)]
fn lane_named(address: u64) {
    let Some(line) = read_user::<Line>(address) else {
        return;
    };
    if u32_at(&line, lane_line::MAGIC_AT) != lane_line::MAGIC {
        return;
    }
    let task = Task::current();
    let Some(thread) = storage::find_or_create(task) else {
        return;
    };
    let generation = u32_at(&line, lane_line::GENERATION_AT);
    // Once per thread and round of the daemon: a program that names lanes in a loop is not listened
    // to. An exec starts afresh.
    let round = live().round.wrapping_add(1);
    if thread.named_round == round {
        count(Counter::LanesRefused);
        return;
    }
    thread.named_round = round;
    storage::guarded(thread, |t| {
        t.lane_va = address;
        t.lane_gen = generation;
        t.lane_owner = u32_at(&line, lane_line::OWNER_AT);
        t.flags = (t.flags | LANE_KNOWN) & !(UNREADABLE | LANE_ANNOUNCED);
        t.head = u64_at(&line, lane_line::HEAD_AT);
    });
    count(Counter::LifecycleCaptured);
    let Some(seen) = LANE_SEEN.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: per-CPU scratch; tracepoint programs run with preemption off.
    let seen: &mut LaneSeen = unsafe { &mut *seen };
    seen.kind = RecordKind::LaneSeen as u32;
    seen.tid = task.tid();
    seen.tgid = task.tgid();
    seen.generation = generation;
    seen.serial = thread.serial;
    seen.va = address;
    // SAFETY: the helper has no preconditions.
    seen.at = unsafe { bpf_ktime_get_ns() };
    seen.first_index = u64_at(&line, lane_line::FIRST_INDEX_AT);
    seen.seq = thread.seq;
    seen.since = thread.since;
    seen.total = thread.total;
    // A lane nobody knows of costs all spans of its thread, not only this moment's.
    let mut reported = emit::offer(seen, Urgency::Always);
    if !reported {
        reported = park(seen);
    }
    if reported {
        storage::guarded(thread, |t| t.flags |= LANE_ANNOUNCED);
    }
}

/// Keeps an announcement until the daemon looks. Where the thread's former one still waits, the latest
/// lane counts and one of the two is lost: each is counted once, whatever the daemon takes meanwhile.
#[inline(always)]
fn park(seen: &LaneSeen) -> bool {
    if PARKED_LANES.insert(&seen.serial, seen, NOEXIST).is_ok() {
        count(Counter::LanesParked);
        return true;
    }
    count(Counter::LanesLost);
    PARKED_LANES.insert(&seen.serial, seen, EXIST).is_ok()
}

/// The last look at a lane: at `sched_process_exit`, while the memory is still there (6.16+; before
/// that `mm` is already gone and the markers of an unattached process are counted as lost).
#[inline(always)]
pub(crate) fn observe_last(thread: &mut Thread, task: Task) {
    read_head(thread, task);
    if thread.flags & HEAD_KNOWN == 0 {
        return;
    }
    thread.flags |= HEAD_FINAL;
    // SAFETY: only the presence of the entry is used.
    if unsafe { ATTACHED.get(&task.tgid()) }.is_none() {
        save_tail(thread, task);
    }
}

/// `sched_prepare_exec(task, bprm)` (6.10+): the old image, and its lanes, are about to go. The call
/// may still fail, so this is not the last look.
#[btf_tracepoint(function = "sched_prepare_exec")]
fn sched_prepare_exec(_ctx: BtfTracePointContext) -> i32 {
    let task = Task::current();
    let Some(thread) = storage::find(task) else { return 0 };
    // SAFETY: only the presence of the entry is used.
    if thread.flags & LANE_KNOWN != 0 && unsafe { ATTACHED.get(&task.tgid()) }.is_none() {
        storage::guarded(thread, |t| {
            read_head(t, task);
            if t.flags & HEAD_KNOWN != 0 {
                save_tail(t, task);
            }
        });
    }
    0
}
