//! The little of ELF that we read ourselves, before blazesym reads the rest.
//!
//! Two reasons: a position in a file becomes an address by the program headers, which a separate
//! debug file need not repeat; and sections that make a reader open *other* files by a name the
//! file's author chose are taken out of our copy (`.gnu_debuglink` and its relatives). A file whose
//! section names cannot be read in full is refused for that reason.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::PathBuf};

use thiserror::Error;

use crate::process::maps::FileOffset;

/// Section names that refer to other files.
const REFERENCES: [&[u8]; 4] =
    [b".gnu_debuglink", b".gnu_debugaltlink", b".debug_sup", b".note.gnu.debuglink"];
const BUILD_ID_SECTION: &[u8] = b".note.gnu.build-id";
/// Where distributions install separate debug files.
const DEBUG_DIRECTORY: &str = "/usr/lib/debug/.build-id";

/// Sizes of the ELF64 structures and the limits we read them within.
const HEADER: usize = 64;
const SECTION: usize = 64;
const SEGMENT: usize = 56;
const MAX_SECTIONS: usize = 65_535;
const MAX_NAMES: u64 = 4 << 20;
const MAX_NOTE: u64 = 4 << 10;
/// Loadable, executable.
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;

/// Why a file is not parsed further.
#[derive(Debug, Error)]
pub(super) enum ElfError {
    /// It ends early, or the disk failed.
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    /// No ELF, or of a class and byte order this host does not run.
    #[error("not a 64-bit little-endian ELF file")]
    Foreign,
    /// Numbers in its headers contradict each other.
    #[error("inconsistent headers")]
    Inconsistent,
}

/// An address as the file itself numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ImageAddress(pub(super) u64);

/// A segment of code.
#[derive(Debug)]
struct Code {
    offset: u64,
    bytes: u64,
    address: u64,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Elf {
    code: Vec<Code>,
    build_id: Option<Vec<u8>>,
}

impl Elf {
    /// Reads `copy`, which must be ours alone, and takes references to other files out of it.
    pub(super) fn disarm(copy: &File) -> Result<Self, ElfError> {
        let header = read(copy, 0, HEADER)?;
        // Magic, 64 bits, little-endian.
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return Err(ElfError::Foreign);
        }
        let code = read_code(copy, &header)?;
        let build_id = disarm_sections(copy, &header)?;
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

fn read_code(file: &File, header: &[u8]) -> Result<Vec<Code>, ElfError> {
    let at = u64_at(header, 32)?;
    let (size, count) = (u16_at(header, 54)?, u16_at(header, 56)?);
    if count == 0 {
        return Ok(Vec::new());
    }
    if usize::from(size) != SEGMENT {
        return Err(ElfError::Inconsistent);
    }
    let table = read(file, at, usize::from(count) * SEGMENT)?;
    let mut code = Vec::new();
    for segment in table.chunks_exact(SEGMENT) {
        if u32_at(segment, 0)? == PT_LOAD && u32_at(segment, 4)? & PF_X != 0 {
            code.push(Code {
                offset: u64_at(segment, 8)?,
                address: u64_at(segment, 16)?,
                bytes: u64_at(segment, 32)?,
            });
        }
    }
    Ok(code)
}

/// Renames every section that refers to another file to "", and returns the build id.
fn disarm_sections(file: &File, header: &[u8]) -> Result<Option<Vec<u8>>, ElfError> {
    let at = u64_at(header, 40)?;
    if at == 0 {
        return Ok(None);
    }
    if usize::from(u16_at(header, 58)?) != SECTION {
        return Err(ElfError::Inconsistent);
    }
    // Counts that do not fit the header are in the first section.
    let first = read(file, at, SECTION)?;
    let count = match u16_at(header, 60)? {
        0 => usize::try_from(u64_at(&first, 32)?).map_err(|_| ElfError::Inconsistent)?,
        count => usize::from(count),
    };
    let names_index = match u16_at(header, 62)? {
        0xffff => u32_at(&first, 40)? as usize,
        index => usize::from(index),
    };
    if count > MAX_SECTIONS || names_index >= count {
        return Err(ElfError::Inconsistent);
    }
    let table = read(file, at, count * SECTION)?;
    let names = table.get(names_index * SECTION..).ok_or(ElfError::Inconsistent)?;
    let names = contents(file, names, MAX_NAMES)?;
    let mut build_id = None;
    for (index, section) in table.chunks_exact(SECTION).enumerate() {
        let name = names.get(u32_at(section, 0)? as usize..).ok_or(ElfError::Inconsistent)?;
        let end = name.iter().position(|&byte| byte == 0).ok_or(ElfError::Inconsistent)?;
        let name = name.get(..end).ok_or(ElfError::Inconsistent)?;
        if REFERENCES.contains(&name) {
            let end = names.iter().position(|&byte| byte == 0).ok_or(ElfError::Inconsistent)?;
            let end = u32::try_from(end).map_err(|_| ElfError::Inconsistent)?;
            file.write_all_at(&end.to_le_bytes(), at + (index * SECTION) as u64)?;
        } else if name == BUILD_ID_SECTION {
            build_id = note(&contents(file, section, MAX_NOTE)?);
        }
    }
    Ok(build_id)
}

/// The bytes of a section.
fn contents(file: &File, section: &[u8], limit: u64) -> Result<Vec<u8>, ElfError> {
    let bytes = u64_at(section, 32)?;
    let bytes = usize::try_from(bytes.min(limit)).map_err(|_| ElfError::Inconsistent)?;
    read(file, u64_at(section, 24)?, bytes)
}

/// The description of the first note: name size, description size, type, name, description.
fn note(section: &[u8]) -> Option<Vec<u8>> {
    let name = u32_at(section, 0).ok()? as usize;
    let bytes = u32_at(section, 4).ok()? as usize;
    let start = 12 + name.checked_next_multiple_of(4)?;
    let id = section.get(start..start.checked_add(bytes)?)?;
    (8..=64).contains(&bytes).then(|| id.to_vec())
}

fn read(file: &File, at: u64, bytes: usize) -> Result<Vec<u8>, ElfError> {
    // Before memory is asked for: a header may claim anything.
    let end = at.checked_add(bytes as u64).ok_or(ElfError::Inconsistent)?;
    if end > file.metadata()?.len() {
        return Err(ElfError::Inconsistent);
    }
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, at)?;
    Ok(buffer)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ElfError> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ElfError> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ElfError> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ElfError> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(ElfError::Inconsistent)
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
