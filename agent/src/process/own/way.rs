//! The way to what is ours, walked name by name: who could put something else in place of the next.

use std::{
    collections::VecDeque,
    env,
    ffi::{OsStr, OsString},
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, mkdirat, open, openat, readlinkat, statat},
    io::Errno,
    process::{getegid, geteuid},
};

use super::OwnError;

/// Links on one way, as the kernel has it (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Whom we trust with the way to what is ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trusted {
    us: u32,
    group: u32,
    /// Who called sudo: a root without that user does not exist.
    caller: Option<u32>,
}

/// A way as far as it is walked.
pub(super) struct Walk {
    pub(super) trusted: Trusted,
    /// This program's file. Who decides about a directory it lies below decides what runs anyway: so a
    /// container's root may use a checkout of another user's.
    program: PathBuf,
    /// Directories from the root on, without links.
    stack: Vec<(PathBuf, OwnedFd)>,
    pub(super) left: VecDeque<OsString>,
    links: usize,
}

// === impl Trusted ===

impl Trusted {
    pub(super) fn us() -> Self {
        let us = geteuid().as_raw();
        let caller = env::var("SUDO_UID").ok().filter(|_| us == 0);
        let caller = caller.and_then(|uid| uid.parse().ok());
        Self { us, group: getegid().as_raw(), caller }
    }

    pub(super) fn is_root_or_us(self, owner: u32) -> bool {
        owner == 0 || owner == self.us
    }

    /// Or who called sudo.
    pub(super) fn is_trusted(self, owner: u32) -> bool {
        self.is_root_or_us(owner) || self.caller == Some(owner)
    }

    pub(super) fn foreign(self, path: PathBuf, found: &Stat) -> OwnError {
        OwnError::Foreign { path, owner: found.st_uid, us: self.us }
    }

    /// Nobody else may write to it.
    pub(super) fn only_ours(self, path: &Path, found: &Stat) -> Result<(), OwnError> {
        if found.st_uid != self.us {
            return Err(self.foreign(path.into(), found));
        }
        not_writable(path.into(), found)
    }

    pub(super) fn only_our_file(self, path: &Path, found: &Stat) -> Result<(), OwnError> {
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(OwnError::Link { path: path.into() }),
            _ => return Err(OwnError::Kind { path: path.into(), expected: "regular file" }),
        }
        self.only_ours(path, found)?;
        // A plain integer here, a smaller one on other architectures.
        #[expect(clippy::useless_conversion, reason = "it is smaller on aarch64")]
        let names = u64::from(found.st_nlink);
        if names > 1 {
            return Err(OwnError::Shared { path: path.into(), names });
        }
        Ok(())
    }

    /// Whether nobody but those we trust decides what is at a name of this directory: `next` is there now.
    fn keeps(self, path: &Path, directory: &OwnedFd, next: &Stat) -> Result<(), OwnError> {
        let found = fstat(directory).map_err(OwnError::io(path))?;
        if !self.is_trusted(found.st_uid) {
            return Err(self.foreign(path.into(), &found));
        }
        let mode = Mode::from_raw_mode(found.st_mode);
        // Of our own group are those we share it with, on purpose.
        let writable = mode.contains(Mode::WOTH)
            || mode.contains(Mode::WGRP) && found.st_gid != self.group && found.st_gid != 0;
        if !writable || mode.contains(Mode::SVTX) && self.is_root_or_us(next.st_uid) {
            return Ok(());
        }
        if mode.contains(Mode::SVTX) {
            return Err(self.foreign(path.into(), next));
        }
        Err(OwnError::Writable { path: path.into(), mode: mode.as_raw_mode() & 0o7777 })
    }
}

pub(super) fn not_writable(path: PathBuf, found: &Stat) -> Result<(), OwnError> {
    let mode = Mode::from_raw_mode(found.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(OwnError::Writable { path, mode: mode.as_raw_mode() & 0o7777 });
    }
    Ok(())
}

// === impl Walk ===

impl Walk {
    pub(super) fn new(path: &Path) -> Result<Self, OwnError> {
        let failed = |error| OwnError::Io { path: path.into(), error };
        let whole = std::path::absolute(path).map_err(failed)?;
        let root = way(None, OsStr::new("/")).map_err(OwnError::io("/"))?;
        let mut walk = Self {
            trusted: Trusted::us(),
            program: env::current_exe().unwrap_or_default(),
            stack: vec![("/".into(), root)],
            left: VecDeque::new(),
            links: 0,
        };
        walk.put_before(&whole);
        Ok(walk)
    }

    /// The names of a path come next. One from the root begins there.
    fn put_before(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.left.push_front(name.into()),
                Component::ParentDir => self.left.push_front("..".into()),
                Component::RootDir => self.stack.truncate(1),
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }

    pub(super) fn here(&self) -> (&Path, &OwnedFd) {
        let (path, fd) = self.stack.last().expect("the root is never left");
        (path, fd)
    }

    /// Whether nobody but those we trust decides what is at a name of this directory: `next` is there now.
    pub(super) fn keeps(&self, next: &Stat) -> Result<(), OwnError> {
        let (at, fd) = self.here();
        if self.program.starts_with(at) { Ok(()) } else { self.trusted.keeps(at, fd, next) }
    }

    /// Goes to a directory, through links.
    pub(super) fn step(&mut self, name: &OsStr, make: bool) -> Result<(), OwnError> {
        if name == ".." {
            // Of a way without links: what was gone through before it.
            self.stack.truncate(self.stack.len().saturating_sub(1).max(1));
            return Ok(());
        }
        let (at, fd) = self.here();
        let path = at.join(name);
        let look = || statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
        let found = match look() {
            Err(Errno::NOENT) if make => {
                match mkdirat(fd, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(OwnError::io(path)(error)),
                }
                look()
            }
            found => found,
        };
        let found = found.map_err(OwnError::io(&path))?;
        self.keeps(&found)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                let fd = way(Some(fd), name).map_err(OwnError::io(&path))?;
                self.stack.push((path, fd));
                Ok(())
            }
            FileType::Symlink => self.follow(name),
            _ => Err(OwnError::Kind { path, expected: "directory" }),
        }
    }

    /// Goes on where a link leads to that is root's or ours.
    pub(super) fn follow(&mut self, name: &OsStr) -> Result<(), OwnError> {
        self.links += 1;
        let (at, fd) = self.here();
        let path = at.join(name);
        if self.links > MAX_LINKS {
            return Err(OwnError::io(path)(Errno::LOOP));
        }
        let target = readlinkat(fd, name, Vec::new()).map_err(OwnError::io(&path))?;
        self.put_before(Path::new(&OsString::from_vec(target.into_bytes())));
        Ok(())
    }
}

/// A directory to go through, not to read.
fn way(from: Option<&OwnedFd>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match from {
        Some(from) => openat(from, name, flags, Mode::empty()),
        None => open(name, flags, Mode::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Directory;

    /// Walks to `data` in a directory anybody writes to, for a program at `program` in it.
    fn walk_for(directory: &Directory, program: &str) -> Result<(), OwnError> {
        let mut walk = Walk::new(&directory.path("checkout/data"))?;
        walk.program = directory.path(program).canonicalize().unwrap();
        while let Some(name) = walk.left.pop_front() {
            walk.step(&name, false)?;
        }
        Ok(())
    }

    #[test]
    fn whoever_decides_about_the_program_may_decide_about_its_files() {
        use std::{fs, os::unix::fs::PermissionsExt as _};
        let directory = Directory::new("own-program");
        for path in ["checkout/target", "checkout/data", "other"] {
            fs::create_dir_all(directory.path(path)).unwrap();
        }
        let anybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path("checkout"), anybody).unwrap();
        walk_for(&directory, "checkout/target").unwrap();
        let error = walk_for(&directory, "other").unwrap_err();
        assert!(matches!(error, OwnError::Writable { .. }), "{error}");
    }
}
