//! The reader with processes that answer when the test says so.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::model::id::Uid;

/// Says that it is being read, then answers its number once it is let go.
struct Asked {
    pid: Pid,
    begun: Sender<Pid>,
    go: Mutex<Receiver<()>>,
    patience: Duration,
}

impl Question for Asked {
    type Answer = u32;

    fn pid(&self) -> Pid {
        self.pid
    }

    fn is_urgent(&self) -> bool {
        true
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn read(&self) -> u32 {
        self.begun.send(self.pid).unwrap();
        // An error lets it go too: nobody holds it.
        let _ = self.go.lock().unwrap().recv();
        self.pid.0
    }
}

/// A reader and what its workers say.
struct Bench {
    reader: Reader<Asked>,
    begun: (Sender<Pid>, Receiver<Pid>),
}

const ANSWERED: Fate<()> = Fate::Answered(());
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(1000);

impl Bench {
    fn new(workers: usize) -> Self {
        Self::with(workers, 8)
    }

    fn with(workers: usize, waiting: usize) -> Self {
        let pause = (LONG * 10, LONG * 30);
        let limits = Limits { slow: LONG, waits: LONG * 2, pause, workers, waiting };
        Self { reader: Reader::with(|| (), limits, Budgets::default()).unwrap(), begun: channel() }
    }

    /// Asks a process that hangs until what is returned goes.
    fn hang(&mut self, pid: u32, now: Instant) -> Sender<()> {
        self.hang_for(pid, now, LONG * 2)
    }

    /// The same for a question of another patience.
    fn hang_for(&mut self, pid: u32, now: Instant, patience: Duration) -> Sender<()> {
        let (hold, go) = channel();
        let (pid, begun, go) = (Pid(pid), self.begun.0.clone(), Mutex::new(go));
        self.reader.ask_at(Asked { pid, begun, go, patience }, now);
        hold
    }

    /// The next one that is read is this.
    fn begins(&self, pid: u32) {
        assert_eq!(self.begun.1.recv_timeout(Duration::from_secs(20)).unwrap(), Pid(pid));
    }

    /// Outcomes at a moment: number, how it went, whether it is newly unread.
    fn at(&mut self, now: Instant) -> Vec<(u32, Fate<()>, bool)> {
        let outcomes = self.reader.collect_at(now).into_iter();
        let outcomes = outcomes.map(|outcome| {
            let pid = outcome.question.pid.0;
            let fate = match outcome.fate {
                Fate::Answered(answer) => {
                    assert_eq!(answer, pid);
                    ANSWERED
                }
                Fate::Hangs => Fate::Hangs,
                Fate::Refused => Fate::Refused,
            };
            (pid, fate, outcome.is_newly_unread)
        });
        outcomes.collect()
    }

    /// The next outcome that a worker brings.
    fn next(&mut self, now: Instant) -> Vec<(u32, Fate<()>, bool)> {
        self.reader.wait(Duration::from_secs(20));
        self.at(now)
    }

    fn threads(&self) -> usize {
        self.reader.shared.lock().threads
    }
}

#[test]
fn every_question_is_answered_once() {
    let mut bench = Bench::new(2);
    let now = Instant::now();
    assert!(bench.reader.is_idle());
    drop(bench.hang(1, now));
    assert!(!bench.reader.is_idle());
    assert_eq!(bench.next(now), [(1, ANSWERED, false)]);
    assert!(bench.reader.is_idle());
    assert_eq!(bench.at(now), []);
    bench.reader.wait(Duration::ZERO);
    assert_eq!(bench.at(now + LONG * 50), [], "no deadline holds for what is answered");
}

#[test]
fn one_that_hangs_delays_nobody_and_is_asked_ever_less_often() {
    let mut bench = Bench::new(2);
    let now = Instant::now();
    let hold = bench.hang(1, now);
    bench.begins(1);
    drop(bench.hang(2, now));
    assert_eq!((bench.at(now), bench.threads()), (vec![], 1), "it may be about to answer");
    assert!(!bench.reader.is_quiet_at(now + LONG + LONG / 2), "another still waits");
    // Real time passed as well, but not that much.
    assert_eq!(bench.at(now + LONG + LONG / 2), []);
    assert_eq!(bench.next(now), [(2, ANSWERED, false)], "by another worker");
    let is_quiet = [now, now + LONG + LONG / 2].map(|at| bench.reader.is_quiet_at(at));
    assert_eq!((is_quiet, bench.reader.is_idle()), ([false, true], false));
    assert_eq!(bench.at(now + LONG * 3), [(1, Fate::Hangs, true)]);

    let first = now + LONG * 3;
    drop(bench.hang(1, first + LONG * 9));
    assert_eq!(
        bench.at(first + LONG * 9),
        [(1, Fate::Refused, false)],
        "not asked, not counted again"
    );
    let again = bench.hang(1, first + LONG * 11);
    bench.begins(2);
    bench.begins(1);
    assert_eq!(bench.at(first + LONG * 14), [(1, Fate::Hangs, false)], "asked, and hangs again");
    drop(bench.hang(1, first + LONG * 33));
    assert_eq!(bench.at(first + LONG * 33), [(1, Fate::Refused, false)], "for longer this time");
    bench.reader.renewed(Pid(1));
    drop((hold, again));
    drop(bench.hang(1, now));
    // Both workers that hung go now, with late answers; the question finds another.
    let mut outcomes = Vec::new();
    while outcomes.len() < 3 {
        outcomes.extend(bench.at(now));
        thread::yield_now();
    }
    assert_eq!(outcomes, [(1, ANSWERED, false); 3]);
    assert!(bench.reader.is_idle());
}

/// Reading takes its time on a starved host: whoever can wait for it is not refused.
#[test]
fn more_patience_is_not_held_up_by_less() {
    let mut bench = Bench::new(2);
    let now = Instant::now();
    let hold = bench.hang(1, now);
    bench.begins(1);
    assert_eq!(bench.at(now + LONG * 3), [(1, Fate::Hangs, true)]);
    let patient = bench.hang_for(1, now + LONG * 3, LONG * 9);
    assert_eq!(bench.at(now + LONG * 4), [], "it gets a worker of its own");
    bench.begins(1);
    assert_eq!(bench.at(now + LONG * 8), []);
    assert_eq!(bench.at(now + LONG * 10), [(1, Fate::Hangs, false)], "counted once");
    drop((hold, patient));
}

#[test]
fn when_all_hang_the_others_are_unread_not_waited_for() {
    let mut bench = Bench::new(2);
    let now = Instant::now();
    let first = bench.hang(1, now);
    bench.begins(1);
    let second = bench.hang(2, now);
    assert_eq!(bench.at(now + LONG + LONG / 2), []);
    bench.begins(2);
    drop(bench.hang(3, now + LONG * 3));
    let mut outcomes = bench.at(now + LONG * 4);
    outcomes.sort_unstable_by_key(|outcome| outcome.0);
    assert_eq!(outcomes, [(1, Fate::Hangs, true), (2, Fate::Hangs, true)]);
    assert_eq!(bench.at(now + LONG * 4), [], "it waits for a worker");
    assert_eq!(bench.at(now + LONG * 5), [(3, Fate::Refused, true)], "for as long as one may read");
    assert_eq!(bench.threads(), 2);

    // One answers at last, and the next question has a worker.
    drop(first);
    while bench.threads() == 2 {
        thread::yield_now();
    }
    let later = now + LONG * 100;
    assert_eq!(bench.at(later), [(1, ANSWERED, false)], "late");
    assert!(bench.reader.is_idle());
    drop(bench.hang(3, later));
    assert_eq!(bench.at(later), []);
    assert_eq!(bench.next(later), [(3, ANSWERED, false)]);
    drop(second);
}

#[test]
fn more_questions_than_wait_are_unread() {
    let mut bench = Bench::new(1);
    let now = Instant::now();
    let hold = bench.hang(1, now);
    bench.begins(1);
    let waiting: Vec<_> = (0..9).map(|pid| bench.hang(10 + pid, now)).collect();
    assert_eq!(bench.at(now), [(18, Fate::Refused, true)]);
    drop(waiting);
    drop(hold);
    let mut answered = 0;
    while !bench.reader.is_idle() {
        answered += bench.next(now).len();
    }
    assert_eq!(answered, 9);
}

#[test]
fn a_question_that_panics_takes_one_worker_with_it() {
    struct Panics;
    impl Question for Panics {
        type Answer = ();
        fn pid(&self) -> Pid {
            Pid(1)
        }
        fn is_urgent(&self) -> bool {
            true
        }
        fn patience(&self) -> Duration {
            LONG
        }
        fn read(&self) {
            std::panic::resume_unwind(Box::new(()));
        }
    }
    let mut reader = Reader::with(|| (), LIMITS, Budgets::default()).unwrap();
    reader.ask(Panics);
    while reader.shared.lock().threads > 0 {
        thread::yield_now();
    }
    let outcomes = reader.collect_at(Instant::now() + LONG);
    assert_eq!(outcomes.len(), 1);
    assert!(outcomes[0].fate == Fate::Hangs && outcomes[0].is_newly_unread);
}

/// Whoever lets the readers hang in its processes blinds itself only.
#[test]
fn a_users_hanging_processes_keep_only_a_share_of_the_workers() {
    let mut bench = Bench::with(20, 64);
    let budgets = bench.reader.shared.budgets.clone();
    let now = Instant::now();
    let (stranger, honest) = (Uid(1000), 5000);
    (100..140).for_each(|pid| budgets.set_user(Pid(pid), stranger));
    budgets.set_user(Pid(honest), Uid(1001));
    let mut holds = Vec::new();
    for pid in 100..140 {
        holds.push(bench.hang(pid, now));
    }
    // Every look finds that nobody works and starts a worker, while there is something it may do.
    let mut hanging = 0;
    for n in 0..20 {
        assert_eq!(bench.at(now + LONG + LONG * n / 40), []);
        while bench.begun.1.recv_timeout(Duration::from_millis(100)).is_ok() {
            hanging += 1;
        }
    }
    let share = Resource::Readers.bound().user;
    assert!(hanging < share && hanging + 2 >= share, "{hanging} of {share}");
    drop(bench.hang(honest, now + LONG));
    let mut outcomes = Vec::new();
    while outcomes.is_empty() {
        outcomes = bench.at(now + LONG + LONG / 2);
        thread::yield_now();
    }
    assert_eq!(outcomes, [(honest, ANSWERED, false)]);
    // The stranger's others have their outcome, too.
    let outcomes = bench.at(now + LONG * 4);
    let hangs = outcomes.iter().filter(|outcome| outcome.1 == Fate::Hangs).count() as u64;
    let refused = outcomes.iter().filter(|outcome| outcome.1 == Fate::Refused).count() as u64;
    assert_eq!((hangs, refused), (hanging, 40 - hanging));
    let over = budgets.over(1);
    assert!(over.iter().all(|over| over.owner.uid == stranger) && !over.is_empty());
    assert!(over.iter().all(|over| over.resource == Resource::Readers));
    // A place that is free again is taken by the next one.
    drop(holds);
    while !bench.reader.shared.lock().running.is_empty() || bench.threads() > 1 {
        thread::yield_now();
    }
    assert_eq!(budgets.room(Resource::Readers, budgets.owner(Pid(100))), 2);
}

/// One that costs much time at each look is looked at less often, and others meanwhile as ever.
#[test]
fn time_of_the_workers_is_shared_too() {
    let mut bench = Bench::new(2);
    let budgets = bench.reader.shared.budgets.clone();
    let now = Instant::now();
    budgets.set_user(Pid(100), Uid(1000));
    budgets.set_user(Pid(101), Uid(1001));
    assert_eq!(bench.at(now), []);
    budgets.force(Resource::Reading, budgets.owner(Pid(100)), 200_000);
    drop(bench.hang(100, now));
    drop(bench.hang(101, now));
    bench.begins(101);
    assert_eq!(bench.next(now), [(101, ANSWERED, false)]);
    assert_eq!(bench.at(now + PERIOD / 2), [], "its time is used up");
    let next = now + PERIOD;
    let mut outcomes = bench.at(next);
    if outcomes.is_empty() {
        outcomes = bench.next(next);
    }
    assert_eq!(outcomes, [(100, ANSWERED, false)]);
}
