//! The one writer. It holds the directory's lock, the newest part, and every run's cursor in memory
//! as they are on disk: a failed transaction changes neither.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Settings, StoreError,
    apply::Pen,
    catalogue::{Catalogue, Clock},
    error::{Damage, PartError},
    lock::{DirectoryLock, FileIdentity},
    maintain::Verification,
    part::PartName,
    reader::Reader,
    run::{self, Runs},
    schema::{self, Access},
};
use crate::{
    model::id::RunId,
    process::own::OwnDirectory,
    store::{Entry, Sink, SinkError},
};

/// Parts retention can choose from, at least, however much a day brings.
const PARTS_PER_STORE: u64 = 8;
/// A part is not worth its dictionary below this.
const MIN_PART_BYTES: u64 = 256 << 10;

/// Writes the store of one directory.
pub struct Store {
    pub(super) settings: Settings,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) reader: Reader,
    pub(super) newest: Newest,
    pub(super) runs: Runs,
    /// Older parts that were looked through since the start.
    pub(super) verified: HashSet<PartName>,
    pub(super) verification: Option<Verification>,
    /// Last: others may have the directory only when everything else is closed.
    lock: DirectoryLock,
}

/// The part that is written to.
pub(super) struct Newest {
    pub name: PartName,
    pub conn: Connection,
    pub pen: Pen,
    identity: FileIdentity,
}

// === impl Store ===

impl Store {
    /// Reads only the newest part, so it does not take longer when there is more.
    pub fn open(settings: Settings) -> Result<Self, StoreError> {
        let clock = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        };
        Self::open_with_clock(settings, Arc::new(clock))
    }

    pub(super) fn open_with_clock(settings: Settings, clock: Clock) -> Result<Self, StoreError> {
        let (dir, lock) = take(&settings.dir)?;
        let dir = &dir;
        let catalogue = Arc::new(Catalogue::scan(dir, clock)?);
        for part in catalogue.parts() {
            match schema::check_header(dir, part) {
                Err(StoreError::Damaged { reason, .. }) => catalogue.quarantine(part, &reason),
                outcome => outcome?,
            }
        }
        let (newest, runs) = loop {
            catalogue.rename_quarantined(None)?;
            let Some(name) = catalogue.newest() else {
                break (begin_part(&catalogue, &Runs::new())?, Runs::new());
            };
            let opened = Newest::open(&catalogue, name).and_then(|newest| {
                let runs = run::load(&newest.conn).map_err(|error| error.of(&name.to_string()))?;
                Ok((newest, runs))
            });
            match opened {
                Err(StoreError::Damaged { reason, .. }) => catalogue.quarantine(name, &reason),
                Err(error) => return Err(error),
                Ok((newest, runs)) => break (newest, runs),
            }
        };
        let mut store = Self {
            reader: Reader::new(Arc::clone(&catalogue)),
            settings,
            catalogue,
            newest,
            runs,
            verified: HashSet::new(),
            verification: None,
            lock,
        };
        store.recall_drops()?;
        Ok(store)
    }

    /// Stores all of the entries or none, durably. Entries at or below what their run already has are
    /// skipped, so delivering one again changes nothing.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        for entry in entries {
            if let Some(why) = entry.contradiction() {
                return Err(StoreError::Invalid(why.into()));
            }
        }
        let mut outcome = self.turn_page().and_then(|()| self.try_append(entries));
        if let Err(StoreError::Damaged { reason, .. }) = &outcome {
            self.catalogue.quarantine(self.newest.name, reason);
            outcome = self.turn_page().and_then(|()| self.try_append(entries));
        }
        self.note_room(&outcome);
        outcome
    }

    /// The last durable sequence of a run, 0 for none.
    pub fn durable(&self, run: RunId) -> u64 {
        self.runs.get(&run).map_or(0, |run| run.last_sequence)
    }

    /// Reads what is stored, from any thread.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    fn try_append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut runs = self.runs.clone();
        let Newest { name, conn, pen, .. } = &mut self.newest;
        let written = (|| {
            let transaction = conn.transaction()?;
            pen.write(&transaction, &mut runs, entries)?;
            transaction.commit()?;
            Ok(())
        })();
        match written {
            // A reader met damage meanwhile: an acknowledgement must not rest on that part.
            Ok(()) if self.catalogue.is_quarantined(*name) => {
                Err(PartError::Damage(Damage("a reader met damage")).of(&name.to_string()))
            }
            Ok(()) => {
                self.runs = runs;
                Ok(())
            }
            Err(error) => {
                pen.forget();
                Err(PartError::of(error, &name.to_string()))
            }
        }
    }

    /// Begins a new part when the newest is of an earlier day, large, or damaged.
    pub(super) fn turn_page(&mut self) -> Result<(), StoreError> {
        self.stay_in_place()?;
        let name = self.newest.name;
        let largest = (self.settings.max_bytes / PARTS_PER_STORE).max(MIN_PART_BYTES);
        let is_damaged = self.catalogue.is_quarantined(name);
        if !is_damaged
            && !name.is_before_day_of(self.catalogue.now())
            // Without the WAL, whose size says nothing about the part's.
            && name.path(&self.catalogue.dir).metadata().map_or(0, |meta| meta.len()) <= largest
        {
            return self.catalogue.rename_quarantined(Some(name));
        }
        let oldest_kept = (self.catalogue.now())
            .saturating_sub(self.settings.max_age.as_nanos().try_into().unwrap_or(u64::MAX));
        // Runs that have nothing here any more need no cursor.
        self.runs.retain(|_, run| {
            run.last_unix_ns.max(run.run.started_unix_ns) >= oldest_kept || !run.closed
        });
        let begun = begin_part(&self.catalogue, &self.runs)?;
        let previous = std::mem::replace(&mut self.newest, begun);
        if !is_damaged {
            previous.checkpoint();
        }
        drop(previous);
        self.catalogue.rename_quarantined(Some(self.newest.name))
    }

    /// The directory may be removed, or another mounted in its place, while files in it are open:
    /// what is written to those, nobody finds again. Then a new part is begun where it is to be.
    fn stay_in_place(&mut self) -> Result<(), StoreError> {
        let dir = &self.catalogue.dir;
        if self.newest.identity.is_at(&self.newest.name.path(dir)) && self.lock.is_in(dir) {
            return Ok(());
        }
        if !self.lock.is_in(dir) {
            (_, self.lock) = take(dir)?;
        }
        for part in self.catalogue.parts() {
            let path = part.path(dir);
            let is_newest = part == self.newest.name;
            if !path.exists() || (is_newest && !self.newest.identity.is_at(&path)) {
                self.catalogue.quarantine(part, "its file was taken away");
            }
        }
        Ok(())
    }

    pub(super) fn note_room<T>(&self, outcome: &Result<T, StoreError>) {
        match outcome {
            Ok(_) => self.catalogue.is_full.store(false, Ordering::Relaxed),
            Err(StoreError::Full) => self.catalogue.is_full.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
    }

    /// Spans dropped so far; and a drop that a crash cut short is finished.
    fn recall_drops(&mut self) -> Result<(), StoreError> {
        let conn = &self.newest.conn;
        let recalled = (|| -> Result<_, PartError> {
            let dropped: Option<i64> = meta(conn, "dropped_spans")?;
            let part: Option<String> = meta(conn, "dropped_part")?;
            Ok((dropped, part))
        })();
        let (dropped, part) = recalled.map_err(|error| error.of(&self.newest.name.to_string()))?;
        self.catalogue.dropped_spans.store(dropped.unwrap_or(0).unsigned_abs(), Ordering::Relaxed);
        match part.and_then(|part| part.parse().ok()) {
            Some(part) if part != self.newest.name => self.catalogue.unlink(part),
            _ => Ok(()),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(verification) = self.verification.take() {
            verification.cancel();
        }
        if !self.catalogue.is_quarantined(self.newest.name) {
            self.newest.checkpoint();
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("settings", &self.settings).finish_non_exhaustive()
    }
}

// === impl Newest ===

impl Newest {
    pub(super) fn open(catalogue: &Catalogue, name: PartName) -> Result<Self, StoreError> {
        let (conn, meta) = schema::open(&catalogue.dir, name, Access::Write)?;
        let path = name.path(&catalogue.dir);
        let identity = path.metadata().map_err(StoreError::io(&path))?;
        Ok(Self { name, conn, pen: Pen::new(meta), identity: FileIdentity::of(&identity) })
    }

    /// Everything into the main file. A reader may hold it up: then the next one does it.
    pub(super) fn checkpoint(&self) {
        let _ = self.conn.busy_timeout(std::time::Duration::from_millis(50));
        let done = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = done {
            tracing::debug!("{}: no checkpoint: {error}", self.name);
        }
        let _ = self.conn.busy_timeout(std::time::Duration::from_secs(5));
    }
}

/// Takes a directory: its path without links, and its lock. Files that others left in it are none of ours.
fn take(dir: &Path) -> Result<(PathBuf, DirectoryLock), StoreError> {
    let directory = OwnDirectory::make(dir)?;
    let lock = DirectoryLock::take(&directory)?;
    directory.check_all(|name| name.ends_with(".db") || name.ends_with(".db.damaged"))?;
    Ok((directory.path().into(), lock))
}

fn begin_part(catalogue: &Catalogue, runs: &Runs) -> Result<Newest, StoreError> {
    let now = catalogue.now();
    let name = catalogue.next_name(now);
    schema::create(&catalogue.dir, name, now, |conn| {
        for record in runs.values() {
            run::save(conn, record)?;
        }
        put_meta(conn, "dropped_spans", catalogue.dropped_spans.load(Ordering::Relaxed) as i64)
    })?;
    let newest = Newest::open(catalogue, name)?;
    catalogue.add(name);
    Ok(newest)
}

fn meta<T: rusqlite::types::FromSql>(conn: &Connection, key: &str) -> Result<Option<T>, PartError> {
    let mut statement = conn.prepare_cached("SELECT value FROM meta WHERE key = ?")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}

pub(super) fn put_meta(
    conn: &Connection,
    key: &str,
    value: impl rusqlite::ToSql,
) -> Result<(), PartError> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta VALUES(?, ?)")?
        .execute(params![key, value])?;
    Ok(())
}

impl Sink for Store {
    fn append(&mut self, entries: &[Entry]) -> Result<(), SinkError> {
        Store::append(self, entries).map_err(|error| match error {
            StoreError::Full => SinkError::Full(error.to_string()),
            error => SinkError::Other(error.to_string()),
        })
    }

    fn durable(&self, run: RunId) -> u64 {
        Store::durable(self, run)
    }

    fn maintain(&mut self) {
        if let Err(error) = Store::maintain(self) {
            tracing::warn!(%error, "the store could not be kept in order");
        }
    }
}
