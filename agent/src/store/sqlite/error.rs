//! Why the store cannot do something, with the remedy. SQLite's codes become these in one place:
//! what a caller can act on is whether the file is damaged, the disk is full, or neither.

use std::{io, path::PathBuf};

use rusqlite::{ErrorCode, ffi};
use thiserror::Error;

use crate::process::own::OwnError;

/// What went wrong.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another collector has the directory.
    #[error("{dir} is in use by process {holder}: stop it, or give this one another --data-dir")]
    Locked {
        /// The store's directory.
        dir: PathBuf,
        /// Who has it, "?" when it did not say.
        holder: String,
    },
    /// A downgrade.
    #[error(
        "{file} has store version {found}, this hotspan knows up to {known}: run the newer hotspan \
         that wrote it, or move the directory away to start afresh"
    )]
    Newer {
        /// The part.
        file: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Nothing of the call was stored.
    #[error("no room on the disk: free some, or lower the store's size limit; nothing was stored")]
    Full,
    /// Nothing of the call was stored.
    #[error(
        "a batch contradicts itself ({0}): nothing was stored; the agent that sent it is at fault"
    )]
    Invalid(String),
    /// Caught inside the store: the part is set aside and the rest serves.
    #[error("{file} is damaged ({reason}): it is kept as {file}.damaged and may be deleted")]
    Damaged {
        /// The part.
        file: String,
        /// What showed it.
        reason: String,
    },
    /// Others decide about the directory, or about a file in it.
    #[error("{0} (--data-dir)")]
    Own(OwnError),
    /// The directory or a file in it.
    #[error(
        "cannot use {path}: {error}; check its owner and permissions, or give another --data-dir"
    )]
    Io {
        /// Which.
        path: PathBuf,
        /// Why. (A field named `source` would be printed twice, as the error's cause.)
        error: io::Error,
    },
    /// Anything else SQLite says.
    #[error("{file}: {error}; check the permissions and the health of the disk below it")]
    Sqlite {
        /// The part.
        file: String,
        /// Why.
        error: rusqlite::Error,
    },
}

/// Bytes that cannot be what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub(super) struct Damage(pub &'static str);

/// What can go wrong within one part; the part's name is added at its border.
#[derive(Debug, Error)]
pub(super) enum PartError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Damage(#[from] Damage),
}

// === impl StoreError ===

impl StoreError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { path, error },
        }
    }
}

impl From<OwnError> for StoreError {
    fn from(error: OwnError) -> Self {
        match error {
            OwnError::Io { path, error } => Self::io(path)(error),
            error => Self::Own(error),
        }
    }
}

// === impl PartError ===

impl PartError {
    /// As the store's error, about `file`.
    pub(super) fn of(self, file: &str) -> StoreError {
        let damaged = |reason: String| StoreError::Damaged { file: file.into(), reason };
        match self {
            Self::Damage(damage) => damaged(damage.to_string()),
            Self::Sqlite(source) => match class(&source) {
                Class::Damaged => damaged(source.to_string()),
                Class::Full => StoreError::Full,
                Class::Other => StoreError::Sqlite { file: file.into(), error: source },
            },
        }
    }
}

enum Class {
    Damaged,
    Full,
    Other,
}

fn class(error: &rusqlite::Error) -> Class {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        // Our statements are fixed, so a missing row, table or column or a wrong type is the file's.
        return Class::Damaged;
    };
    match (failure.code, failure.extended_code) {
        (ErrorCode::DiskFull, _) => Class::Full,
        // Growing a file, or the memory WAL readers share, on a full disk.
        (
            _,
            ffi::SQLITE_IOERR_WRITE
            | ffi::SQLITE_IOERR_FSYNC
            | ffi::SQLITE_IOERR_TRUNCATE
            | ffi::SQLITE_IOERR_SHMSIZE
            | ffi::SQLITE_IOERR_SHMOPEN,
        ) => Class::Full,
        (
            ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            | ErrorCode::TooBig
            | ErrorCode::Unknown,
            _,
        )
        | (
            _,
            ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS,
        ) => Class::Damaged,
        _ => Class::Other,
    }
}
