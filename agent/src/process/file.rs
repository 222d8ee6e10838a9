//! Opening the files of other processes, and taking private copies of them.
//!
//! A process chooses what its paths mean, so (design 7):
//! - a path is opened without side effects first (`O_PATH`), and only a regular file of a sane size
//!   is opened for reading: no FIFO blocks us, no device is touched;
//! - below `/proc/PID/root` nothing resolves out of that root or through magic links;
//! - what was opened must be the file the map names, by device and inode;
//! - it is copied before it is parsed: a mapping of the original would kill us by SIGBUS the moment
//!   its owner truncates it.

use std::{
    env,
    fs::{File, Metadata, OpenOptions, read_link},
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Range,
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{
    AtFlags, MemfdFlags, Mode, OFlags, ResolveFlags, StatxFlags, StatxTimestamp, memfd_create,
    openat2, statx,
};
use thiserror::Error;

use super::{
    descriptors,
    maps::{Address, FileId, Mapping},
    procfs,
};
use crate::model::id::Pid;

/// Larger files are not read: their addresses stay `module+0xoffset`.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Every part there is.
pub const WHOLE: Range<u64> = 0..MAX_FILE_BYTES;

/// Why a file was not used.
#[derive(Debug, Error)]
pub enum FileError {
    /// Not there, or not for us.
    #[error("cannot open it: {0}")]
    Open(io::Error),
    /// A FIFO, socket, device or directory.
    #[error("not a regular file")]
    NotRegular,
    /// Over [`MAX_FILE_BYTES`].
    #[error("{0} bytes are more than is read of one file")]
    TooLarge(u64),
    /// What is left of our descriptors is for ourselves.
    #[error("too many files of other programs are open: raise the limit of open files")]
    Descriptors,
    /// Another file took its place.
    #[error("not the file that was mapped")]
    Replaced,
    /// No private copy could be made.
    #[error("cannot copy it: {0}")]
    Copy(io::Error),
}

/// Tells versions of one file apart. Not the change time: unlinking moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Version {
    /// What the file is now, as far as the kernel knows without asking who serves its file system.
    pub fn of(file: &File) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let meta = statx(file, "", flags, StatxFlags::SIZE | StatxFlags::MTIME)?;
        let StatxTimestamp { tv_sec, tv_nsec, .. } = meta.stx_mtime;
        let since = u64::try_from(tv_sec).ok().map(|seconds| Duration::new(seconds, tv_nsec));
        let modified = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        Ok(Self { bytes: meta.stx_size, modified })
    }
}

/// The version of the file behind a mapping of a living process.
pub fn version_mapped(pid: Pid, mapping: &Mapping) -> Option<Version> {
    let (Address(start), Address(end)) = mapping.map_file();
    let name = format!("map_files/{start:x}-{end:x}");
    let meta = procfs::ask(pid, |folder| std::fs::metadata(folder.join(&name))).ok()?;
    Some(Version { bytes: meta.len(), modified: meta.modified().ok() })
}

/// The file behind a mapping: from the living process if there still is one, else by path.
pub fn open_mapped(
    pid: Pid,
    mapping: &Mapping,
    id: FileId,
    path: &Path,
) -> Result<File, FileError> {
    procfs::ask(pid, |folder| {
        open_map_file(folder, mapping, id, path)
            .or_else(|_| open_below(&folder.join("root"), path, id))
    })
    .or_else(|_| open_below(Path::new("/"), path, id))
}

/// Through `/proc/PID/map_files`: works for deleted files and across mount namespaces.
fn open_map_file(
    process: &Path,
    mapping: &Mapping,
    id: FileId,
    path: &Path,
) -> Result<File, FileError> {
    let (Address(start), Address(end)) = mapping.map_file();
    let link = process.join(format!("map_files/{start:x}-{end:x}"));
    // overlayfs and btrfs print other numbers in maps than stat gives: there the name must do. It
    // is the kernel's own rendering, of the same range of the same process.
    let same_name = read_link(&link).is_ok_and(|target| {
        target
            .as_os_str()
            .as_bytes()
            .strip_suffix(b" (deleted)")
            .unwrap_or(target.as_os_str().as_bytes())
            == path.as_os_str().as_bytes()
    });
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(&link)
        .map_err(FileError::Open)?;
    readable(&file, |meta| same_name || is_same(meta, id))
}

/// `path` as a process with this root sees it.
fn open_below(root: &Path, path: &Path, id: FileId) -> Result<File, FileError> {
    open_in(&open_root(root)?, path, |meta| is_same(meta, id))
}

/// A directory to open files below, `/proc/PID/root` for one; it outlives the process.
pub fn open_root(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
        .map_err(FileError::Open)
}

/// `path` as a process whose root is `root` sees it, if it is a regular file and `accept`ed.
pub fn open_in(
    root: &File,
    path: &Path,
    accept: impl Fn(&Metadata) -> bool,
) -> Result<File, FileError> {
    resolve(root, path, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS, accept)
}

/// The same with no link on the way: for a name that the process itself could make a link to what only
/// we may read.
pub fn open_own(
    root: &File,
    path: &Path,
    accept: impl Fn(&Metadata) -> bool,
) -> Result<File, FileError> {
    let flags = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    resolve(root, path, ResolveFlags::IN_ROOT | flags, accept)
}

fn resolve(
    root: &File,
    path: &Path,
    resolve: ResolveFlags,
    accept: impl Fn(&Metadata) -> bool,
) -> Result<File, FileError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat2(root, path, flags, Mode::empty(), resolve)
        .map(File::from)
        .map_err(|error| FileError::Open(error.into()))?;
    readable(&file, accept)
}

/// A regular file of this host, owned by root and writable by no one else: nobody unprivileged can
/// change it under us.
pub fn is_trusted(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| {
        meta.is_file()
            && meta.uid() == 0
            && meta.mode() & 0o022 == 0
            && meta.len() <= MAX_FILE_BYTES
    })
}

/// A directory that nobody unprivileged can change, and neither any above it.
pub fn is_trusted_directory(path: &Path) -> bool {
    path.is_absolute()
        && path.ancestors().all(|directory| {
            directory
                .symlink_metadata()
                .is_ok_and(|meta| meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0)
        })
}

/// Turns an `O_PATH` descriptor into a readable one, if it is a regular file and `accept`ed.
fn readable(found: &File, accept: impl Fn(&Metadata) -> bool) -> Result<File, FileError> {
    let meta = found.metadata().map_err(FileError::Open)?;
    if !meta.is_file() {
        return Err(FileError::NotRegular);
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(FileError::TooLarge(meta.len()));
    }
    if !accept(&meta) {
        return Err(FileError::Replaced);
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(own_path(found))
        .map_err(FileError::Open)?;
    if descriptors::is_spare(&file) { Ok(file) } else { Err(FileError::Descriptors) }
}

fn is_same(meta: &Metadata, id: FileId) -> bool {
    meta.ino() == id.inode && meta.dev() == libc::makedev(id.device.major, id.device.minor)
}

/// The path under which this process can open one of its own descriptors again.
pub fn own_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A private copy that has no name, so that nobody else can change it.
#[cfg(any(test, fuzzing))]
pub(crate) fn copy(original: &File) -> Result<File, FileError> {
    let copy = nameless().map_err(FileError::Copy)?;
    copy_parts(original, &[WHOLE], copy)
}

/// A copy of some parts, which may overlap, in `copy`, an empty file, with holes that read as zeros
/// between them.
pub fn copy_parts(
    original: &File,
    parts: &[Range<u64>],
    mut copy: File,
) -> Result<File, FileError> {
    let fill = || {
        // Its own offset: the original's descriptor is kept and may be copied again.
        let mut source = File::open(own_path(original))?;
        let length = source.metadata()?.len().min(MAX_FILE_BYTES);
        let mut parts = parts.to_vec();
        parts.sort_by_key(|part| part.start);
        let mut at = 0;
        for part in parts {
            at = part.start.max(at);
            let bytes = part.end.min(length).saturating_sub(at);
            if bytes > 0 {
                source.seek(SeekFrom::Start(at))?;
                copy.seek(SeekFrom::Start(at))?;
                at += io::copy(&mut (&mut source).take(bytes), &mut copy)?;
            }
        }
        copy.set_len(length)?;
        Ok(copy)
    };
    fill().map_err(FileError::Copy)
}

/// An empty nameless file: on disk, whose pages the kernel can write back and drop, else in memory.
pub fn nameless() -> io::Result<File> {
    let on_disk = [PathBuf::from("/var/tmp"), env::temp_dir()].into_iter().find_map(|directory| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_TMPFILE | libc::O_EXCL)
            .open(directory)
            .ok()
    });
    on_disk.map_or_else(in_memory, Ok)
}

/// An empty nameless file in memory.
pub fn in_memory() -> io::Result<File> {
    Ok(memfd_create(c"hotspan-copy", MemfdFlags::CLOEXEC)?.into())
}

/// The same with this content.
#[cfg(fuzzing)]
pub(crate) fn in_memory_with(content: &[u8]) -> io::Result<File> {
    let mut file = in_memory()?;
    std::io::Write::write_all(&mut file, content)?;
    Ok(file)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
