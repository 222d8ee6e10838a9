//! What the store does for itself, a little at a time: merging chunks, dropping what is too old or
//! too much, looking through the older parts, moving the WAL into the file.

use std::{sync::mpsc, thread, time::Duration};

use rusqlite::{Connection, InterruptHandle};

use super::{
    StoreError,
    compact::compact,
    error::{Damage, PartError},
    lexicon::Lexicon,
    part::PartName,
    run,
    schema::{self, Access},
    writer::{Newest, Store, put_meta},
};

/// Of one call, for merging.
const COMPACTION: Duration = Duration::from_millis(50);

/// A part that is being looked through, on a thread of its own.
pub(super) struct Verification {
    part: PartName,
    outcome: mpsc::Receiver<Result<(), PartError>>,
    interrupt: InterruptHandle,
    thread: thread::JoinHandle<()>,
}

// === impl Store ===

impl Store {
    /// To be called every few seconds by the thread that appends; takes about 100 ms at most.
    pub fn maintain(&mut self) -> Result<(), StoreError> {
        // First, so that it makes room for the rest.
        let outcome = self
            .turn_page()
            .and_then(|()| self.retain())
            .and_then(|()| self.compact_newest())
            .and_then(|()| self.verify_older());
        // Not into a truncated WAL: readers may hold it, and the writer goes on anyway.
        let _ = self.newest.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        self.note_room(&outcome);
        outcome
    }

    fn compact_newest(&mut self) -> Result<(), StoreError> {
        let Newest { name, conn, .. } = &mut self.newest;
        let now = self.catalogue.now();
        let runs = Some((&self.runs, now));
        match compact(conn, &mut Lexicon::default(), runs, COMPACTION) {
            Ok(_) => Ok(()),
            Err(error) => match error.of(&name.to_string()) {
                StoreError::Damaged { reason, .. } => {
                    self.catalogue.quarantine(*name, &reason);
                    self.turn_page()
                }
                error => Err(error),
            },
        }
    }

    /// Drops what is too old, and the oldest while there is too much.
    fn retain(&mut self) -> Result<(), StoreError> {
        let max_age = u64::try_from(self.settings.max_age.as_nanos()).unwrap_or(u64::MAX);
        let oldest_kept = self.catalogue.now().saturating_sub(max_age);
        loop {
            let bytes = self.catalogue.bytes();
            let is_too_much = bytes > self.settings.max_bytes;
            // Evidence goes before data.
            if is_too_much && self.catalogue.unlink_damaged()? {
                continue;
            }
            let Some(oldest) = self.catalogue.parts().first().copied() else { return Ok(()) };
            if oldest == self.newest.name {
                return Ok(());
            }
            match look_at(&self.catalogue.dir, oldest) {
                Ok((newest_data, spans)) if is_too_much || newest_data < oldest_kept => {
                    self.drop_part(oldest, spans)?;
                }
                Ok(_) => return Ok(()),
                Err(StoreError::Damaged { reason, .. }) => {
                    self.catalogue.quarantine(oldest, &reason);
                    self.reader.forget(oldest);
                    self.catalogue.rename_quarantined(Some(self.newest.name))?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Noted before it is done: a crash in between neither counts it twice nor leaves it there.
    fn drop_part(&mut self, part: PartName, spans: u64) -> Result<(), StoreError> {
        let dropped = self.catalogue.dropped_spans.load(std::sync::atomic::Ordering::Relaxed);
        let dropped = dropped.saturating_add(spans);
        let Newest { name, conn, .. } = &mut self.newest;
        let noted = (|| {
            let transaction = conn.transaction()?;
            put_meta(&transaction, "dropped_spans", dropped as i64)?;
            put_meta(&transaction, "dropped_part", part.to_string())?;
            transaction.commit()?;
            Ok(())
        })();
        match noted.map_err(|error: PartError| error.of(&name.to_string())) {
            // The note is less than the room it would make.
            Ok(()) | Err(StoreError::Full) => {}
            Err(error) => return Err(error),
        }
        self.catalogue.dropped_spans.store(dropped, std::sync::atomic::Ordering::Relaxed);
        self.catalogue.unlink(part)?;
        self.reader.forget(part);
        Ok(())
    }

    /// One older part at a time: its last chunks are merged, then all of it is read.
    fn verify_older(&mut self) -> Result<(), StoreError> {
        if let Some(verification) = self.verification.take() {
            match verification.outcome.try_recv() {
                Err(mpsc::TryRecvError::Empty) => {
                    self.verification = Some(verification);
                    return Ok(());
                }
                Ok(Err(error)) => match error.of(&verification.part.to_string()) {
                    StoreError::Damaged { reason, .. } => {
                        self.catalogue.quarantine(verification.part, &reason);
                        self.reader.forget(verification.part);
                        self.catalogue.rename_quarantined(Some(self.newest.name))?;
                    }
                    // Read errors show again when it is read.
                    error => tracing::debug!("not looked through: {error}"),
                },
                Ok(Ok(())) | Err(mpsc::TryRecvError::Disconnected) => {}
            }
            self.verified.insert(verification.part);
        }
        let parts = self.catalogue.parts();
        self.verified.retain(|part| parts.contains(part));
        let next = (parts.into_iter())
            .find(|part| *part != self.newest.name && !self.verified.contains(part));
        let Some(part) = next else { return Ok(()) };
        let opened = self.prepare(part);
        match opened {
            Ok(Some(conn)) => self.verification = Verification::begin(part, conn),
            Ok(None) => {}
            Err(StoreError::Damaged { reason, .. }) => {
                self.catalogue.quarantine(part, &reason);
                self.reader.forget(part);
                self.catalogue.rename_quarantined(Some(self.newest.name))?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A connection to an older part once all its chunks are merged.
    fn prepare(&self, part: PartName) -> Result<Option<Connection>, StoreError> {
        let mut older = Newest::open(&self.catalogue, part)?;
        let is_done = compact(&mut older.conn, &mut Lexicon::default(), None, COMPACTION)
            .map_err(|error| error.of(&part.to_string()))?;
        if !is_done {
            return Ok(None);
        }
        older.checkpoint();
        drop(older);
        schema::open(&self.catalogue.dir, part, Access::Read).map(|(conn, _)| Some(conn))
    }
}

/// When a part's newest data is from, and how many spans it has.
fn look_at(dir: &std::path::Path, part: PartName) -> Result<(u64, u64), StoreError> {
    let (conn, meta) = schema::open(dir, part, Access::Read)?;
    let seen = (|| {
        let runs = run::load(&conn)?;
        let spans =
            conn.query_row("SELECT ifnull(max(id), 0) FROM span", [], |row| row.get::<_, i64>(0))?;
        let newest = runs.values().map(|run| run.last_unix_ns).max().unwrap_or(0);
        Ok((newest.max(meta.created_unix_ns), spans.unsigned_abs()))
    })();
    seen.map_err(|error: PartError| error.of(&part.to_string()))
}

// === impl Verification ===

impl Verification {
    /// None when there is no thread for it: it is only a precaution.
    fn begin(part: PartName, conn: Connection) -> Option<Self> {
        let (report, outcome) = mpsc::channel();
        let interrupt = conn.get_interrupt_handle();
        let look_through = move || {
            let _ = report.send(look_through(&conn));
        };
        let thread = thread::Builder::new().name("store-verify".into()).spawn(look_through).ok()?;
        Some(Self { part, outcome, interrupt, thread })
    }

    pub(super) fn cancel(self) {
        self.interrupt.interrupt();
        let _ = self.thread.join();
    }

    #[cfg(test)]
    pub(super) fn wait(&self) {
        while !self.thread.is_finished() {
            thread::yield_now();
        }
    }
}

fn look_through(conn: &Connection) -> Result<(), PartError> {
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(Damage("its pages contradict each other").into()) }
}
