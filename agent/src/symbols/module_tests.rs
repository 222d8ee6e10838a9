//! Tests of the bounds, and of files made to break parsers.

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
};

use super::*;
use crate::process::fixture::{Directory, NOBODY, map_of};
use crate::{
    process::{file, maps::Address},
    symbols::{fixture::*, image::Image, names::Names},
};

fn modules(bounds: Bounds) -> (Modules, Arc<AtomicTally>) {
    let counters = Arc::new(AtomicTally::default());
    (Modules::new(bounds, Arc::clone(&counters)), counters)
}

/// The name at a file offset of `path`, asked for as a dead process's.
fn name(modules: &mut Modules, path: &Path, offset: u64) -> Option<String> {
    let map = map_of(path);
    let mapping = map.lookup(Address(0x10000)).unwrap();
    let Backing::File { id, path, .. } = &mapping.backing else { panic!("{mapping:?}") };
    modules.begin_batch();
    let frames = modules.user(NOBODY, mapping, (*id, path), FileOffset(offset))?;
    frames.last().map(|frame| frame.name.to_string())
}

/// The program, and the file offset of its function `plain`.
fn program(directory: &Directory) -> (PathBuf, u64) {
    let program = directory.compile("fixture", "", &[]);
    let running = Running::start(&program);
    let map = running.map();
    let address = Address(running.plain.inside());
    let offset = map.lookup(address).unwrap().file_offset(address).unwrap().0;
    running.end();
    (program, offset)
}

#[test]
fn what_is_kept_stays_within_bounds() {
    let directory = Directory::new("bounds");
    let (program, plain) = program(&directory);
    let bounds = Bounds { modules: 4, images: 2, bytes: 1 << 20, names: 8, ..Bounds::default() };
    let (mut modules, counters) = modules(bounds);
    let copies: Vec<_> = (0..8).map(|n| directory.path(&format!("copy{n}"))).collect();
    for copy in &copies {
        fs::copy(&program, copy).unwrap();
    }
    for round in 0..3 {
        for copy in &copies {
            assert_eq!(name(&mut modules, copy, plain).as_deref(), Some("plain"), "round {round}");
            for offset in 0..6 {
                name(&mut modules, copy, plain + offset);
            }
            modules.begin_batch();
            let names: usize = modules.known.values().map(|module| module.names.len()).sum();
            assert!(modules.known.len() <= 4 && names <= 8);
            assert!(modules.lines.held().all(|(files, bytes)| files <= 2 && bytes <= 1 << 20));
        }
    }
    assert!(counters.get(DaemonCounter::SymbolFilesEvicted) > 0);
}

#[test]
fn one_file_alone_stays_within_the_bound_of_names() {
    let directory = Directory::new("names");
    let (program, plain) = program(&directory);
    let (mut modules, _) = modules(Bounds { names: 3, ..Bounds::default() });
    for offset in 0..8 {
        name(&mut modules, &program, plain.saturating_sub(4) + offset);
        modules.begin_batch();
        assert!(modules.known.values().map(|module| module.names.len()).sum::<usize>() <= 3);
    }
    assert_eq!(name(&mut modules, &program, plain).as_deref(), Some("plain"));
}

#[test]
fn copies_are_dropped_with_their_module() {
    let directory = Directory::new("drop");
    let (program, plain) = program(&directory);
    let (mut modules, _) = modules(Bounds::default());
    assert_eq!(name(&mut modules, &program, plain).as_deref(), Some("plain"));
    assert_eq!(modules.lines.held().map(|(files, _)| files).sum::<usize>(), 1);
    let id = *modules.known.keys().next().unwrap();
    modules.forget(id);
    assert_eq!(modules.lines.held().map(|(files, _)| files).sum::<usize>(), 0);
    assert_eq!(name(&mut modules, &program, plain).as_deref(), Some("plain"));
}

/// blazesym maps what it reads, so the kernel says whether it holds something.
#[test]
fn what_was_parsed_goes_when_it_is_not_needed_and_can_be_had_again() {
    let directory = Directory::new("rest");
    let (program, plain) = program(&directory);
    let copy = file::nameless().unwrap();
    let inode = copy.metadata().unwrap().ino();
    let mut image = Image::read(&fs::File::open(program).unwrap(), copy, 0).unwrap();
    let mut names = Names::new();
    let is_mapped = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| line.split_ascii_whitespace().nth(4) == Some(&inode.to_string()))
    };
    for _ in 0..2 {
        let frames = image.frames(&mut names, FileOffset(plain)).unwrap();
        assert_eq!(&*frames.last().unwrap().name, "plain");
        assert!(is_mapped());
        image.evict_idle(&mut names, Duration::ZERO);
        assert!(!is_mapped());
    }
}

#[test]
fn garbage_is_refused_without_harm() {
    let directory = Directory::new("garbage");
    let (mut modules, counters) = modules(Bounds::default());
    let contents: [&[u8]; 4] = [b"", b"\x7fELF", b"\x7fELF\x02\x01", &[0xff; 4096]];
    for (n, content) in contents.into_iter().enumerate() {
        let path = directory.path(&format!("garbage{n}"));
        fs::write(&path, content).unwrap();
        assert_eq!(name(&mut modules, &path, 16), None);
        assert_eq!(name(&mut modules, &path, 16), None);
    }
    assert_eq!(counters.get(DaemonCounter::SymbolFilesRefused), 4);
}

/// Real files with bytes changed, where it hurts most: every answer is fine, as long as there is
/// one and the next file is still read well.
#[test]
fn damaged_files_cost_only_themselves() {
    let directory = Directory::new("damaged");
    let (program, plain) = program(&directory);
    let good = fs::read(&program).unwrap();
    let (mut modules, _) = modules(Bounds { images: 2, ..Bounds::default() });
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    for round in 0..150 {
        let path = directory.path(&format!("damaged{round}"));
        fs::write(&path, &good).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for _ in 0..1 + next(40) {
            // Headers first, the rest (symbols, debug information, section table) after them.
            let below = if next(4) == 0 { 64 + 13 * 56 } else { good.len() };
            let at = next(below).max(6);
            file.write_all_at(&[u8::try_from(next(256)).unwrap()], at as u64).unwrap();
        }
        for offset in 0..4 {
            name(&mut modules, &path, plain + offset);
        }
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(name(&mut modules, &program, plain).as_deref(), Some("plain"));
}
