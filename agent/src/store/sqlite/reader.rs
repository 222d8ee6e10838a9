//! Reads the store from any thread, over all its parts. A snapshot takes one connection per part from
//! a pool and pins it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};

use super::{
    catalogue::Catalogue, error::StoreError, part::PartName, snapshot::Pinned, view::View,
};
use crate::store::{Snapshot, Source, SourceError, StoreHealth, answer};

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

    /// All parts as they are now.
    pub(super) fn pin(&self) -> Result<Pinned, StoreError> {
        Ok(Pinned::new(self.clone(), self.take_views()?))
    }

    /// Sizes, ages and troubles.
    pub fn health(&self) -> StoreHealth {
        let oldest_unix_ns = self.pin().ok().and_then(|pinned| pinned.oldest_unix_ns());
        let runs = answer(self, |snapshot| snapshot.runs()).unwrap_or_default();
        let newest_unix_ns = runs.iter().map(|run| run.last_unix_ns).filter(|at| *at > 0).max();
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
                Err(StoreError::Damaged { reason, .. }) => self.quarantine(part, &reason),
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    pub(super) fn give_back(&self, views: Vec<View>) {
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

    pub(super) fn quarantine(&self, part: PartName, reason: &str) {
        self.0.catalogue.quarantine(part, reason);
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
    fn snapshot(&self) -> Result<Box<dyn Snapshot + '_>, SourceError> {
        Ok(Box::new(self.pin()?))
    }

    fn health(&self) -> Result<StoreHealth, SourceError> {
        Ok(Reader::health(self))
    }
}
