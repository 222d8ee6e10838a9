//! A store in memory.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex},
};

use crate::{
    model::id::{SpanId, TraceId},
    store::{
        Found, RunRecord, Sort, Source, SourceError, SpanFilter, StoreHealth,
        account::{Details, ProcessKey, ProcessSlice, SpanAccount},
    },
    web::live::{CollectorState, Live},
};

/// What a store holds.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) spans: Vec<SpanAccount>,
    pub(crate) details: HashMap<SpanId, Details>,
    pub(crate) slice: ProcessSlice,
    pub(crate) runs: Vec<RunRecord>,
    pub(crate) health: StoreHealth,
    pub(crate) live: CollectorState,
    /// Every call fails so.
    pub(crate) failure: Option<SourceError>,
    /// Searches wait here while it is closed: how many do, and whether it is open.
    pub(crate) gate: std::sync::Arc<(Mutex<(usize, bool)>, Condvar)>,
    /// Searches asked for.
    pub(crate) asked: std::sync::Arc<Mutex<Vec<SpanFilter>>>,
}

/// A collector that does not change.
pub(crate) struct Sessions(pub(crate) CollectorState);

impl Live for Sessions {
    fn state(&self) -> CollectorState {
        self.0.clone()
    }
}

impl Memory {
    fn fail(&self) -> Result<(), SourceError> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl Source for Memory {
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError> {
        self.fail()?;
        self.asked.lock().unwrap().push(filter.clone());
        let (state, changed) = &*self.gate;
        let mut state = state.lock().unwrap();
        state.0 += 1;
        changed.notify_all();
        drop(changed.wait_while(state, |(_, open)| !*open).unwrap());
        let mut spans: Vec<SpanAccount> = self
            .spans
            .iter()
            .filter(|span| {
                let identity = &span.process.identity;
                filter.service.as_deref().is_none_or(|service| service == &*identity.service)
                    && filter.name.as_deref().is_none_or(|name| name == &*span.name)
                    && filter.pid.is_none_or(|pid| pid == identity.pid)
                    && filter.state.is_none_or(|state| span.states.get(state) > 0)
                    && filter.from_unix_ns.is_none_or(|from| span.start_unix_ns >= from)
                    && filter.to_unix_ns.is_none_or(|to| span.start_unix_ns <= to)
                    && span.wall_ns() >= filter.min_ns
            })
            .cloned()
            .collect();
        match filter.sort {
            Sort::Newest => spans.sort_by_key(|span| std::cmp::Reverse(span.start_unix_ns)),
            Sort::Slowest => spans.sort_by_key(|span| std::cmp::Reverse(span.wall_ns())),
        }
        let truncated = spans.len() > filter.limit;
        spans.truncate(filter.limit);
        Ok(Found { spans, truncated })
    }

    fn spans(
        &self,
        trace: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, SourceError> {
        self.fail()?;
        let spans = self.spans.iter().filter(|span| {
            span.span_id == span_id && trace.is_none_or(|trace| span.trace_id == trace)
        });
        Ok(spans.cloned().collect())
    }

    fn trace(&self, trace: TraceId) -> Result<Vec<SpanAccount>, SourceError> {
        self.fail()?;
        Ok(self.spans.iter().filter(|span| span.trace_id == trace).cloned().collect())
    }

    fn details(&self, spans: &[SpanAccount]) -> Result<Details, SourceError> {
        self.fail()?;
        let mut all = Details::default();
        for details in spans.iter().filter_map(|span| self.details.get(&span.span_id)) {
            all.samples.extend(details.samples.iter().cloned());
            all.waits.extend(details.waits.iter().cloned());
        }
        Ok(all)
    }

    fn process(
        &self,
        _process: &ProcessKey,
        _from: u64,
        _to: u64,
    ) -> Result<ProcessSlice, SourceError> {
        self.fail()?;
        Ok(self.slice.clone())
    }

    fn runs(&self) -> Result<Vec<RunRecord>, SourceError> {
        self.fail()?;
        Ok(self.runs.clone())
    }

    fn health(&self) -> Result<StoreHealth, SourceError> {
        self.fail()?;
        Ok(self.health.clone())
    }
}
