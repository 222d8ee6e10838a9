//! The span table: every span's account, and what came since the last flush.

use std::collections::{BTreeMap, HashMap};

pub use super::span::{Cause, CauseKind, Span, SpanKey, StackKey, Tally, union};
use crate::{
    ledger::{self, DaemonCounter},
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
