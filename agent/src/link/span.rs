//! One span's account, built piece by piece.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::spans::SpanIndex;
use crate::{
    budget::Owner,
    ledger::DaemonCounter,
    model::{
        id::{Pid, SpanId, Tid, TraceId},
        state::{State, StateTimes},
    },
};

/// A span's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanKey {
    /// W3C trace id.
    pub trace_id: TraceId,
    /// W3C span id.
    pub span_id: SpanId,
    /// The process it ran in: the same ids published by two processes are two accounts, so a lying
    /// process can only spoil its own.
    pub pid: Pid,
}

/// Who or what a wait was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cause {
    /// The state it caused.
    pub state: State,
    /// What it is.
    pub kind: CauseKind,
    /// Thread, 0 for none.
    pub tid: Tid,
    /// Its process.
    pub pid: Pid,
    /// The span it was in.
    pub span: Option<SpanIndex>,
}

/// Kinds of causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CauseKind {
    /// The thread that ended the wait.
    Waker,
    /// The thread that had the CPU.
    Preemptor,
    /// An interrupt ended the wait: nobody to name.
    Interrupt,
    /// Only the system call is known.
    Syscall(i32),
}

/// A stack as the kernel side named it, in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackKey {
    /// In which state.
    pub state: State,
    /// Hash of the user part, 0 for none.
    pub user: u64,
    /// Hash of the kernel part, 0 for none.
    pub kernel: u64,
}

/// Weight and number of what a key stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Nanoseconds.
    pub ns: u64,
    /// Times.
    pub count: u64,
}

// === impl Tally ===

impl Tally {
    /// Adds one occurrence.
    pub fn add(&mut self, ns: u64) {
        self.ns += ns;
        self.count += 1;
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: &Self) {
        self.ns += other.ns;
        self.count += other.count;
    }
}

/// One span's account.
#[derive(Clone, Debug)]
pub struct Span {
    /// Identity.
    pub key: SpanKey,
    /// In whose name it is kept.
    pub(super) owner: Owner,
    /// Bytes taken for more than a few intervals and causes.
    pub(super) more: u64,
    /// Parent span id, or none.
    pub parent: SpanId,
    /// Operation name.
    pub name: Arc<str>,
    /// First activation, ktime.
    pub start: u64,
    /// Last deactivation so far, ktime.
    pub end: u64,
    /// Sum of activations, from marker times alone.
    pub active_ns: u64,
    /// Sum of pieces, from scheduler cuts alone.
    pub states: StateTimes,
    /// When it was active, in order of its ends on each thread.
    pub active: Vec<(u64, u64)>,
    /// Causes of its waits.
    pub causes: HashMap<Cause, Tally>,
    /// Threads it is active on.
    pub active_on: u32,
    /// Parts of it that were taken.
    pub parts: u32,
    /// It is in the list of those that changed.
    pub(super) changed: bool,
    /// Whether its process is one that is reported.
    pub recorded: bool,
    /// Whether every state of it is exact.
    pub exact: bool,
    /// What is missing.
    pub loss: BTreeMap<DaemonCounter, u64>,
}

/// Separate intervals kept of one span before they are merged.
const MAX_ACTIVE: usize = 4096;
/// Distinct causes kept of one span; beyond, those with a span of their own are summed without it.
const MAX_CAUSES: usize = 1024;

// === impl Span ===

impl Span {
    /// An activation ended: `[from, to]` on one thread, by marker times. Without room for one more
    /// interval the last one grows: then the time on no thread is too small, never the active time.
    pub(super) fn deactivate(&mut self, from: u64, to: u64, has_room: bool) {
        self.active_ns += to - from;
        self.end = self.end.max(to);
        match self.active.last_mut() {
            // Runs of one thread mostly touch or follow each other.
            Some(last) if last.1 == from => last.1 = to,
            Some(last) if !has_room => *last = (last.0.min(from), last.1.max(to)),
            _ => self.active.push((from, to)),
        }
        if self.active.len() > MAX_ACTIVE {
            self.merge_active();
        }
    }

    /// Joins intervals that touch or overlap; when that does not help, the closest ones: then the
    /// time on no thread is a little too small, never the active time.
    fn merge_active(&mut self) {
        self.active.sort_unstable();
        let mut slack = 0;
        while self.active.len() > MAX_ACTIVE / 2 {
            let mut merged: Vec<(u64, u64)> = Vec::with_capacity(self.active.len());
            for &(from, to) in &self.active {
                match merged.last_mut() {
                    Some(last) if from <= last.1.saturating_add(slack) => last.1 = last.1.max(to),
                    _ => merged.push((from, to)),
                }
            }
            self.active = merged;
            slack = slack * 2 + 1_000;
        }
    }

    /// Adds a wait's cause; without room for one more, that of nobody in particular.
    pub(super) fn add_cause(&mut self, mut cause: Cause, ns: u64, has_room: bool) {
        if self.causes.len() >= MAX_CAUSES && !self.causes.contains_key(&cause) {
            cause.span = None;
        }
        if !has_room && !self.causes.contains_key(&cause) {
            (cause.tid, cause.pid, cause.span) = (Tid(0), Pid(0), None);
        }
        self.causes.entry(cause).or_default().add(ns);
    }
}

/// Length of the union of intervals.
pub fn union(mut intervals: Vec<(u64, u64)>) -> u64 {
    intervals.sort_unstable();
    let mut sum = 0;
    let mut reached = 0;
    for (from, to) in intervals {
        let from = from.max(reached);
        if to > from {
            sum += to - from;
            reached = to;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn union_counts_overlap_once() {
        assert_eq!(union(vec![(10, 20), (15, 30), (40, 50), (41, 42)]), 30);
        assert_eq!(union(vec![]), 0);
    }
}
