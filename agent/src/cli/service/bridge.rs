//! Store, collector and API, told of each other.

use std::sync::Weak;

use crate::{
    collector::{
        Collector,
        entry::{Entry, Sink, SinkError},
    },
    profile::account::{Details, ProcessKey, ProcessSlice, SpanAccount},
    store::{Found, Reader, RunRecord, SpanFilter, Store, StoreError, StoreHealth},
    web::source::{CollectorState, Live, Session, Source, SourceError},
};

/// A collector, watched by the API.
pub struct Watched(pub Weak<Collector>);

impl Sink for Store {
    fn append(&mut self, entries: &[Entry]) -> Result<(), SinkError> {
        Store::append(self, entries).map_err(|error| match error {
            StoreError::Full => SinkError::Full(error.to_string()),
            error => SinkError::Other(error.to_string()),
        })
    }

    fn durable(&self, run: &[u8; 16]) -> u64 {
        Store::durable(self, run)
    }

    fn maintain(&mut self) {
        if let Err(error) = Store::maintain(self) {
            tracing::warn!(%error, "the store could not be kept in order");
        }
    }
}

impl Source for Reader {
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError> {
        Reader::search(self, filter).map_err(told)
    }

    fn spans(
        &self,
        trace: Option<[u8; 16]>,
        span_id: [u8; 8],
    ) -> Result<Vec<SpanAccount>, SourceError> {
        Reader::spans(self, trace, span_id).map_err(told)
    }

    fn trace(&self, trace: [u8; 16]) -> Result<Vec<SpanAccount>, SourceError> {
        Reader::trace(self, trace).map_err(told)
    }

    fn details(&self, spans: &[SpanAccount]) -> Result<Details, SourceError> {
        Reader::details(self, spans).map_err(told)
    }

    fn process(
        &self,
        process: &ProcessKey,
        from: u64,
        to: u64,
    ) -> Result<ProcessSlice, SourceError> {
        Reader::process(self, process, from, to).map_err(told)
    }

    fn runs(&self) -> Result<Vec<RunRecord>, SourceError> {
        Reader::runs(self).map_err(told)
    }

    fn health(&self) -> Result<StoreHealth, SourceError> {
        Ok(Reader::health(self))
    }
}

fn told(error: StoreError) -> SourceError {
    match error {
        StoreError::Damaged { .. } => SourceError::Damaged(error.to_string()),
        error => SourceError::Failed(error.to_string()),
    }
}

impl Live for Watched {
    fn state(&self) -> CollectorState {
        let Some(collector) = self.0.upgrade() else { return CollectorState::default() };
        let status = collector.status();
        let sessions = status.sessions.into_iter().map(|session| Session {
            run_id: session.run.id,
            peer: session.peer.map_or_else(String::new, |peer| peer.to_string()),
            connected_unix_ns: session.since_unix_ns,
            last_ack_unix_ns: session.last_ack_unix_ns,
        });
        CollectorState {
            sessions: sessions.collect(),
            refused: status.refusals.into_iter().map(|(why, n)| (why.into(), n)).collect(),
            full: status.writer.full.or(status.writer.failing),
        }
    }
}
