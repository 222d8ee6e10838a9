//! Reads the store from any thread, over all its parts. A call takes one connection per part from a
//! pool and pins it. When a part shows damage it is condemned, and the call starts over on the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};

use super::{
    catalogue::Catalogue,
    error::StoreError,
    part::PartName,
    rows,
    run::{self},
    search::{self},
    view::{Tallies, View},
};
use crate::{
    model::id::{SpanId, TraceId},
    store::{
        Found, RunRecord, Source, SourceError, SpanFilter, StoreHealth,
        account::{Details, ProcessKey, ProcessSlice, SpanAccount},
    },
};

/// Idle connections kept per part.
const MAX_IDLE: usize = 4;

/// A handle; clones share one pool.
#[derive(Clone)]
pub struct Reader(Arc<Shared>);

struct Shared {
    catalogue: Arc<Catalogue>,
    idle: Mutex<Vec<View>>,
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(catalogue: Arc<Catalogue>) -> Self {
        Self(Arc::new(Shared { catalogue, idle: Mutex::default() }))
    }

    /// Spans that pass a filter, in its order.
    pub fn search(&self, filter: &SpanFilter) -> Result<Found, StoreError> {
        self.with_views(|views| search::search(views, filter))
    }

    /// A span, one per process that published it; of any trace when none is told.
    pub fn spans(
        &self,
        trace_id: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, StoreError> {
        self.collect(|view| view.spans(trace_id, span_id))
    }

    /// Every span of a trace.
    pub fn trace(&self, trace_id: TraceId) -> Result<Vec<SpanAccount>, StoreError> {
        self.collect(|view| view.trace(trace_id))
    }

    /// The rows behind these spans: samples in order of time, waits summed per state and cause.
    pub fn details(&self, spans: &[SpanAccount]) -> Result<Details, StoreError> {
        self.with_views(|views| rows::details(views, spans))
    }

    /// A process from `from` until before `to`, CLOCK_MONOTONIC of its boot.
    pub fn process(
        &self,
        process: &ProcessKey,
        from: u64,
        to: u64,
    ) -> Result<ProcessSlice, StoreError> {
        self.with_views(|views| rows::process(views, process, from, to))
    }

    /// Every run that is still known.
    pub fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.with_views(|views| match views.last() {
            Some(newest) => Ok(run::load(&newest.conn)
                .map_err(|error| newest.error(error))?
                .into_values()
                .collect()),
            None => Ok(Vec::new()),
        })
    }

    /// Sizes, ages and troubles.
    pub fn health(&self) -> StoreHealth {
        let times = self.with_views(|views| {
            let runs = match views.last() {
                Some(newest) => run::load(&newest.conn).map_err(|error| newest.error(error))?,
                None => run::Runs::new(),
            };
            Ok((
                views.first().map(|oldest| oldest.meta.created_unix_ns),
                runs.values().map(|run| run.last_unix_ns).filter(|at| *at > 0).max(),
            ))
        });
        let (oldest_unix_ns, newest_unix_ns) = times.unwrap_or_default();
        let catalogue = &self.0.catalogue;
        StoreHealth {
            bytes: catalogue.bytes(),
            parts: catalogue.parts().len(),
            oldest_unix_ns,
            newest_unix_ns,
            set_aside: catalogue.set_aside(),
            is_full: catalogue.is_full(),
            dropped_spans: catalogue.dropped_spans.load(Ordering::Relaxed),
        }
    }

    /// Closes idle connections to a part.
    pub(super) fn forget(&self, part: PartName) {
        self.idle().retain(|view| view.name != part);
    }

    fn collect(
        &self,
        rows: impl Fn(&View) -> Result<Vec<(i64, super::span_row::SpanRow)>, super::error::PartError>,
    ) -> Result<Vec<SpanAccount>, StoreError> {
        self.with_views(|views| {
            let mut tallies = Tallies::default();
            for view in views {
                for (_, row) in rows(view).map_err(|error| view.error(error))? {
                    tallies.add(view.tally(row).map_err(|error| view.error(error))?);
                }
            }
            Ok(tallies.finish())
        })
    }

    fn with_views<T>(
        &self,
        call: impl Fn(&mut [View]) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let mut views = self.take_views()?;
            match call(&mut views) {
                Ok(value) => {
                    self.give_back(views);
                    return Ok(value);
                }
                // Each turn has one part less.
                Err(StoreError::Damaged { file, reason }) => match file.parse() {
                    Ok(part) => self.condemn(part, &reason),
                    Err(()) => return Err(StoreError::Damaged { file, reason }),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// One per part, oldest first.
    fn take_views(&self) -> Result<Vec<View>, StoreError> {
        let catalogue = &self.0.catalogue;
        let mut views = Vec::new();
        for part in catalogue.parts() {
            let pooled = {
                let mut idle = self.idle();
                let at = idle.iter().position(|view| view.name == part);
                at.map(|at| idle.swap_remove(at))
            };
            let opened = match pooled {
                Some(view) => Ok(view),
                None => View::open(catalogue, part),
            };
            match opened.and_then(|view| view.pin().map(|()| view)) {
                Ok(view) => views.push(view),
                // Dropped since it was listed.
                Err(_) if !catalogue.contains(part) => {}
                Err(StoreError::Damaged { reason, .. }) => self.condemn(part, &reason),
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    fn give_back(&self, views: Vec<View>) {
        let parts = self.0.catalogue.parts();
        let mut idle = self.idle();
        idle.retain(|view| parts.contains(&view.name));
        for view in views {
            let same = idle.iter().filter(|other| other.name == view.name).count();
            if same < MAX_IDLE && parts.contains(&view.name) && view.unpin() {
                idle.push(view);
            }
        }
    }

    fn condemn(&self, part: PartName, reason: &str) {
        self.0.catalogue.condemn(part, reason);
        self.forget(part);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<View>> {
        // Views in the pool stand each for itself.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reader").field(&self.0.catalogue).finish()
    }
}

impl Source for Reader {
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError> {
        Reader::search(self, filter).map_err(told)
    }

    fn spans(
        &self,
        trace: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, SourceError> {
        Reader::spans(self, trace, span_id).map_err(told)
    }

    fn trace(&self, trace: TraceId) -> Result<Vec<SpanAccount>, SourceError> {
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
