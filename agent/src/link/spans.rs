//! The span table: every span's account, and what came since the last flush.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

pub use super::span::{Cause, CauseKind, Span, SpanKey, StackKey, Tally, union};
use crate::{
    budget::{Budgets, Owner, Resource},
    ledger::DaemonCounter,
    model::{
        id::{Pid, SpanId, Tid},
        state::StateTimes,
    },
};

/// A span's place in the table. A place is used again after its span was forgotten, then in another
/// generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanIndex {
    slot: u32,
    generation: u32,
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
    budgets: Budgets,
    /// Reported spans so far, each as often as it was forgotten in between.
    seen: u64,
    untaken: Untaken,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// On the heap: when a flood of spans is over, its memory is free again.
    span: Option<Box<Span>>,
}

/// What came since the last flush.
#[derive(Debug, Default)]
struct Untaken {
    changed: Vec<SpanIndex>,
    seen: Vec<Seen>,
}

/// What a span takes: itself, its places, its states and its first interval.
const SPAN_BYTES: u64 =
    (size_of::<Span>() + size_of::<Slot>() + 2 * size_of::<(SpanKey, SpanIndex)>() + 160) as u64;
/// Of what a span may gather until it is taken, so many intervals and causes are in [`SPAN_BYTES`].
const FEW: usize = 4;
/// What one more of them takes.
const MORE_BYTES: u64 = (size_of::<(Cause, Tally)>() + 16) as u64;

// === impl Spans ===

impl Spans {
    /// Spans that are kept within these budgets.
    pub fn new(budgets: Budgets) -> Self {
        Self { budgets, ..Self::default() }
    }

    /// The span with this key, made on first sight. None when its process or user has too many: that
    /// is counted, and concerns nobody else's.
    pub fn find_or_insert(
        &mut self,
        key: SpanKey,
        make: impl FnOnce() -> (Arc<str>, SpanId),
        at: u64,
        recorded: bool,
    ) -> Option<SpanIndex> {
        if let Some(&index) = self.index.get(&key) {
            let span = self.get(index);
            // What is reported again costs as much as a new one.
            if !span.changed && !self.budgets.take(Resource::ChangedSpans, span.owner, 1) {
                return None;
            }
            let span = self.get_mut(index);
            span.start = span.start.min(at);
            return Some(index);
        }
        let owner = self.budgets.owner(key.pid);
        if !self.budgets.take(Resource::ChangedSpans, owner, 1)
            || !self.budgets.take(Resource::SpanBytes, owner, SPAN_BYTES)
        {
            return None;
        }
        self.seen += u64::from(recorded);
        let (name, parent) = make();
        let index = self.place(Span {
            key,
            owner,
            more: 0,
            parent,
            name,
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
        let span = Box::new(span);
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
        let span = self.slots[index.slot as usize].span.as_deref();
        span.expect("a span is not forgotten while it is referred to")
    }

    /// A span's account, to add to.
    pub fn get_mut(&mut self, index: SpanIndex) -> &mut Span {
        let span = self.slots[index.slot as usize].span.as_deref_mut();
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
        let owner = self.budgets.owner(seen.pid);
        if self.budgets.take_up_to(Resource::Samples, owner, 1) > 0 {
            self.untaken.seen.push(seen);
            return;
        }
        let counter = match seen.is_sample {
            true => DaemonCounter::SamplesOverBudget,
            false => DaemonCounter::WaitStacksOverBudget,
        };
        self.budgets.shed_as(Resource::Samples, owner, counter, 1);
    }

    /// An activation of a span ended: `[from, to]` on one thread, by marker times.
    pub fn deactivate(&mut self, index: SpanIndex, from: u64, to: u64) {
        let has_room = self.has_room(index, |span| span.active.len());
        self.get_mut(index).deactivate(from, to, has_room);
    }

    /// Adds the cause of a wait of a span.
    pub fn add_cause(&mut self, index: SpanIndex, cause: Cause, ns: u64) {
        let has_room = self.has_room(index, |span| span.causes.len());
        self.get_mut(index).add_cause(cause, ns, has_room);
    }

    /// Whether a span may gather one more of what it has `len` of.
    fn has_room(&mut self, index: SpanIndex, len: impl FnOnce(&Span) -> usize) -> bool {
        let span = self.slots[index.slot as usize].span.as_deref_mut();
        let span = span.expect("a span is not forgotten while it is referred to");
        if len(span) < FEW {
            return true;
        }
        let taken = self.budgets.take_up_to(Resource::SpanBytes, span.owner, MORE_BYTES);
        span.more += taken;
        taken == MORE_BYTES
    }

    /// What changed since the last call: places of spans in order, and the stacks seen.
    pub fn take_changes(&mut self) -> (Vec<SpanIndex>, Vec<Seen>) {
        let changed = std::mem::take(&mut self.untaken.changed);
        for index in &changed {
            if let Some(span) = &mut self.slots[index.slot as usize].span {
                span.changed = false;
            }
        }
        for resource in [Resource::ChangedSpans, Resource::Samples] {
            self.budgets.begin(resource);
        }
        (changed, std::mem::take(&mut self.untaken.seen))
    }

    /// Takes what was added to a span since the last time; its identity stays.
    pub fn take_part(&mut self, index: SpanIndex) -> Option<Span> {
        let span = self.slots[index.slot as usize].span.as_deref_mut()?;
        self.budgets.give(Resource::SpanBytes, span.owner, std::mem::take(&mut span.more));
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
        self.forget_if(|span| span.end < before);
    }

    /// The same of processes that have used up more than half of their share: so they have more new ones.
    pub fn forget_pressed(&mut self, before: u64) {
        let pressed: HashSet<Owner> =
            self.budgets.pressed(Resource::SpanBytes).into_iter().collect();
        if !pressed.is_empty() {
            self.forget_if(|span| span.end < before && pressed.contains(&span.owner));
        }
    }

    fn forget_if(&mut self, is_over: impl Fn(&Span) -> bool) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let idle = |span: &Span| span.active_on == 0 && !span.changed && is_over(span);
            if let Some(span) = slot.span.take_if(|span| idle(span)) {
                self.index.remove(&span.key);
                self.budgets.give(Resource::SpanBytes, span.owner, SPAN_BYTES + span.more);
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(number as u32);
            }
        }
        if self.index.len() < self.index.capacity() / 8 {
            self.index.shrink_to(2 * self.index.len());
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
            slot.span.as_deref().map(|span| (index, span))
        })
    }
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
