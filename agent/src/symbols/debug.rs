//! The separate file that holds a program's debug information, as blazesym is to read it.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{elf::Elf, expand::is_compressed};
use crate::process::{debug_file, elf::Header, file};

/// A debug file, as blazesym is to open it.
#[derive(Debug)]
pub(super) struct DebugFile {
    /// The installed file, or our copy of it when it had to be unpacked.
    pub(super) path: PathBuf,
    /// Bytes of the copy.
    pub(super) bytes: u64,
    _copy: Option<File>,
}

impl DebugFile {
    /// Looks for that of `elf`, which was read from `original`, mapped as `binary`. A copy may have
    /// `room` bytes.
    pub(super) fn find(elf: &Elf, original: &File, binary: &Path, room: u64) -> Option<Self> {
        debug_file::find(elf.build_id.as_deref(), elf.link.as_ref(), original, binary)
            .map(|path| Self::open(path, room))
    }

    /// Most debug files are packed, and read better when they are not.
    fn open(path: PathBuf, room: u64) -> Self {
        match unpacked(&path, room) {
            Some((copy, bytes)) => Self { path: file::own_path(&copy), bytes, _copy: Some(copy) },
            None => Self { path, bytes: 0, _copy: None },
        }
    }
}

/// A copy without compressed sections, if the file has any.
fn unpacked(path: &Path, room: u64) -> Option<(File, u64)> {
    let installed = File::open(path).ok()?;
    let sections = Header::read(&installed).ok()?.sections(&installed).ok()?;
    let room = room.checked_sub(installed.metadata().ok()?.len())?;
    if !sections.all.iter().any(is_compressed) {
        return None;
    }
    let copy = file::copy(&installed).ok()?;
    Elf::disarm(&copy, room).ok()?;
    let bytes = copy.metadata().ok()?.len();
    Some((copy, bytes))
}

#[cfg(test)]
#[path = "debug_tests.rs"]
mod tests;
