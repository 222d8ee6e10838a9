//! The executable parts of a process's address space, as a snapshot of `/proc/PID/maps`.
//!
//! The snapshot outlives the process: it is what turns an address of a dead process into a file
//! and an offset. Its text is hostile (paths are whatever the process chose), so reading is capped
//! and a line that does not parse is counted, never trusted and never fatal.
//!
//! Invariant: mappings are sorted by start and do not overlap.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{Arc, OnceLock},
};

use thiserror::Error;

use super::{moved, procfs};
use crate::{kernel::ktime, model::id::Pid};

/// Bytes read of one process's maps.
const MAX_BYTES: u64 = 16 << 20;
/// Mappings kept of one process (the kernel's own default limit is 65,530).
const MAX_LINES: usize = 65_536;
/// What the kernel appends to the path of an unlinked file.
const DELETED: &[u8] = b" (deleted)";

/// Why a process has no map.
#[derive(Debug, Error)]
pub enum MapsError {
    /// The process is gone, or we may not look.
    #[error("cannot read /proc/{pid}/maps: {source}")]
    Read { pid: Pid, source: io::Error },
}

/// An address in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

/// A position in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileOffset(pub u64);

/// A device number as the kernel prints it in maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Which file, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Device of its file system.
    pub device: Device,
    /// Inode number on it.
    pub inode: u64,
}

/// What a mapping shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A file; `path` without the kernel's mark of deletion.
    File { id: FileId, path: Arc<Path>, deleted: bool },
    /// The kernel's code for every process.
    Vdso,
    /// Anonymous memory, `[heap]`, `[stack]`, and whatever else has no file.
    Anonymous,
}

/// One mapping: `[start, end)` shows `backing` from `offset` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: Address,
    /// First address after it.
    pub end: Address,
    /// Where in the file `start` is.
    pub offset: FileOffset,
    /// Code can run there.
    pub executable: bool,
    /// What is written there is seen by everybody who maps it: who writes, not who only reads.
    pub is_shared_writable: bool,
    /// What it shows.
    pub backing: Backing,
    /// Where the same file is mapped, if this is text that was moved off it (`moved`).
    pub beside: Option<(Address, Address)>,
}

/// The address space of one process at one moment.
#[derive(Debug)]
pub struct ProcessMap {
    pid: Pid,
    read_at: u64,
    mappings: Box<[Mapping]>,
    /// The same with moved text given back to its file, where there is any.
    restored: OnceLock<Option<Box<[Mapping]>>>,
    skipped: usize,
    truncated: bool,
}

/// What a thread had no map for.
enum Unread {
    /// It has no memory.
    Empty,
    Failed(io::Error),
}

// === impl ProcessMap ===

impl ProcessMap {
    /// Reads the map of a living process.
    pub fn read(pid: Pid) -> Result<Self, MapsError> {
        let mut read_at = ktime::now();
        let text = procfs::ask(pid, |folder| {
            let mut text = Vec::new();
            let file = File::open(folder.join("maps")).map_err(Unread::Failed)?;
            // Opening it may have waited for an exec; what is open shows the image of now.
            read_at = ktime::now();
            file.take(MAX_BYTES).read_to_end(&mut text).map_err(Unread::Failed)?;
            if text.is_empty() { Err(Unread::Empty) } else { Ok(text) }
        });
        let text = match text {
            Ok(text) => text,
            // A kernel thread, or a process that is being made or ends.
            Err(Unread::Empty) => Vec::new(),
            Err(Unread::Failed(source)) => return Err(MapsError::Read { pid, source }),
        };
        Ok(Self { read_at, ..Self::parse(pid, &text) })
    }

    /// Understands the text of a `maps` file. Lines that do not parse, or that overlap an earlier
    /// one, are skipped and counted.
    pub fn parse(pid: Pid, text: &[u8]) -> Self {
        let mut mappings: Vec<Mapping> = Vec::new();
        let mut skipped = 0;
        let mut truncated = text.len() as u64 >= MAX_BYTES;
        // Consecutive segments of one file share one path.
        let mut last_path: Option<Arc<Path>> = None;
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            if mappings.len() == MAX_LINES {
                truncated = true;
                break;
            }
            match parse_line(line, &mut last_path) {
                Some(mapping) => mappings.push(mapping),
                None => skipped += 1,
            }
        }
        mappings.sort_by_key(|mapping| mapping.start);
        let parsed = mappings.len();
        let mut end = Address(0);
        mappings.retain(|mapping| {
            let apart = mapping.start >= end;
            if apart {
                end = mapping.end;
            }
            apart
        });
        skipped += parsed - mappings.len();
        let (mappings, restored) = (mappings.into(), OnceLock::new());
        Self { pid, read_at: 0, mappings, restored, skipped, truncated }
    }

    /// Asks, once, which file code on anonymous memory comes from. It may wait for the process's files:
    /// for threads that may, before they look anything up.
    pub fn restore(&self) {
        self.restored.get_or_init(|| moved::restored(self.pid, &self.mappings));
    }

    /// Whether that was asked.
    pub fn is_restored(&self) -> bool {
        self.restored.get().is_some()
    }

    /// When it was read, ktime: what was mapped later is not in it.
    pub fn read_at(&self) -> u64 {
        self.read_at
    }

    /// Whose map it is.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The mapping an address lies in.
    pub fn lookup(&self, address: Address) -> Option<&Mapping> {
        let mappings = self.mappings();
        let after = mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = mappings.get(after.checked_sub(1)?)?;
        (address < mapping.end).then_some(mapping)
    }

    /// Every mapping, by address.
    pub fn mappings(&self) -> &[Mapping] {
        self.restored.get().and_then(Option::as_deref).unwrap_or(&self.mappings)
    }

    /// Those that code can run in.
    pub fn codes(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(|mapping| mapping.executable)
    }

    /// Lines that were not understood.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Whether the map was larger than what is read of it.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

// === impl Mapping ===

impl Mapping {
    /// The position in the mapped file of an address inside this mapping.
    pub fn file_offset(&self, address: Address) -> Option<FileOffset> {
        let inside = address.0.checked_sub(self.start.0)?;
        (address < self.end).then(|| self.offset.0.checked_add(inside).map(FileOffset))?
    }

    /// The bounds of a mapping that has the file, as `/proc/PID/map_files` names it.
    pub fn map_file(&self) -> (Address, Address) {
        self.beside.unwrap_or((self.start, self.end))
    }
}

/// One line: `start-end perms offset major:minor inode          path`.
fn parse_line(line: &[u8], last_path: &mut Option<Arc<Path>>) -> Option<Mapping> {
    let mut rest = line;
    let (start, end) = split(word(&mut rest), b'-')?;
    let (start, end) = (number(start, 16)?, number(end, 16)?);
    let permissions = word(&mut rest);
    let offset = number(word(&mut rest), 16)?;
    let (major, minor) = split(word(&mut rest), b':')?;
    let (major, minor) = (number(major, 16)?, number(minor, 16)?);
    let device = Device { major: major.try_into().ok()?, minor: minor.try_into().ok()? };
    let inode = number(word(&mut rest), 10)?;
    if start >= end {
        return None;
    }
    let name = rest.trim_ascii_start();
    let backing = match name {
        b"[vdso]" => Backing::Vdso,
        // Files of the kernel's own that stand for none.
        b"/anon_hugepage (deleted)" | b"/dev/zero (deleted)" => Backing::Anonymous,
        // Only file systems have inodes; `[heap]` and the like are on inode 0.
        [b'/', ..] if inode != 0 => {
            let (name, deleted) = match name.strip_suffix(DELETED) {
                Some(name) => (name, true),
                None => (name, false),
            };
            let path = unescape(name);
            let path = Path::new(OsStr::from_bytes(&path));
            let shared = match last_path.take() {
                Some(last) if *last == *path => last,
                _ => Arc::from(path),
            };
            *last_path = Some(Arc::clone(&shared));
            Backing::File { id: FileId { device, inode }, path: shared, deleted }
        }
        _ => Backing::Anonymous,
    };
    Some(Mapping {
        start: Address(start),
        end: Address(end),
        offset: FileOffset(offset),
        executable: permissions.get(2) == Some(&b'x'),
        is_shared_writable: permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's'),
        backing,
        beside: None,
    })
}

/// Takes the next space-separated word off `rest`.
fn word<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let text = rest.trim_ascii_start();
    let end = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    word
}

/// The parts before and after the first `separator`.
fn split(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    // from_str_radix takes a sign, the kernel never prints one.
    if !text.first()?.is_ascii_hexdigit() {
        return None;
    }
    u64::from_str_radix(str::from_utf8(text).ok()?, radix).ok()
}

/// The kernel writes a newline in a path as `\012` and nothing else specially.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            path.push(b'\n');
            rest = after;
        } else {
            path.push(byte);
            rest = after;
        }
    }
    path
}

#[cfg(test)]
#[path = "maps_tests.rs"]
mod tests;
