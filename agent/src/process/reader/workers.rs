//! The workers of a reader: what they share with it, and how each picks what it reads next.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
    io::{Read as _, Write as _},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use super::Question;
use crate::budget::{Budgets, Owner, Resource};

pub(super) struct Shared<Q: Question> {
    pub(super) state: Mutex<State<Q>>,
    pub(super) work: Condvar,
    pub(super) budgets: Budgets,
    /// Readable when there are urgent answers.
    pub(super) call: File,
}

/// Since when, whose, and what.
pub(super) type Waiting<Q> = (Instant, Owner, Arc<Q>);

pub(super) struct State<Q: Question> {
    pub(super) waiting: VecDeque<Waiting<Q>>,
    /// By number of worker. One that is missing here and not idle was left to itself.
    pub(super) running: HashMap<u64, (Instant, Arc<Q>)>,
    pub(super) answers: Vec<(Arc<Q>, Q::Answer)>,
    /// To questions that have had their outcome.
    pub(super) late: Vec<(Arc<Q>, Q::Answer)>,
    pub(super) idle: usize,
    pub(super) threads: usize,
    /// Workers ever.
    pub(super) numbers: u64,
    pub(super) has_ended: bool,
}

// === impl Shared ===

impl<Q: Question> Shared<Q> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<Q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the call back, under the lock.
    pub(super) fn quiet(&self) {
        // Nothing to read: somebody waited in between.
        let _ = (&self.call).read(&mut [0; 8]);
    }
}

/// Counts a worker out, however it ends.
struct Leaving<'a, Q: Question>(&'a Shared<Q>);

impl<Q: Question> Drop for Leaving<'_, Q> {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
    }
}

/// A share of the workers, and of their time, in somebody's name.
struct Place<'a> {
    budgets: &'a Budgets,
    owner: Owner,
    began: Duration,
}

// === impl Place ===

impl<'a> Place<'a> {
    fn take(budgets: &'a Budgets, owner: Owner) -> Option<Self> {
        let is_free = budgets.room(Resource::Reading, owner) > 0
            && budgets.try_take(Resource::Readers, owner, 1);
        is_free.then(|| Self { budgets, owner, began: cpu_time() })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let took = cpu_time().saturating_sub(self.began).as_micros() as u64;
        self.budgets.force(Resource::Reading, self.owner, took);
        self.budgets.give(Resource::Readers, self.owner, 1);
    }
}

/// CPU time of this thread: on a starved host reading takes long, and nobody is to blame.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

// === impl State ===

impl<Q: Question> State<Q> {
    /// The question that waits for longest of those whose owner's share is not used up.
    fn pick<'a>(&mut self, budgets: &'a Budgets) -> Option<(Arc<Q>, Place<'a>)> {
        let mut used_up = HashSet::new();
        for at in 0..self.waiting.len() {
            let owner = self.waiting[at].1;
            if used_up.contains(&owner) {
                continue;
            }
            let Some(place) = Place::take(budgets, owner) else {
                used_up.insert(owner);
                continue;
            };
            let (_, _, question) = self.waiting.remove(at)?;
            return Some((question, place));
        }
        None
    }
}

/// The life of a worker: until it is left to itself, or nobody needs it.
pub(super) fn work<Q: Question>(shared: &Shared<Q>, number: u64) {
    let _leaving = Leaving(shared);
    let mut state = shared.lock();
    while !state.has_ended {
        let Some((question, place)) = state.pick(&shared.budgets) else {
            if state.idle > 0 {
                return;
            }
            state.idle += 1;
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            continue;
        };
        state.running.insert(number, (Instant::now(), Arc::clone(&question)));
        drop(state);
        let answer = question.read();
        drop(place);
        state = shared.lock();
        if question.is_urgent() {
            // The counter is far from full, the only way to fail.
            let _ = (&shared.call).write(&1u64.to_ne_bytes());
        }
        if state.running.remove(&number).is_none() {
            state.late.push((question, answer));
            // Another may have waited for its place.
            shared.work.notify_one();
            return;
        }
        state.answers.push((question, answer));
    }
}
