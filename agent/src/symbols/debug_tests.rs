//! Tests of the places a debug file is looked for, and of what is refused there.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::Command,
};

use super::*;
use crate::process::fixture::Directory;
use crate::{
    process::{
        debug_file::{DEBUG_DIRECTORY, DebugLink, by_link, checksum},
        file::MAX_FILE_BYTES,
    },
    symbols::{Symbols, elf::identity, fixture::*},
};

/// A program without debug information that names the file which has it, and that file.
fn split(directory: &Directory, more: &[&str]) -> (PathBuf, PathBuf) {
    let (program, debug) = (directory.compile("fixture", "", &[]), directory.path("split.debug"));
    let objcopy = |options: &[&str]| {
        let status = Command::new("objcopy").args(options).status();
        assert!(status.expect("this test needs objcopy: apt-get install binutils").success());
    };
    let (from, to) = (program.to_str().unwrap(), debug.to_str().unwrap());
    objcopy(&[&["--only-keep-debug", from, to], more].concat());
    objcopy(&["--strip-all", &format!("--add-gnu-debuglink={to}"), from]);
    (program, debug)
}

fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        println!("skipped: files of root cannot be made");
    }
    is_root
}

#[test]
fn a_linked_file_is_used_if_it_is_the_hosts_and_the_right_one() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("bylink");
    let (program, debug) = split(&directory, &[]);
    let original = File::open(&program).unwrap();
    let link = identity(&original).1.unwrap();
    let root = directory.path("root");
    let place = root.join(program.parent().unwrap().strip_prefix("/").unwrap());
    fs::create_dir_all(&place).unwrap();
    let installed = place.join("split.debug");
    let find = |link: &DebugLink| by_link(&root, link, &original, &program);
    assert_eq!(find(&link), None, "the one beside the program is in a directory of everyone's");
    fs::copy(&debug, &installed).unwrap();
    assert_eq!(find(&link), Some(installed.clone()));
    assert_eq!(find(&DebugLink { crc: link.crc ^ 1, ..link.clone() }), None);
    Command::new("chmod").arg("o+w").arg(&installed).status().unwrap();
    assert_eq!(find(&link), None, "anybody can write to it");
    fs::remove_file(&installed).unwrap();
    symlink(&debug, &installed).unwrap();
    assert_eq!(find(&link), None, "leads elsewhere");
    // The program itself, under the name and with the checksum that it says.
    fs::remove_file(&installed).unwrap();
    fs::hard_link(&program, &installed).unwrap();
    let crc = checksum(&original).unwrap();
    assert_eq!(find(&DebugLink { crc, ..link }), None);
}

#[test]
fn directories_that_others_can_change_are_not_trusted() {
    assert!(!file::is_trusted_directory(&std::env::temp_dir()));
    assert!(!file::is_trusted_directory(Path::new("usr")));
    assert!(!file::is_trusted_directory(Path::new("/proc/self/root/usr")), "by a link");
    assert!(file::is_trusted_directory(Path::new("/usr/lib")));
}

/// The checksum of the GDB manual's example, by an independent source: `crc32` of gzip.
#[test]
fn checksums_are_those_of_gzip() {
    let directory = Directory::new("crc");
    let path = directory.path("file");
    fs::write(&path, "123456789").unwrap();
    assert_eq!(checksum(&File::open(path).unwrap()).unwrap(), 0xcbf4_3926);
}

#[test]
fn installed_debug_files_give_lines_packed_or_not() {
    if !is_root() {
        return;
    }
    for (test, options) in
        [("installed", &[][..]), ("packed", &["--compress-debug-sections=zlib"][..])]
    {
        let directory = Directory::new(test);
        let (program, debug) = split(&directory, options);
        let place =
            Path::new(DEBUG_DIRECTORY).join(program.parent().unwrap().strip_prefix("/").unwrap());
        fs::create_dir_all(&place).unwrap();
        fs::copy(&debug, place.join("split.debug")).unwrap();
        let running = Running::start(&program);
        let symbols = Symbols::spawn().unwrap();
        let found = symbols.resolve(vec![request(&running.map(), &[running.in_inner])]);
        running.end();
        fs::remove_dir_all(&place).unwrap();
        let _ = fs::remove_dir(place.parent().unwrap());
        let lines: Vec<_> = found[0].iter().map(|frame| (&*frame.name, frame.line)).collect();
        assert_eq!(lines, [("inner", 4), ("outer", 10)], "{test}");
    }
}

#[test]
fn packed_files_are_unpacked_within_the_room_there_is() {
    let directory = Directory::new("room");
    let (_, debug) = split(&directory, &["--compress-debug-sections=zlib"]);
    let packed = fs::metadata(&debug).unwrap().len();
    let bytes = |room: u64| {
        let (installed, copy) = (File::open(&debug).unwrap(), file::nameless().unwrap());
        Some(unpacked(&installed, copy, room)?.metadata().unwrap().len())
    };
    assert!(bytes(MAX_FILE_BYTES).unwrap() > packed);
    // With room for the copy only, it is copied and stays packed.
    assert_eq!(bytes(packed + 8), Some(packed));
    assert_eq!(bytes(packed - 1), None);
}

#[test]
fn sizes_that_are_lies_are_not_believed() {
    let directory = Directory::new("lies");
    let program = directory.compile("fixture", "", &["-gz=zlib"]);
    let open = File::open(&program).unwrap();
    let sections = Header::read(&open).unwrap().sections(&open).unwrap();
    let section = sections.named(b".debug_info").unwrap();
    let (at, good) = (usize::try_from(section.offset).unwrap(), fs::read(&program).unwrap());
    let true_size = u64::from_le_bytes(*good[at + 8..].first_chunk().unwrap());
    for size in [0, true_size - 1, true_size + 1, 1 << 40, u64::MAX] {
        let mut bytes = good.clone();
        bytes[at + 8..at + 16].copy_from_slice(&size.to_le_bytes());
        fs::write(&program, &bytes).unwrap();
        let copy = file::copy(&File::open(&program).unwrap()).unwrap();
        Elf::disarm(&copy, 1 << 20).unwrap();
        let grown = copy.metadata().unwrap().len() - good.len() as u64;
        assert!(grown < 64 << 10, "{size} made it grow by {grown}");
        let running = Running::start(&program);
        let found =
            Symbols::spawn().unwrap().resolve(vec![request(&running.map(), &[running.plain])]);
        assert_eq!((&*found[0][0].name, found[0][0].line), ("plain", 0), "{size}");
        running.end();
    }
}
