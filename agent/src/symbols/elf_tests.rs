//! Tests of the ELF reading: on real files, cut files and any bytes at all.

use std::{fs, io::Write as _};

use proptest::prelude::*;

use super::*;
use crate::process::{file, fixture::Directory};

#[test]
fn a_debug_link_is_a_plain_name_and_a_checksum() {
    let directory = Directory::new("link");
    let program = directory.compile("fixture", "", &["-g0"]);
    let link = |name: &[u8], after: &[u8]| {
        let linked = directory.path("linked");
        fs::copy(&program, &linked).unwrap();
        let mut content = name.to_vec();
        content.resize((name.len() + 1).next_multiple_of(4), 0);
        content.extend(after);
        directory.add_section(&linked, ".gnu_debuglink", &content);
        identity(&fs::File::open(linked).unwrap()).1
    };
    let crc = 0x0403_0201;
    let expected = |name: &str| Some(DebugLink { name: name.into(), crc });
    assert_eq!(link(b"a.debug", &[1, 2, 3, 4]), expected("a.debug"));
    assert_eq!(link(b"abc", &[1, 2, 3, 4]), expected("abc"));
    for hostile in [&b""[..], b".", b"..", b"/etc/passwd", b"../x", b"a/b", &[b'x'; 600]] {
        assert_eq!(link(hostile, &[1, 2, 3, 4]), None, "{hostile:?}");
    }
    assert_eq!(link(b"abc", &[1, 2, 3]), None);
}

#[test]
fn references_to_other_files_are_taken_out_of_the_copy_only() {
    let directory = Directory::new("disarm");
    let program = directory.compile("fixture", "", &[]);
    directory.add_section(&program, ".gnu_debuglink", b"xyz\0\0\0\0\0");
    let original = fs::read(&program).unwrap();
    let copy = file::copy(&fs::File::open(&program).unwrap()).unwrap();
    Elf::disarm(&copy, 0).unwrap();
    let disarmed = fs::read(file::own_path(&copy)).unwrap();
    let differ = original.iter().zip(&disarmed).filter(|(a, b)| a != b).count();
    assert!((1..=4).contains(&differ), "one section name changed, not {differ} bytes");
    assert_eq!(fs::read(&program).unwrap(), original);
    // Nothing is left to take out.
    Elf::disarm(&copy, 0).unwrap();
    assert_eq!(fs::read(file::own_path(&copy)).unwrap(), disarmed);
}

/// Everything the linker and `nm` know of a copy is what they know of the original, without its code.
#[test]
fn a_copy_lacks_code_and_nothing_that_names_are_read_from() {
    let directory = Directory::new("parts");
    let program = directory.compile("fixture", "", &[]);
    let original = fs::File::open(&program).unwrap();
    let copy = Elf::copy(&original).unwrap();
    let (original, copied) =
        (fs::read(&program).unwrap(), fs::read(file::own_path(&copy)).unwrap());
    assert_eq!(original.len(), copied.len());
    let sections = Header::read(&copy).unwrap().sections(&copy).unwrap();
    for section in &sections.all {
        let range = section.offset as usize..(section.offset + section.bytes) as usize;
        let name = String::from_utf8_lossy(&section.name).into_owned();
        match name.as_str() {
            _ if section.kind == SHT_NOBITS => {}
            ".text" | ".rodata" => {
                assert!(copied[range.clone()].iter().all(|&byte| byte == 0), "{name}");
                assert!(original[range].iter().any(|&byte| byte != 0), "{name}");
            }
            ".symtab" | ".strtab" | ".debug_info" | ".dynsym" | ".data" | ".shstrtab" => {
                assert_eq!(copied[range.clone()], original[range], "{name}");
            }
            _ => {}
        }
    }
    let named = |name: &[u8]| sections.named(name).is_some();
    assert!(named(b".text") && named(b".rodata") && named(b".symtab") && named(b".debug_info"));
    assert_eq!(Elf::disarm(&copy, 0).unwrap().code.len(), 1);
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
        assert!(Elf::disarm(&copy, 0).is_err(), "cut at {at} of {bytes}");
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
        if let Ok(elf) = Elf::disarm(&copy, 0) {
            elf.address(FileOffset(u64::MAX));
            identity(&copy);
        }
    }
}
