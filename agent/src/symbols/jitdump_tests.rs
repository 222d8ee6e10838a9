//! Tests on dumps made by hand, true and hostile ones.

use std::{fs, io::Write as _, path::PathBuf};

use proptest::prelude::*;

use super::*;
use crate::process::fixture::Directory;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn header(magic: u32, version: u32) -> Vec<u8> {
    let numbers = [magic, version, 40, 62, 0, 1, 0, 0, 0, 0];
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn record(kind: u32, body: &[u8]) -> Vec<u8> {
    let bytes = u32::try_from(body.len() + 16).unwrap();
    [&kind.to_le_bytes()[..], &bytes.to_le_bytes(), &[0; 8], body].concat()
}

fn load(start: u64, bytes: u64, name: &str) -> Vec<u8> {
    let code = vec![0xcc; usize::try_from(bytes.min(4096)).unwrap()];
    record(LOAD, &[&words(&[0, start, start, bytes, 7]), name.as_bytes(), b"\0", &code].concat())
}

fn lines(start: u64, lines: &[(u64, u32, &[u8])]) -> Vec<u8> {
    let mut body = words(&[start, lines.len() as u64]);
    for (address, line, file) in lines {
        body.extend(address.to_le_bytes());
        body.extend([line.to_le_bytes(), [0; 4]].concat());
        body.extend([file, &b"\0"[..]].concat());
    }
    record(DEBUG_INFO, &body)
}

struct Fixture {
    path: PathBuf,
    dump: JitDump,
    code: CodeMap,
    _directory: Directory,
}

impl Fixture {
    fn new(test: &str, parts: &[Vec<u8>]) -> Self {
        let directory = Directory::new(test);
        let path = directory.path("jit-1.dump");
        fs::write(&path, parts.concat()).unwrap();
        let dump = JitDump::new(File::open(&path).unwrap());
        let mut fixture = Self { path, dump, code: CodeMap::default(), _directory: directory };
        fixture.update();
        fixture
    }

    fn append(&mut self, bytes: &[u8]) {
        fs::OpenOptions::new().append(true).open(&self.path).unwrap().write_all(bytes).unwrap();
        self.update();
    }

    fn update(&mut self) {
        self.dump.update(&mut self.code).unwrap();
    }

    /// `name file:line`
    fn at(&self, address: u64) -> String {
        match self.code.at(address) {
            Some((name, Some(line))) => format!("{name} {}:{}", line.file, line.line),
            Some((name, None)) => name.to_string(),
            None => String::new(),
        }
    }
}

#[test]
fn names_and_lines_are_read_as_they_are_written() {
    let table: [(u64, u32, &[u8]); 3] =
        [(0x1000, 1, b"a.js"), (0x1008, 2, b"\xff"), (0x1010, 9, b"b.js")];
    let mut dump =
        Fixture::new("dump", &[header(MAGIC, 1), lines(0x1000, &table), load(0x1000, 0x20, "f")]);
    assert_eq!(
        [0xfff, 0x1000, 0x1007, 0x1008, 0x101f, 0x1020].map(|at| dump.at(at)),
        ["", "f a.js:1", "f a.js:1", "f a.js:2", "f b.js:9", ""]
    );
    let long = "n".repeat(900);
    dump.append(&load(0x4000, 1, &long));
    assert_eq!(dump.at(0x4000), long);
    // An unknown record, unwinding information, and half of a record.
    dump.append(&[record(99, &[1; 40]), record(4, &[1; 3])].concat());
    let next = load(0x2000, 0x10, "g");
    dump.append(&next[..30]);
    assert_eq!(dump.at(0x2000), "");
    dump.append(&next[30..]);
    assert_eq!(dump.at(0x2000), "g");
    dump.append(&record(MOVE, &words(&[0, 0x1000, 0x1000, 0x5000, 0x20, 7])));
    assert_eq!((dump.at(0x1000), dump.at(0x5008)), ("".into(), "f a.js:2".into()));
    // Over one another, and the same address again without lines.
    dump.append(&[load(0x5000, 0x10, "h"), record(CLOSE, &[]), load(0x6000, 1, "late")].concat());
    assert_eq!((dump.at(0x5000), dump.at(0x5010)), ("h".into(), "f b.js:9".into()));
    assert_eq!(dump.at(0x6000), "", "nothing follows the end");
}

#[test]
fn lines_counted_from_behind_an_elf_header_are_the_same() {
    let table: [(u64, u32, &[u8]); 2] = [(0x1040, 1, b"a.js"), (0x1048, 2, b"\xff")];
    let dump =
        Fixture::new("shift", &[header(MAGIC, 1), lines(0x1000, &table), load(0x1000, 0x20, "f")]);
    assert_eq!((dump.at(0x1000), dump.at(0x1008)), ("f a.js:1".into(), "f a.js:2".into()));
}

#[test]
fn what_is_no_dump_is_not_read() {
    for head in [header(MAGIC.swap_bytes(), 1), header(MAGIC, 2), header(0, 1), vec![0; 40]] {
        let dump = Fixture::new("nodump", &[head, load(0x1000, 0x20, "f")]);
        assert_eq!(dump.at(0x1000), "");
    }
    let mut small = header(MAGIC, 1);
    small[8] = 0;
    assert_eq!(Fixture::new("small", &[small, load(0x1000, 0x20, "f")]).at(0x1000), "");
}

#[test]
fn records_that_cannot_be_true_end_the_reading() {
    let good = || load(0x1000, 0x20, "f");
    let sized = |bytes: u32| {
        let mut record = load(0x2000, 0x20, "bad");
        record[4..8].copy_from_slice(&bytes.to_le_bytes());
        record
    };
    // A record of no length would be the next one for ever.
    for bytes in [0, 1, 15] {
        let dump =
            Fixture::new("cycle", &[header(MAGIC, 1), good(), sized(bytes), load(0x3000, 1, "x")]);
        assert_eq!((dump.at(0x1000), dump.at(0x3000)), ("f".into(), String::new()));
        assert!(dump.dump.ended);
    }
    // One that is longer than the file may still be written.
    let dump = Fixture::new("long", &[header(MAGIC, 1), good(), sized(u32::MAX)]);
    assert!(dump.at(0x2000).is_empty() && !dump.dump.ended);
    // Code beyond the end of addresses, and lines without end.
    let mut endless = words(&[0x1000, u64::MAX]);
    endless.extend([1; 64]);
    let parts =
        [header(MAGIC, 1), load(u64::MAX - 1, 16, "wraps"), record(DEBUG_INFO, &endless), good()];
    let dump = Fixture::new("wraps", &parts);
    assert!(dump.at(u64::MAX - 1).is_empty() && dump.at(0x1000).starts_with('f'));
}

#[test]
fn a_huge_sparse_file_is_read_to_a_bound() {
    let mut dump = Fixture::new("hugedump", &[header(MAGIC, 1), load(0x1000, 0x20, "f")]);
    fs::OpenOptions::new().write(true).open(&dump.path).unwrap().set_len(4 << 30).unwrap();
    dump.update();
    assert!(dump.dump.ended, "zeros are no record");
    assert_eq!(dump.at(0x1000), "f");
    // It shrinks.
    fs::OpenOptions::new().write(true).open(&dump.path).unwrap().set_len(10).unwrap();
    dump.update();
}

#[test]
fn records_are_counted() {
    let many = record(99, &[]).repeat(usize::try_from(MAX_RECORDS).unwrap() + 8);
    let dump = Fixture::new("records", &[header(MAGIC, 1), many, load(0x1000, 0x20, "f")]);
    assert!(dump.dump.is_cut() && dump.at(0x1000).is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(bytes: Vec<u8>, kind in 0_u32..6, cut in 0_usize..60) {
        let good = [lines(0x1000, &[(0x1000, 1, b"a")]), load(0x1000, 0x20, "f")].concat();
        let part = good[..cut.min(good.len())].to_vec();
        let dump = Fixture::new("anydump", &[header(MAGIC, 1), record(kind, &bytes), part, bytes]);
        dump.at(0x1000);
    }
}
