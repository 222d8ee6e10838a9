//! Tests of the process map: real maps, hostile maps, and any bytes at all.

use std::{fs, path::PathBuf, process};

use proptest::prelude::*;

use super::*;

const SAMPLE: &[u8] = b"\
55d0c0a00000-55d0c0a02000 r--p 00000000 fe:00 1048 /usr/bin/a b
55d0c0a02000-55d0c0a06000 r-xp 00002000 fe:00 1048                       /usr/bin/a b
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
7f1000000000-7f1000004000 r-xp 00001000 fe:00 77                         /tmp/x.so (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffc00021000-7ffc00023000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

fn sample() -> ProcessMap {
    ProcessMap::parse(Pid(7), SAMPLE)
}

fn path_at(map: &ProcessMap, address: u64) -> Option<PathBuf> {
    match &map.lookup(Address(address))?.backing {
        Backing::File { path, .. } => Some(path.to_path_buf()),
        Backing::Vdso | Backing::Anonymous => None,
    }
}

#[test]
fn a_line_becomes_a_mapping() {
    let map = sample();
    assert_eq!((map.pid(), map.mappings().len(), map.skipped()), (Pid(7), 7, 0));
    let code = map.lookup(Address(0x55d0_c0a0_2010)).unwrap();
    let device = Device { major: 0xfe, minor: 0 };
    let expected = Mapping {
        start: Address(0x55d0_c0a0_2000),
        end: Address(0x55d0_c0a0_6000),
        offset: FileOffset(0x2000),
        executable: true,
        is_shared_writable: false,
        backing: Backing::File {
            id: FileId { device, inode: 1048 },
            path: Path::new("/usr/bin/a b").into(),
            deleted: false,
        },
        beside: None,
    };
    assert_eq!(*code, expected);
    assert_eq!(code.file_offset(Address(0x55d0_c0a0_2010)), Some(FileOffset(0x2010)));
    assert_eq!(code.file_offset(Address(0x55d0_c0a0_6000)), None);
    assert_eq!(code.file_offset(Address(0)), None);
}

#[test]
fn lookup_takes_start_and_leaves_end() {
    let map = sample();
    let start = |address| map.lookup(Address(address)).map(|mapping| mapping.start.0);
    assert_eq!(start(0x7f00_0000_0000), Some(0x7f00_0000_0000));
    assert_eq!(start(0x7f00_0002_0fff), Some(0x7f00_0000_0000));
    assert_eq!(start(0x7f00_0002_1000), None);
    assert_eq!(start(0), None);
    assert_eq!(start(u64::MAX), None);
}

#[test]
fn deleted_files_and_special_mappings_are_distinguished() {
    let map = sample();
    let deleted = map.lookup(Address(0x7f10_0000_0000)).unwrap();
    let Backing::File { path, deleted, .. } = &deleted.backing else { panic!("{deleted:?}") };
    assert_eq!((&**path, *deleted), (Path::new("/tmp/x.so"), true));
    assert_eq!(map.lookup(Address(0x7ffc_0002_1000)).unwrap().backing, Backing::Vdso);
    assert_eq!(map.lookup(Address(0x7ffc_0000_0000)).unwrap().backing, Backing::Anonymous);
    assert_eq!(path_at(&map, 0xffff_ffff_ff60_0000), None);
}

#[test]
fn a_path_cannot_forge_lines_or_kinds() {
    // A newline arrives escaped; a process may name its file anything else.
    let text = b"1000-2000 r-xp 0 1:2 3 /tmp/a\\0123000-4000 r-xp 0 1:2 4 /b\n\
                 5000-6000 r-xp 0 0:5 9 /memfd:[vdso] (deleted)\n";
    let map = ProcessMap::parse(Pid(1), text);
    assert_eq!(map.mappings().len(), 2);
    assert_eq!(path_at(&map, 0x1000).unwrap(), Path::new("/tmp/a\n3000-4000 r-xp 0 1:2 4 /b"));
    assert_eq!(path_at(&map, 0x5000).unwrap(), Path::new("/memfd:[vdso]"));
}

#[test]
fn lines_that_do_not_parse_are_counted() {
    let text = b"x\n1000-1000 r-xp 0 0:0 0\n+1-2 r-xp 0 0:0 0\n\
                 1000-3000 r-xp 0 0:0 0\n2000-4000 r-xp 0 0:0 0\n";
    let map = ProcessMap::parse(Pid(1), text);
    assert_eq!((map.mappings().len(), map.skipped(), map.is_truncated()), (1, 4, false));
}

#[test]
fn too_many_lines_are_cut() {
    let mut text = String::new();
    for n in 1..=MAX_LINES + 10 {
        text.push_str(&format!("{:x}-{:x} r-xp 0 0:0 0\n", n * 4096, (n + 1) * 4096));
    }
    let map = ProcessMap::parse(Pid(1), text.as_bytes());
    assert_eq!((map.mappings().len(), map.is_truncated()), (MAX_LINES, true));
}

#[test]
fn our_own_map_holds_our_own_code() {
    let map = ProcessMap::read(Pid(process::id())).unwrap();
    let here = our_own_map_holds_our_own_code as fn() as usize as u64;
    let mapping = map.lookup(Address(here)).unwrap();
    assert!(mapping.executable);
    let us = std::env::current_exe().unwrap();
    assert_eq!(path_at(&map, here), Some(us.clone()));
    let Backing::File { id, .. } = &mapping.backing else { panic!("{mapping:?}") };
    assert_eq!(id.inode, std::os::unix::fs::MetadataExt::ino(&fs::metadata(us).unwrap()));
    assert!(map.mappings().iter().any(|mapping| mapping.backing == Backing::Vdso));
}

#[test]
fn a_missing_process_is_an_error_with_its_pid() {
    let error = ProcessMap::read(Pid(u32::MAX)).unwrap_err();
    assert!(error.to_string().contains("/proc/4294967295/maps"), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_parse_into_sorted_disjoint_mappings(text: Vec<u8>) {
        check(&ProcessMap::parse(Pid(1), &text));
    }

    #[test]
    fn nearly_right_lines_parse_into_sorted_disjoint_mappings(
        lines in prop::collection::vec(
            "[0-9a-f]{1,17}-[0-9a-f]{1,17} [rwxp-]{0,5} [0-9a-f]{0,17} [0-9a-f]{0,9}:0 [0-9]{0,21} ?.{0,9}",
            0..20,
        )
    ) {
        check(&ProcessMap::parse(Pid(1), lines.join("\n").as_bytes()));
    }
}

fn check(map: &ProcessMap) {
    let mut end = 0;
    for mapping in map.mappings() {
        assert!(mapping.start.0 >= end && mapping.start < mapping.end);
        end = mapping.end.0;
        assert_eq!(map.lookup(mapping.start), Some(mapping));
        assert_eq!(map.lookup(Address(end - 1)), Some(mapping));
        assert!(mapping.file_offset(mapping.start).is_some());
    }
}
