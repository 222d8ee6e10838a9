//! Where counts are kept until an account asks for them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{Counter, DaemonCounter};
use crate::model::id::Pid;

/// Counts by process, where they have one, and counter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<(Option<Pid>, Counter), u64>);

/// The daemon's counts of several threads, of no process.
#[derive(Debug)]
pub struct AtomicTally([AtomicU64; DaemonCounter::ALL.len()]);

// === impl Tally ===

impl Tally {
    /// Counts `n` more, of a process or of none.
    pub fn add(&mut self, of: impl Into<Option<Pid>>, counter: impl Into<Counter>, n: u64) {
        if n > 0 {
            *self.0.entry((of.into(), counter.into())).or_default() += n;
        }
    }

    /// A count, over all processes.
    pub fn get(&self, counter: impl Into<Counter>) -> u64 {
        let counter = counter.into();
        self.iter().filter(|&(_, its, _)| its == counter).map(|(_, _, n)| n).sum()
    }

    /// Every count that is not zero.
    pub fn iter(&self) -> impl Iterator<Item = (Option<Pid>, Counter, u64)> {
        self.0.iter().map(|(&(of, counter), &n)| (of, counter, n))
    }

    /// Forgets whose the counts are: by process they would grow with every one that ever ran.
    pub fn fold(&mut self) {
        for ((_, counter), n) in std::mem::take(&mut self.0) {
            self.add(None, counter, n);
        }
    }
}

// === impl AtomicTally ===

impl Default for AtomicTally {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl AtomicTally {
    /// Counts `n` more.
    pub fn add(&self, counter: DaemonCounter, n: u64) {
        self.0[counter as usize].fetch_add(n, Relaxed);
    }

    /// A count.
    pub fn get(&self, counter: DaemonCounter) -> u64 {
        self.0[counter as usize].load(Relaxed)
    }

    /// Every count that is not zero.
    pub fn iter(&self) -> impl Iterator<Item = (DaemonCounter, u64)> {
        let all = DaemonCounter::ALL.iter().map(|&counter| (counter, self.get(counter)));
        all.filter(|&(_, n)| n > 0)
    }
}
