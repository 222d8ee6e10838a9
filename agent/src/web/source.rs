//! What the API asks of others: the store for what is kept, the collector for what is going on. The
//! calls block, so the API makes them away from its own threads.

use std::{collections::BTreeMap, sync::Arc};

use crate::profile::account::{Details, ProcessKey, ProcessSlice, SpanAccount};

pub use crate::store::{Found, RunRecord, SetAside, Sort, SpanFilter, StoreHealth};

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
        trace: Option<[u8; 16]>,
        span_id: [u8; 8],
    ) -> Result<Vec<SpanAccount>, SourceError>;
    /// Every span of a trace.
    fn trace(&self, trace: [u8; 16]) -> Result<Vec<SpanAccount>, SourceError>;
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

/// The collector at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorState {
    /// Agents that are connected.
    pub sessions: Vec<Session>,
    /// Connections and batches turned away, by reason, since the start.
    pub refused: BTreeMap<Arc<str>, u64>,
    /// Why it takes no batch at the moment.
    pub full: Option<String>,
}

/// A connected agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Its run.
    pub run_id: [u8; 16],
    /// Its address.
    pub peer: String,
    /// Since when.
    pub connected_unix_ns: u64,
    /// When it was last told that its batches are durable.
    pub last_ack_unix_ns: u64,
}

/// The collector, as far as it is watched.
pub trait Live: Send + Sync + 'static {
    /// How it is now. Does not block.
    fn state(&self) -> CollectorState;
}
