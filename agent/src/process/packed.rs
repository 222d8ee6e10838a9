//! Compressed sections of debug information. A section yields what its header says and no more; how much
//! that may be, the caller decides before it asks.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
};

use flate2::bufread::ZlibDecoder;

use super::{
    bytes::{u32_at, u64_at},
    elf::{SHF_COMPRESSED, SHT_NOBITS, Section, read},
};

/// The header of a compressed section: type, reserved, size, alignment (elf.h, `Elf64_Chdr`).
const HEADER: usize = 24;
const ZLIB: u32 = 1;
const ZSTD: u32 = 2;
/// The same before there was a standard: a name with a `z`, and `ZLIB` with the size, big-endian.
const OLD_NAME: &[u8] = b".zdebug_";
const OLD_HEADER: usize = 12;

/// A compressed section.
#[derive(Debug)]
pub struct Packed {
    is_zstd: bool,
    at: u64,
    left: u64,
    /// Bytes that come of it.
    pub bytes: u64,
}

// === impl Packed ===

impl Packed {
    /// What the section's header says; `None` when it is not compressed, or in a way nobody knows.
    pub fn of(file: &File, section: &Section) -> Option<Self> {
        if section.kind == SHT_NOBITS {
            return None;
        }
        let (header, is_zstd, bytes) = if section.flags & SHF_COMPRESSED != 0 {
            let header = read(file, section.offset, HEADER).ok()?;
            let (kind, bytes) = (u32_at(&header, 0)?, u64_at(&header, 8)?);
            (kind == ZLIB || kind == ZSTD).then_some((HEADER, kind == ZSTD, bytes))?
        } else if section.name.starts_with(OLD_NAME) {
            let header = read(file, section.offset, OLD_HEADER).ok()?;
            let bytes = u64::from_be_bytes(*header.strip_prefix(b"ZLIB")?.first_chunk()?);
            (OLD_HEADER, false, bytes)
        } else {
            return None;
        };
        let at = section.offset.checked_add(header as u64)?;
        Some(Self { is_zstd, at, left: section.bytes.checked_sub(header as u64)?, bytes })
    }

    /// Its content: at most one byte more than `bytes`, which shows that the header lies.
    pub fn reader<'a>(&self, file: &'a File) -> io::Result<impl Read + use<'a>> {
        let packed =
            BufReader::with_capacity(64 << 10, Part { file, at: self.at, left: self.left });
        let plain: Box<dyn Read + 'a> = if self.is_zstd {
            Box::new(zstd::Decoder::with_buffer(packed)?)
        } else {
            Box::new(ZlibDecoder::new(packed))
        };
        Ok(plain.take(self.bytes.saturating_add(1)))
    }

    /// All of it, if it is what the header says and no more than `most`.
    pub fn unpack(&self, file: &File, most: u64) -> Option<Vec<u8>> {
        if self.bytes > most {
            return None;
        }
        // Grows with what there is: the header may claim anything.
        let mut plain = Vec::new();
        self.reader(file).ok()?.read_to_end(&mut plain).ok()?;
        (plain.len() as u64 == self.bytes).then_some(plain)
    }
}

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
