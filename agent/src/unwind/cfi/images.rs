//! The files that tests read tables of: what is on every host, and what happens to be on this one.

use std::{
    env,
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
};

use agent_ebpf::unwind::{Machine, Rule};

use super::{Kind, Section, Summary, rows};
use crate::process::elf;

/// A section out of a file, with what is needed to read it.
pub(super) struct Image {
    pub bytes: Vec<u8>,
    pub address: u64,
    pub machine: Machine,
    pub kind: Kind,
    pub code: Vec<Range<u64>>,
}

/// Our rows of a section.
pub struct Table {
    pub rows: Vec<(u64, Rule)>,
    pub summary: Summary,
}

impl Image {
    /// The tables of exceptions in a file.
    pub(super) fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let header = elf::Header::read(&file).unwrap();
        let sections = header.sections(&file).unwrap();
        let section = sections.named(b".eh_frame").unwrap();
        let code = header.segments(&file).unwrap().iter().filter_map(elf::Segment::code).collect();
        Self {
            bytes: elf::read(&file, section.offset, section.bytes as usize).unwrap(),
            address: section.address,
            machine: if header.machine == 62 { Machine::X86_64 } else { Machine::Aarch64 },
            kind: Kind::EhFrame,
            code,
        }
    }

    pub(super) fn section(&self) -> Section<'_> {
        Section {
            bytes: &self.bytes,
            address: self.address,
            kind: self.kind,
            machine: self.machine,
        }
    }

    pub(super) fn table(&self) -> Table {
        Table::of(&self.section(), &self.code)
    }
}

impl Table {
    /// Reads it, and checks what holds for any section whatever.
    pub fn of(section: &Section<'_>, code: &[Range<u64>]) -> Self {
        let mut all = Vec::<(u64, Rule)>::new();
        let summary = rows(section, code, &mut |address, rule| {
            if let Some(&(before, last)) = all.last() {
                assert!(before < address, "{before:#x} before {address:#x}");
                assert_ne!(last, rule, "twice at {address:#x}");
            }
            all.push((address, rule));
        });
        let bad = all.iter().filter(|&&(_, rule)| rule == Rule::BAD).count();
        assert_eq!((summary.rows, summary.bad_rows), (all.len() as u64, bad as u64));
        assert!(all.len() <= section.bytes.len(), "more rows than bytes");
        assert!(summary.entries + summary.refused <= section.bytes.len() as u64 / 4);
        Self { rows: all, summary }
    }

    pub fn at(&self, address: u64) -> Rule {
        let after = self.rows.partition_point(|&(start, _)| start <= address);
        after.checked_sub(1).map_or(Rule::NONE, |index| self.rows[index].1)
    }
}

/// libc, which this process has mapped.
pub(super) fn libc() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let is_libc = |path: &str| path.ends_with("/libc.so.6") || path.contains("/ld-musl-");
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    PathBuf::from(path.into_iter().find(|path| is_libc(path)).expect("tests are linked to libc"))
}

/// All files to compare; what is missing is named.
pub(super) fn all() -> Vec<PathBuf> {
    let mut found = vec![env::current_exe().unwrap(), libc()];
    let libraries = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let python = Path::new(&env::var_os("HOME").unwrap_or_default()).join(".pyenv/versions");
    let programs = env::var_os("PATH").unwrap_or_default();
    let wanted = [
        ("libstdc++.so.6", libraries.map(PathBuf::from).to_vec()),
        ("libcrypto.so.3", libraries.map(PathBuf::from).to_vec()),
        ("libLLVM.so.22.1", libraries.map(PathBuf::from).to_vec()),
        ("libpython3.12.so.1.0", below(&python, "lib")),
        ("libjvm.so", below(Path::new("/usr/lib/jvm"), "lib/server")),
        ("node", env::split_paths(&programs).collect()),
    ];
    for (name, directories) in wanted {
        let mut paths: Vec<_> =
            directories.iter().filter_map(|place| place.join(name).canonicalize().ok()).collect();
        paths.sort();
        paths.dedup();
        if paths.is_empty() {
            println!("skipped: no {name} here");
        }
        found.extend(paths);
    }
    found
}

/// `inner` in each directory of another.
fn below(directory: &Path, inner: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join(inner)).collect()
}
