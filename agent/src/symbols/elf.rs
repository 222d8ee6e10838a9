//! The little of ELF that symbols need themselves, before blazesym reads the rest.
//!
//! Two reasons: a position in a file becomes an address by the program headers, which a separate
//! debug file need not repeat; and sections that make a reader open *other* files by a name the
//! file's author chose are taken out of our copy (`.gnu_debuglink` and its relatives). A file whose
//! section names cannot be read in full is refused for that reason.

use std::{fs::File, os::unix::fs::FileExt as _, path::PathBuf};

use crate::process::{
    elf::{self, ElfError, Header, Segment},
    maps::FileOffset,
};

/// Section names that refer to other files.
const REFERENCES: [&[u8]; 4] =
    [b".gnu_debuglink", b".gnu_debugaltlink", b".debug_sup", b".note.gnu.debuglink"];
/// Where distributions install separate debug files.
const DEBUG_DIRECTORY: &str = "/usr/lib/debug/.build-id";

/// An address as the file itself numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ImageAddress(pub(super) u64);

/// What was read.
#[derive(Debug)]
pub(super) struct Elf {
    code: Vec<Segment>,
    build_id: Option<Vec<u8>>,
}

impl Elf {
    /// Reads `copy`, which must be ours alone, and takes references to other files out of it.
    pub(super) fn disarm(copy: &File) -> Result<Self, ElfError> {
        let header = Header::read(copy)?;
        let segments = header.segments(copy)?;
        let sections = header.sections(copy)?;
        let empty = sections.names.iter().position(|&byte| byte == 0);
        for section in &sections.all {
            if REFERENCES.contains(&section.name.as_slice()) {
                // Renamed to "".
                let empty = u32::try_from(empty.ok_or(ElfError::Inconsistent)?);
                let empty = empty.map_err(|_| ElfError::Inconsistent)?;
                copy.write_all_at(&empty.to_le_bytes(), section.header_at)?;
            }
        }
        let build_id = elf::build_id(copy, &segments, &sections);
        let code = segments.into_iter().filter(|segment| segment.code().is_some()).collect();
        Ok(Self { code, build_id })
    }

    /// Which address the code at `offset` has.
    pub(super) fn address(&self, offset: FileOffset) -> Option<ImageAddress> {
        self.code.iter().find_map(|code| {
            let inside = offset.0.checked_sub(code.offset).filter(|&inside| inside < code.bytes)?;
            code.address.checked_add(inside).map(ImageAddress)
        })
    }

    /// Where this host would keep a separate debug file of it.
    pub(super) fn debug_path(&self) -> Option<PathBuf> {
        let (first, rest) = self.build_id.as_ref()?.split_first()?;
        let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(PathBuf::from(format!("{DEBUG_DIRECTORY}/{first:02x}/{rest}.debug")))
    }
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
