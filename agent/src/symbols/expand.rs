//! Compressed sections of debug information, unpacked at the end of our own copy of the file.
//!
//! Not left to blazesym: it takes the size in the file's header for granted and unpacks into memory
//! without a bound, and a megabyte can unpack to a thousand. Here a section yields what its header
//! says and no more, all of them together fit the room given and are no more to read than the file, and
//! the kernel can write the pages back.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
};

use flate2::bufread::ZlibDecoder;

use crate::process::elf::{ElfError, SHF_COMPRESSED, SHT_NOBITS, Section, Sections, read};

/// The header of a compressed section: type, reserved, size, alignment (elf.h, `Elf64_Chdr`).
const HEADER: usize = 24;
const ZLIB: u32 = 1;
const ZSTD: u32 = 2;

/// Bytes of a file from a position on.
struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Whether there is anything to unpack.
pub(super) fn is_compressed(section: &Section) -> bool {
    section.flags & SHF_COMPRESSED != 0
        && section.kind != SHT_NOBITS
        && section.name.starts_with(b".debug_")
}

/// Unpacks the compressed sections of `copy`, which must be ours alone. All or none: debug
/// information without one of its parts is of no use. What cannot be unpacked stays as it is.
pub(super) fn expand(copy: &File, sections: &Sections, room: u64) -> Result<(), ElfError> {
    let compressed = || sections.all.iter().filter(|section| is_compressed(section));
    let (mut packed, mut whole) = (0_u64, 0_u64);
    for section in compressed() {
        let Some((_, bytes)) = header(copy, section) else { return Ok(()) };
        packed = packed.saturating_add(section.bytes);
        whole = whole.saturating_add(bytes);
    }
    // Thousands may share their bytes, and a gigabyte can unpack to nothing.
    if whole > room || packed > copy.metadata()?.len() {
        return Ok(());
    }
    for section in compressed() {
        let Some((kind, bytes)) = header(copy, section) else { return Ok(()) };
        let at = copy.metadata()?.len().next_multiple_of(16);
        match unpack(copy, section, kind, bytes, at) {
            Ok(unpacked) if unpacked == bytes => {}
            // The parts done before do no harm: the reader fails on this one, as it did.
            _ => return Ok(copy.set_len(at)?),
        }
        let flags = section.flags & !SHF_COMPRESSED;
        copy.write_all_at(&flags.to_le_bytes(), section.header_at + 8)?;
        copy.write_all_at(&at.to_le_bytes(), section.header_at + 24)?;
        copy.write_all_at(&bytes.to_le_bytes(), section.header_at + 32)?;
    }
    Ok(())
}

/// How it is compressed, and its unpacked size.
fn header(file: &File, section: &Section) -> Option<(u32, u64)> {
    let header = read(file, section.offset, HEADER).ok()?;
    let kind = u32::from_le_bytes(*header.first_chunk()?);
    let bytes = u64::from_le_bytes(*header.get(8..)?.first_chunk()?);
    (kind == ZLIB || kind == ZSTD).then_some((kind, bytes))
}

/// Writes at most one byte more than `bytes` at `at`, and says how many.
fn unpack(copy: &File, section: &Section, kind: u32, bytes: u64, at: u64) -> io::Result<u64> {
    let left = section.bytes.saturating_sub(HEADER as u64);
    let part = Part { file: copy, at: section.offset.saturating_add(HEADER as u64), left };
    let packed = BufReader::with_capacity(64 << 10, part);
    let mut plain: Box<dyn Read + '_> = match kind {
        ZSTD => Box::new(zstd::Decoder::with_buffer(packed)?),
        _ => Box::new(ZlibDecoder::new(packed)),
    };
    let mut end = copy;
    end.seek(SeekFrom::Start(at))?;
    let mut end = BufWriter::with_capacity(64 << 10, end);
    let unpacked = io::copy(&mut plain.by_ref().take(bytes.saturating_add(1)), &mut end)?;
    end.flush()?;
    Ok(unpacked)
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
