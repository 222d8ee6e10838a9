//! The little of ELF that symbols need themselves, before blazesym reads the rest.
//!
//! Two reasons: a position in a file becomes an address by the program headers, which a separate
//! debug file need not repeat; and sections that make a reader open *other* files by a name the
//! file's author chose are taken out of our copy (`.gnu_debuglink` and its relatives). A file whose
//! section names cannot be read in full is refused for that reason.

use std::{fs::File, ops::Range, os::unix::fs::FileExt as _};

use super::{
    expand::expand,
    plt::{Plt, is_stubs},
};
use crate::process::{
    debug_file::DebugLink,
    elf::{self, ElfError, Header, SHF_EXECINSTR, SHT_NOBITS, Section, Segment},
    file::{self, FileError, WHOLE},
    gopclntab::GoTable,
    maps::FileOffset,
};

/// Section names that refer to other files.
const REFERENCES: [&[u8]; 4] =
    [b".gnu_debuglink", b".gnu_debugaltlink", b".debug_sup", b".note.gnu.debuglink"];
/// Data that are large and tell no names.
const UNNEEDED: [&[u8]; 4] = [b".rodata", b".eh_frame", b".gcc_except_table", b".llvmbc"];

/// An address as the file itself numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ImageAddress(pub(super) u64);

/// What was read.
#[derive(Debug)]
pub(super) struct Elf {
    code: Vec<Segment>,
    /// Those of code, but not of stubs.
    pub(super) sections: Vec<Range<u64>>,
    /// What a Go program says of itself.
    pub(super) go: Option<GoTable>,
    /// How it calls libraries.
    pub(super) plt: Option<Plt>,
}

impl Elf {
    /// A copy of `original` in `room`, an empty file of ours, without what names need not: its code and
    /// data. A file without a table of sections does not tell what is what, and is copied whole.
    pub(super) fn copy_to(room: File, original: &File) -> Result<File, FileError> {
        let parts = parts(original);
        file::copy_parts(original, parts.as_deref().unwrap_or(&[WHOLE]), room)
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn copy(original: &File) -> Result<File, FileError> {
        Self::copy_to(file::nameless().map_err(FileError::Copy)?, original)
    }

    /// Reads `copy`, which must be ours alone, takes references to other files out of it, and
    /// unpacks its compressed sections if they come to no more than `room` bytes.
    pub(super) fn disarm(copy: &File, room: u64) -> Result<Self, ElfError> {
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
        let go = GoTable::of(copy, &sections);
        let plt = Plt::of(header.machine, &sections);
        expand(copy, &sections, room)?;
        let code = segments.into_iter().filter(|segment| segment.code().is_some()).collect();
        let is_code = |section: &&Section| !is_stubs(section);
        let sections = sections.all.iter().filter(is_code).filter_map(Section::code).collect();
        Ok(Self { code, sections, go, plt })
    }

    /// Which address the code at `offset` has.
    pub(super) fn address(&self, offset: FileOffset) -> Option<ImageAddress> {
        self.code.iter().find_map(|code| {
            let inside = offset.0.checked_sub(code.offset).filter(|&inside| inside < code.bytes)?;
            code.address.checked_add(inside).map(ImageAddress)
        })
    }
}

/// Which build a file says it is, and which file has its debug information. A stripped file may have no
/// sections, or none that can be read.
pub(super) fn identity(file: &File) -> (Option<Vec<u8>>, Option<DebugLink>) {
    let Ok(header) = Header::read(file) else { return (None, None) };
    let segments = header.segments(file).unwrap_or_default();
    let sections = header.sections(file).unwrap_or_default();
    let link = sections.named(b".gnu_debuglink");
    let link = link.and_then(|section| DebugLink::read(file, section));
    (elf::build_id(file, &segments, &sections), link)
}

/// Where the parts are that a reader of names asks for; `None` when no table of sections says.
fn parts(file: &File) -> Option<Vec<Range<u64>>> {
    let header = Header::read(file).ok()?;
    let sections = header.sections(file).ok()?.all;
    if sections.is_empty() {
        return None;
    }
    let part = |at: u64, bytes: u64| at..at.saturating_add(bytes);
    let is_needed = |section: &&Section| {
        section.kind != SHT_NOBITS
            && (section.flags & SHF_EXECINSTR == 0 || is_stubs(section))
            && !UNNEEDED.contains(&section.name.as_slice())
    };
    let mut parts = vec![part(0, elf::HEADER as u64), header.segments_at().ok()?];
    parts.extend(sections.iter().map(|section| part(section.header_at, elf::SECTION as u64)));
    let needed = sections.iter().filter(is_needed);
    parts.extend(needed.map(|section| part(section.offset, section.bytes)));
    Some(parts)
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
