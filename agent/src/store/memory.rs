//! A store in memory: for one recording, and for tests. It keeps the rows as they come and sums
//! spans as they grow; what it answers is what every store answers of the same entries.
//!
//! Nothing is ever dropped, so whoever fills it bounds it. A view is free until the next append: that
//! one then copies what the view holds still.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Body, Entry, Found, RunRecord, Sink, SinkError, Snapshot, Source, SourceError, SpanFilter,
    StoreHealth,
    account::{Details, ProcessKey, ProcessSlice, Sample, SpanAccount, Wait},
    rules::{self, MAX_DEPTH, MAX_FOUND, Ration, SpanKey, SpanSum, cap, capped, share, sum},
};
use crate::model::{
    batch::{Batch, ProcessIdentity, SpanPart, TotalRow},
    cause::Cause,
    frame::{Frame, Stack},
    id::{RunId, SpanId, TraceId},
    state::State,
};

/// The store. Clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Arc<Held>>>);

/// The store as it was at one moment.
#[derive(Clone, Debug)]
pub struct MemoryView(Arc<Held>);

/// A process whatever it is called: boot, pid, since.
type ProcessId = (Arc<str>, u32, u64);

#[derive(Clone, Debug, Default)]
struct Held {
    /// In the order they were first reported in.
    spans: Vec<HeldSpan>,
    by_key: HashMap<SpanKey, usize>,
    by_id: HashMap<SpanId, Vec<usize>>,
    by_trace: HashMap<TraceId, Vec<usize>>,
    processes: HashMap<ProcessId, HeldProcess>,
    /// In the order they came in.
    samples: Vec<Sample>,
    /// Each stack once.
    stacks: HashSet<Stack>,
    runs: BTreeMap<RunId, RunRecord>,
}

#[derive(Clone, Debug)]
struct HeldSpan {
    sum: SpanSum,
    /// Indexes into `Held::samples`.
    samples: Vec<usize>,
    waits: Waits,
}

#[derive(Clone, Debug, Default)]
struct HeldProcess {
    /// Indexes into `Held::samples`: in spans of the process, and in none.
    samples: Vec<usize>,
    totals: Vec<TotalRow>,
}

/// Time and number by what is waited for.
#[derive(Clone, Debug, Default)]
struct Waits(BTreeMap<(State, Cause), (u64, u64)>);

// === impl MemoryStore ===

impl MemoryStore {
    /// Everything stored so far, which stays as it is.
    pub fn view(&self) -> MemoryView {
        MemoryView(Arc::clone(&self.held()))
    }

    fn held(&self) -> MutexGuard<'_, Arc<Held>> {
        // A view is taken, or entries that were looked at are added: neither panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for MemoryStore {
    fn append(&mut self, entries: &[Entry]) -> Result<(), SinkError> {
        if let Some(why) = entries.iter().find_map(Entry::contradiction) {
            let why = format!("a batch contradicts itself ({why}): nothing was stored");
            return Err(SinkError::Other(why));
        }
        let mut held = self.held();
        let held = Arc::make_mut(&mut held);
        for entry in entries {
            held.add(entry);
        }
        Ok(())
    }

    fn durable(&self, run: RunId) -> u64 {
        self.held().runs.get(&run).map_or(0, |run| run.last_sequence)
    }

    fn maintain(&mut self) {}
}

// === impl MemoryView ===

impl MemoryView {
    /// Every span, in order of start.
    pub fn all(&self) -> impl Iterator<Item = SpanAccount> + '_ {
        let mut order: Vec<usize> = (0..self.0.spans.len()).collect();
        order.sort_by_key(|&index| self.0.spans[index].sum.account.start_unix_ns);
        order.into_iter().map(|index| self.0.spans[index].account())
    }

    /// See [`Snapshot::search`].
    pub fn search(&self, filter: &SpanFilter) -> Found {
        let mut spans: Vec<SpanAccount> = (self.0.spans.iter())
            .filter(|span| filter.accepts(&span.sum.account))
            .map(HeldSpan::account)
            .collect();
        spans.sort_by_key(|span| filter.rank(span));
        let limit = filter.limit.min(MAX_FOUND);
        let truncated = spans.len() > limit;
        spans.truncate(limit);
        Found { spans, truncated }
    }

    /// See [`Snapshot::spans`].
    pub fn spans(&self, trace: Option<TraceId>, span_id: SpanId) -> Vec<SpanAccount> {
        let mut spans = self.0.accounts(self.0.by_id.get(&span_id));
        spans.retain(|span| trace.is_none_or(|trace| span.trace_id == trace));
        spans
    }

    /// See [`Snapshot::trace`].
    pub fn trace(&self, trace: TraceId, first: Option<&ProcessKey>) -> Found {
        let of_trace = || self.0.by_trace.get(&trace).into_iter().flatten();
        let process = |index: usize| &self.0.spans[index].sum.account.process;
        let is_first = |index: &&usize| first.is_some_and(|first| process(**index).is_same(first));
        let (mut ration, mut found) = (Ration::default(), Found::default());
        let others = of_trace().filter(|index| !is_first(index));
        for &index in of_trace().filter(is_first).chain(others) {
            if !ration.take(&self.0.spans[index].sum.account) {
                found.truncated = true;
                break;
            }
            found.spans.push(self.0.spans[index].account());
        }
        found.spans.sort_by_key(|account| account.start_unix_ns);
        found
    }

    /// See [`Snapshot::details`].
    pub fn details(&self, spans: &[SpanAccount]) -> Details {
        let (mut samples, mut waits) = (Vec::new(), Waits::default());
        let keys: HashSet<SpanKey> = spans.iter().map(rules::key).collect();
        for span in keys.iter().filter_map(|key| self.0.by_key.get(key)) {
            let span = &self.0.spans[*span];
            samples.extend(&span.samples);
            for (of, &(ns, count)) in &span.waits.0 {
                waits.add(of.clone(), ns, count);
            }
        }
        let wait = |((state, cause), (ns, count))| Wait { state, cause, ns, count };
        Details { samples: self.0.samples(samples), waits: waits.0.into_iter().map(wait).collect() }
    }

    /// See [`Snapshot::process`].
    pub fn process(&self, process: &ProcessKey, from: u64, to: u64) -> ProcessSlice {
        let mut slice = ProcessSlice::default();
        let Some(held) = self.0.processes.get(&id_of(process)) else { return slice };
        for total in &held.totals {
            let shared = share(&total.states, (total.from, total.to), (from, to));
            slice.states = sum(&slice.states, &shared);
        }
        let within = |&&index: &&usize| (from..to).contains(&self.0.samples[index].at);
        slice.samples = self.0.samples(held.samples.iter().filter(within).copied().collect());
        slice
    }

    /// See [`Snapshot::runs`].
    pub fn runs(&self) -> Vec<RunRecord> {
        self.0.runs.values().cloned().collect()
    }

    /// See [`Source::health`].
    pub fn health(&self) -> StoreHealth {
        let newest = self.0.runs.values().map(|run| run.last_unix_ns).filter(|&at| at > 0).max();
        StoreHealth { parts: 1, newest_unix_ns: newest, ..StoreHealth::default() }
    }
}

impl Source for MemoryStore {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, SourceError> {
        Ok(Box::new(self.view()))
    }

    fn health(&self) -> Result<StoreHealth, SourceError> {
        Ok(self.view().health())
    }
}

impl Snapshot for MemoryView {
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError> {
        Ok(self.search(filter))
    }

    fn spans(
        &self,
        trace: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, SourceError> {
        Ok(self.spans(trace, span_id))
    }

    fn trace(&self, trace: TraceId, first: Option<&ProcessKey>) -> Result<Found, SourceError> {
        Ok(self.trace(trace, first))
    }

    fn details(&self, spans: &[SpanAccount]) -> Result<Details, SourceError> {
        Ok(self.details(spans))
    }

    fn process(
        &self,
        process: &ProcessKey,
        from: u64,
        to: u64,
    ) -> Result<ProcessSlice, SourceError> {
        Ok(self.process(process, from, to))
    }

    fn runs(&self) -> Result<Vec<RunRecord>, SourceError> {
        Ok(self.runs())
    }
}

// === impl Held ===

impl Held {
    /// An entry without contradictions.
    fn add(&mut self, entry: &Entry) {
        let known = self.runs.get(&entry.run.id).map_or(0, |run| run.last_sequence);
        if entry.sequence <= known {
            return;
        }
        if let Body::Batch(batch) = &entry.body {
            self.add_batch(cap(&entry.run.boot_id, rules::MAX_STRING_BYTES).into(), batch);
        }
        let new = || RunRecord { run: entry.run.as_ref().clone(), ..RunRecord::default() };
        self.runs.entry(entry.run.id).or_insert_with(new).advance(entry);
    }

    fn add_batch(&mut self, boot_id: Arc<str>, batch: &Batch) {
        let key = |identity: &ProcessIdentity| ProcessKey {
            boot_id: Arc::clone(&boot_id),
            identity: ProcessIdentity {
                comm: capped(&identity.comm),
                service: capped(&identity.service),
                ..identity.clone()
            },
        };
        let processes: Vec<ProcessKey> = batch.processes.iter().map(key).collect();
        let stacks: Vec<Stack> = batch.stacks.iter().map(|stack| self.stack(stack)).collect();
        let spans: Vec<usize> = (batch.spans.iter())
            .map(|part| self.add_span(part, &processes[part.process as usize]))
            .collect();
        for row in &batch.samples {
            let index = self.samples.len();
            self.samples.push(Sample {
                at: row.at,
                tid: row.tid,
                stack: row.stack.map(|stack| Arc::clone(&stacks[stack as usize])),
                state: row.state,
                ns: row.ns,
            });
            // A sample in a span is of the span's process.
            let process = match row.span.map(|span| &mut self.spans[spans[span as usize]]) {
                Some(span) => {
                    span.samples.push(index);
                    id_of(&span.sum.account.process)
                }
                None => id_of(&processes[row.process as usize]),
            };
            self.processes.entry(process).or_default().samples.push(index);
        }
        for row in &batch.waits {
            let cause = Cause { name: capped(&row.cause.name), ..row.cause.clone() };
            let waits = &mut self.spans[spans[row.span as usize]].waits;
            waits.add((row.state, with_capped_span(cause)), row.ns, row.count);
        }
        for row in &batch.totals {
            let process = id_of(&processes[row.process as usize]);
            self.processes.entry(process).or_default().totals.push(row.clone());
        }
    }

    /// The index of a span after adding to it.
    fn add_span(&mut self, part: &SpanPart, process: &ProcessKey) -> usize {
        let mut added = SpanSum::of(part, process.clone());
        let key = rules::key(&added.account);
        if let Some(&index) = self.by_key.get(&key) {
            let sum = &mut self.spans[index].sum;
            // A publisher that names a span once need not name it again.
            if part.name.is_empty() {
                added.account.process = sum.account.process.clone();
            }
            sum.add(added);
            return index;
        }
        let index = self.spans.len();
        self.spans.push(HeldSpan { sum: added, samples: Vec::new(), waits: Waits::default() });
        self.by_key.insert(key, index);
        self.by_id.entry(part.span_id).or_default().push(index);
        self.by_trace.entry(part.trace_id).or_default().push(index);
        index
    }

    fn stack(&mut self, stack: &Stack) -> Stack {
        let stack = capped_stack(stack);
        if let Some(known) = self.stacks.get(&stack) {
            return Arc::clone(known);
        }
        self.stacks.insert(Arc::clone(&stack));
        stack
    }

    /// In order of start.
    fn accounts(&self, indexes: Option<&Vec<usize>>) -> Vec<SpanAccount> {
        let indexes = indexes.into_iter().flatten();
        let mut accounts: Vec<_> = indexes.map(|&index| self.spans[index].account()).collect();
        accounts.sort_by_key(|account| account.start_unix_ns);
        accounts
    }

    /// In order of time.
    fn samples(&self, mut indexes: Vec<usize>) -> Vec<Sample> {
        indexes.sort_unstable_by_key(|&index| (self.samples[index].at, index));
        indexes.into_iter().map(|index| self.samples[index].clone()).collect()
    }
}

// === impl HeldSpan ===

impl HeldSpan {
    fn account(&self) -> SpanAccount {
        self.sum.clone().finish()
    }
}

// === impl Waits ===

impl Waits {
    fn add(&mut self, of: (State, Cause), ns: u64, count: u64) {
        let sum = self.0.entry(of).or_default();
        *sum = (sum.0.saturating_add(ns), sum.1.saturating_add(count));
    }
}

fn id_of(process: &ProcessKey) -> ProcessId {
    (Arc::clone(&process.boot_id), process.identity.pid, process.identity.since)
}

fn with_capped_span(mut cause: Cause) -> Cause {
    if let Some(span) = &mut cause.span {
        span.name = capped(&span.name);
    }
    cause
}

/// As much of a stack as is kept.
fn capped_stack(stack: &Stack) -> Stack {
    let is_long = |text: &Arc<str>| text.len() > rules::MAX_STRING_BYTES;
    let is_kept = |frame: &Frame| !is_long(&frame.name) && !is_long(&frame.file);
    if stack.len() <= MAX_DEPTH && stack.iter().all(is_kept) {
        return Arc::clone(stack);
    }
    let cut = |frame: &Frame| Frame {
        name: capped(&frame.name),
        file: capped(&frame.file),
        ..frame.clone()
    };
    stack.iter().take(MAX_DEPTH).map(cut).collect()
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
