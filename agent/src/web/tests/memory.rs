//! What the API is served from: a store in memory that fails, waits or grows when a test wants it to.

use std::sync::{Arc, Condvar, Mutex};

use crate::{
    model::{
        batch::{Batch, Run},
        id::{SpanId, TraceId},
    },
    store::{
        Body, Entry, Found, RunRecord, Sink as _, Snapshot, Source, SourceError, SpanFilter,
        StoreHealth,
        account::{Details, ProcessKey, ProcessSlice, SpanAccount},
        memory::{MemoryStore, MemoryView},
    },
    web::live::{CollectorState, Live},
};

/// A store and what is around it.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) store: MemoryStore,
    /// In place of the store's own.
    pub(crate) runs: Vec<RunRecord>,
    /// In place of the store's own.
    pub(crate) health: StoreHealth,
    pub(crate) live: CollectorState,
    /// Every call fails so.
    pub(crate) failure: Option<SourceError>,
    /// Searches wait here while it is closed: how many do, and whether it is open.
    pub(crate) gate: Arc<(Mutex<(usize, bool)>, Condvar)>,
    /// Searches asked for.
    pub(crate) asked: Arc<Mutex<Vec<SpanFilter>>>,
    /// Before every question one of these is appended, the last one first.
    pub(crate) growth: Arc<Mutex<Vec<Batch>>>,
}

/// A collector that does not change.
pub(crate) struct Sessions(pub(crate) CollectorState);

impl Live for Sessions {
    fn state(&self) -> CollectorState {
        self.0.clone()
    }
}

impl Memory {
    /// Stores the next batch of the one agent there is.
    pub(crate) fn append(&self, batch: Batch) {
        let mut store = self.store.clone();
        let run = Arc::new(Run { boot_id: "boot".to_owned(), ..Run::default() });
        let sequence = store.durable(run.id) + 1;
        store.append(&[Entry { run, sequence, body: Body::Batch(batch) }]).unwrap();
    }

    fn fail(&self) -> Result<(), SourceError> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl Source for Memory {
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, SourceError> {
        self.fail()?;
        Ok(Box::new(Observed { memory: self, view: self.store.view() }))
    }

    fn health(&self) -> Result<StoreHealth, SourceError> {
        self.fail()?;
        Ok(self.health.clone())
    }
}

/// A view whose questions are noticed.
struct Observed<'a> {
    memory: &'a Memory,
    view: MemoryView,
}

impl Observed<'_> {
    fn view(&self) -> &MemoryView {
        if let Some(batch) = self.memory.growth.lock().unwrap().pop() {
            self.memory.append(batch);
        }
        &self.view
    }
}

impl Snapshot for Observed<'_> {
    fn search(&self, filter: &SpanFilter) -> Result<Found, SourceError> {
        self.memory.asked.lock().unwrap().push(filter.clone());
        let (state, changed) = &*self.memory.gate;
        let mut state = state.lock().unwrap();
        state.0 += 1;
        changed.notify_all();
        drop(changed.wait_while(state, |(_, open)| !*open).unwrap());
        Ok(self.view().search(filter))
    }

    fn spans(
        &self,
        trace: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<SpanAccount>, SourceError> {
        Ok(self.view().spans(trace, span_id))
    }

    fn trace(&self, trace: TraceId, first: Option<&ProcessKey>) -> Result<Found, SourceError> {
        Ok(self.view().trace(trace, first))
    }

    fn details(&self, spans: &[SpanAccount]) -> Result<Details, SourceError> {
        Ok(self.view().details(spans))
    }

    fn process(
        &self,
        process: &ProcessKey,
        from: u64,
        to: u64,
    ) -> Result<ProcessSlice, SourceError> {
        Ok(self.view().process(process, from, to))
    }

    fn runs(&self) -> Result<Vec<RunRecord>, SourceError> {
        Ok(self.memory.runs.clone())
    }
}
