//! The two hooks of a context switch (design 3.2): `sched_switch` cuts time and gives the kind of
//! the wait; `sched_exit_tp` runs in the resumed thread's own context, where a wait's stack can be
//! taken if it is worth one, and where a missed switch-in shows.

use core::ffi::c_void;

use agent_ebpf::{
    account::{self, Leave},
    sampling,
    wire::{
        Counter, Exit, Interval, Phase, RecordKind, State, Thread,
        record::CUT,
        settings::Live,
        thread::{
            EXITING, HEAD_FINAL, HEAD_KNOWN, IN_MISSED, LANE_KNOWN, PENDING, PREEMPTED, REPORTED,
            UNREADABLE,
        },
    },
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use crate::{
    classify::{self, TASK_DEAD, Wait},
    context,
    emit::{self, Urgency},
    kernel::{self, Task, injected},
    maps::{CPU, EXIT, LANES, PARKED_EXITS, SCRATCH_SWITCH, count, count_by, live},
    storage, walk,
};

/// `sched_switch(preempt, prev, next, prev_state)`: runs in `prev`'s context, before the switch.
#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let preempt = ctx.arg::<u64>(0) as u8 != 0;
    let prev = Task::new(ctx.arg::<*const c_void>(1));
    let next = Task::new(ctx.arg::<*const c_void>(2));
    let prev_state = ctx.arg::<u64>(3) as u32;
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let live = live();
    // Each CPU's idle task has pid 0: nobody's time.
    if prev.tid() != 0 {
        leave(&ctx, prev, next, preempt, prev_state, now, &live);
    }
    if next.tid() != 0 {
        arrive(prev, next, now, &live);
    }
    0
}

#[inline(always)]
fn leave(
    ctx: &BtfTracePointContext,
    task: Task,
    next: Task,
    preempt: bool,
    prev_state: u32,
    now: u64,
    live: &Live,
) {
    let Some(thread) = storage::find_or_create(task) else {
        return;
    };
    if thread.flags & PENDING != 0 {
        // Its own context was not seen after the last switch-in: the interval goes out late.
        finish(thread, task, None, live);
    }
    let dead = prev_state & TASK_DEAD != 0;
    // A signal that arrives while the thread goes to sleep leaves it runnable; before 6.13 the
    // tracepoint still shows the state it asked for (kernel/sched/core.c, __schedule).
    let blocked = dead || (!preempt && prev_state != 0 && task.state() != 0);
    let mut wait = if blocked && !dead {
        classify::blocked(ctx.as_ptr(), task, prev_state)
    } else {
        Wait::NONE
    };
    // The word itself can only be asked in the thread's own context (`finish`), which no hook gives
    // before 6.15: what this thread waited for at the same place before says most of it.
    if wait.futex != 0 {
        if wait.state == State::Notify {
            thread.sequence_futex = wait.futex;
        } else if wait.state == State::Lock && wait.futex == thread.sequence_futex {
            wait.state = State::Notify;
        }
    }
    let throttled = task.is_throttled();
    let ready = if throttled {
        State::Throttled
    } else if blocked {
        State::ReadyWakeup
    } else {
        State::ReadyPreempted
    };
    let leave = Leave {
        now,
        sum_exec: task.sum_exec(),
        preempted: !blocked,
        dead,
        state: wait.state,
        ready,
    };
    let noticed = storage::guarded(thread, |t| {
        let noticed = account::switch_out(t, &leave);
        t.syscall = wait.syscall;
        t.fd = wait.fd;
        t.futex = wait.futex;
        if !blocked {
            t.preemptor_tid = next.tid();
            t.preemptor_tgid = next.tgid();
        }
        context::observe(t, task, live);
        noticed
    });
    storage::notice(noticed);
    if dead {
        send_exit(thread, task);
        return;
    }
    if injected!(SETTINGS.has_exit_tp) == 0 && thread.flags & LANE_KNOWN != 0 && blocked {
        // No hook in the resumed context: the stack is taken now, the choice is made at the end.
        if may_take_stack(now) {
            thread.user_stack = walk::user(SCRATCH_SWITCH, task, thread, live);
            thread.kernel_stack = walk::kernel(SCRATCH_SWITCH, ctx.as_ptr(), false, live);
        } else {
            thread.user_stack = 0;
            thread.kernel_stack = 0;
        }
    }
}

#[inline(always)]
fn arrive(prev: Task, task: Task, now: u64, live: &Live) {
    let Some(thread) = storage::find_or_create(task) else {
        return;
    };
    let noticed = storage::guarded(thread, |t| {
        let noticed = account::switch_in(t, now, task.sum_exec());
        if t.flags & PREEMPTED == 0 {
            t.preemptor_tid = prev.tid();
            t.preemptor_tgid = prev.tgid();
        }
        // SAFETY: the helper has no preconditions.
        t.cpu = unsafe { bpf_get_smp_processor_id() };
        noticed
    });
    storage::notice(noticed);
    // The daemon may have found the lane during the wait: `head` is then read on resumption.
    context::find(thread, task, live);
    if thread.lane_va == 0 {
        // Nothing to send: its totals hold the interval.
        thread.flags &= !PENDING;
        if let Some(cpu) = CPU.get_ptr_mut(0) {
            // SAFETY: per-CPU slot; the switch runs with interrupts off.
            unsafe { (*cpu).settled_tid = task.tid() };
        }
    }
    if injected!(SETTINGS.has_exit_tp) == 0 && thread.flags & PENDING != 0 {
        finish(thread, task, None, live);
    }
}

/// `sched_exit_tp`: the end of `__schedule`, in the context of the thread that now runs.
#[btf_tracepoint(function = "sched_exit_tp")]
fn sched_exit_tp(ctx: BtfTracePointContext) -> i32 {
    let task = Task::current();
    if let Some(cpu) = CPU.get_ptr_mut(0) {
        // SAFETY: per-CPU slot, written by this CPU's scheduler programs only.
        let settled = unsafe { core::mem::take(&mut (*cpu).settled_tid) };
        if settled == task.tid() && settled != 0 {
            return 0;
        }
    }
    let Some(thread) = storage::find(task) else {
        return 0;
    };
    if thread.phase == Phase::Off as u32 && task.tid() != 0 {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        let noticed = storage::guarded(thread, |t| {
            let noticed = account::switch_in(t, now, task.sum_exec());
            t.flags |= IN_MISSED;
            noticed
        });
        storage::notice(noticed);
        count(Counter::SwitchInMissed);
    }
    if thread.flags & PENDING != 0 {
        // Interrupts are on here: a timer sample must not take the account for a quiet one.
        storage::guarded(thread, |t| finish(t, task, Some(&ctx), &live()));
    }
    0
}

/// Ends a finished interval: sent for a thread with a lane, dropped otherwise (its totals hold it).
#[inline(always)]
fn finish(thread: &mut Thread, task: Task, own: Option<&BtfTracePointContext>, live: &Live) {
    thread.flags &= !PENDING;
    // Also after the lane has passed to another thread: what was published still has to be placed.
    if thread.lane_va == 0 {
        return;
    }
    if own.is_some() {
        context::observe_late(thread, task);
    }
    if thread.flags & UNREADABLE != 0 {
        count(Counter::LaneUnreadable);
    }
    // A waiter that expected 2 is a lock's (design 4), unless the word says otherwise now: a lock
    // holds 0, 1 or 2, a condition variable's sequence number has gone past 2.
    if own.is_some()
        && thread.futex != 0
        && thread.state == State::Lock as u8
        && kernel::read_user::<u32>(thread.futex).is_some_and(|word| word > 2 && word < 1 << 16)
    {
        account::was(thread, State::Notify as u8);
    }
    let blocked = thread.flags & PREEMPTED == 0;
    let duration = thread.in_at - thread.out_at;
    let mut stack = WaitStack::NONE;
    if let Some(ctx) = own
        && blocked
        && let Some(weight) = chosen(duration)
        && task.tgid() != injected!(SETTINGS.agent_tgid)
    {
        if may_take_stack(thread.in_at) {
            stack = WaitStack {
                weight,
                user: walk::user(SCRATCH_SWITCH, task, thread, live),
                kernel: walk::kernel(SCRATCH_SWITCH, ctx.as_ptr(), false, live),
            };
        } else {
            count(Counter::StacksOverBudget);
        }
    } else if own.is_none()
        && blocked
        && thread.user_stack | thread.kernel_stack != 0
        && let Some(weight) = chosen(duration)
    {
        stack = WaitStack { weight, user: thread.user_stack, kernel: thread.kernel_stack };
    }
    if let Some(ctx) = own
        && blocked
        && let Some(state) = classify::after_all(ctx.as_ptr(), thread, stack.kernel != 0)
    {
        account::was(thread, state);
    }
    let urgency = context::runs_ahead(thread, live);
    send_interval(thread, task, 0, &stack, urgency);
}

/// The stack of a wait, if it was taken.
struct WaitStack {
    weight: u64,
    user: u64,
    kernel: u64,
}

impl WaitStack {
    const NONE: Self = Self { weight: 0, user: 0, kernel: 0 };
}

/// Whether a wait this long gets a stack, and what it then stands for.
#[inline(always)]
fn chosen(duration: u64) -> Option<u64> {
    let probability = sampling::probability(duration, injected!(SETTINGS.wait_scale_ns));
    // SAFETY: the helper has no preconditions.
    let draw = u64::from(unsafe { bpf_get_prandom_u32() });
    if draw < probability { Some(sampling::weight(duration, probability)) } else { None }
}

/// Takes one stack from this CPU's budget.
#[inline(always)]
fn may_take_stack(now: u64) -> bool {
    let Some(cpu) = CPU.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: per-CPU slot, used with preemption off by the scheduler programs only.
    sampling::take(
        unsafe { &mut (*cpu).bucket },
        now,
        injected!(SETTINGS.stack_cost_ns),
        injected!(SETTINGS.stack_burst_ns),
    )
}

/// Sends a finished interval, counting it and its time before the ring is asked.
#[inline(always)]
fn send_interval(thread: &Thread, task: Task, extra: u32, stack: &WaitStack, urgency: Urgency) {
    let ns = thread.in_at - thread.out_at;
    count(Counter::IntervalsCaptured);
    count_by(Counter::IntervalNsCaptured, ns);
    let flags = (thread.flags & REPORTED | extra) as u8;
    let sent = emit::place::<Interval>(urgency, Counter::IntervalsRingFull, |interval| {
        interval.kind = RecordKind::Interval as u32;
        interval.tid = task.tid();
        interval.tgid = task.tgid();
        interval.state = thread.state;
        interval.ready = thread.ready;
        interval.flags = flags;
        interval.pad = 0;
        interval.serial = thread.serial;
        interval.seq = thread.seq;
        interval.out_at = thread.out_at;
        interval.wake_at = thread.wake_at;
        interval.in_at = thread.in_at;
        interval.head = thread.head;
        interval.syscall = i32::from(thread.syscall);
        interval.fd = thread.fd;
        interval.preemptor_tid = thread.preemptor_tid;
        interval.preemptor_tgid = thread.preemptor_tgid;
        interval.waker_tid = thread.waker_tid;
        interval.waker_tgid = thread.waker_tgid;
        interval.waker_head = thread.waker_head;
        interval.weight = stack.weight;
        interval.user_stack = stack.user;
        interval.kernel_stack = stack.kernel;
        interval.total = thread.total;
    });
    if !sent {
        count_by(Counter::IntervalNsRingFull, ns);
    }
}

/// A cut of a long slice, from the timer program: the account up to now.
#[inline(always)]
pub(crate) fn send_cut(thread: &mut Thread, task: Task, urgency: Urgency) {
    thread.flags &= !PENDING;
    send_interval(thread, task, CUT, &WaitStack::NONE, urgency);
}

/// The whole account of a thread that will not come back: the ring, else the fallback map.
#[inline(always)]
fn send_exit(thread: &Thread, task: Task) {
    let Some(exit) = EXIT.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: per-CPU scratch of this program, preemption is off.
    let exit: &mut Exit = unsafe { &mut *exit };
    exit.kind = RecordKind::Exit as u32;
    exit.tid = task.tid();
    exit.tgid = task.tgid();
    // Before 6.16 the last head is gone with the memory; an older one would cut off what came after.
    exit.flags = if thread.flags & HEAD_FINAL != 0 { HEAD_KNOWN as u8 } else { 0 };
    exit.pad = [0; 3];
    exit.serial = thread.serial;
    exit.birth = thread.birth;
    exit.at = thread.since;
    exit.exiting_at = if thread.flags & EXITING != 0 { thread.exiting_at } else { thread.since };
    exit.seq = thread.seq;
    exit.head = thread.head;
    exit.comm = task.comm();
    exit.total = thread.total;
    if thread.lane_va != 0 {
        // Its entry, if the daemon ever made one, must not wait for the tid's next owner.
        let _ = LANES.remove(&exit.tid);
    }
    count(Counter::LifecycleCaptured);
    if emit::offer(exit, Urgency::Timer) {
        return;
    }
    if PARKED_EXITS.insert(&thread.serial, exit, 0).is_ok() {
        count(Counter::ExitsParked);
    } else {
        count(Counter::ExitsLost);
        count_by(Counter::ExitNsLost, thread.since - thread.birth);
    }
}
