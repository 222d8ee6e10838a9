//! Tests of the ELF reading: on real files, cut files and any bytes at all.

use std::{fs, io::Write as _};

use proptest::prelude::*;

use super::*;
use crate::{process::file, symbols::fixture::Directory};

#[test]
fn a_build_id_names_the_debug_file() {
    let directory = Directory::new("buildid");
    let id = "00112233445566778899aabbccddeeff00112233";
    let program = directory.compile("fixture", "", &[&format!("-Wl,--build-id=0x{id}")]);
    let copy = file::copy(&fs::File::open(program).unwrap()).unwrap();
    let elf = Elf::disarm(&copy).unwrap();
    let expected = format!("/usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
    assert_eq!(elf.debug_path(), Some(PathBuf::from(expected)));
}

#[test]
fn references_to_other_files_are_taken_out_of_the_copy_only() {
    let directory = Directory::new("disarm");
    let program = directory.compile("fixture", "", &[]);
    directory.add_section(&program, ".gnu_debuglink", b"xyz\0\0\0\0\0");
    let original = fs::read(&program).unwrap();
    let copy = file::copy(&fs::File::open(&program).unwrap()).unwrap();
    Elf::disarm(&copy).unwrap();
    let disarmed = fs::read(file::own_path(&copy)).unwrap();
    let differ = original.iter().zip(&disarmed).filter(|(a, b)| a != b).count();
    assert!((1..=4).contains(&differ), "one section name changed, not {differ} bytes");
    assert_eq!(fs::read(&program).unwrap(), original);
    // Nothing is left to take out.
    Elf::disarm(&copy).unwrap();
    assert_eq!(fs::read(file::own_path(&copy)).unwrap(), disarmed);
}

#[test]
fn a_file_cut_anywhere_is_no_panic() {
    let directory = Directory::new("cut");
    let program = directory.compile("fixture", "", &[]);
    let copy = file::copy(&fs::File::open(&program).unwrap()).unwrap();
    let bytes = copy.metadata().unwrap().len();
    for at in (0..bytes).rev().step_by(97) {
        copy.set_len(at).unwrap();
        // The section table is last: without it the file is refused.
        assert!(Elf::disarm(&copy).is_err(), "cut at {at} of {bytes}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(mut bytes: Vec<u8>, magic: bool) {
        if magic {
            bytes.splice(0..0, *b"\x7fELF\x02\x01");
        }
        let directory = Directory::new("anybytes");
        let path = directory.path("file");
        fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
        let copy = file::copy(&fs::File::open(&path).unwrap()).unwrap();
        if let Ok(elf) = Elf::disarm(&copy) {
            elf.address(FileOffset(u64::MAX));
            elf.debug_path();
        }
    }
}
