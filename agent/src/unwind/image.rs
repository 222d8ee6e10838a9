//! A file's unwind table, from its bytes. The file is somebody else's: it is read by `pread` into
//! memory of ours, within bounds, and a panic in a parser costs this file its table only.

use std::{
    fs::File,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use agent_ebpf::unwind::{Machine, Rule};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{
    cfi::{self, Kind, Section, Summary},
    go,
    table::{Builder, MAX_WORDS, Table},
};
use crate::process::{
    debug_file::{self, DebugLink},
    elf::{
        self, ElfError, Header, PT_GNU_EH_FRAME, PT_LOAD, SHF_COMPRESSED, SHT_NOBITS, Sections,
        Segment,
    },
    gopclntab::GoTable,
    packed::Packed,
};

/// Bytes of tables read of one file (libxul has 14 MB).
const MAX_TABLES: u64 = 64 << 20;

/// Why a file has no table.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Its headers.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Another architecture's.
    #[error("of machine {0}, which is not unwound")]
    Machine(u16),
    /// More than is read of one file.
    #[error("{0} bytes of unwind tables are more than is read")]
    TooLarge(u64),
    /// Rows that cannot be placed.
    #[error("its unwind rows contradict each other or are too many")]
    Rows,
    /// A bug of ours, met by this file.
    #[error("the parser failed on it")]
    Panicked,
}

/// Bytes from which a table is made.
#[derive(Debug)]
pub struct Source {
    machine: Machine,
    code: Vec<Segment>,
    sections: Vec<Bytes>,
    /// Rules of Go's code, which has no section of its own for them.
    go: Vec<(u64, Rule)>,
    build_id: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Bytes {
    kind: Kind,
    address: u64,
    bytes: Vec<u8>,
}

/// What came of a file.
#[derive(Debug, Default)]
pub struct Made {
    /// None when it has no unwind tables at all.
    pub table: Option<Table>,
    /// Entries understood and refused.
    pub summary: Summary,
}

/// Which content a table was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content(pub [u8; 16]);

// === impl Source ===

impl Source {
    /// Reads what tables are made of. Some of it may be in a separate debug file, which is looked for if
    /// the file is mapped as `binary`.
    pub fn read(file: &File, binary: Option<&Path>) -> Result<Self, ImageError> {
        catch_unwind(|| Self::read_all(file, binary)).unwrap_or(Err(ImageError::Panicked))
    }

    fn read_all(file: &File, binary: Option<&Path>) -> Result<Self, ImageError> {
        let header = Header::read(file)?;
        let machine = match header.machine {
            62 => Machine::X86_64,
            183 => Machine::Aarch64,
            other => return Err(ImageError::Machine(other)),
        };
        let segments = header.segments(file)?;
        // A file may have lost its section table, or tell nonsense there: segments say enough.
        let sections = header.sections(file).unwrap_or_default();
        let mut code: Vec<Segment> =
            segments.iter().copied().filter(|segment| segment.code().is_some()).collect();
        code.sort_by_key(|segment| segment.address);
        let build_id = elf::build_id(file, &segments, &sections);
        let mut source = Self { machine, code, sections: Vec::new(), go: Vec::new(), build_id };
        let frame = sections.named(b".eh_frame").filter(|section| section.kind != SHT_NOBITS);
        let frame = frame
            .map(|section| (section.offset, section.address, section.bytes))
            .or_else(|| frame_by_segment(file, &segments));
        if let Some((offset, address, bytes)) = frame {
            source.add(file, Kind::EhFrame, offset, address, bytes)?;
        }
        if let Some(table) = GoTable::of(file, &sections) {
            source.go = go::rows(file, machine, &source.code, &table);
        }
        // Go's linker does not say there where frame pointers are, nor where stacks are switched.
        let is_unread_go = sections.named(b".go.buildinfo").is_some() && source.go.is_empty();
        if !is_unread_go && !source.add_debug(file, &sections)? {
            source.add_separate(file, &sections, binary);
        }
        Ok(source)
    }

    /// Reads `.debug_frame`, in whatever form; false when there is none.
    fn add_debug(&mut self, file: &File, sections: &Sections) -> Result<bool, ImageError> {
        let old = || sections.named(b".zdebug_frame");
        let section = sections.named(b".debug_frame").or_else(old);
        let Some(section) = section.filter(|section| section.kind != SHT_NOBITS) else {
            return Ok(false);
        };
        if section.flags & SHF_COMPRESSED == 0 && section.name == b".debug_frame" {
            self.add(file, Kind::DebugFrame, section.offset, 0, section.bytes)?;
            return Ok(true);
        }
        // What cannot be unpacked says nothing; `.eh_frame` may say enough.
        let packed = Packed::of(file, section);
        let bytes = packed.and_then(|packed| packed.unpack(file, MAX_TABLES - self.len() as u64));
        if let Some(bytes) = bytes {
            self.sections.push(Bytes { kind: Kind::DebugFrame, address: 0, bytes });
        }
        Ok(true)
    }

    /// Reads `.debug_frame` of the separate debug file, if one is installed.
    fn add_separate(&mut self, file: &File, sections: &Sections, binary: Option<&Path>) {
        let link = sections.named(b".gnu_debuglink");
        let link = link.and_then(|section| DebugLink::read(file, section));
        let debug = binary
            .and_then(|path| debug_file::find(self.build_id.as_deref(), link.as_ref(), file, path))
            .and_then(|path| File::open(path).ok());
        let Some(debug) = debug else { return };
        let sections = Header::read(&debug).and_then(|header| header.sections(&debug));
        // One that cannot be read is no reason to do without what the file itself says.
        let read = sections.map_err(ImageError::from);
        if let Err(error) = read.and_then(|sections| self.add_debug(&debug, &sections)) {
            tracing::debug!(%error, ?binary, "a separate debug file has no unwind rules");
        }
    }

    fn add(
        &mut self,
        file: &File,
        kind: Kind,
        offset: u64,
        address: u64,
        bytes: u64,
    ) -> Result<(), ImageError> {
        let held: u64 = self.sections.iter().map(|section| section.bytes.len() as u64).sum();
        if bytes > MAX_TABLES - held {
            return Err(ImageError::TooLarge(bytes));
        }
        let bytes = elf::read(file, offset, bytes as usize)?;
        self.sections.push(Bytes { kind, address, bytes });
        Ok(())
    }

    /// Tells contents apart: whoever has the same gets the same table. A hash, because a build id is
    /// what the file claims, and nobody may choose another file's rows.
    pub fn content(&self) -> Content {
        let mut hash = Sha256::new();
        hash.update([u8::from(self.machine == Machine::Aarch64)]);
        for segment in &self.code {
            for word in [segment.offset, segment.address, segment.bytes] {
                hash.update(word.to_le_bytes());
            }
        }
        hash.update(self.build_id.as_deref().unwrap_or_default());
        for section in &self.sections {
            hash.update(section.address.to_le_bytes());
            hash.update((section.bytes.len() as u64).to_le_bytes());
            hash.update(&section.bytes);
        }
        for (address, rule) in &self.go {
            hash.update(address.to_le_bytes());
            hash.update(rule.0.to_le_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut content = [0; 16];
        content.copy_from_slice(&digest[..16]);
        Content(content)
    }

    /// Bytes of unwind tables.
    pub fn len(&self) -> usize {
        self.sections.iter().map(|section| section.bytes.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.go.is_empty()
    }

    /// Makes the table.
    pub fn table(&self) -> Result<Made, ImageError> {
        catch_unwind(AssertUnwindSafe(|| self.make())).unwrap_or(Err(ImageError::Panicked))
    }

    fn make(&self) -> Result<Made, ImageError> {
        let code: Vec<Range<u64>> = self.code.iter().filter_map(Segment::code).collect();
        let mut made = Made::default();
        let mut all: Vec<(u64, Rule)> = Vec::new();
        let mut go = Some(&self.go);
        // `.eh_frame` is what runs; then what Go says of its code; `.debug_frame` says what these do
        // not, as of objects built without the first.
        for section in &self.sections {
            if section.kind == Kind::DebugFrame
                && let Some(go) = go.take()
            {
                all = merge(&all, go);
            }
            let described = Section {
                bytes: &section.bytes,
                address: section.address,
                kind: section.kind,
                machine: self.machine,
            };
            let mut rows = Vec::new();
            // More fit no table, and a section may say half as many as it has bytes.
            let room = MAX_WORDS.saturating_sub(all.len());
            let summary = cfi::rows(&described, &code, &mut |address, rule| {
                if rows.len() < room {
                    rows.push((address, rule));
                }
            });
            if summary.rows > room as u64 {
                return Err(ImageError::Rows);
            }
            made.summary.entries += summary.entries;
            made.summary.refused += summary.refused;
            made.summary.rows += summary.rows;
            made.summary.bad_rows += summary.bad_rows;
            made.summary.truncated |= summary.truncated;
            all = if all.is_empty() { rows } else { merge(&all, &rows) };
        }
        if let Some(go) = go {
            all = merge(&all, go);
        }
        let mut builder = Builder::default();
        let mut place = Place { code: &self.code, at: 0 };
        for (address, rule) in all {
            if let Some(position) = place.position(address) {
                builder.row(position, rule);
            }
        }
        if made.summary.entries > 0 || !self.go.is_empty() {
            made.table = Some(builder.finish().ok_or(ImageError::Rows)?);
        }
        Ok(made)
    }
}

/// Ascending rows of two tables as one: the second speaks where the first says nothing.
fn merge(first: &[(u64, Rule)], second: &[(u64, Rule)]) -> Vec<(u64, Rule)> {
    let mut merged: Vec<(u64, Rule)> = Vec::with_capacity(first.len() + second.len());
    let (mut a, mut b) = (0, 0);
    let (mut of_first, mut of_second) = (Rule::NONE, Rule::NONE);
    while a < first.len() || b < second.len() {
        let next = |rows: &[(u64, Rule)], at: usize| rows.get(at).map_or(u64::MAX, |row| row.0);
        let at = next(first, a).min(next(second, b));
        while a < first.len() && first[a].0 == at {
            of_first = first[a].1;
            a += 1;
        }
        while b < second.len() && second[b].0 == at {
            of_second = second[b].1;
            b += 1;
        }
        let rule = if of_first == Rule::NONE { of_second } else { of_first };
        if merged.last().is_none_or(|&(_, last)| last != rule) {
            merged.push((at, rule));
        }
    }
    merged
}

/// From addresses of the image, ascending, to positions in the file.
struct Place<'a> {
    code: &'a [Segment],
    at: usize,
}

impl Place<'_> {
    fn position(&mut self, address: u64) -> Option<u64> {
        // The end of a segment still ends a rule there.
        while let Some(segment) = self.code.get(self.at) {
            let inside = address.checked_sub(segment.address)?;
            let has_next = self.code.get(self.at + 1).is_some_and(|next| next.address <= address);
            if inside <= segment.bytes && !has_next {
                return segment.offset.checked_add(inside);
            }
            if !has_next {
                return None;
            }
            self.at += 1;
        }
        None
    }
}

/// `.eh_frame` of a file without sections: `.eh_frame_hdr` says where it begins (LSB core 10.6.2:
/// version, three encodings, the pointer), and it ends with its segment.
fn frame_by_segment(file: &File, segments: &[Segment]) -> Option<(u64, u64, u64)> {
    let header = segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME)?;
    let bytes = elf::read(file, header.offset, 8).ok()?;
    // DW_EH_PE_pcrel | DW_EH_PE_sdata4, which every linker writes.
    if bytes[0] != 1 || bytes[1] != 0x1b {
        return None;
    }
    let distance = i32::from_le_bytes(bytes[4..8].try_into().ok()?);
    let address = header.address.checked_add(4)?.checked_add_signed(distance.into())?;
    let load = segments.iter().find(|segment| {
        segment.kind == PT_LOAD
            && address.checked_sub(segment.address).is_some_and(|inside| inside < segment.bytes)
    })?;
    let inside = address - load.address;
    Some((load.offset.checked_add(inside)?, address, (load.bytes - inside).min(MAX_TABLES)))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
