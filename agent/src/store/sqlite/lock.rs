//! One collector per directory: an flock on `lock`, which the kernel gives back whatever way its
//! holder ends. The file holds the holder's pid, for the message only.

use std::{
    fs::{File, Metadata, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::error::StoreError;

/// Held as long as it lives.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let said = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let pid = if said { pid.trim().into() } else { "?".into() };
                return Err(StoreError::Locked { dir: dir.into(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::io(&path)(source)),
        }
        // Only for the message: a full disk must not keep the store from opening.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = write!(file, "{}", std::process::id());
        Ok(Self { file })
    }

    /// Whether it is still the lock of that directory.
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        let own = self.file.metadata();
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

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing is not enough while a child that was just forked has the descriptor too.
        let _ = self.file.unlock();
    }
}
