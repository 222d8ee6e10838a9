//! What holds of symbols whatever bytes they come from (see `crate::fuzz`).

use std::{fs::File, io::Write as _};

use super::{
    code_map::{CodeMap, MAX_BYTES},
    elf::{Elf, ImageAddress},
    jitdump::JitDump,
    perf_map::PerfMap,
};
use crate::process::{
    elf::{Header, Section, Sections},
    file::in_memory_with,
    gopclntab::GoTable,
    maps::FileOffset,
};

/// Bytes that compressed sections may unpack to.
const ROOM: u64 = 4 << 20;

/// The file is read when a part of it is written, and when all of it is.
fn twice(data: &[u8], update: impl FnOnce(&File, &mut dyn FnMut())) {
    let Some((&first, content)) = data.split_first() else { return };
    let (first, rest) = content.split_at(content.len() * usize::from(first) / 255);
    let Ok(written) = in_memory_with(first) else { return };
    let Ok(read) = written.try_clone() else { return };
    let mut written = written;
    update(&read, &mut || {
        // To memory: it does not fail.
        let _ = written.write_all(rest);
    });
}

/// That it is bounded and can be asked.
fn check(code: &CodeMap) {
    assert!(code.bytes() <= MAX_BYTES);
    for address in [0, 0x1000, 0x2000, u64::MAX] {
        code.at(address);
    }
}

pub(crate) fn perf_map(data: &[u8]) {
    twice(data, |file, write| {
        let Ok(file) = file.try_clone() else { return };
        let (mut map, mut code) = (PerfMap::new(file), CodeMap::default());
        for _ in 0..2 {
            // Reading memory does not fail, and no more than this is asked.
            assert!(map.update(&mut code).is_ok());
            check(&code);
            write();
        }
    });
}

pub(crate) fn jitdump(data: &[u8]) {
    twice(data, |file, write| {
        let Ok(file) = file.try_clone() else { return };
        let (mut dump, mut code) = (JitDump::new(file), CodeMap::default());
        for _ in 0..2 {
            assert!(dump.update(&mut code).is_ok());
            check(&code);
            write();
        }
    });
}

/// A table, and the questions of the first bytes. Behind the table come the sections that complete it.
pub(crate) fn gopclntab(data: &[u8]) {
    let Some((&[low, high, cut], content)) = data.split_first_chunk() else { return };
    let Ok(copy) = in_memory_with(content) else { return };
    let bytes = content.len() as u64;
    let cut = bytes * u64::from(cut) / 255;
    let section = |name: &[u8], offset: u64, bytes: u64| Section {
        name: name.to_vec(),
        header_at: 0,
        kind: 1,
        flags: 0,
        address: 0x1000 + offset,
        offset,
        bytes,
    };
    let all = vec![
        section(b".gopclntab", 0, bytes),
        section(b".go.module", cut, bytes - cut),
        section(b".rela.dyn", cut, bytes - cut),
    ];
    let sections = Sections { all, names: Vec::new() };
    let Some(table) = GoTable::of(&copy, &sections) else { return };
    let near = u64::from(u16::from_le_bytes([low, high]));
    for address in [0, near, 0x1000 + near, 0x40_1000 + near, near << 32, u64::MAX] {
        table.frame(&copy, ImageAddress(address));
    }
}

/// A whole program.
pub(crate) fn debug(data: &[u8]) {
    let Some(copy) = in_memory_with(data).ok().and_then(|file| Elf::copy(&file).ok()) else {
        return;
    };
    assert_eq!(copy.metadata().map_or(0, |meta| meta.len()), data.len() as u64);
    let Ok(elf) = Elf::disarm(&copy, ROOM) else { return };
    let bytes = copy.metadata().map_or(0, |meta| meta.len());
    // Up to 16 bytes of each section align it.
    assert!(bytes <= data.len() as u64 + ROOM + (1 << 20), "{bytes} of {}", data.len());
    for offset in [0, 0x1000, u64::MAX] {
        if let (Some(address), Some(go)) = (elf.address(FileOffset(offset)), &elf.go) {
            go.frame(&copy, address);
        }
    }
    if let Some(plt) = &elf.plt {
        // Twice: the stubs are read with the first.
        for address in [0x1020, 0x1030] {
            plt.callee(&copy, ImageAddress(address));
        }
    }
    // What opens other files is gone from the copy.
    let again = Header::read(&copy).and_then(|header| header.sections(&copy));
    let link = again.ok().and_then(|sections| sections.named(b".gnu_debuglink").cloned());
    assert!(link.is_none());
}
