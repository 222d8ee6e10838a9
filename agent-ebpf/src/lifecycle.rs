//! fork, exec, exit.

use core::ffi::c_void;

use agent_ebpf::{
    account,
    wire::{
        Counter, Exec, Fork, RecordKind,
        thread::{EXITING, HEAD_FINAL, HEAD_KNOWN, LANE_ANNOUNCED, LANE_KNOWN, UNREADABLE},
    },
};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{
    context,
    emit::{self, Urgency},
    kernel::Task,
    maps::{ATTACHED, LANES, PROCESS_CODE, count},
    storage,
};

/// `sched_process_fork(parent, child)`: also for threads.
#[btf_tracepoint(function = "sched_process_fork")]
fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = Task::new(ctx.arg::<*const c_void>(0));
    let child = Task::new(ctx.arg::<*const c_void>(1));
    let Some(thread) = storage::find_or_create(child) else {
        return 0;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    storage::guarded(thread, |t| account::forked(t, now));
    if child.tid() != child.tgid() {
        return 0;
    }
    // A new process under a used number.
    let _ = ATTACHED.remove(&child.tgid());
    let _ = PROCESS_CODE.remove(&child.tgid());
    count(Counter::LifecycleCaptured);
    let record = Fork {
        kind: RecordKind::Fork as u32,
        tid: child.tid(),
        tgid: child.tgid(),
        parent_tgid: parent.tgid(),
        serial: thread.serial,
        at: now,
    };
    emit::record(&record, Urgency::Timer, Counter::LifecycleRingFull);
    0
}

/// `sched_process_exec(p, old_pid, bprm)`: the memory with the lane is gone.
#[btf_tracepoint(function = "sched_process_exec")]
fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(0));
    let old_tid = ctx.arg::<u64>(1) as u32;
    let Some(thread) = storage::find_or_create(task) else {
        return 0;
    };
    storage::guarded(thread, |t| {
        t.flags &= !(LANE_KNOWN | LANE_ANNOUNCED | HEAD_KNOWN | HEAD_FINAL | UNREADABLE);
        t.lane_va = 0;
        t.head = 0;
        t.execs += 1;
        t.named_round = 0;
    });
    // What the daemon knew of lanes was of the old image; most threads have no entry.
    let _ = LANES.remove(&task.tid());
    let _ = LANES.remove(&old_tid);
    let _ = ATTACHED.remove(&task.tgid());
    let _ = PROCESS_CODE.remove(&task.tgid());
    count(Counter::LifecycleCaptured);
    let record = Exec {
        kind: RecordKind::Exec as u32,
        tid: task.tid(),
        tgid: task.tgid(),
        old_tid,
        serial: thread.serial,
        // SAFETY: the helper has no preconditions.
        at: unsafe { bpf_ktime_get_ns() },
        seq: thread.seq,
        comm: task.comm(),
    };
    emit::record(&record, Urgency::Timer, Counter::LifecycleRingFull);
    0
}

/// `sched_process_exit(p)`: the last moment the thread's memory can be read (6.16+).
#[btf_tracepoint(function = "sched_process_exit")]
fn sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    let task = Task::current();
    let Some(thread) = storage::find(task) else {
        return 0;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    storage::guarded(thread, |t| {
        t.flags |= EXITING;
        t.exiting_at = now;
        if t.flags & LANE_KNOWN != 0 {
            context::observe_last(t, task);
        }
    });
    0
}
