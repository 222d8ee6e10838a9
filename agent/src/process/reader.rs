//! Reads what strange processes show under `/proc`, on threads of its own.
//!
//! Whoever opens `/proc/PID/maps`, a file of `map_files`, or reads `stat` or `exe` on newer kernels, waits
//! for locks of that process (`exec_update_lock`, then the mmap lock for its mappings), for as long as the
//! process likes. So whoever must not wait asks here and collects the outcome later.
//!
//! ```text
//! ask ─► waiting ─► worker ─► answers ─► collect
//!           │          └─ past its patience: hangs; the worker is left to itself
//!           └─ all workers hang, or its owner's share of them does: refused
//! ```
//! Invariants:
//! - every question has exactly one outcome, and one that hangs is answered late as well, if ever;
//! - asking and collecting never wait for a process;
//! - there are at most `Limits::workers` threads, those that hang included. A hanging thread cannot be
//!   ended, only outlived;
//! - one process or user has only a share of the workers and of their time: its questions wait while
//!   others' are read (`budget`);
//! - a process that let a worker hang is not asked for a while, and for longer each time; but what asks
//!   with more patience is not held up by what had less.

mod workers;

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::{
    budget::{Budgets, Resource},
    model::id::Pid,
};
use workers::{Shared, State, work};

/// Something to be read of one process.
pub trait Question: Send + Sync + 'static {
    /// What is read.
    type Answer: Send + 'static;

    /// Whom it is about.
    fn pid(&self) -> Pid;

    /// Whether its answer is waited for: then the reader's descriptor becomes readable with it.
    fn is_urgent(&self) -> bool;

    /// How long it may be read before it hangs. Nobody else waits for it, and on a starved host reading
    /// takes its time: so it depends on what the asker can wait for.
    fn patience(&self) -> Duration;

    /// Reads it. May wait for the process.
    fn read(&self) -> Self::Answer;
}

/// What became of a question.
pub struct Outcome<Q: Question> {
    /// As it was asked.
    pub question: Arc<Q>,
    /// How it went.
    pub fate: Fate<Q::Answer>,
    /// With it a process became unread that was not before.
    pub is_newly_unread: bool,
}

/// How a question went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<A> {
    /// It was read.
    Answered(A),
    /// It is being read for too long; when the process lets it be read the answer comes all the same.
    Hangs,
    /// Nobody reads it: its process is not asked for now, or all workers hang.
    Refused,
}

/// How long is waited, and for how many.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// A worker that reads for longer is not counted on for the questions that wait.
    slow: Duration,
    /// A question that waits for longer while all workers hang is refused.
    waits: Duration,
    /// How long a process is not asked after the first time, and after many.
    pause: (Duration, Duration),
    /// One that works and those that hang: threads that sleep cost little, and whoever wants nobody to be
    /// read needs as many processes.
    workers: usize,
    /// Questions waiting.
    waiting: usize,
}

const LIMITS: Limits = Limits {
    slow: Duration::from_millis(20),
    waits: Duration::from_secs(1),
    pause: (Duration::from_secs(1), Duration::from_secs(60)),
    // As many as [`Resource::Readers`] has.
    workers: Resource::Readers.bound().total as usize,
    waiting: 1 << 16,
};

/// Pauses kept before those that are long over are dropped.
const MAX_PAUSES: usize = 1024;

/// Shares of the workers' time are those of so long.
const PERIOD: Duration = Duration::from_secs(1);

/// A process that is not asked.
#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

/// The workers, as their only user sees them. They end when this is dropped, as far as they can.
pub struct Reader<Q: Question> {
    shared: Arc<Shared<Q>>,
    limits: Limits,
    /// What each worker does first.
    prepare: fn(),
    /// Outcomes not collected yet that no worker brought.
    unread: Vec<Outcome<Q>>,
    /// Questions without a collected outcome.
    open: usize,
    /// By process and patience.
    pauses: HashMap<(Pid, Duration), Pause>,
    /// Since when shares of time are counted.
    period: Option<Instant>,
}

// === impl Reader ===

impl<Q: Question> Reader<Q> {
    /// Starts the first worker; each of them calls `prepare` first.
    pub fn start(prepare: fn(), budgets: Budgets) -> io::Result<Self> {
        Self::with(prepare, LIMITS, budgets)
    }

    fn with(prepare: fn(), limits: Limits, budgets: Budgets) -> io::Result<Self> {
        let state = State {
            waiting: VecDeque::new(),
            running: HashMap::new(),
            answers: Vec::new(),
            late: Vec::new(),
            idle: 0,
            threads: 0,
            numbers: 0,
            has_ended: false,
        };
        let (state, work) = (Mutex::new(state), Condvar::new());
        let shared = Shared { state, work, budgets, call: call()? };
        let shared = Arc::new(shared);
        let (unread, pauses) = (Vec::new(), HashMap::new());
        let reader = Self { shared, limits, prepare, unread, open: 0, pauses, period: None };
        reader.start_worker(&mut reader.shared.lock())?;
        Ok(reader)
    }

    /// Asks. Does not wait.
    pub fn ask(&mut self, question: Q) {
        self.ask_at(question, Instant::now());
    }

    fn ask_at(&mut self, question: Q, now: Instant) {
        self.open += 1;
        let question = Arc::new(question);
        let pause = self.pauses.get(&key(&*question));
        let paused = pause.is_some_and(|pause| now < pause.until);
        let mut state = self.shared.lock();
        if paused || state.waiting.len() >= self.limits.waiting {
            drop(state);
            return self.give_up(question, false, now);
        }
        let owner = self.shared.budgets.owner(question.pid());
        state.waiting.push_back((now, owner, question));
        if state.idle > 0 {
            self.shared.work.notify_one();
        }
    }

    /// The outcomes that came since the last call. Does not wait. To be called now and then also when
    /// nothing came: deadlines pass here.
    pub fn collect(&mut self) -> Vec<Outcome<Q>> {
        self.collect_at(Instant::now())
    }

    fn collect_at(&mut self, now: Instant) -> Vec<Outcome<Q>> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let answers = std::mem::take(&mut state.answers);
        let late = std::mem::take(&mut state.late);
        if !answers.is_empty() || !late.is_empty() {
            shared.quiet();
        }
        let began = *self.period.get_or_insert(now);
        if now.saturating_duration_since(began) >= PERIOD {
            self.period = Some(now);
            shared.budgets.begin(Resource::Reading);
            shared.work.notify_all();
        }
        for (question, stuck) in self.overdue(&mut state, now) {
            self.give_up(question, stuck, now);
        }
        drop(state);
        let mut outcomes = std::mem::take(&mut self.unread);
        self.open -= outcomes.len() + answers.len();
        for (question, answer) in answers.into_iter().chain(late) {
            self.pauses.remove(&key(&*question));
            let fate = Fate::Answered(answer);
            outcomes.push(Outcome { question, fate, is_newly_unread: false });
        }
        outcomes
    }

    /// Leaves workers that hang to themselves and sees to it that somebody works. Returns the questions
    /// that are given up, and whether a worker hangs in it.
    fn overdue(&self, state: &mut State<Q>, now: Instant) -> Vec<(Arc<Q>, bool)> {
        let Limits { slow, waits, workers, .. } = self.limits;
        let for_long = |since: Instant, long| now.saturating_duration_since(since) >= long;
        let hanging =
            state.running.extract_if(|_, (since, question)| for_long(*since, question.patience()));
        let mut overdue: Vec<_> = hanging.map(|(_, (_, question))| (question, true)).collect();
        overdue.extend(self.beyond_share(state, now).into_iter().map(|question| (question, false)));
        let is_quick = |(since, _): &(Instant, Arc<Q>)| !for_long(*since, slow);
        let somebody_works = state.idle > 0 || state.running.values().any(is_quick);
        if somebody_works || state.waiting.is_empty() {
            return overdue;
        }
        if state.threads < workers {
            // Without another thread the questions wait for those there are.
            let _ = self.start_worker(state);
            return overdue;
        }
        while let Some((_, _, question)) =
            state.waiting.pop_front_if(|(since, _, _)| for_long(*since, waits))
        {
            overdue.push((question, false));
        }
        overdue
    }

    /// Questions of owners whose share of the workers hangs in others of their processes, and has for as
    /// long as questions wait.
    fn beyond_share(&self, state: &mut State<Q>, now: Instant) -> Vec<Arc<Q>> {
        let budgets = &self.shared.budgets;
        let waits_long = |since: Instant| now.saturating_duration_since(since) >= self.limits.waits;
        let mut beyond = Vec::new();
        if state.waiting.front().is_some_and(|(since, _, _)| waits_long(*since)) {
            state.waiting.retain(|(since, owner, question)| {
                if !waits_long(*since) || budgets.room(Resource::Readers, *owner) > 0 {
                    return true;
                }
                budgets.shed(Resource::Readers, *owner, 1);
                beyond.push(Arc::clone(question));
                false
            });
        }
        beyond
    }

    /// A question whose process is to blame if a worker is `stuck` in it.
    fn give_up(&mut self, question: Arc<Q>, stuck: bool, now: Instant) {
        let (first, most) = self.limits.pause;
        if self.pauses.len() >= MAX_PAUSES {
            self.pauses.retain(|_, pause| now < pause.until + pause.length);
        }
        let is_newly_unread = !self.pauses.keys().any(|(pid, _)| *pid == question.pid());
        let before = self.pauses.get(&key(&*question)).copied();
        let length = match before {
            Some(before) if stuck => (before.length * 2).min(most),
            Some(before) => before.length,
            None => first,
        };
        if before.is_none_or(|before| now >= before.until) {
            self.pauses.insert(key(&*question), Pause { until: now + length, length });
        }
        let fate = if stuck { Fate::Hangs } else { Fate::Refused };
        self.unread.push(Outcome { question, fate, is_newly_unread });
    }

    /// The process of this number is another, or has another image: it may be asked.
    pub fn renewed(&mut self, pid: Pid) {
        if !self.pauses.is_empty() {
            self.pauses.retain(|(paused, _), _| *paused != pid);
        }
    }

    /// Whether every question's outcome was collected.
    pub fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// Whether all that has no outcome yet seems to hang: whoever waits for the others need not wait on.
    pub fn is_quiet(&self) -> bool {
        self.is_quiet_at(Instant::now())
    }

    fn is_quiet_at(&self, now: Instant) -> bool {
        let state = self.shared.lock();
        let hangs = |since: Instant| now.saturating_duration_since(since) >= self.limits.slow;
        let is_read = self.unread.is_empty() && state.answers.is_empty() && state.late.is_empty();
        is_read
            && state.waiting.is_empty()
            && state.running.values().all(|(since, _)| hangs(*since))
    }

    /// Waits until there are urgent answers, at most for so long.
    pub fn wait(&self, most: Duration) {
        let most = Timespec::try_from(most).ok();
        let mut call = [PollFd::new(self, PollFlags::IN)];
        // A signal may end it early: whoever waits looks again.
        let _ = poll(&mut call, most.as_ref());
    }

    fn start_worker(&self, state: &mut State<Q>) -> io::Result<()> {
        let (shared, prepare, number) = (Arc::clone(&self.shared), self.prepare, state.numbers);
        thread::Builder::new().name("hotspan-reader".into()).spawn(move || {
            prepare();
            work(&shared, number);
        })?;
        state.numbers += 1;
        state.threads += 1;
        Ok(())
    }
}

/// Readable when there are urgent answers.
impl<Q: Question> AsFd for Reader<Q> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.call.as_fd()
    }
}

impl<Q: Question> Drop for Reader<Q> {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.work.notify_all();
    }
}

fn key<Q: Question>(question: &Q) -> (Pid, Duration) {
    (question.pid(), question.patience())
}

/// An eventfd.
fn call() -> io::Result<File> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?.into())
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
