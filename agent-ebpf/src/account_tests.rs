//! The account against generated schedules with known truth, and the bugs other profilers shipped
//! (performance-reliability 4) one by one.
extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::*;

fn running(at: u64) -> Thread {
    let mut t = fresh();
    forked(&mut t, at);
    woken_new(&mut t, at);
    switch_in(&mut t, at, 0);
    t
}

fn blocked(now: u64, sum_exec: u64) -> Leave {
    Leave {
        now,
        sum_exec,
        preempted: false,
        dead: false,
        state: State::Lock,
        ready: State::ReadyWakeup,
    }
}

fn sum(t: &Thread) -> u64 {
    t.total.iter().sum()
}

#[test]
fn wait_is_split_at_the_wakeup() {
    let mut t = running(1_000);
    switch_out(&mut t, &blocked(2_000, 1_000));
    waking(&mut t, 7, 6, 0, false);
    assert!(woken(&mut t, 5_000));
    switch_in(&mut t, 5_600, 1_000);
    assert_eq!(t.total[State::Running as usize], 1_000);
    assert_eq!(t.total[State::Lock as usize], 3_000);
    assert_eq!(t.total[State::ReadyWakeup as usize], 600);
    assert_eq!((t.waker_tid, t.waker_tgid), (7, 6));
    assert_eq!(t.seq, 2);
}

#[test]
fn waking_before_the_switch_out_names_nobody() {
    // 0.2-0.8 % of sched_waking come before the sleeper's own switch-out: they must not name the
    // waker of the wait that follows.
    let mut t = running(0);
    waking(&mut t, 9, 9, 0, false);
    assert!(!woken(&mut t, 50), "a thread that has not left cannot be woken");
    switch_out(&mut t, &blocked(100, 100));
    assert!(woken(&mut t, 300));
    switch_in(&mut t, 400, 100);
    assert_eq!(t.waker_tid, 0);
}

#[test]
fn migrated_thread_keeps_its_one_wait() {
    // OTel #1348: start time in a per-CPU map. Here the stamp lives with the thread; the CPU of the
    // switch-in does not matter.
    let mut t = running(0);
    switch_out(&mut t, &blocked(10, 10));
    t.cpu = 1;
    woken(&mut t, 20);
    switch_in(&mut t, 30, 10);
    t.cpu = 0;
    switch_out(&mut t, &blocked(40, 20));
    woken(&mut t, 45);
    switch_in(&mut t, 50, 20);
    assert_eq!((t.out_at, t.in_at), (40, 50));
    assert_eq!(sum(&t), 50);
}

#[test]
fn wait_start_is_not_reused_by_the_next_wait() {
    // OTel #593: entry not deleted, the next report reuses the old start.
    let mut t = running(0);
    switch_out(&mut t, &blocked(10, 10));
    woken(&mut t, 11);
    switch_in(&mut t, 12, 10);
    let before = t.total;
    switch_in(&mut t, 100, 10); // its switch-out was missed
    assert_eq!(t.total[State::Lock as usize], before[State::Lock as usize]);
    assert_eq!(t.total[State::UnknownEventsLost as usize], 88);
}

#[test]
fn clock_stepping_back_never_underflows() {
    // rezolus PR #1045, bcc #704: durations near 2^64.
    let mut t = running(1_000);
    let noticed = switch_out(&mut t, &blocked(900, 0));
    assert!(noticed.negative);
    let noticed = switch_in(&mut t, 800, 0);
    assert!(noticed.negative);
    assert_eq!(sum(&t), 0);
    switch_out(&mut t, &blocked(1_500, 500));
    assert_eq!(sum(&t), 500);
    assert_eq!(t.since - t.birth, 500);
}

#[test]
fn zero_is_a_time_like_any_other() {
    let mut t = running(0);
    switch_out(&mut t, &blocked(0, 0));
    woken(&mut t, 0);
    switch_in(&mut t, 10, 0);
    assert_eq!(t.total[State::ReadyWakeup as usize], 10);
    assert_eq!(t.total[State::Lock as usize], 0);
}

#[test]
fn new_thread_has_only_run_queue_time_before_its_first_run() {
    let mut t = fresh();
    forked(&mut t, 100);
    woken_new(&mut t, 150);
    switch_in(&mut t, 180, 0);
    assert_eq!(t.birth, 150);
    assert_eq!(t.total[State::ReadyWakeup as usize], 30);
    assert_eq!(sum(&t), 30);
}

#[test]
fn stale_cpu_account_does_not_become_a_wait() {
    // pg_wait_tracer PR #49: sum_exec_runtime read in the middle of a slice. A cut does not look at
    // it; the true end of the slice does, and only for the excess over the threshold.
    let mut t = running(0);
    cut(&mut t, 600_000_000);
    assert_eq!(t.total[State::Steal as usize], 0);
    switch_out(&mut t, &blocked(700_000_000, 690_000_000));
    assert_eq!(t.total[State::Steal as usize], 10_000_000);
    assert_eq!(t.total[State::Running as usize], 690_000_000);
}

#[test]
fn jitter_of_the_cpu_account_is_running() {
    let mut t = running(0);
    switch_out(&mut t, &blocked(1_000_000, 940_000)); // 60 us short
    assert_eq!(t.total[State::Steal as usize], 0);
    let mut t = running(0);
    switch_out(&mut t, &blocked(1_000_000, 1_030_000)); // the account is ahead
    assert_eq!(t.total[State::Running as usize], 1_000_000);
}

#[test]
fn death_closes_the_open_slice() {
    let mut t = running(0);
    switch_out(&mut t, &Leave { dead: true, ..blocked(777, 777) });
    assert_eq!(t.phase, Phase::Dead as u32);
    assert_eq!(sum(&t), 777);
}

#[test]
fn wait_open_at_attach_is_before_attach_not_a_guess() {
    let mut t = fresh();
    adopt(&mut t, 1_000);
    assert!(!woken(&mut t, 1_500));
    switch_in(&mut t, 2_000, 5);
    assert_eq!(t.total[State::UnknownBeforeAttach as usize], 1_000);
    assert_eq!((t.seq, t.out_at, t.in_at), (1, 1_000, 2_000));
}

#[test]
fn lock_that_was_a_condvar_is_moved_whole() {
    let mut t = running(0);
    switch_out(&mut t, &blocked(10, 10));
    woken(&mut t, 40);
    switch_in(&mut t, 50, 10);
    was(&mut t, State::Notify as u8);
    assert_eq!((t.total[State::Lock as usize], t.total[State::Notify as usize]), (0, 30));
    assert_eq!(sum(&t), 50);
    was(&mut t, State::Notify as u8);
    assert_eq!(t.total[State::Notify as usize], 30, "only once");
}

/// One thing that happens to a generated thread.
#[derive(Clone, Copy, Debug)]
struct Step {
    run: u64,
    stolen: u64,
    preempted: bool,
    blocked: u64,
    ready: u64,
    lose_out: bool,
    lose_wake: bool,
    lose_in: bool,
    back: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (
        0..5_000_000u64,
        prop_oneof![3 => Just(0u64), 1 => 200_000..3_000_000u64],
        any::<bool>(),
        0..9_000_000u64,
        0..2_000_000u64,
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(run, stolen, preempted, blocked, ready, lose, back)| Step {
            run,
            stolen,
            preempted,
            blocked,
            ready,
            lose_out: lose.0,
            lose_wake: lose.1,
            lose_in: lose.2,
            back,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever is lost: the sum of the account is the time it spans.
    #[test]
    fn identity_holds_under_any_loss(steps in prop::collection::vec(step(), 1..60)) {
        let mut t = running(5_000);
        let (mut now, mut exec) = (5_000u64, 0u64);
        for s in &steps {
            now += s.run + s.stolen;
            exec += s.run;
            if s.back { now = now.saturating_sub(700); }
            if !s.lose_out {
                switch_out(&mut t, &Leave { preempted: s.preempted, ..blocked(now, exec) });
            }
            prop_assert_eq!(sum(&t), t.since - t.birth);
            if !s.preempted {
                now += s.blocked;
                if !s.lose_wake { woken(&mut t, now); }
            }
            now += s.ready;
            if !s.lose_in { switch_in(&mut t, now, exec); }
            prop_assert_eq!(sum(&t), t.since - t.birth);
        }
    }

    /// Nothing lost: every state is exactly what was generated.
    #[test]
    fn states_are_exact_without_loss(steps in prop::collection::vec(step(), 1..60)) {
        let mut t = running(5_000);
        let (mut now, mut exec) = (5_000u64, 0u64);
        let mut want: Vec<u64> = std::vec![0; STATES];
        for s in &steps {
            now += s.run + s.stolen;
            exec += s.run;
            want[State::Running as usize] += s.run;
            want[State::Steal as usize] += s.stolen;
            let noticed = switch_out(&mut t, &Leave { preempted: s.preempted, ready: if s.preempted { State::ReadyPreempted } else { State::ReadyWakeup }, ..blocked(now, exec) });
            prop_assert_eq!(noticed, Noticed::default());
            if s.preempted {
                want[State::ReadyPreempted as usize] += s.ready;
            } else {
                now += s.blocked;
                prop_assert!(woken(&mut t, now));
                want[State::Lock as usize] += s.blocked;
                want[State::ReadyWakeup as usize] += s.ready;
            }
            now += s.ready;
            prop_assert_eq!(switch_in(&mut t, now, exec), Noticed::default());
        }
        prop_assert_eq!(&t.total[..], &want[..]);
        prop_assert_eq!(t.seq, steps.len() as u64 + 1);
    }
}
