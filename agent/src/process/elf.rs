//! ELF headers of other people's files: segments, sections, build id. Everything in them may be a lie,
//! so each number is checked against the file before memory is asked for, and counts are capped.
//!
//! Not left to the crate `object`: over a file that is not mapped (design 7) it reads through its
//! `ReadCache`, which allocates what a header claims up to the size of the file, 1 GiB here, and keeps
//! all of it for as long as anything borrows from it. The caps on sections and on their names would have
//! to stand here as they do now, in front of its calls.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use thiserror::Error;

use super::bytes;

/// Bytes of the file's header (elf.h), as of the ELF64 structures below.
pub const HEADER: usize = 64;
/// Bytes of a section's header.
pub const SECTION: usize = 64;
const SEGMENT: usize = 56;
/// Limits we read within.
const MAX_SECTIONS: usize = 65_535;
const MAX_SEGMENTS: usize = 1024;
const MAX_NAMES: u64 = 4 << 20;
/// Bytes kept of one section's name: all may be the same long one. Names that mean something are shorter.
const MAX_NAME: usize = 255;
const MAX_NOTE: u64 = 64 << 10;

/// Segment types and flags.
pub const PT_LOAD: u32 = 1;
/// Notes.
pub const PT_NOTE: u32 = 4;
/// Where `.eh_frame_hdr` is loaded.
pub const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
/// Executable.
pub const PF_X: u32 = 1;
/// A section of code.
pub const SHF_EXECINSTR: u64 = 1 << 2;
/// A section without bytes in the file.
pub const SHT_NOBITS: u32 = 8;
/// A section whose bytes are compressed.
pub const SHF_COMPRESSED: u64 = 1 << 11;

/// Why a file is not parsed further.
#[derive(Debug, Error)]
pub enum ElfError {
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

/// The file header.
#[derive(Clone, Debug)]
pub struct Header {
    /// `e_machine`: 62 is x86-64, 183 AArch64.
    pub machine: u16,
    bytes: Vec<u8>,
}

/// What is loaded where.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// `PT_*`
    pub kind: u32,
    /// `PF_*`
    pub flags: u32,
    /// In the file.
    pub offset: u64,
    /// In the image.
    pub address: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

/// A section.
#[derive(Clone, Debug)]
pub struct Section {
    /// Without the closing zero, and cut when it is longer than any that means something.
    pub name: Vec<u8>,
    /// Where its header is in the file.
    pub header_at: u64,
    /// `SHT_*`
    pub kind: u32,
    /// `SHF_*`
    pub flags: u64,
    /// In the image, 0 when not loaded.
    pub address: u64,
    /// In the file.
    pub offset: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

/// All sections with the table of their names.
#[derive(Clone, Debug, Default)]
pub struct Sections {
    /// In order of the file.
    pub all: Vec<Section>,
    /// The table of names.
    pub names: Vec<u8>,
}

// === impl Header ===

impl Header {
    /// Reads it.
    pub fn read(file: &File) -> Result<Self, ElfError> {
        let bytes = read(file, 0, HEADER)?;
        // Magic, 64 bits, little-endian.
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return Err(ElfError::Foreign);
        }
        Ok(Self { machine: u16_at(&bytes, 18)?, bytes })
    }

    /// Where the program headers are in the file.
    pub fn segments_at(&self) -> Result<Range<u64>, ElfError> {
        let start = u64_at(&self.bytes, 32)?;
        let bytes = u64::from(u16_at(&self.bytes, 56)?) * SEGMENT as u64;
        Ok(start..start.saturating_add(bytes))
    }

    /// The program headers.
    pub fn segments(&self, file: &File) -> Result<Vec<Segment>, ElfError> {
        let at = u64_at(&self.bytes, 32)?;
        let (size, count) = (u16_at(&self.bytes, 54)?, u16_at(&self.bytes, 56)?);
        if count == 0 {
            return Ok(Vec::new());
        }
        if usize::from(size) != SEGMENT || usize::from(count) > MAX_SEGMENTS {
            return Err(ElfError::Inconsistent);
        }
        let table = read(file, at, usize::from(count) * SEGMENT)?;
        let segment = |bytes: &[u8]| {
            Ok(Segment {
                kind: u32_at(bytes, 0)?,
                flags: u32_at(bytes, 4)?,
                offset: u64_at(bytes, 8)?,
                address: u64_at(bytes, 16)?,
                bytes: u64_at(bytes, 32)?,
            })
        };
        table.chunks_exact(SEGMENT).map(segment).collect()
    }

    /// The section headers; none when the file has no table of them.
    pub fn sections(&self, file: &File) -> Result<Sections, ElfError> {
        let at = u64_at(&self.bytes, 40)?;
        if at == 0 {
            return Ok(Sections::default());
        }
        if usize::from(u16_at(&self.bytes, 58)?) != SECTION {
            return Err(ElfError::Inconsistent);
        }
        // Counts that do not fit the header are in the first section.
        let first = read(file, at, SECTION)?;
        let count = match u16_at(&self.bytes, 60)? {
            0 => usize::try_from(u64_at(&first, 32)?).map_err(|_| ElfError::Inconsistent)?,
            count => usize::from(count),
        };
        let names_index = match u16_at(&self.bytes, 62)? {
            0xffff => u32_at(&first, 40)? as usize,
            index => usize::from(index),
        };
        if count > MAX_SECTIONS || names_index >= count {
            return Err(ElfError::Inconsistent);
        }
        let table = read(file, at, count * SECTION)?;
        let names = table.get(names_index * SECTION..).ok_or(ElfError::Inconsistent)?;
        let bytes = usize::try_from(u64_at(names, 32)?.min(MAX_NAMES));
        let bytes = bytes.map_err(|_| ElfError::Inconsistent)?;
        let names = read(file, u64_at(names, 24)?, bytes)?;
        let last_end = names.iter().rposition(|&byte| byte == 0).ok_or(ElfError::Inconsistent)?;
        let section = |(index, bytes): (usize, &[u8])| {
            let name_at = u32_at(bytes, 0)?;
            let name = names.get(name_at as usize..=last_end).ok_or(ElfError::Inconsistent)?;
            let name = name.get(..MAX_NAME).unwrap_or(name);
            Ok(Section {
                name: name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec(),
                header_at: at + (index * SECTION) as u64,
                kind: u32_at(bytes, 4)?,
                flags: u64_at(bytes, 8)?,
                address: u64_at(bytes, 16)?,
                offset: u64_at(bytes, 24)?,
                bytes: u64_at(bytes, 32)?,
            })
        };
        let all = table.chunks_exact(SECTION).enumerate().map(section);
        Ok(Sections { all: all.collect::<Result<_, ElfError>>()?, names })
    }
}

// === impl Segment ===

impl Segment {
    /// The image addresses of what the file holds of it, if it is code.
    pub fn code(&self) -> Option<Range<u64>> {
        let is_code = self.kind == PT_LOAD && self.flags & PF_X != 0;
        let end = self.address.checked_add(self.bytes)?;
        is_code.then_some(self.address..end)
    }
}

// === impl Section ===

impl Section {
    /// The image addresses of what the file holds of it, if it is code.
    pub fn code(&self) -> Option<Range<u64>> {
        let is_code = self.flags & SHF_EXECINSTR != 0 && self.kind != SHT_NOBITS;
        let end = self.address.checked_add(self.bytes)?;
        is_code.then_some(self.address..end)
    }

    /// Bytes of each of its entries, if it says.
    pub fn entry_bytes(&self, file: &File) -> Option<u64> {
        let bytes = read(file, self.header_at.checked_add(56)?, 8).ok()?;
        u64_at(&bytes, 0).ok().filter(|&bytes| bytes > 0)
    }
}

// === impl Sections ===

impl Sections {
    /// The first section of a name.
    pub fn named(&self, name: &[u8]) -> Option<&Section> {
        self.all.iter().find(|section| section.name == name)
    }
}

/// The build id that a file's notes hold: from the segment of notes, which a stripped file keeps, else
/// the section. GNU's, else Go's.
pub fn build_id(file: &File, segments: &[Segment], sections: &Sections) -> Option<Vec<u8>> {
    let in_segments = segments
        .iter()
        .filter(|segment| segment.kind == PT_NOTE)
        .map(|segment| (segment.offset, segment.bytes));
    let named = [&b".note.gnu.build-id"[..], b".note.go.buildid"];
    let in_sections = named
        .iter()
        .filter_map(|name| sections.named(name))
        .map(|section| (section.offset, section.bytes));
    let notes: Vec<Vec<u8>> = in_segments
        .chain(in_sections)
        .filter_map(|(at, bytes)| read(file, at, usize::try_from(bytes.min(MAX_NOTE)).ok()?).ok())
        .collect();
    let find = |name: &[u8], kind| notes.iter().find_map(|notes| note(notes, name, kind));
    // NT_GNU_BUILD_ID; Go's linker has its own (cmd/internal/buildid).
    find(b"GNU\0", 3).or_else(|| find(b"Go\0\0", 4))
}

/// The description of a note: name size, description size, type, name, description, all in fours.
fn note(mut notes: &[u8], name: &[u8], kind: u32) -> Option<Vec<u8>> {
    loop {
        let name_bytes = u32_at(notes, 0).ok()? as usize;
        let bytes = u32_at(notes, 4).ok()? as usize;
        let found = u32_at(notes, 8).ok()?;
        let start = 12_usize.checked_add(name_bytes.checked_next_multiple_of(4)?)?;
        let id = notes.get(start..start.checked_add(bytes)?)?;
        if found == kind && notes.get(12..12 + name_bytes)? == name {
            return (8..=128).contains(&bytes).then(|| id.to_vec());
        }
        notes = notes.get(start.checked_add(bytes.checked_next_multiple_of(4)?)?..)?;
    }
}

/// Exactly these bytes of the file.
pub fn read(file: &File, at: u64, bytes: usize) -> Result<Vec<u8>, ElfError> {
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
    bytes::u16_at(bytes, at).ok_or(ElfError::Inconsistent)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ElfError> {
    bytes::u32_at(bytes, at).ok_or(ElfError::Inconsistent)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ElfError> {
    bytes::u64_at(bytes, at).ok_or(ElfError::Inconsistent)
}
