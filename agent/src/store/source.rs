//! What is asked of a store, and what it answers. The calls block.

use std::{collections::BTreeMap, sync::Arc};

use super::account::{Details, ProcessKey, ProcessSlice, SpanAccount};
use crate::model::{
    batch::{Account, Counts, Run},
    clock::UnixNs,
    id::{SpanId, TraceId},
    state::State,
};

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// What is asked for cannot be read.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// The store, as far as it is read.
pub trait Source: Send + Sync + 'static {
    /// All of it as it is now. [`answer`] is how to ask it.
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, SourceError>;
    /// How the store is.
    fn health(&self) -> Result<StoreHealth, SourceError>;
}

/// The store as it was at one moment: whatever is appended meanwhile, everything that is asked of one
/// snapshot is of one state. To be dropped soon, since it holds up what the store does for itself.
pub trait Snapshot {
    /// Spans a filter lets through.
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError>;
    /// Spans with an id, in every process that published it, in order of start.
    fn spans(
        &self,
        trace: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, SourceError>;
    /// Spans of a trace in order of start: those of process `first` before all others, then as they were
    /// reported, until there are as many as one answer may hold.
    fn trace(&self, trace: TraceId, first: Option<&ProcessKey>) -> Result<Found, SourceError>;
    /// The rows behind spans: samples in order of time, waits summed per state and cause.
    fn details(&self, spans: &[SpanAccount]) -> Result<Details, SourceError>;
    /// A process from `from` until before `to`, CLOCK_MONOTONIC of its host.
    fn process(
        &self,
        process: &ProcessKey,
        from: u64,
        to: u64,
    ) -> Result<ProcessSlice, SourceError>;
    /// Every run of an agent that anything is stored of, in order of id.
    fn runs(&self) -> Result<Vec<RunRecord>, SourceError>;
    /// Whether a part of the store turned out to be damaged meanwhile: that part is set aside, and an
    /// answer that failed may start over on a new snapshot, which is without it.
    fn is_spoiled(&self) -> bool {
        false
    }
}

/// Has a whole answer made from one snapshot. When the store sets a part aside meanwhile the answer
/// starts over on what is left, so `question` may be asked more than once; each time there is a part
/// less.
pub fn answer<T, E: From<SourceError>>(
    source: &(impl Source + ?Sized),
    question: impl Fn(&dyn Snapshot) -> Result<T, E>,
) -> Result<T, E> {
    loop {
        let snapshot = source.snapshot()?;
        let answer = question(&*snapshot);
        if answer.is_ok() || !snapshot.is_spoiled() {
            return answer;
        }
    }
}

/// Which spans, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanFilter {
    /// Exactly.
    pub service: Option<String>,
    /// Exactly.
    pub name: Option<String>,
    /// Wall time, at least.
    pub min_ns: u64,
    /// Has time in it.
    pub state: Option<State>,
    /// Started then or later.
    pub from_unix_ns: Option<UnixNs>,
    /// Started before.
    pub to_unix_ns: Option<UnixNs>,
    /// Of this process.
    pub pid: Option<u32>,
    /// In which order.
    pub sort: Sort,
    /// At most.
    pub limit: usize,
}

/// Orders of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// By start, latest first.
    #[default]
    Newest,
    /// By wall time, longest first.
    Slowest,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// In the order asked for.
    pub spans: Vec<SpanAccount>,
    /// There are, or may be, more.
    pub truncated: bool,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunRecord {
    /// Who.
    pub run: Run,
    /// The last durable sequence.
    pub last_sequence: u64,
    /// Unix time of the end of its last batch, by the agent's clock; 0 before the first.
    pub last_unix_ns: u64,
    /// The same in CLOCK_MONOTONIC of its boot.
    pub last_to: u64,
    /// Sum over stored batches.
    pub delivered: Counts,
    /// What was given up, by reason.
    pub gaps: BTreeMap<Arc<str>, Counts>,
    /// The agent's own accounting, as of its last batch.
    pub account: Account,
    /// It ended well.
    pub closed: bool,
}

/// How the store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// On disk, damaged parts included.
    pub bytes: u64,
    /// Parts that serve.
    pub parts: usize,
    /// When the oldest part was begun.
    pub oldest_unix_ns: Option<u64>,
    /// End of the newest batch.
    pub newest_unix_ns: Option<u64>,
    /// Damaged parts.
    pub set_aside: Vec<SetAside>,
    /// The last write found no room on the disk.
    pub is_full: bool,
    /// Spans in parts that retention dropped.
    pub dropped_spans: u64,
}

/// A damaged part, kept for whoever wants to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Its file in the store's directory.
    pub file: String,
    /// What showed the damage.
    pub reason: String,
    /// When it was noticed.
    pub unix_ns: u64,
}

// === impl SpanFilter ===

impl Default for SpanFilter {
    fn default() -> Self {
        Self {
            service: None,
            name: None,
            min_ns: 0,
            state: None,
            from_unix_ns: None,
            to_unix_ns: None,
            pid: None,
            sort: Sort::Newest,
            limit: 100,
        }
    }
}

/// Single questions, each answered from a snapshot of its own.
#[cfg(test)]
pub(crate) trait Questions: Source {
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError> {
        answer(self, |snapshot| snapshot.search(filter))
    }

    fn spans(
        &self,
        trace: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, SourceError> {
        answer(self, |snapshot| snapshot.spans(trace, span_id))
    }

    fn trace(&self, trace: TraceId) -> Result<Vec<SpanAccount>, SourceError> {
        answer(self, |snapshot| Ok(snapshot.trace(trace, None)?.spans))
    }

    fn details(&self, spans: &[SpanAccount]) -> Result<Details, SourceError> {
        answer(self, |snapshot| snapshot.details(spans))
    }

    fn process(
        &self,
        process: &ProcessKey,
        from: u64,
        to: u64,
    ) -> Result<ProcessSlice, SourceError> {
        answer(self, |snapshot| snapshot.process(process, from, to))
    }

    fn runs(&self) -> Result<Vec<RunRecord>, SourceError> {
        answer(self, |snapshot| snapshot.runs())
    }
}

#[cfg(test)]
impl<S: Source + ?Sized> Questions for S {}
