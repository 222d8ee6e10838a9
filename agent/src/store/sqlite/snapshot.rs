//! The store as one answer sees it: every part pinned to the state it had when the snapshot was
//! taken, until the snapshot goes. A part that shows damage is quarantined, and the snapshot is spoiled:
//! the answer starts over without that part.
//!
//! The parts are pinned one after the other, the newest last, and only the newest is ever appended to:
//! together they are the store as it was when the newest was pinned.

use std::cell::{Cell, RefCell};

use super::{
    error::{PartError, StoreError},
    reader::Reader,
    rows, run,
    search::{self, search},
    span_row::SpanRow,
    view::{Tallies, View},
};
use crate::{
    model::id::{SpanId, TraceId},
    store::{
        Found, RunRecord, Snapshot, SourceError, SpanFilter,
        account::{Details, ProcessKey, ProcessSlice, SpanAccount},
    },
};

/// Pinned parts.
pub(super) struct Pinned {
    reader: Reader,
    /// Oldest first.
    views: RefCell<Vec<View>>,
    is_spoiled: Cell<bool>,
    /// After an error connections are not used again.
    has_failed: Cell<bool>,
}

// === impl Pinned ===

impl Pinned {
    pub(super) fn new(reader: Reader, views: Vec<View>) -> Self {
        let views = RefCell::new(views);
        Self { reader, views, is_spoiled: Cell::new(false), has_failed: Cell::new(false) }
    }

    /// When the oldest part was begun.
    pub(super) fn oldest_unix_ns(&self) -> Option<u64> {
        self.views.borrow().first().map(|oldest| oldest.meta.created_unix_ns)
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(&mut [View]) -> Result<T, StoreError>,
    ) -> Result<T, SourceError> {
        question(&mut self.views.borrow_mut()).map_err(|error| {
            self.has_failed.set(true);
            if let StoreError::Damaged { file, reason } = &error
                && let Ok(part) = file.parse()
            {
                self.reader.quarantine(part, reason);
                self.is_spoiled.set(true);
            }
            error.into()
        })
    }

    fn collect(
        &self,
        rows: impl Fn(&View) -> Result<Vec<(i64, SpanRow)>, PartError>,
    ) -> Result<Vec<SpanAccount>, SourceError> {
        self.ask(|views| {
            let mut tallies = Tallies::default();
            for view in views {
                for (_, row) in rows(view).map_err(|error| view.error(error))? {
                    tallies.add(view.tally(row).map_err(|error| view.error(error))?);
                }
            }
            Ok(tallies.finish())
        })
    }
}

impl Snapshot for Pinned {
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError> {
        self.ask(|views| search(views, filter))
    }

    fn spans(
        &self,
        trace: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, SourceError> {
        self.collect(|view| view.spans(trace, span_id))
    }

    fn trace(&self, trace: TraceId, first: Option<&ProcessKey>) -> Result<Found, SourceError> {
        self.ask(|views| search::trace(views, trace, first))
    }

    fn details(&self, spans: &[SpanAccount]) -> Result<Details, SourceError> {
        self.ask(|views| rows::details(views, spans))
    }

    fn process(
        &self,
        process: &ProcessKey,
        from: u64,
        to: u64,
    ) -> Result<ProcessSlice, SourceError> {
        self.ask(|views| rows::process(views, process, from, to))
    }

    fn runs(&self) -> Result<Vec<RunRecord>, SourceError> {
        self.ask(|views| match views.last() {
            // It has every run's record.
            Some(newest) => Ok(run::load(&newest.conn)
                .map_err(|error| newest.error(error))?
                .into_values()
                .collect()),
            None => Ok(Vec::new()),
        })
    }

    fn is_spoiled(&self) -> bool {
        self.is_spoiled.get()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.has_failed.get() {
            self.reader.give_back(self.views.take());
        }
    }
}

impl From<StoreError> for SourceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged { .. } => Self::Damaged(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}
