//! The separate file that holds a program's debug information, as blazesym is to read it.

use std::{fs::File, path::PathBuf};

use super::{elf::Elf, expand::is_compressed};
use crate::process::{
    elf::Header,
    file::{self, WHOLE},
};

/// A debug file, as blazesym is to open it.
#[derive(Debug)]
pub(super) struct DebugFile {
    /// The installed file, or our copy of it when it had to be unpacked.
    pub(super) path: PathBuf,
    _file: File,
}

impl DebugFile {
    /// Most debug files are packed, and read better when they are not: then it is copied into `copy`, an
    /// empty file of ours, which may have `room` bytes.
    pub(super) fn open(installed: File, copy: File, room: u64) -> Self {
        let file = unpacked(&installed, copy, room).unwrap_or(installed);
        Self { path: file::own_path(&file), _file: file }
    }
}

/// A copy without compressed sections, if the file has any.
fn unpacked(installed: &File, copy: File, room: u64) -> Option<File> {
    let sections = Header::read(installed).ok()?.sections(installed).ok()?;
    let room = room.checked_sub(installed.metadata().ok()?.len())?;
    if !sections.all.iter().any(is_compressed) {
        return None;
    }
    let copy = file::copy_parts(installed, &[WHOLE], copy).ok()?;
    Elf::disarm(&copy, room).ok()?;
    Some(copy)
}

#[cfg(test)]
#[path = "debug_tests.rs"]
mod tests;
