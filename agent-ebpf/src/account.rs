//! What each scheduler event does to a thread's account.
//!
//! ```text
//!            wakeup_new            switch_in              switch_out (blocked or preempted)
//!   Unborn ────────────► Off ─────────────────► Running ─────────────────► Off ...
//!                         ▲  interval finished     │  slice charged         │
//!   BeforeAttach ─────────┴────────────────────────┘                        └─► Dead (TASK_DEAD)
//! ```
//!
//! Invariant: `sum(total) == since - birth` after every call, whatever events were lost. Missing
//! events are charged to an `unknown` state, never guessed; each function says what it noticed.

use crate::wire::{
    STEAL_THRESHOLD_NS, Thread,
    state::{STATES, State},
    thread::{
        HEAD_KNOWN, IN_MISSED, NO_WAKEUP, PENDING, PREEMPTED, Phase, UNREADABLE, WAKE_SET,
        WAKER_IRQ, WAKING_IRQ, WAKING_SET,
    },
};

/// What a transition noticed; the kernel programs turn each into a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// The thread came back without a switch-out in between.
    pub switch_out_missed: bool,
    /// The thread left twice without a switch-in in between.
    pub double_switch_out: bool,
    /// A blocked wait ended without an accepted wakeup.
    pub wakeup_missing: bool,
    /// The clock stepped back between two events of this thread.
    pub negative: bool,
}

/// How and why a thread leaves the CPU.
#[derive(Clone, Copy, Debug)]
pub struct Leave {
    /// Time of the switch, ns.
    pub now: u64,
    /// `se.sum_exec_runtime` of the leaving thread, ns (up to date at this point).
    pub sum_exec: u64,
    /// Still runnable: preempted or yielded.
    pub preempted: bool,
    /// Never comes back (TASK_DEAD).
    pub dead: bool,
    /// State of the blocked part.
    pub state: State,
    /// State of the ready part.
    pub ready: State,
}

/// A fresh account. Built field by field nowhere else.
pub const fn fresh() -> Thread {
    Thread {
        guard: 0,
        phase: Phase::Fresh as u32,
        serial: 0,
        birth: 0,
        since: 0,
        slice_start: 0,
        exec_at_in: 0,
        wake: 0,
        seq: 0,
        head: 0,
        out_at: 0,
        in_at: 0,
        wake_at: 0,
        flags: 0,
        state: 0,
        ready: 0,
        syscall: -1,
        fd: -1,
        preemptor_tid: 0,
        preemptor_tgid: 0,
        waker_tid: 0,
        waker_tgid: 0,
        waking_tid: 0,
        waking_tgid: 0,
        lane_gen: 0,
        lane_owner: 0,
        lane_epoch: 0,
        cpu: 0,
        execs: 0,
        round: 0,
        named_round: 0,
        head_at_round: 0,
        waker_head: 0,
        waking_head: 0,
        lane_va: 0,
        user_stack: 0,
        kernel_stack: 0,
        futex: 0,
        sequence_futex: 0,
        looked_at: 0,
        exiting_at: 0,
        total: [0; STATES],
    }
}

/// Adds `[from, to]` to `state`, clamping a step back of the clock to nothing. Returns the end that
/// was really reached, so that sum and span of the account never part.
#[inline(always)]
fn charge(t: &mut Thread, state: State, from: u64, to: u64, noticed: &mut Noticed) -> u64 {
    if (to.wrapping_sub(from) as i64) < 0 {
        noticed.negative = true;
        return from;
    }
    t.total[state as usize] += to - from;
    to
}

/// Starts the account of a thread that existed before the agent.
#[inline(always)]
pub fn adopt(t: &mut Thread, now: u64) {
    t.phase = Phase::BeforeAttach as u32;
    t.birth = now;
    t.since = now;
}

/// Starts the account of a forked thread: nothing is charged until it is made runnable.
#[inline(always)]
pub fn forked(t: &mut Thread, now: u64) {
    t.phase = Phase::Unborn as u32;
    t.birth = now;
    t.since = now;
}

/// `sched_wakeup_new`: from now on the thread waits for its first CPU.
#[inline(always)]
pub fn woken_new(t: &mut Thread, now: u64) {
    if t.phase != Phase::Unborn as u32 && t.phase != Phase::Fresh as u32 {
        return;
    }
    t.phase = Phase::Off as u32;
    t.birth = now;
    t.since = now;
    t.state = State::ReadyWakeup as u8;
    t.ready = State::ReadyWakeup as u8;
    t.flags |= PREEMPTED;
}

/// `sched_waking`: who is about to wake the thread. The latest wins.
#[inline(always)]
pub fn waking(t: &mut Thread, tid: u32, tgid: u32, head_plus_one: u64, irq: bool) {
    t.waking_tid = tid;
    t.waking_tgid = tgid;
    t.waking_head = head_plus_one;
    t.flags = (t.flags & !WAKING_IRQ) | WAKING_SET | if irq { WAKING_IRQ } else { 0 };
}

/// `sched_wakeup`: accepted only for a thread that is blocked off the CPU. Returns whether it was.
#[inline(always)]
pub fn woken(t: &mut Thread, now: u64) -> bool {
    if t.phase != Phase::Off as u32 || t.flags & (PREEMPTED | WAKE_SET) != 0 {
        return false;
    }
    t.wake = now;
    t.flags |= WAKE_SET;
    if t.flags & WAKING_SET != 0 {
        t.waker_tid = t.waking_tid;
        t.waker_tgid = t.waking_tgid;
        t.waker_head = t.waking_head;
        t.flags = (t.flags & !(WAKING_SET | WAKER_IRQ))
            | if t.flags & WAKING_IRQ != 0 { WAKER_IRQ } else { 0 };
    }
    true
}

/// `sched_switch`, outgoing thread: charges the slice and begins a wait.
#[inline(always)]
pub fn switch_out(t: &mut Thread, leave: &Leave) -> Noticed {
    let mut noticed = Noticed::default();
    let reached = end_slice(t, leave.now, Some(leave.sum_exec), &mut noticed);
    t.since = reached;
    t.flags &= !(WAKE_SET
        | HEAD_KNOWN
        | UNREADABLE
        | IN_MISSED
        | NO_WAKEUP
        | PREEMPTED
        | WAKER_IRQ
        | WAKING_SET);
    t.waker_tid = 0;
    t.waker_tgid = 0;
    t.waker_head = 0;
    t.preemptor_tid = 0;
    t.preemptor_tgid = 0;
    t.state = leave.state as u8;
    t.ready = leave.ready as u8;
    if leave.preempted {
        t.flags |= PREEMPTED;
    }
    t.phase = if leave.dead { Phase::Dead as u32 } else { Phase::Off as u32 };
    noticed
}

/// `sched_switch`, incoming thread (or `sched_exit_tp` where that event was missed): ends the wait.
#[inline(always)]
pub fn switch_in(t: &mut Thread, now: u64, sum_exec: u64) -> Noticed {
    let mut noticed = Noticed::default();
    let reached = if t.phase == Phase::Off as u32 {
        end_wait(t, now, &mut noticed)
    } else if t.phase == Phase::BeforeAttach as u32 {
        let from = t.since;
        let to = charge(t, State::UnknownBeforeAttach, from, now, &mut noticed);
        t.state = State::UnknownBeforeAttach as u8;
        t.ready = State::UnknownBeforeAttach as u8;
        finish_interval(t, from, to, to);
        to
    } else if t.phase == Phase::Running as u32 {
        noticed.switch_out_missed = true;
        let from = t.since;
        charge(t, State::UnknownEventsLost, from, now, &mut noticed)
    } else {
        // Fresh, or forked without a wakeup_new: the account begins here.
        t.birth = now;
        now
    };
    t.phase = Phase::Running as u32;
    t.since = reached;
    t.slice_start = reached;
    t.exec_at_in = sum_exec;
    noticed
}

/// Moves the blocked part of the finished interval to the state (by index) that it turned out to be of:
/// the futex was a condition variable whose sequence number looked like a contended lock, the read of a
/// pipe waited for a page it copies to.
#[inline(always)]
pub fn was(t: &mut Thread, state: u8) {
    // Both only ever are indexes of states; the comparisons are for the verifier.
    let (before, after) = (usize::from(t.state), usize::from(state));
    if before >= STATES || after >= STATES || t.wake_at < t.out_at {
        return;
    }
    let blocked = t.wake_at - t.out_at;
    if t.total[before] >= blocked {
        t.total[before] -= blocked;
        t.total[after] += blocked;
        t.state = state;
    }
}

/// Cuts a long slice at a sample: charges what has run so far and finishes an empty interval.
/// Steal is left to the true end of the slice, where the kernel's CPU account is up to date.
#[inline(always)]
pub fn cut(t: &mut Thread, now: u64) -> Noticed {
    let mut noticed = Noticed::default();
    let to = end_slice(t, now, None, &mut noticed);
    t.since = to;
    t.state = State::Running as u8;
    t.ready = State::Running as u8;
    finish_interval(t, to, to, to);
    noticed
}

/// Charges the running part up to `now`; with the kernel's CPU account, splits off steal.
#[inline(always)]
fn end_slice(t: &mut Thread, now: u64, sum_exec: Option<u64>, noticed: &mut Noticed) -> u64 {
    let from = t.since;
    if t.phase == Phase::Running as u32 {
        if (now.wrapping_sub(from) as i64) < 0 {
            noticed.negative = true;
            return from;
        }
        let part = now - from;
        let mut steal = 0;
        if let Some(sum_exec) = sum_exec {
            let whole = now.wrapping_sub(t.slice_start);
            let excess = whole.wrapping_sub(sum_exec.wrapping_sub(t.exec_at_in)) as i64;
            if excess > STEAL_THRESHOLD_NS as i64 {
                let excess = excess as u64;
                steal = if excess < part { excess } else { part };
            }
        }
        t.total[State::Steal as usize] += steal;
        t.total[State::Running as usize] += part - steal;
        now
    } else if t.phase == Phase::BeforeAttach as u32 {
        charge(t, State::UnknownBeforeAttach, from, now, noticed)
    } else if t.phase == Phase::Off as u32 {
        noticed.double_switch_out = true;
        charge(t, State::UnknownEventsLost, from, now, noticed)
    } else {
        // Fresh, unborn or dead: nothing to charge, the account begins here.
        t.birth = now;
        now
    }
}

/// Charges blocked and ready part of a wait. The wakeup is clamped into the wait.
#[inline(always)]
fn end_wait(t: &mut Thread, now: u64, noticed: &mut Noticed) -> u64 {
    let from = t.since;
    let to = if (now.wrapping_sub(from) as i64) < 0 {
        noticed.negative = true;
        from
    } else {
        now
    };
    let wake = if t.flags & PREEMPTED != 0 {
        from
    } else if t.flags & WAKE_SET == 0 {
        noticed.wakeup_missing = true;
        t.flags |= NO_WAKEUP;
        to
    } else if t.wake < from {
        from
    } else if t.wake > to {
        to
    } else {
        t.wake
    };
    // `state` and `ready` only ever hold indexes written from `State`; the mask is for the verifier.
    let (state, ready) = (usize::from(t.state), usize::from(t.ready));
    if state < STATES {
        t.total[state] += wake - from;
    }
    if ready < STATES {
        t.total[ready] += to - wake;
    }
    finish_interval(t, from, wake, to);
    to
}

#[inline(always)]
fn finish_interval(t: &mut Thread, out_at: u64, wake_at: u64, in_at: u64) {
    t.out_at = out_at;
    t.wake_at = wake_at;
    t.in_at = in_at;
    t.seq += 1;
    t.flags |= PENDING;
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
