//! A file that a caller names for output. It may be anywhere, /tmp too, so what is there already decides: a
//! link or a file that somebody else put there would have us write to another file, or hand out what we
//! write. (The kernel has the same rules as `fs.protected_symlinks` and `fs.protected_regular`, where they
//! are on.)

use std::{ffi::OsStr, fs::File, path::Path};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, ftruncate, open, openat, statat},
    io::Errno,
};

use super::{OwnError, way::Trusted};

/// Opens a file for writing, empty; made with the usual mode if it is not there. What is no regular file (a
/// terminal, a pipe) is opened as it is.
///
/// # Errors
///
/// When somebody put it there who could put anything there.
pub fn output(path: &Path) -> Result<File, OwnError> {
    let failed = |error: Errno| OwnError::io(path)(error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let name = path.file_name().unwrap_or(OsStr::new("."));
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder =
        openat(CWD, folder.unwrap_or(Path::new(".")), way, Mode::empty()).map_err(failed)?;
    let around = fstat(&folder).map_err(failed)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let found = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => {
            let flags = flags | OFlags::CREATE | OFlags::EXCL;
            let file = openat(&folder, name, flags, Mode::from_raw_mode(0o666)).map_err(failed)?;
            return Ok(file.into());
        }
        Err(error) => return Err(failed(error)),
    };
    check(path, &around, &found)?;
    let file = if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
        // Of somebody we trust, and nobody else can put another in its place.
        open(path, flags, Mode::empty()).map_err(failed)?
    } else {
        openat(&folder, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?
    };
    // It may be another one by now.
    let found = fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
        check(path, &around, &found)?;
        ftruncate(&file, 0).map_err(failed)?;
    }
    Ok(file.into())
}

/// In a directory where everybody may make files, only those of whom we trust are written to.
fn check(path: &Path, around: &Stat, found: &Stat) -> Result<(), OwnError> {
    let trusted = Trusted::us();
    let is_shared = Mode::from_raw_mode(around.st_mode).intersects(Mode::WOTH | Mode::WGRP);
    let by_owner = found.st_uid == around.st_uid;
    if is_shared && !by_owner && !trusted.is_trusted(found.st_uid) {
        return Err(trusted.foreign(path.into(), found));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, chown, lchown, symlink},
    };

    use rustix::process::geteuid;

    use super::*;
    use crate::process::fixture::Directory;

    #[test]
    fn what_others_put_there_is_not_written_to() {
        let directory = Directory::new("own-output");
        let shared = directory.path("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
        let report = shared.join("report");
        output(&report).unwrap().write_all(b"first, and long").unwrap();
        output(&report).unwrap().write_all(b"second").unwrap();
        assert_eq!(fs::read_to_string(&report).unwrap(), "second");
        // A link of ours is followed.
        symlink("report", shared.join("ours")).unwrap();
        output(&shared.join("ours")).unwrap().write_all(b"third").unwrap();
        assert_eq!(fs::read_to_string(&report).unwrap(), "third");
        output(Path::new("/dev/null")).unwrap();
        if !geteuid().is_root() {
            println!("skipped: only root can give files away");
            return;
        }
        symlink("report", shared.join("theirs")).unwrap();
        lchown(shared.join("theirs"), Some(65_534), None).unwrap();
        fs::write(shared.join("waiting"), "").unwrap();
        chown(shared.join("waiting"), Some(65_534), None).unwrap();
        for theirs in ["theirs", "waiting"] {
            let error = output(&shared.join(theirs)).unwrap_err();
            assert!(matches!(error, OwnError::Foreign { owner: 65_534, .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(&report).unwrap(), "third");
    }
}
