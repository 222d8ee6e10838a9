//! Flushes between the producer's thread and the client: bounded in bytes, in order of sequence,
//! kept until the collector has them.
//!
//! Invariants: sequences count from 1 without holes; pushed = delivered + in flight + dropped, in
//! `Counts`; when full, what was never sent goes first, oldest first, and leaves a `Gap` at its
//! place; what was sent and not acknowledged stays, for the collector may have it. The bound holds
//! but for one flush, the last, and for gaps, which are small and few: a host that finds more in one
//! flush than the bound allows would never deliver anything if that flush went, too.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    ledger::DaemonCounter,
    model::{
        batch::{Batch, Counts, Gap},
        frame::Stack,
    },
    wire::{
        item::{Content, Item},
        size::{self, GAP_BYTES},
        split,
    },
};

/// Given up because the queue had no room.
pub const QUEUE_FULL: &str = DaemonCounter::QueueFull.key();

/// The queue. Shared by the thread that fills it and the client that empties it.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    arrived: Notify,
}

/// What the queue holds and what became of what it held.
#[derive(Clone, Debug, Default)]
pub struct QueueStatus {
    /// Heap of what waits, and its bound.
    pub bytes: usize,
    /// See `bytes`.
    pub limit: usize,
    /// Batches that wait for their acknowledgement, sent or not.
    pub batches: usize,
    /// Gaps that do.
    pub gaps: usize,
    /// Of both, how many were sent.
    pub sent: usize,
    /// The oldest sequence held; the next to be given when none is.
    pub first_sequence: u64,
    /// The last sequence given, 0 for none.
    pub last_sequence: u64,
    /// The last sequence known to be durable, 0 for none.
    pub acked: u64,
    /// What waiting batches hold.
    pub in_flight: Counts,
    /// What acknowledged batches held.
    pub delivered: Counts,
    /// What was given up, by reason.
    pub dropped: BTreeMap<Arc<str>, Dropped>,
}

/// What was given up for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Batches.
    pub batches: u64,
    /// What they held.
    pub counts: Counts,
}

#[derive(Debug)]
struct Slot {
    item: Item,
    /// Without stacks.
    bytes: usize,
    sent: bool,
    /// The last sequence of the flush it is a piece of: pieces are given up together.
    flush_end: u64,
}

#[derive(Debug, Default)]
struct State {
    limit: usize,
    slots: VecDeque<Slot>,
    bytes: usize,
    stacks: SharedStacks,
    last_sequence: u64,
    acked: u64,
    delivered: Counts,
    dropped: BTreeMap<Arc<str>, Dropped>,
}

/// Stacks alive in the queue, each counted once however many batches share it.
#[derive(Debug, Default)]
struct SharedStacks {
    /// By address, which is unique while a batch of the queue holds the stack.
    references: HashMap<usize, u32>,
    bytes: usize,
}

// === impl Queue ===

impl Queue {
    /// A queue of at most `limit` bytes by `size::batch_bytes`, shared stacks counted once.
    pub fn new(limit: usize) -> Self {
        let state = State { limit, ..State::default() };
        Self { state: Mutex::new(state), arrived: Notify::new() }
    }

    /// Appends a flush; never blocks. Makes room by giving up what was never sent.
    pub fn push(&self, batch: Batch) {
        let pieces = split::pieces(batch);
        self.state().push(pieces);
        self.arrived.notify_one();
    }

    /// The first item behind a sequence. It counts as sent from now on: it stays until it is
    /// acknowledged.
    pub fn take_after(&self, sequence: u64) -> Option<Item> {
        let mut state = self.state();
        let at = state.slots.partition_point(|slot| slot.item.to_sequence <= sequence);
        let slot = state.slots.get_mut(at)?;
        slot.sent = true;
        Some(slot.item.clone())
    }

    /// Everything up to a sequence is durable.
    pub fn release(&self, durable: u64) {
        self.state().release(durable);
    }

    /// Gives up the batch of a sequence although it was sent: the collector has said that it will
    /// not take it, and would say so for ever.
    pub fn give_up(&self, sequence: u64, reason: &str) {
        let mut state = self.state();
        let at = state.slots.partition_point(|slot| slot.item.to_sequence < sequence);
        if state.slots.get(at).is_some_and(Slot::is_batch) {
            state.replace(at, at + 1, reason);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Returns after a push or soon after: one waiter.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Whether everything is durable.
    pub fn is_empty(&self) -> bool {
        self.state().slots.is_empty()
    }

    /// For Hello: the oldest sequence held (or the next to be given) and the last one durable.
    pub fn position(&self) -> (u64, u64) {
        let state = self.state();
        (state.first_sequence(), state.acked)
    }

    /// For health and accounting.
    pub fn status(&self) -> QueueStatus {
        let state = self.state();
        let mut in_flight = Counts::default();
        for slot in &state.slots {
            if let Content::Batch(batch) = &slot.item.content {
                in_flight.merge(&batch.counts);
            }
        }
        let batches = state.slots.iter().filter(|slot| slot.is_batch()).count();
        QueueStatus {
            bytes: state.total(),
            limit: state.limit,
            batches,
            gaps: state.slots.len() - batches,
            sent: state.slots.iter().filter(|slot| slot.sent).count(),
            first_sequence: state.first_sequence(),
            last_sequence: state.last_sequence,
            acked: state.acked,
            in_flight,
            delivered: state.delivered,
            dropped: state.dropped.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Slot ===

impl Slot {
    fn is_batch(&self) -> bool {
        matches!(self.item.content, Content::Batch(_))
    }

    /// A gap that can still grow.
    fn is_open_gap(&self, reason: &str) -> bool {
        !self.sent && matches!(&self.item.content, Content::Gap(gap) if &*gap.reason == reason)
    }

    fn gap(gap: Gap) -> Self {
        let (from_sequence, to_sequence) = (gap.from_sequence, gap.to_sequence);
        let item = Item { from_sequence, to_sequence, content: Content::Gap(gap) };
        Self { item, bytes: GAP_BYTES, sent: false, flush_end: to_sequence }
    }
}

// === impl State ===

impl State {
    fn total(&self) -> usize {
        self.bytes + self.stacks.bytes
    }

    fn first_sequence(&self) -> u64 {
        self.slots.front().map_or(self.last_sequence + 1, |slot| slot.item.from_sequence)
    }

    fn push(&mut self, pieces: Vec<Batch>) {
        let (before, held) = (self.last_sequence, self.total());
        let flush_end = before + pieces.len() as u64;
        for piece in pieces {
            self.last_sequence += 1;
            let sequence = self.last_sequence;
            let bytes = size::own_bytes(&piece);
            self.bytes += bytes;
            piece.stacks.iter().for_each(|stack| self.stacks.hold(stack));
            let content = Content::Batch(Arc::new(piece));
            let item = Item { from_sequence: sequence, to_sequence: sequence, content };
            self.slots.push_back(Slot { item, bytes, sent: false, flush_end });
        }
        let last = self.total() - held;
        while self.total() > self.limit {
            let unsent = self.slots.iter().position(|slot| !slot.sent && slot.is_batch());
            let Some(from) = unsent else { break };
            // It is the last flush, and what was sent would fit.
            if self.slots[from].item.from_sequence > before && self.total() - last <= self.limit {
                break;
            }
            let end = self.slots[from].flush_end;
            let to = self.slots.partition_point(|slot| slot.item.to_sequence <= end);
            self.replace(from, to, QUEUE_FULL);
        }
    }

    /// Puts a gap in the place of batches, joined with gaps beside it.
    fn replace(&mut self, from: usize, to: usize, reason: &str) {
        let (mut from, mut to) = (from, to);
        let batches = self.slots.range(from..to).filter(|slot| slot.is_batch()).count() as u64;
        let mut counts = Counts::default();
        for slot in self.slots.range(from..to) {
            if let Content::Batch(batch) = &slot.item.content {
                counts.merge(&batch.counts);
            }
        }
        let key: Arc<str> = reason.into();
        let dropped = self.dropped.entry(key.clone()).or_default();
        dropped.batches += batches;
        dropped.counts.merge(&counts);
        if from > 0 && self.slots[from - 1].is_open_gap(reason) {
            from -= 1;
        }
        if self.slots.get(to).is_some_and(|slot| slot.is_open_gap(reason)) {
            to += 1;
        }
        let mut gap = Gap { reason: key, from: u64::MAX, ..Gap::default() };
        gap.from_sequence = self.slots[from].item.from_sequence;
        gap.to_sequence = self.slots[to - 1].item.to_sequence;
        let gone: Vec<Slot> = self.slots.drain(from..to).collect();
        for slot in gone {
            self.forget(&slot);
            let (counts, from, to) = match &slot.item.content {
                Content::Batch(batch) => (&batch.counts, batch.from, batch.to),
                Content::Gap(gap) => (&gap.counts, gap.from, gap.to),
            };
            gap.counts.merge(counts);
            gap.from = gap.from.min(from);
            gap.to = gap.to.max(to);
        }
        self.bytes += GAP_BYTES;
        self.slots.insert(from, Slot::gap(gap));
    }

    fn release(&mut self, durable: u64) {
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.item.to_sequence <= durable) {
            self.acked = slot.item.to_sequence;
            if let Content::Batch(batch) = &slot.item.content {
                self.delivered.merge(&batch.counts);
            }
            self.forget(&slot);
        }
    }

    fn forget(&mut self, slot: &Slot) {
        self.bytes -= slot.bytes;
        if let Content::Batch(batch) = &slot.item.content {
            batch.stacks.iter().for_each(|stack| self.stacks.let_go(stack));
        }
    }
}

// === impl SharedStacks ===

impl SharedStacks {
    fn hold(&mut self, stack: &Stack) {
        let references = self.references.entry(stack.as_ptr().addr()).or_default();
        if *references == 0 {
            self.bytes += size::stack_bytes(stack);
        }
        *references += 1;
    }

    fn let_go(&mut self, stack: &Stack) {
        let address = stack.as_ptr().addr();
        if let Some(references) = self.references.get_mut(&address) {
            *references -= 1;
            if *references == 0 {
                self.references.remove(&address);
                self.bytes -= size::stack_bytes(stack);
            }
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
