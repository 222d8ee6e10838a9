//! The span table: every span's account, built piece by piece.

use std::collections::{BTreeMap, HashMap};

use crate::{
    process::id::Pid,
    profile::state::{State, StateTimes},
};

/// A span's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanKey {
    /// W3C trace id.
    pub trace_id: [u8; 16],
    /// W3C span id.
    pub span_id: [u8; 8],
    /// The process it ran in: the same ids published by two processes are two accounts, so a lying
    /// process can only spoil its own.
    pub pid: Pid,
}

/// Index of a span in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanIndex(pub u32);

/// Who or what a wait was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cause {
    /// The state it caused.
    pub state: State,
    /// What it is.
    pub kind: CauseKind,
    /// Thread, 0 for none.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// The span it was in.
    pub span: Option<SpanIndex>,
}

/// Kinds of causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CauseKind {
    /// The thread that ended the wait.
    Waker,
    /// The thread that had the CPU.
    Rival,
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
    /// Parent span id, all zero for none.
    pub parent: [u8; 8],
    /// Operation name.
    pub name: String,
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
    /// Stacks.
    pub stacks: HashMap<StackKey, Tally>,
    /// Whether its process is one that is reported.
    pub recorded: bool,
    /// Whether every state of it is exact.
    pub exact: bool,
    /// What is missing.
    pub loss: BTreeMap<&'static str, u64>,
}

/// Every span seen.
#[derive(Debug, Default)]
pub struct Spans {
    table: Vec<Span>,
    index: HashMap<SpanKey, SpanIndex>,
    /// Spans of processes that are not reported.
    foreign: usize,
    /// Reported spans the table had no room for.
    pub refused: u64,
}

/// Spans kept in memory.
const MAX_SPANS: usize = 2_000_000;
/// Of those, spans of processes that are not reported.
const MAX_FOREIGN: usize = 200_000;
/// Separate intervals kept of one span before they are merged.
const MAX_ACTIVE: usize = 4096;
/// Distinct causes kept of one span; beyond, those with a span of their own are summed without it.
const MAX_CAUSES: usize = 1024;

// === impl Spans ===

impl Spans {
    /// The span with this key, made on first sight.
    pub fn find_or_insert(
        &mut self,
        key: SpanKey,
        make: impl FnOnce() -> (String, [u8; 8]),
        at: u64,
        recorded: bool,
    ) -> Option<SpanIndex> {
        if let Some(&index) = self.index.get(&key) {
            let span = &mut self.table[index.0 as usize];
            span.start = span.start.min(at);
            return Some(index);
        }
        // Others' spans only serve to name wakers: they must not take the recorded ones' room.
        if self.table.len() >= MAX_SPANS || (!recorded && self.foreign >= MAX_FOREIGN) {
            self.refused += u64::from(recorded);
            return None;
        }
        self.foreign += usize::from(!recorded);
        let index = SpanIndex(self.table.len() as u32);
        let (name, parent) = make();
        self.table.push(Span {
            key,
            parent,
            name,
            start: at,
            end: at,
            active_ns: 0,
            states: StateTimes::default(),
            active: Vec::new(),
            causes: HashMap::new(),
            stacks: HashMap::new(),
            recorded,
            exact: true,
            loss: BTreeMap::new(),
        });
        self.index.insert(key, index);
        Some(index)
    }

    /// A span's account.
    pub fn get(&self, index: SpanIndex) -> &Span {
        &self.table[index.0 as usize]
    }

    /// A span's account, to add to.
    pub fn get_mut(&mut self, index: SpanIndex) -> &mut Span {
        &mut self.table[index.0 as usize]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// All of them, in order of first sight.
    pub fn iter(&self) -> impl Iterator<Item = (SpanIndex, &Span)> {
        self.table.iter().enumerate().map(|(i, span)| (SpanIndex(i as u32), span))
    }
}

// === impl Span ===

impl Span {
    /// An activation ended: `[from, to]` on one thread, by marker times.
    pub fn deactivate(&mut self, from: u64, to: u64) {
        self.active_ns += to - from;
        self.end = self.end.max(to);
        match self.active.last_mut() {
            // Runs of one thread mostly touch or follow each other.
            Some(last) if last.1 == from => last.1 = to,
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

    /// Adds a wait's cause.
    pub fn add_cause(&mut self, mut cause: Cause, ns: u64) {
        if self.causes.len() >= MAX_CAUSES && !self.causes.contains_key(&cause) {
            cause.span = None;
        }
        self.causes.entry(cause).or_default().add(ns);
    }

    /// Adds another span's time, causes and stacks to this one's: for scopes wider than a span.
    pub fn absorb(&mut self, other: &Self) {
        self.active_ns += other.active_ns;
        for (state, ns) in other.states.iter() {
            self.states.add(state, ns);
        }
        for (cause, tally) in &other.causes {
            self.causes.entry(cause.clone()).or_default().merge(tally);
        }
        for (key, tally) in &other.stacks {
            self.stacks.entry(*key).or_default().merge(tally);
        }
        self.exact &= other.exact;
        for (reason, n) in &other.loss {
            *self.loss.entry(reason).or_default() += n;
        }
    }

    /// Last deactivation minus first activation.
    pub fn wall_ns(&self) -> u64 {
        self.end - self.start
    }
}

/// Who is whose child, by the ids the publishers gave.
#[derive(Debug, Default)]
pub struct SpanTree(HashMap<([u8; 16], [u8; 8]), Vec<SpanIndex>>);

// === impl SpanTree ===

impl SpanTree {
    /// The children of every span.
    pub fn of(spans: &Spans) -> Self {
        let mut children: HashMap<_, Vec<SpanIndex>> = HashMap::new();
        for (index, span) in spans.iter() {
            if span.parent != [0; 8] && span.parent != span.key.span_id {
                children.entry((span.key.trace_id, span.parent)).or_default().push(index);
            }
        }
        Self(children)
    }

    /// A span and all its descendants, in any process.
    pub fn subtree(&self, index: SpanIndex, spans: &Spans) -> Vec<SpanIndex> {
        let mut seen = std::collections::HashSet::from([index]);
        let mut members = vec![index];
        let mut next = 0;
        while let Some(&member) = members.get(next) {
            next += 1;
            let key = spans.get(member).key;
            for &child in self.0.get(&(key.trace_id, key.span_id)).into_iter().flatten() {
                // Ids come from outside: a circle must not hold us.
                if seen.insert(child) {
                    members.push(child);
                }
            }
        }
        members
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
