//! Wakeups (design 3.2): `sched_wakeup` gives the time, `sched_waking` gives who.

use core::ffi::c_void;

use agent_ebpf::{
    account,
    wire::{Counter, Phase, thread::LANE_KNOWN},
};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{
    context,
    kernel::{Context, Task, context_of},
    maps::count,
    storage,
};

/// `sched_waking(p)`: in the waker's context, before anything happened to `p`.
#[btf_tracepoint(function = "sched_waking")]
fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    let Some(thread) = storage::find(Task::new(ctx.arg::<*const c_void>(0))) else {
        return 0;
    };
    // Only a thread with a lane is asked who woke it.
    if thread.flags & LANE_KNOWN == 0 || thread.phase != Phase::Off as u32 {
        return 0;
    }
    let waker = Task::current();
    let tid = waker.tid();
    let irq = tid == 0
        || match context_of(waker) {
            Context::Thread => false,
            Context::Interrupt => true,
            // Loopback delivers in a softirq on the sender's way out of its send: then the
            // interrupted thread is the one who acted.
            Context::Softirq => !sends(waker),
        };
    let mut head = 0;
    if !irq
        && let Some(own) = storage::find(waker)
        && own.flags & LANE_KNOWN != 0
    {
        head = context::of_waker(own, waker);
    }
    account::waking(thread, tid, waker.tgid(), head, irq);
    0
}

/// Whether the thread is in a system call that hands data to a socket.
#[inline(always)]
fn sends(task: Task) -> bool {
    if !task.has_mm() {
        return false;
    }
    // write writev sendfile connect sendto sendmsg shutdown sendmmsg close splice
    matches!(task.user_regs().syscall(), 1 | 20 | 40 | 42 | 44 | 46 | 48 | 307 | 3 | 275)
}

/// `sched_wakeup(p)`: `p` is runnable from now on.
#[btf_tracepoint(function = "sched_wakeup")]
fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    let Some(thread) = storage::find(Task::new(ctx.arg::<*const c_void>(0))) else {
        return 0;
    };
    // A running thread's account belongs to its own CPU: a wakeup that comes too early leaves it be.
    if thread.phase != Phase::Off as u32 {
        count(Counter::WakeupIgnored);
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if !storage::guarded(thread, |t| account::woken(t, now)) {
        count(Counter::WakeupIgnored);
    }
    0
}

/// `sched_wakeup_new(p)`: a forked thread waits for its first CPU.
#[btf_tracepoint(function = "sched_wakeup_new")]
fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(0));
    let Some(thread) = storage::find_or_create(task) else {
        return 0;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    storage::guarded(thread, |t| account::woken_new(t, now));
    0
}
