//! The span table: every span's account, built piece by piece.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    ledger::{self, DaemonCounter},
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

/// A span's place in the table. A place is used again after its span was forgotten, then in another
/// generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanIndex {
    slot: u32,
    generation: u32,
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
    changed: bool,
    /// Whether its process is one that is reported.
    pub recorded: bool,
    /// Whether every state of it is exact.
    pub exact: bool,
    /// What is missing.
    pub loss: BTreeMap<DaemonCounter, u64>,
}

/// A stack seen, for a stream: rows keep the time and the thread, a recording only sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: u64,
    /// Its process.
    pub pid: Pid,
    /// Thread.
    pub tid: Tid,
    /// The span it was in.
    pub span: Option<SpanIndex>,
    /// Which stack, in which state.
    pub stack: StackKey,
    /// What it stands for.
    pub ns: u64,
    /// A timer sample: one of the kind that is captured as such.
    pub is_sample: bool,
}

/// Spans that may still change, and what came since the last flush.
#[derive(Debug, Default)]
pub struct Spans {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashMap<SpanKey, SpanIndex>,
    /// Spans of processes that are not reported.
    foreign: usize,
    /// What there was no room for.
    pub counts: ledger::Tally,
    /// Reported spans so far, each as often as it was forgotten in between.
    seen: u64,
    untaken: Untaken,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    span: Option<Span>,
}

/// What came since the last flush.
#[derive(Debug, Default)]
struct Untaken {
    changed: Vec<SpanIndex>,
    seen: Vec<Seen>,
}

/// Spans kept at once.
const MAX_LIVE: usize = 500_000;
/// Stacks kept between two flushes.
const MAX_SEEN: usize = 500_000;
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
        make: impl FnOnce() -> (String, SpanId),
        at: u64,
        recorded: bool,
    ) -> Option<SpanIndex> {
        if let Some(&index) = self.index.get(&key) {
            let span = self.get_mut(index);
            span.start = span.start.min(at);
            return Some(index);
        }
        // Others' spans only serve to name wakers: they must not take the recorded ones' room.
        if self.index.len() >= MAX_LIVE || (!recorded && self.foreign >= MAX_FOREIGN) {
            self.counts.add(None, DaemonCounter::SpansTableFull, u64::from(recorded));
            return None;
        }
        self.foreign += usize::from(!recorded);
        self.seen += u64::from(recorded);
        let (name, parent) = make();
        let index = self.place(Span {
            key,
            parent,
            name: name.into(),
            start: at,
            end: at,
            active_ns: 0,
            states: StateTimes::default(),
            active: Vec::new(),
            causes: HashMap::new(),
            active_on: 0,
            parts: 0,
            changed: false,
            recorded,
            exact: true,
            loss: BTreeMap::new(),
        });
        self.index.insert(key, index);
        Some(index)
    }

    fn place(&mut self, span: Span) -> SpanIndex {
        if let Some(slot) = self.free.pop() {
            let place = &mut self.slots[slot as usize];
            place.span = Some(span);
            return SpanIndex { slot, generation: place.generation };
        }
        let slot = self.slots.len() as u32;
        self.slots.push(Slot { generation: 0, span: Some(span) });
        SpanIndex { slot, generation: 0 }
    }

    /// A span's account. Whoever holds an index over a flush asks [`Self::contains`] first.
    pub fn get(&self, index: SpanIndex) -> &Span {
        let span = self.slots[index.slot as usize].span.as_ref();
        span.expect("a span is not forgotten while it is referred to")
    }

    /// A span's account, to add to.
    pub fn get_mut(&mut self, index: SpanIndex) -> &mut Span {
        let span = self.slots[index.slot as usize].span.as_mut();
        let span = span.expect("a span is not forgotten while it is referred to");
        if !span.changed {
            span.changed = true;
            self.untaken.changed.push(index);
        }
        span
    }

    /// Whether the span at this place is still the one that was meant.
    pub fn contains(&self, index: SpanIndex) -> bool {
        let slot = self.slots.get(index.slot as usize);
        slot.is_some_and(|slot| slot.generation == index.generation && slot.span.is_some())
    }

    /// A stack was seen: it is its span's, if it has one.
    pub fn see(&mut self, seen: Seen) {
        if let Some(index) = seen.span {
            // Its row refers to a part of the span.
            let _ = self.get_mut(index);
        }
        if self.untaken.seen.len() < MAX_SEEN {
            self.untaken.seen.push(seen);
        } else if seen.is_sample {
            self.counts.add(None, DaemonCounter::SamplesOverBudget, 1);
        } else {
            self.counts.add(None, DaemonCounter::WaitStacksOverBudget, 1);
        }
    }

    /// What changed since the last call: places of spans in order, and the stacks seen.
    pub fn take_changes(&mut self) -> (Vec<SpanIndex>, Vec<Seen>) {
        let changed = std::mem::take(&mut self.untaken.changed);
        for index in &changed {
            if let Some(span) = &mut self.slots[index.slot as usize].span {
                span.changed = false;
            }
        }
        (changed, std::mem::take(&mut self.untaken.seen))
    }

    /// Takes what was added to a span since the last time; its identity stays.
    pub fn take_part(&mut self, index: SpanIndex) -> Option<Span> {
        let span = self.slots[index.slot as usize].span.as_mut()?;
        let part = Span {
            name: span.name.clone(),
            states: std::mem::take(&mut span.states),
            active: std::mem::take(&mut span.active),
            causes: std::mem::take(&mut span.causes),
            loss: std::mem::take(&mut span.loss),
            ..*span
        };
        span.active_ns = 0;
        span.parts += 1;
        Some(part)
    }

    /// Forgets spans that are active nowhere and ended before `before`. The same ids may come again:
    /// then the store adds what they bring.
    pub fn forget(&mut self, before: u64) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let idle = |span: &Span| span.active_on == 0 && !span.changed && span.end < before;
            if let Some(span) = slot.span.take_if(|span| idle(span)) {
                self.index.remove(&span.key);
                self.foreign -= usize::from(!span.recorded);
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(number as u32);
            }
        }
    }

    /// Reported spans so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// All of them, in order of first sight.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (SpanIndex, &Span)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| {
            let index = SpanIndex { slot: number as u32, generation: slot.generation };
            slot.span.as_ref().map(|span| (index, span))
        })
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
