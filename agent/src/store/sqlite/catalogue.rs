//! Which parts there are, shared by the writer and its readers. A part that shows damage, whoever
//! meets it, leaves the list at once and is never read again; only the writer renames it. Dropped
//! parts leave the list before their files go.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{error::StoreError, part::PartName};
use crate::store::SetAside;

/// Unix time in ns. Injected, so that tests can move it.
pub(super) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Shared.
pub(super) struct Catalogue {
    pub dir: PathBuf,
    pub clock: Clock,
    list: Mutex<List>,
    /// The last write found no room.
    pub is_full: AtomicBool,
    /// Spans in parts retention dropped.
    pub dropped_spans: AtomicU64,
}

#[derive(Default)]
struct List {
    parts: BTreeSet<PartName>,
    /// Damaged, not renamed yet.
    quarantined: Vec<PartName>,
    set_aside: Vec<SetAside>,
}

const DAMAGED: &str = ".damaged";

// === impl Catalogue ===

impl Catalogue {
    /// Of what is in the directory. Only the lock's holder may.
    pub(super) fn scan(dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        let mut list = List::default();
        let broken = || StoreError::io(dir);
        for entry in dir.read_dir().map_err(broken())? {
            let entry = entry.map_err(broken())?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if let Ok(part) = name.parse() {
                list.parts.insert(part);
            } else if is_unborn(&name) {
                // Whoever made it did not finish.
                fs::remove_file(entry.path()).map_err(StoreError::io(entry.path()))?;
            } else if damaged_part(&name).is_some() {
                let modified = entry.metadata().and_then(|meta| meta.modified()).ok();
                let since = modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                list.set_aside.push(SetAside {
                    file: name,
                    reason: "set aside by an earlier run".into(),
                    unix_ns: since.map_or(0, |since| since.as_nanos() as u64),
                });
            }
        }
        list.set_aside.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(Self {
            dir: dir.into(),
            clock,
            list: Mutex::new(list),
            is_full: AtomicBool::new(false),
            dropped_spans: AtomicU64::new(0),
        })
    }

    pub(super) fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Oldest first.
    pub(super) fn parts(&self) -> Vec<PartName> {
        self.list().parts.iter().copied().collect()
    }

    pub(super) fn contains(&self, part: PartName) -> bool {
        self.list().parts.contains(&part)
    }

    pub(super) fn newest(&self) -> Option<PartName> {
        self.list().parts.last().copied()
    }

    /// Name of the part to begin at `now`: after every other, damaged ones included, whose files it
    /// must not meet.
    pub(super) fn next_name(&self, now: u64) -> PartName {
        let list = self.list();
        let damaged = list.set_aside.iter().filter_map(|aside| damaged_part(&aside.file));
        match list.parts.iter().copied().chain(damaged).max() {
            Some(last) if !last.is_before_day_of(now) => last.next(),
            _ => PartName::first_at(now),
        }
    }

    pub(super) fn add(&self, part: PartName) {
        self.list().parts.insert(part);
    }

    pub(super) fn set_aside(&self) -> Vec<SetAside> {
        self.list().set_aside.clone()
    }

    /// Nobody reads this part any more.
    pub(super) fn quarantine(&self, part: PartName, reason: &str) {
        let mut list = self.list();
        if !list.parts.remove(&part) {
            return;
        }
        tracing::warn!(
            "{} is damaged ({reason}): it is set aside, the rest of the store serves",
            part.path(&self.dir).display()
        );
        list.set_aside.push(SetAside {
            file: format!("{part}{DAMAGED}"),
            reason: reason.into(),
            unix_ns: self.now(),
        });
        list.quarantined.push(part);
    }

    pub(super) fn is_quarantined(&self, part: PartName) -> bool {
        self.list().quarantined.contains(&part)
    }

    /// Renames what was quarantined, except the part the writer still has open: what it writes there
    /// meanwhile must stay where its WAL is.
    pub(super) fn rename_quarantined(&self, open: Option<PartName>) -> Result<(), StoreError> {
        let quarantined: Vec<_> =
            self.list().quarantined.extract_if(.., |part| Some(*part) != open).collect();
        for part in quarantined {
            for (from, to) in part.files().into_iter().zip(damaged_files(part)) {
                let from = self.dir.join(&from);
                gone_is_fine(fs::rename(&from, self.dir.join(to))).map_err(StoreError::io(from))?;
            }
        }
        Ok(())
    }

    /// Takes a part's data away for good.
    pub(super) fn unlink(&self, part: PartName) -> Result<(), StoreError> {
        self.list().parts.remove(&part);
        for file in part.files() {
            let path = self.dir.join(file);
            gone_is_fine(fs::remove_file(&path)).map_err(StoreError::io(path))?;
        }
        Ok(())
    }

    /// Takes the oldest damaged part away; false when there is none.
    pub(super) fn unlink_damaged(&self) -> Result<bool, StoreError> {
        let mut list = self.list();
        let oldest = list.set_aside.iter().filter_map(|aside| damaged_part(&aside.file)).min();
        let Some(oldest) = oldest.filter(|part| !list.quarantined.contains(part)) else {
            return Ok(false);
        };
        let files = damaged_files(oldest);
        list.set_aside.retain(|aside| aside.file != files[0]);
        drop(list);
        for file in files {
            let path = self.dir.join(file);
            gone_is_fine(fs::remove_file(&path)).map_err(StoreError::io(path))?;
        }
        Ok(true)
    }

    /// Bytes on disk, damaged parts included.
    pub(super) fn bytes(&self) -> u64 {
        let list = self.list();
        let of_parts: u64 = list.parts.iter().map(|part| part.bytes(&self.dir)).sum();
        let of_damaged = (list.set_aside.iter())
            .filter_map(|aside| damaged_part(&aside.file))
            .flat_map(damaged_files)
            .filter_map(|file| self.dir.join(file).metadata().ok())
            .map(|meta| meta.len());
        of_parts + of_damaged.sum::<u64>()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // No invariant spans two of its fields while it is locked.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last write found no room.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Names a damaged part's files get.
fn damaged_files(part: PartName) -> [String; 3] {
    ["", "-wal", "-shm"].map(|suffix| format!("{part}{DAMAGED}{suffix}"))
}

/// The part a damaged file was.
fn damaged_part(file: &str) -> Option<PartName> {
    file.strip_suffix(DAMAGED)?.parse().ok()
}

/// A part that was being made, or what SQLite had beside it.
fn is_unborn(name: &str) -> bool {
    name.split_once(".new").is_some_and(|(part, rest)| {
        part.parse::<PartName>().is_ok() && ["", "-journal", "-wal", "-shm"].contains(&rest)
    })
}

fn gone_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
