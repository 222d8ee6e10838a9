//! What holds of unwind tables whatever bytes they are made of (see `crate::fuzz`).

use std::{fs::File, ops::Range};

use agent_ebpf::unwind::{Machine, Rule, table::CHUNK_WORDS};

use super::{
    cache,
    cfi::{self, Kind, Section},
    image::Source,
    table::{Builder, Table},
};

/// Where the section is in the image: in the middle, so that tables of real files, which tell
/// distances, speak of addresses near it.
const SECTION: u64 = 0x40_0000;

/// The first byte says which section, which machine, and where code is.
pub(crate) fn cfi(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let section = Section {
        bytes,
        address: SECTION,
        kind: if choice & 1 == 0 { Kind::EhFrame } else { Kind::DebugFrame },
        machine: if choice & 2 == 0 { Machine::X86_64 } else { Machine::Aarch64 },
    };
    // Not much code: a million empty buckets are no news, and slow.
    let code: &[Range<u64>] = match choice >> 2 & 3 {
        0 => &[0x1000..0x80_0000],
        1 => &[0..0x1000, u64::MAX - 0x80_0000..u64::MAX],
        2 => &[0x1000..0x3f_0000, 0x3f_8000..0x41_0000],
        _ => &[0x3f_0000..0x80_0000, 0x3e_0000..0x40_0000, 0x10..0x10],
    };
    let mut builder = Builder::default();
    let mut last: Option<(u64, Rule)> = None;
    let (mut rows, mut bad) = (0, 0);
    let summary = cfi::rows(&section, code, &mut |address, rule| {
        assert!(last.is_none_or(|last| last.0 < address && last.1 != rule));
        last = Some((address, rule));
        rows += 1;
        bad += u64::from(rule == Rule::BAD);
        builder.row(address, rule);
    });
    assert_eq!((summary.rows, summary.bad_rows), (rows, bad));
    // An entry has four bytes at least.
    let entries = bytes.len() as u64 / 4;
    assert!(rows <= bytes.len() as u64 && summary.entries + summary.refused <= entries);
    if let Some(table) = builder.finish() {
        check(&table);
    }
}

/// A file's own table.
pub(crate) fn image(file: &File, bytes: usize) {
    let Ok(source) = Source::read(file, None) else { return };
    // Two sections may share their bytes.
    assert!(source.len() <= 2 * bytes);
    source.content();
    if let Ok(made) = source.table()
        && let Some(table) = made.table
    {
        check(&table);
    }
}

/// A table on disk whose checksum holds.
pub(crate) fn cache(data: &[u8]) {
    if let Some(table) = cache::decode(data) {
        check(&table);
    }
    let whole = [&cache::MAGIC, data].concat();
    let whole = [&whole[..], &crc32c::crc32c(&whole).to_le_bytes()].concat();
    if let Some(table) = cache::decode(&whole) {
        check(&table);
        assert_eq!(cache::encode(&table), whole);
    }
}

/// That a table can be kept, and placed for the kernel wherever there is room.
fn check(table: &Table) {
    assert!(table.is_sound());
    let global: Vec<u16> = (0..table.rules.len() as u16).collect();
    // Just before the border of a chunk.
    let (words, _) = table.place(CHUNK_WORDS as u32 - 1, &global);
    assert!(words.len() <= table.words());
}
