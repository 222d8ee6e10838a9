//! What is asked of a store, and what it answers. The calls block.

use std::{collections::BTreeMap, sync::Arc};

use super::account::{Details, ProcessKey, ProcessSlice, SpanAccount};
use crate::model::{
    batch::{Account, Counts, Run},
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
    /// Spans a filter lets through.
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError>;
    /// Spans with an id, in every process that published it.
    fn spans(
        &self,
        trace: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, SourceError>;
    /// Every span of a trace.
    fn trace(&self, trace: TraceId) -> Result<Vec<SpanAccount>, SourceError>;
    /// The rows behind spans.
    fn details(&self, spans: &[SpanAccount]) -> Result<Details, SourceError>;
    /// A process over a stretch of its host's CLOCK_MONOTONIC.
    fn process(
        &self,
        process: &ProcessKey,
        from: u64,
        to: u64,
    ) -> Result<ProcessSlice, SourceError>;
    /// Every run of an agent that anything is stored of.
    fn runs(&self) -> Result<Vec<RunRecord>, SourceError>;
    /// How the store is.
    fn health(&self) -> Result<StoreHealth, SourceError>;
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
    pub from_unix_ns: Option<u64>,
    /// Started before.
    pub to_unix_ns: Option<u64>,
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
    /// The agent's own books, as of its last batch.
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
