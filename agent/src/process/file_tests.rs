//! Tests of opening: what is refused, and that nothing blocks or leads out of a root.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    thread,
};

use super::*;
use crate::process::{
    fixture::{Directory, NOBODY, map_of},
    maps::{Address, Backing},
};

/// Opens what `map_of(path)` says is mapped.
fn open(path: &Path) -> Result<File, FileError> {
    let map = map_of(path);
    let mapping = map.lookup(Address(0x10000)).unwrap();
    let Backing::File { id, path, .. } = &mapping.backing else { panic!("{mapping:?}") };
    open_mapped(NOBODY, mapping, *id, path)
}

fn id_of(path: &Path) -> FileId {
    let map = map_of(path);
    match map.mappings()[0].backing {
        Backing::File { id, .. } => id,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn only_regular_files_are_opened() {
    let directory = Directory::new("regular");
    let file = directory.path("file");
    fs::write(&file, "x").unwrap();
    assert!(open(&file).is_ok());
    let fifo = open(&directory.fifo("fifo"));
    assert!(matches!(fifo, Err(FileError::NotRegular)), "{fifo:?}");
    let device = open(Path::new("/dev/zero"));
    assert!(matches!(device, Err(FileError::NotRegular)), "{device:?}");
    let _socket = UnixListener::bind(directory.path("socket")).unwrap();
    fs::create_dir(directory.path("directory")).unwrap();
    for (name, target) in [
        ("to-device", Path::new("/dev/zero")),
        ("to-fifo", &directory.path("fifo")),
        ("to-directory", &directory.path("directory")),
        ("to-socket", &directory.path("socket")),
    ] {
        symlink(target, directory.path(name)).unwrap();
        for path in [target, &directory.path(name)] {
            let opened = open(path);
            assert!(matches!(opened, Err(FileError::NotRegular)), "{path:?}: {opened:?}");
        }
    }
}

#[test]
fn what_takes_the_place_of_a_file_is_not_opened() {
    let directory = Directory::new("exchanged");
    let (path, fifo) = (directory.path("file"), directory.fifo("fifo"));
    fs::write(&path, "x").unwrap();
    let (kept, moved) = (directory.path("kept"), directory.path("moved"));
    fs::hard_link(&path, &kept).unwrap();
    let map = map_of(&path);
    let mapping = map.lookup(Address(0x10000)).unwrap();
    let (mut opened, mut refused) = (0, 0);
    thread::scope(|scope| {
        let exchange = scope.spawn(|| {
            for target in [&fifo, &kept].into_iter().cycle().take(20_000) {
                let _ = fs::remove_file(&moved);
                fs::hard_link(target, &moved).unwrap();
                fs::rename(&moved, &path).unwrap();
            }
        });
        // Opening the FIFO would wait for a writer for ever.
        while !exchange.is_finished() {
            match open_mapped(NOBODY, mapping, id_of(&kept), &path) {
                Ok(file) => {
                    assert!(file.metadata().unwrap().is_file());
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
    });
    assert!(opened > 0 && refused > 0, "{opened} {refused}");
}

#[test]
fn a_huge_file_is_not_opened() {
    let directory = Directory::new("huge");
    let path = directory.path("huge");
    File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    let huge = open(&path);
    assert!(matches!(huge, Err(FileError::TooLarge(_))), "{huge:?}");
}

#[test]
fn nothing_leads_out_of_the_root_of_a_process() {
    let directory = Directory::new("root");
    let root = directory.path("root");
    fs::create_dir(&root).unwrap();
    fs::write(directory.path("outside"), "x").unwrap();
    fs::write(root.join("inside"), "x").unwrap();
    symlink("../outside", root.join("out")).unwrap();
    symlink("/inside", root.join("in")).unwrap();
    symlink("/proc/self/exe", root.join("magic")).unwrap();
    let id = id_of(&directory.path("outside"));
    assert!(open_below(&root, Path::new("/out"), id).is_err());
    assert!(open_below(&root, Path::new("/../outside"), id).is_err());
    assert!(open_below(&root, Path::new("/in"), id_of(&root.join("inside"))).is_ok());
    let us = env::current_exe().unwrap();
    assert!(open_below(Path::new("/"), &us, id_of(&us)).is_ok());
    assert!(open_below(Path::new("/"), Path::new("/proc/self/exe"), id_of(&us)).is_err());
}

#[test]
fn a_copy_is_whole_private_and_repeatable() {
    let directory = Directory::new("copy");
    let path = directory.path("file");
    fs::write(&path, "before").unwrap();
    let original = File::open(&path).unwrap();
    let first = copy(&original).unwrap();
    fs::write(&path, "after!!").unwrap();
    let second = copy(&original).unwrap();
    assert_eq!(fs::read(own_path(&first)).unwrap(), b"before");
    assert_eq!(fs::read(own_path(&second)).unwrap(), b"after!!");
    let parts =
        copy_parts(&original, &[4..5, 1..3, 2..3, 9..u64::MAX], nameless().unwrap()).unwrap();
    assert_eq!(fs::read(own_path(&parts)).unwrap(), b"\0ft\0r\0\0");
    let meta = first.metadata().unwrap();
    assert_eq!((meta.nlink(), meta.mode() & 0o077), (0, 0));
}
