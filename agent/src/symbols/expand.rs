//! Compressed sections of debug information, unpacked at the end of our own copy of the file.
//!
//! Not left to blazesym: it takes the size in the file's header for granted and unpacks into memory
//! without a bound, and a megabyte can unpack to a thousand. Here a section yields what its header
//! says and no more, all of them together fit the room given and are no more to read than the file, and
//! the kernel can write the pages back.

use std::{
    fs::File,
    io::{self, BufWriter, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
};

use crate::process::{
    elf::{ElfError, SHF_COMPRESSED, SHT_NOBITS, Section, Sections},
    packed::Packed,
};

/// What names and lines are read from (DWARF 5, appendix B).
const READ: [&[u8]; 11] = [
    b".debug_abbrev",
    b".debug_addr",
    b".debug_aranges",
    b".debug_info",
    b".debug_line",
    b".debug_line_str",
    b".debug_ranges",
    b".debug_rnglists",
    b".debug_str",
    b".debug_str_offsets",
    b".debug_types",
];
/// What gimli asks for besides and nobody looks into: where variables are, macros, an index.
const OPENED: [&[u8]; 5] =
    [b".debug_loc", b".debug_loclists", b".debug_macinfo", b".debug_macro", b".debug_names"];

/// Whether there is anything to unpack.
pub(super) fn is_compressed(section: &Section) -> bool {
    is_packed(section) && READ.contains(&section.name.as_slice())
}

fn is_packed(section: &Section) -> bool {
    section.flags & SHF_COMPRESSED != 0 && section.kind != SHT_NOBITS
}

/// Unpacks the compressed sections of `copy`, which must be ours alone. All or none: debug
/// information without one of its parts is of no use. What cannot be unpacked stays as it is, and so does
/// what names are not read from; what is merely opened is empty.
pub(super) fn expand(copy: &File, sections: &Sections, room: u64) -> Result<(), ElfError> {
    for section in sections.all.iter().filter(|section| is_packed(section)) {
        if OPENED.contains(&section.name.as_slice()) {
            set(copy, section, section.offset, 0)?;
        }
    }
    let compressed = || sections.all.iter().filter(|section| is_compressed(section));
    let (mut packed, mut whole) = (0_u64, 0_u64);
    for section in compressed() {
        let Some(header) = Packed::of(copy, section) else { return Ok(()) };
        packed = packed.saturating_add(section.bytes);
        whole = whole.saturating_add(header.bytes);
    }
    // Thousands may share their bytes, and a gigabyte can unpack to nothing.
    if whole > room || packed > copy.metadata()?.len() {
        return Ok(());
    }
    for section in compressed() {
        let Some(header) = Packed::of(copy, section) else { return Ok(()) };
        let bytes = header.bytes;
        let at = copy.metadata()?.len().next_multiple_of(16);
        match unpack(copy, &header, at) {
            Ok(unpacked) if unpacked == bytes => {}
            // The parts done before do no harm: the reader fails on this one, as it did.
            _ => return Ok(copy.set_len(at)?),
        }
        set(copy, section, at, bytes)?;
    }
    Ok(())
}

/// Has the section's header say that it is there, plain.
fn set(copy: &File, section: &Section, at: u64, bytes: u64) -> Result<(), ElfError> {
    let flags = section.flags & !SHF_COMPRESSED;
    copy.write_all_at(&flags.to_le_bytes(), section.header_at + 8)?;
    copy.write_all_at(&at.to_le_bytes(), section.header_at + 24)?;
    copy.write_all_at(&bytes.to_le_bytes(), section.header_at + 32)?;
    Ok(())
}

/// Writes it at `at`, and says how many bytes that took.
fn unpack(copy: &File, packed: &Packed, at: u64) -> io::Result<u64> {
    let mut plain = packed.reader(copy)?;
    let mut end = copy;
    end.seek(SeekFrom::Start(at))?;
    let mut end = BufWriter::with_capacity(64 << 10, end);
    let unpacked = io::copy(&mut plain, &mut end)?;
    end.flush()?;
    Ok(unpacked)
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
