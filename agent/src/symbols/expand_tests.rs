//! Tests on sections that unpack to something else than they say.

use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};

use super::*;
use crate::process::{elf::read, file};

/// Ways to compress (elf.h).
const ZLIB: u32 = 1;
const ZSTD: u32 = 2;

const ZEROS: u64 = 64 << 20;

/// A file that is one section of [`ZEROS`], said to be of `kind` and `bytes`.
fn section(kind: u32, bytes: u64) -> (File, Sections) {
    let mut content = [u64::from(kind), bytes, 1].map(u64::to_le_bytes).concat();
    let zeros = vec![0; usize::try_from(ZEROS).unwrap()];
    if kind == ZSTD {
        content.extend(zstd::bulk::compress(&zeros, 1).unwrap());
    } else {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&zeros).unwrap();
        content.extend(encoder.finish().unwrap());
    }
    let mut copy = file::nameless().unwrap();
    copy.write_all(&[0; 64]).unwrap();
    copy.write_all(&content).unwrap();
    let section = Section {
        name: b".debug_info".to_vec(),
        header_at: 0,
        kind: 1,
        flags: SHF_COMPRESSED,
        address: 0,
        offset: 64,
        bytes: content.len() as u64,
    };
    (copy, Sections { all: vec![section], names: Vec::new() })
}

/// By how much it grows, and where its header then says that it is.
fn expanded(kind: u32, bytes: u64, room: u64) -> (u64, u64) {
    let (copy, sections) = section(kind, bytes);
    let before = copy.metadata().unwrap().len();
    expand(&copy, &sections, room).unwrap();
    let header = read(&copy, 0, 64).unwrap();
    let at = u64::from_le_bytes(*header[24..].first_chunk().unwrap());
    (copy.metadata().unwrap().len() - before, at)
}

#[test]
fn what_is_true_is_unpacked() {
    for kind in [ZLIB, ZSTD] {
        let (grown, at) = expanded(kind, ZEROS, ZEROS);
        assert!((ZEROS..ZEROS + 16).contains(&grown) && at > 64, "{grown} {at}");
    }
}

#[test]
fn what_is_a_lie_is_not() {
    for kind in [ZLIB, ZSTD] {
        for (bytes, room) in [
            // More in it than it says, and less.
            (1000, ZEROS),
            (ZEROS - 1, ZEROS),
            (ZEROS + 1, 2 * ZEROS),
            // No room for it.
            (ZEROS, ZEROS - 1),
            (u64::MAX, ZEROS),
        ] {
            let (grown, at) = expanded(kind, bytes, room);
            assert!(grown < 16 && at == 0, "{kind} {bytes} {room}: {grown} {at}");
        }
    }
    assert_eq!(expanded(3, ZEROS, ZEROS), (0, 0), "no kind that is known");
}

#[test]
fn sections_that_end_early_stay() {
    let (copy, mut sections) = section(ZLIB, ZEROS);
    let before = copy.metadata().unwrap().len();
    for bytes in [0, 10, 24, 25, 1000] {
        sections.all[0].bytes = bytes;
        expand(&copy, &sections, ZEROS).unwrap();
        assert_eq!(read(&copy, 0, 64).unwrap(), [0; 64], "{bytes}");
    }
    sections.all[0].offset = u64::MAX - 4;
    expand(&copy, &sections, ZEROS).unwrap();
    assert!(copy.metadata().unwrap().len() < before + 16);
}

#[test]
fn sections_that_share_their_bytes_stay() {
    let (copy, mut sections) = section(ZLIB, ZEROS);
    sections.all.push(sections.all[0].clone());
    expand(&copy, &sections, 4 * ZEROS).unwrap();
    assert_eq!(read(&copy, 0, 64).unwrap(), [0; 64]);
}

#[test]
fn what_names_are_not_read_from_is_not_unpacked() {
    for (name, is_emptied) in [
        (&b".debug_zzz"[..], false),
        (b".debug_gdb_scripts", false),
        (b".debug_loclists", true),
        (b".debug_macro", true),
    ] {
        let (copy, mut sections) = section(ZLIB, ZEROS);
        let before = copy.metadata().unwrap().len();
        sections.all[0].name = name.to_vec();
        expand(&copy, &sections, 2 * ZEROS).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), before);
        // Opened by who reads the others, so it must be what it says: nothing.
        let header = read(&copy, 0, 64).unwrap();
        assert_eq!(header[24..32] == 64_u64.to_le_bytes(), is_emptied);
        assert_eq!(header[32..40], [0; 8]);
    }
}
