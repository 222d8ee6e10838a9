//! The separate file that holds a program's debug information: by build id, else by the name in its
//! `.gnu_debuglink`.
//!
//! The program's author chose both, so only places of this host are looked at that nobody
//! unprivileged can write to, and a file that is merely named must have the checksum that goes with
//! the name.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use flate2::Crc;

use super::{
    bytes::u32_at,
    elf::{self, Section},
    file::{self, MAX_FILE_BYTES},
};

/// Where distributions install separate debug files.
pub(crate) const DEBUG_DIRECTORY: &str = "/usr/lib/debug";
/// A name and what follows it; longer sections are no links.
const MAX_LINK: u64 = 512;

/// What `.gnu_debuglink` says about the file that holds the debug information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugLink {
    /// A name in a directory, never a path.
    pub name: OsString,
    /// CRC-32 of all of that file.
    pub crc: u32,
}

impl DebugLink {
    /// Reads the section: a file name, its NUL, padding to a word, and the checksum.
    pub fn read(file: &File, section: &Section) -> Option<Self> {
        let bytes = usize::try_from(section.bytes.min(MAX_LINK)).ok()?;
        let content = elf::read(file, section.offset, bytes).ok()?;
        let end = content.iter().position(|&byte| byte == 0)?;
        let name = content.get(..end)?;
        let crc = u32_at(&content, (end + 1).next_multiple_of(4))?;
        let is_plain = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/');
        is_plain.then(|| Self { name: OsString::from_vec(name.to_vec()), crc })
    }
}

/// The debug file of a program with this build id and link, which was read from `original`, mapped as
/// `binary`.
pub fn find(
    build_id: Option<&[u8]>,
    link: Option<&DebugLink>,
    original: &File,
    binary: &Path,
) -> Option<PathBuf> {
    let root = Path::new(DEBUG_DIRECTORY);
    by_build_id(root, build_id).or_else(|| by_link(root, link?, original, binary))
}

fn by_build_id(root: &Path, id: Option<&[u8]>) -> Option<PathBuf> {
    let (first, rest) = id?.split_first()?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = root.join(format!(".build-id/{first:02x}/{rest}.debug"));
    file::is_trusted(&path).then_some(path)
}

pub(crate) fn by_link(
    root: &Path,
    link: &DebugLink,
    original: &File,
    binary: &Path,
) -> Option<PathBuf> {
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

pub(crate) fn checksum(file: &File) -> io::Result<u32> {
    let (mut crc, mut buffer) = (Crc::new(), vec![0; 256 << 10]);
    let mut file = file.take(MAX_FILE_BYTES);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc.sum()),
            read => crc.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}
