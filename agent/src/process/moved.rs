//! Text that a program moved to memory without a file, at the address it was loaded to, to have huge pages
//! for it (BOLT's `-hugify`, ClickHouse, `node --use-largepages`). The map no longer says whose it is, but
//! the rest of the file is still mapped around it, and that says where its text belongs.
//!
//! A wrong guess would give names and rules of a file to other code, so
//! - only the files mapped next to it are asked, below and above;
//! - the file's program headers must put code at just this place;
//! - and bytes all over the place must be those of the file.

use std::{collections::HashMap, fs::File, ops::Range, os::unix::fs::FileExt as _};

use super::{
    elf::{Header, PT_LOAD, Segment},
    file,
    maps::{Address, Backing, FileOffset, Mapping},
    procfs,
};
use crate::model::id::Pid;

/// Pieces that are asked about when a map is read: compilers at run time make thousands that are no text.
const MAX_ASKED: usize = 32;
/// Mappings looked past for the next one of a file: text may be moved in pieces.
const MAX_PASSED: usize = 16;
/// Places in one file that are compared with a piece; program headers can name any number.
const MAX_PLACES: usize = 4;
/// Places of a piece that are compared, and how many bytes there.
const PROBES: u64 = 16;
const PROBE: usize = 64;
/// Fewer of them that say anything are not enough.
const MIN_PROBES: usize = 4;
const PAGE: u64 = 4096;

/// Whether a mapping may be moved text.
fn is_piece(mapping: &Mapping) -> bool {
    mapping.executable && mapping.end.0 >> 47 == 0 && mapping.backing == Backing::Anonymous
}

/// The mappings with their file given back to moved text; none where nothing was moved. What is written
/// into it since, such as a patched instruction, does not make it other text: one place in four may
/// differ. Reads the process's memory and files: it may wait for them.
pub(super) fn restored(pid: Pid, mappings: &[Mapping]) -> Option<Box<[Mapping]>> {
    if !mappings.iter().any(is_piece) {
        return None;
    }
    let mut all = mappings.to_vec();
    restore(pid, &mut all).then(|| all.into())
}

fn restore(pid: Pid, mappings: &mut [Mapping]) -> bool {
    let mut memory = None;
    let mut images: HashMap<Address, Option<Image>> = HashMap::new();
    let (mut asked, mut is_changed) = (0, false);
    for index in 0..mappings.len() {
        let Some(piece) = mappings.get(index).filter(|mapping| is_piece(mapping)) else { continue };
        asked += 1;
        if asked > MAX_ASKED {
            break;
        }
        let piece = piece.start.0..piece.end.0;
        let (below, above) = mappings.split_at(index);
        let is_file = |mapping: &&Mapping| matches!(mapping.backing, Backing::File { .. });
        let neighbours = [
            below.iter().rev().take(MAX_PASSED).find(is_file),
            above.iter().skip(1).take(MAX_PASSED).find(is_file),
        ];
        let found = neighbours.into_iter().flatten().find_map(|neighbour| {
            let open = || Image::open(pid, neighbour);
            let image = images.entry(neighbour.start).or_insert_with(open).as_ref()?;
            if memory.is_none() {
                memory = procfs::ask(pid, |folder| File::open(folder.join("mem"))).ok();
            }
            let memory = memory.as_ref()?;
            let mut places = image.places(neighbour, &piece).take(MAX_PLACES);
            let place = places.find(|place| place.holds(image, memory))?;
            Some((place.offset, neighbour.backing.clone(), neighbour.map_file()))
        });
        if let (Some((offset, backing, beside)), Some(mapping)) = (found, mappings.get_mut(index)) {
            mapping.offset = offset;
            mapping.backing = backing;
            mapping.beside = Some(beside);
            is_changed = true;
        }
    }
    is_changed
}

/// A file that is mapped next to a piece.
struct Image {
    file: File,
    segments: Vec<Segment>,
}

/// Where a piece would lie in a file, if it is of it.
struct Place {
    /// Position of its first byte.
    offset: FileOffset,
    /// The part of it that is text: address, position in the file, bytes.
    text: (u64, u64, u64),
}

impl Image {
    fn open(pid: Pid, mapping: &Mapping) -> Option<Self> {
        let Backing::File { id, path, .. } = &mapping.backing else { return None };
        let file = file::open_mapped(pid, mapping, *id, path).ok()?;
        let mut segments = Header::read(&file).ok()?.segments(&file).ok()?;
        segments.retain(|segment| segment.kind == PT_LOAD);
        Some(Self { file, segments })
    }

    /// The places that the program headers have for `piece` when `mapping` is of the file. A page of the
    /// file may be mapped for two segments, so there may be two.
    fn places(&self, mapping: &Mapping, piece: &Range<u64>) -> impl Iterator<Item = Place> {
        let bases = self.segments.iter().filter_map(|segment| {
            let first = segment.offset & !(PAGE - 1);
            let end = segment.offset.checked_add(segment.bytes)?;
            let inside = mapping.offset.0.checked_sub(first)?;
            let address = (segment.address & !(PAGE - 1)).checked_add(inside)?;
            (mapping.offset.0 < end).then(|| mapping.start.0.wrapping_sub(address))
        });
        bases.filter_map(|base| {
            let texts = self.segments.iter().filter_map(|segment| {
                let code = segment.code()?;
                let start = base.wrapping_add(code.start);
                let end = start.checked_add(segment.bytes)?.min(piece.end);
                let from = start.max(piece.start);
                let bytes = end.checked_sub(from).filter(|&bytes| bytes > 0)?;
                Some((bytes, start, segment.offset, from))
            });
            let (bytes, start, offset, from) = texts.max()?;
            // The piece may begin before the segment: whole huge pages are moved.
            let at = offset.checked_add(from - start)?;
            let first = at.checked_sub(from - piece.start)?;
            Some(Place { offset: FileOffset(first), text: (from, at, bytes) })
        })
    }
}

impl Place {
    /// Whether the memory of the process has the file's bytes there.
    fn holds(&self, image: &Image, memory: &File) -> bool {
        let (address, at, bytes) = self.text;
        let Some(last) = bytes.checked_sub(PROBE as u64) else { return false };
        let (mut probed, mut same) = (0, 0);
        for probe in 0..PROBES {
            let inside = (u128::from(last) * u128::from(probe) / u128::from(PROBES - 1)) as u64;
            let (mut expected, mut found) = ([0; PROBE], [0; PROBE]);
            if image.file.read_exact_at(&mut expected, at.saturating_add(inside)).is_err() {
                return false;
            }
            // Padding is the same everywhere.
            if expected.iter().all(|&byte| byte == expected[0]) {
                continue;
            }
            probed += 1;
            let read = memory.read_exact_at(&mut found, address.saturating_add(inside));
            same += usize::from(read.is_ok() && found == expected);
        }
        probed >= MIN_PROBES && same * 4 >= probed * 3
    }
}

#[cfg(test)]
#[path = "moved_tests.rs"]
mod tests;
