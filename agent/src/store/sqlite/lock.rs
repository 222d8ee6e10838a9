//! One collector per directory: the lock of an [`OwnDirectory`] by the name `lock`.

use std::{fs::Metadata, io, os::unix::fs::MetadataExt as _, path::Path};

use super::error::StoreError;
use crate::process::own::{
    OwnDirectory,
    lock::{Lock, LockError},
};

/// Held as long as it lives.
#[derive(Debug)]
pub(super) struct DirectoryLock(Lock);

impl DirectoryLock {
    pub(super) fn take(dir: &OwnDirectory) -> Result<Self, StoreError> {
        match Lock::take(dir, "lock") {
            Ok(lock) => Ok(Self(lock)),
            Err(LockError::Held { holder, .. }) => {
                Err(StoreError::Locked { dir: dir.path().into(), holder })
            }
            Err(LockError::Own(error)) => Err(error.into()),
        }
    }

    /// Whether it is still the lock of that directory.
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        let own = self.0.file().metadata();
        own.is_ok_and(|own| FileIdentity::of(&own).is_at(&dir.join("lock")))
    }
}

/// Which file a path led to, when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

// === impl FileIdentity ===

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Whether the path still leads there. What cannot be known is believed: whoever uses the file
    /// gets the error.
    pub(super) fn is_at(self, path: &Path) -> bool {
        match path.metadata() {
            Ok(metadata) => Self::of(&metadata) == self,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}
