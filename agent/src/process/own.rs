//! What is ours on the disk: directories that only we write to, and the files in them.
//!
//! Whoever can write to a directory decides what its names lead to, and so does whoever can rename it. So
//! the way to one of ours is walked name by name, each opened from the descriptor of the one before it:
//! - every directory on the way belongs to root, to us or to whoever called sudo, and nobody else can put
//!   another in place of what is next: it is not writable by others, or it is sticky and what is next is
//!   root's or ours;
//! - a link on the way is followed only if it is root's or ours: an administrator may move a directory;
//! - the directory itself is ours, and nobody else may write to it;
//! - a file in it is opened without following links; it is regular, ours, writable by nobody else and has
//!   one name only.
//!
//! What stands is never changed to fit: whoever made it first may have left files in it.

pub mod lock;
pub mod output;
mod way;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, statat},
    io::Errno,
};
use thiserror::Error;

use way::{Trusted, Walk, not_writable};

/// Why something on the disk is not used.
#[derive(Debug, Error)]
pub enum OwnError {
    /// Whoever it is could read and change what we keep there.
    #[error(
        "{path} belongs to user {owner}, not to {us}: it is not used, nor what is in it; remove it, or \
         give another place"
    )]
    Foreign {
        /// What was found.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// The same.
    #[error(
        "{path} can be written by others (mode {mode:04o}): look at what is in it, then chmod go-w, or \
         give another place"
    )]
    Writable {
        /// What was found.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It leads elsewhere.
    #[error("{path} is a symbolic link: remove it, or give the place it leads to")]
    Link {
        /// What was found.
        path: PathBuf,
    },
    /// Not what it must be.
    #[error("{path} is not a {expected}: remove it, or give another place")]
    Kind {
        /// What was found.
        path: PathBuf,
        /// What it must be.
        expected: &'static str,
    },
    /// Writing to it would write to another file.
    #[error("{path} has {names} names: what is written to it would be in all of them; remove it")]
    Shared {
        /// What was found.
        path: PathBuf,
        /// How many names it has.
        names: u64,
    },
    /// Anything else.
    #[error("cannot use {path}: {error}; check its owner and permissions, or give another place")]
    Io {
        /// What was asked for.
        path: PathBuf,
        /// Why. (A field named `source` would be printed twice, as the error's cause.)
        error: io::Error,
    },
}

/// A directory that only we write to.
#[derive(Debug)]
pub struct OwnDirectory {
    path: PathBuf,
    fd: OwnedFd,
}

/// How a file of ours is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It must be there.
    Read,
    /// Made if it is not there, with mode 0600. Its content stays.
    Change,
    /// It must not be there: made with mode 0600.
    New,
}

// === impl OwnError ===

impl OwnError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error: error.into() }
    }

    /// Whether there is nothing at the place.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

// === impl OwnDirectory ===

impl OwnDirectory {
    /// The directory at `path`, made with mode 0700 if there is none, as what is missing on the way is.
    ///
    /// # Errors
    ///
    /// When it, or the way to it, is not ours alone.
    pub fn make(path: &Path) -> Result<Self, OwnError> {
        Self::reach(path, true)
    }

    /// The directory at `path`.
    ///
    /// # Errors
    ///
    /// When there is none, or it or the way to it is not ours alone.
    pub fn open(path: &Path) -> Result<Self, OwnError> {
        Self::reach(path, false)
    }

    fn reach(path: &Path, make: bool) -> Result<Self, OwnError> {
        let mut walk = Walk::new(path)?;
        while let Some(name) = walk.left.pop_front() {
            walk.step(&name, make)?;
        }
        let (path, way) = walk.here();
        // Until here it was only gone through.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(way, c".", flags, Mode::empty()).map_err(OwnError::io(path))?;
        let found = fstat(&fd).map_err(OwnError::io(path))?;
        walk.trusted.only_ours(path, &found)?;
        Ok(Self { path: path.into(), fd })
    }

    /// The way to it, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in it. `None` if there is none (for [`Access::Read`]).
    ///
    /// # Errors
    ///
    /// When what has the name is not a file of ours alone.
    pub fn file(&self, name: &str, access: Access) -> Result<Option<File>, OwnError> {
        let path = self.path.join(name);
        // Whatever it is, opening it must not wait.
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let flags = flags
            | match access {
                Access::Read => OFlags::RDONLY,
                Access::Change => OFlags::RDWR | OFlags::CREATE,
                Access::New => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            };
        let file = match openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::NOENT) if access == Access::Read => return Ok(None),
            Err(Errno::LOOP) => return Err(OwnError::Link { path }),
            // A FIFO without a reader, a socket, a device without a driver.
            Err(Errno::NXIO | Errno::ISDIR) => {
                return Err(OwnError::Kind { path, expected: "regular file" });
            }
            Err(error) => return Err(OwnError::io(path)(error)),
        };
        let found = fstat(&file).map_err(OwnError::io(&path))?;
        Trusted::us().only_our_file(&path, &found)?;
        Ok(Some(File::from(file)))
    }

    /// Everything in it is ours: nothing was left by whoever could write to it earlier. A file that keeps
    /// for itself what is written (`complete`) may have further names, as backups give them.
    ///
    /// # Errors
    ///
    /// The first that is not.
    pub fn check_all(&self, complete: impl Fn(&str) -> bool) -> Result<(), OwnError> {
        let trusted = Trusted::us();
        let failed = |error: io::Error| OwnError::Io { path: self.path.clone(), error };
        for entry in self.path.read_dir().map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let path = self.path.join(&name);
            let found = match statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => found,
                // It went meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(OwnError::io(path)(error)),
            };
            match FileType::from_raw_mode(found.st_mode) {
                // Whoever uses it looks at it.
                FileType::Directory => {}
                // Left by an earlier run: whoever listens there makes it anew.
                FileType::Socket => trusted.only_ours(&path, &found)?,
                FileType::RegularFile if name.to_str().is_some_and(&complete) => {
                    trusted.only_ours(&path, &found)?;
                }
                _ => trusted.only_our_file(&path, &found)?,
            }
        }
        Ok(())
    }
}

impl AsFd for OwnDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a file for reading that root or we made, wherever it is: nobody else could have put another in
/// its place, or changed it. It may be a link, as the secrets of Kubernetes are.
///
/// # Errors
///
/// When there is none, or others decide about it.
pub fn trusted_file(path: &Path) -> Result<File, OwnError> {
    let mut walk = Walk::new(path)?;
    loop {
        let Some(name) = walk.left.pop_front() else {
            return Err(OwnError::Kind { path: path.into(), expected: "regular file" });
        };
        if !walk.left.is_empty() {
            walk.step(&name, false)?;
            continue;
        }
        let (at, way) = walk.here();
        let full = at.join(&name);
        let found = statat(way, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(OwnError::io(&full))?;
        walk.keeps(&found)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
            walk.follow(&name)?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(way, &name, flags, Mode::empty()).map_err(OwnError::io(&full))?;
        let found = fstat(&file).map_err(OwnError::io(&full))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(OwnError::Kind { path: full, expected: "regular file" });
        }
        if !walk.trusted.is_root_or_us(found.st_uid) {
            return Err(walk.trusted.foreign(full, &found));
        }
        not_writable(full, &found)?;
        return Ok(File::from(file));
    }
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
