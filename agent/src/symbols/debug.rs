//! The separate file that holds a program's debug information: by build id, else by the name in its
//! `.gnu_debuglink`.
//!
//! The program's author chose both, so only places of this host are looked at that nobody
//! unprivileged can write to, and a file that is merely named must have the checksum that goes with
//! the name.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use flate2::Crc;

use super::{
    elf::{DebugLink, Elf},
    expand::is_compressed,
};
use crate::{
    process::{
        elf::Header,
        file::{self, MAX_FILE_BYTES},
    },
    profile::assemble::hex,
};

/// Where distributions install separate debug files.
const DEBUG_DIRECTORY: &str = "/usr/lib/debug";

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
        let root = Path::new(DEBUG_DIRECTORY);
        by_build_id(root, elf.build_id.as_deref())
            .or_else(|| by_link(root, elf.link.as_ref()?, original, binary))
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

fn by_build_id(root: &Path, id: Option<&[u8]>) -> Option<PathBuf> {
    let (first, rest) = id?.split_first()?;
    let path = root.join(format!(".build-id/{}/{}.debug", hex(&[*first]), hex(rest)));
    file::is_trusted(&path).then_some(path)
}

fn by_link(root: &Path, link: &DebugLink, original: &File, binary: &Path) -> Option<PathBuf> {
    let directory = binary.parent()?;
    let is_plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
    if !directory.is_absolute() || !directory.components().all(is_plain) {
        return None;
    }
    let below = root.join(directory.strip_prefix("/").ok()?).join(&link.name);
    // Beside the program only where it is the host's own: elsewhere names can be exchanged under us.
    let beside = [directory.join(".debug"), directory.to_owned()];
    let beside = beside.iter().filter(|directory| file::is_trusted_directory(directory));
    [below]
        .into_iter()
        .chain(beside.map(|directory| directory.join(&link.name)))
        .find(|path| file::is_trusted(path) && is_linked(path, link, original))
}

/// Whether `path` has the link's checksum, and is not the program itself.
fn is_linked(path: &Path, link: &DebugLink, original: &File) -> bool {
    let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let Ok(file) = File::open(path) else { return false };
    id(&file) != id(original) && checksum(&file).is_ok_and(|crc| crc == link.crc)
}

fn checksum(file: &File) -> io::Result<u32> {
    let (mut crc, mut buffer) = (Crc::new(), vec![0; 256 << 10]);
    let mut file = file.take(MAX_FILE_BYTES);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc.sum()),
            read => crc.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
#[path = "debug_tests.rs"]
mod tests;
