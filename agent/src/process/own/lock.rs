//! One process per directory of ours: an flock on a file in it, which the kernel gives back whatever way its
//! holder ends. So a file that is left behind is no obstacle. It holds the holder's pid, for the message
//! only; nobody else can open it, so nobody else can hold it.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
};

use thiserror::Error;

use super::{Access, OwnDirectory, OwnError};

/// Why a lock cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("process {holder} holds {path}")]
    Held {
        /// The file.
        path: PathBuf,
        /// Its pid and name, "?" when it did not say.
        holder: String,
    },
    /// The file is not ours.
    #[error(transparent)]
    Own(#[from] OwnError),
}

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

// === impl Lock ===

impl Lock {
    /// Takes it, or says who has it.
    ///
    /// # Errors
    ///
    /// When another process has it, or the file is not one of ours.
    pub fn take(directory: &OwnDirectory, name: &str) -> Result<Self, LockError> {
        let path = directory.path().join(name);
        let failed = |error| OwnError::Io { path: path.clone(), error };
        let mut file =
            directory.file(name, Access::Change)?.expect("a file is made where there is none");
        // Whoever can read a file can lock it.
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // It is for the message.
                let _ = file.read_to_string(&mut pid);
                return Err(LockError::Held { holder: holder(pid.trim()), path });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error).into()),
        }
        // Only for the message: a full disk must not be in the way.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = write!(file, "{}", std::process::id());
        Ok(Self { file })
    }

    /// The file that is locked.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough while a child that was just forked has the descriptor too.
        let _ = self.file.unlock();
    }
}

/// A process by its number and name.
fn holder(pid: &str) -> String {
    if pid.is_empty() || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return "?".into();
    }
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{pid} ({})", name.trim()),
        Err(_) => pid.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::process::fixture::Directory;

    #[test]
    fn one_holds_it_and_what_it_left_is_no_obstacle() {
        let directory = Directory::new("own-lock");
        let own = OwnDirectory::make(&directory.path("run")).unwrap();
        fs::write(own.path().join("lock"), "left by 1234567").unwrap();
        let lock = Lock::take(&own, "lock").unwrap();
        let mode = fs::metadata(own.path().join("lock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Of one process too: the lock is the open file's.
        let error = Lock::take(&own, "lock").unwrap_err().to_string();
        let (pid, comm) = (std::process::id(), fs::read_to_string("/proc/self/comm").unwrap());
        assert!(error.contains(&format!("process {pid} ({})", comm.trim())), "{error}");
        drop(lock);
        Lock::take(&own, "lock").unwrap();
    }

    #[test]
    fn it_empties_no_other_file() {
        let directory = Directory::new("own-lock-link");
        let own = OwnDirectory::make(&directory.path("run")).unwrap();
        let victim = directory.path("victim");
        fs::write(&victim, "root's").unwrap();
        symlink(&victim, own.path().join("lock")).unwrap();
        let error = Lock::take(&own, "lock").unwrap_err();
        assert!(matches!(error, LockError::Own(OwnError::Link { .. })), "{error}");
        assert_eq!(fs::read_to_string(victim).unwrap(), "root's");
    }
}
