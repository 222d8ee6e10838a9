//! Tests of growing, rewritten and hostile files.

use std::{fs, io::Write as _};

use proptest::prelude::*;

use super::*;
use crate::process::fixture::Directory;

struct Fixture {
    path: std::path::PathBuf,
    map: PerfMap,
    code: CodeMap,
    _directory: Directory,
}

impl Fixture {
    fn new(test: &str, text: impl AsRef<[u8]>) -> Self {
        let directory = Directory::new(test);
        let path = directory.path("perf-1.map");
        fs::write(&path, text).unwrap();
        let map = PerfMap::new(File::open(&path).unwrap());
        let mut fixture = Self { path, map, code: CodeMap::default(), _directory: directory };
        fixture.update();
        fixture
    }

    fn append(&mut self, text: &str) {
        fs::OpenOptions::new()
            .append(true)
            .open(&self.path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        self.update();
    }

    fn update(&mut self) {
        self.map.update(&mut self.code).unwrap();
    }

    fn name(&self, address: u64) -> Option<&str> {
        self.code.at(address).map(|(name, _)| &**name)
    }
}

#[test]
fn lines_are_read_as_they_are_written() {
    let mut perf = Fixture::new("grows", "1000 10 a b  c\n0x2000 0x10 hex\n3000 10 half");
    assert_eq!(
        [0x0fff, 0x1000, 0x100f, 0x1010].map(|at| perf.name(at)),
        [None, Some("a b  c"), Some("a b  c"), None]
    );
    assert_eq!((perf.name(0x2000), perf.name(0x3000)), (Some("hex"), None));
    perf.append("-written\n1008 20 later\n");
    assert_eq!(perf.name(0x3000), Some("half-written"));
    assert_eq!((perf.name(0x1007), perf.name(0x1008)), (Some("a b  c"), Some("later")));
}

#[test]
fn a_file_written_anew_is_read_anew() {
    let mut perf = Fixture::new("anew", "1000 10 old\n");
    fs::write(&perf.path, "2000 10 shorter\n".replace("shorter", "s")).unwrap();
    perf.update();
    assert_eq!((perf.name(0x1000), perf.name(0x2000)), (None, Some("s")));
    // Longer than before, with other content.
    fs::write(&perf.path, "3000 10 x\n4000 10 y\n").unwrap();
    perf.update();
    assert_eq!(
        (perf.name(0x2000), perf.name(0x3000), perf.name(0x4000)),
        (None, Some("x"), Some("y"))
    );
}

#[test]
fn nonsense_is_passed_over() {
    let long = format!("5000 10 {}\n", "x".repeat(3 * CHUNK));
    let lines = [
        "\n",
        " \n",
        "1000\n",
        "1000 10\n",
        "1000 10 \n",
        "+1000 10 sign\n",
        "xyz 10 a\n",
        "ffffffffffffffff ff beyond\n",
        "10000000000000000 1 wide\n",
        "20251128 025401000000 login user=root password=x\n",
        "ffff800000000000 10 kernel\n",
        &long,
        "6000 10 e\x1b[2J\n",
    ];
    let perf = Fixture::new("nonsense", lines.concat());
    assert_eq!((perf.name(0x1000), perf.name(0x5000)), (None, None));
    assert_eq!(perf.name(0x6000), Some("e\u{fffd}[2J"));
    assert_eq!(perf.name(u64::MAX - 1), None);
    assert_eq!((perf.name(0x2025_1128), perf.name(0xffff_8000_0000_0000)), (None, None));
}

#[test]
fn a_huge_sparse_file_is_read_to_a_bound() {
    let mut perf = Fixture::new("sparse", "1000 10 a\n");
    fs::OpenOptions::new().write(true).open(&perf.path).unwrap().set_len(4 << 30).unwrap();
    perf.update();
    assert!(perf.map.is_cut() && perf.map.read <= MAX_FILE, "{}", perf.map.read);
    assert_eq!(perf.name(0x1000), Some("a"));
    perf.update();
}

proptest! {
    #[test]
    fn any_text_is_no_panic(text: Vec<u8>, lines in "([0-9a-fx]{0,18} ?){0,3}[a-z]{0,3}\n") {
        let mut perf = Fixture::new("anytext", text);
        perf.append(&lines);
        perf.name(0);
    }
}
