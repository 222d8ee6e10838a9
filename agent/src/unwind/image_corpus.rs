//! Hostile programs, each a lie about one thing. They are ELF files by hand: segments, the content at
//! [`AT`], sections.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
};

use agent_ebpf::unwind::Machine;

use super::cfi::{
    Kind,
    build::{SECTION, Writer},
};
use crate::process::{
    elf::{PF_X, PT_GNU_EH_FRAME, PT_LOAD, PT_NOTE, SHT_NOBITS, Section, Segment},
    fixture::Directory,
};

/// What must come of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Table,
    /// No table, and no error: there is none.
    Bare,
    Refused,
}

/// A file and what must come of it.
pub(super) type Case = (&'static str, fn(&Directory) -> PathBuf, Outcome);

/// Where the content of a file begins.
const AT: u64 = 0x1_0000;
const MAX: usize = 64 << 20;
const HUGE: u64 = 1 << 63;
/// Def_cfa rsp 8, and the return address below it.
const ENTRY: [u8; 5] = [0x0c, 7, 8, 0x90, 1];

pub(super) const ALL: [Case; 26] = [
    ("headers: segments at 2^63", |at| header(at, 32, HUGE), Outcome::Refused),
    ("headers: 65,535 segments", |at| header(at, 56, 0xffff), Outcome::Refused),
    ("headers: sections at 2^64 - 1", |at| header(at, 40, u64::MAX), Outcome::Bare),
    ("headers: 65,535 sections", |at| header(at, 60, 0xffff), Outcome::Bare),
    ("headers: names are section 65,534", |at| header(at, 62, 0xfffe), Outcome::Bare),
    ("65,535 names of 4 MB each", long_names, Outcome::Table),
    ("1,024 segments of 64 KB of notes", notes, Outcome::Bare),
    ("tables at 2^63", |at| claim(at, HUGE, 64), Outcome::Refused),
    ("tables of 2^63 bytes", |at| claim(at, AT, HUGE), Outcome::Refused),
    ("tables of 4 GB, sparse", |at| sparse(at, 4 << 30), Outcome::Refused),
    ("tables of 64 MB of zeros, sparse", |at| sparse(at, MAX as u64), Outcome::Bare),
    ("two sections of 40 MB", two_large, Outcome::Refused),
    ("tables without bytes", no_bits, Outcome::Bare),
    ("code of 2^63 bytes", huge_code, Outcome::Table),
    ("code of 4 GB, functions at both ends", far_apart, Outcome::Refused),
    ("code of 1 GB, functions at both ends", apart, Outcome::Table),
    ("5,592,000 functions", |at| functions(at, &[CODE]), Outcome::Table),
    ("5,592,000 functions in 1,024 segments", in_segments, Outcome::Table),
    ("5,592,000 functions at one place", overlapping, Outcome::Table),
    ("5,592,000 functions, each with a row", many_rows, Outcome::Table),
    ("64 MB of rows", |at| rows(at, 1), Outcome::Refused),
    ("two sections of 32 MB of rows", |at| rows(at, 2), Outcome::Refused),
    ("64 MB of long numbers and deep states", |at| program(at, &deep()), Outcome::Table),
    ("64 MB of instructions of nested CIEs", nested, Outcome::Table),
    ("32,768 CIEs in turn", many_cies, Outcome::Table),
    (".eh_frame_hdr leads astray", astray, Outcome::Refused),
];

const CODE: Segment = code(0, 0x1000, 0x1000_0000);

const fn code(offset: u64, address: u64, bytes: u64) -> Segment {
    Segment { kind: PT_LOAD, flags: PF_X, offset, address, bytes }
}

/// A file being written.
struct Image {
    segments: Vec<Segment>,
    sections: Vec<Section>,
    names: Vec<u8>,
    content: Vec<u8>,
}

impl Image {
    fn new(segments: &[Segment], content: Vec<u8>) -> Self {
        Self { segments: segments.to_vec(), sections: Vec::new(), names: vec![0], content }
    }

    /// A section, wherever it says it is.
    fn section(mut self, name: &[u8], kind: u32, offset: u64, bytes: u64) -> Self {
        let section = Section {
            name: name.to_vec(),
            header_at: 0,
            kind,
            flags: 0,
            address: SECTION,
            offset,
            bytes,
        };
        self.sections.push(section);
        self
    }

    /// The whole content as `.eh_frame`.
    fn whole(self) -> Self {
        let bytes = self.content.len() as u64;
        self.section(b".eh_frame", 1, AT, bytes)
    }

    fn bytes(mut self) -> Vec<u8> {
        let names_at = AT + self.content.len() as u64;
        let mut table = vec![0; 64];
        for section in &self.sections {
            let name = if section.name.is_empty() { 0 } else { self.names.len() as u32 };
            if name != 0 {
                self.names.extend([&section.name[..], &[0]].concat());
            }
            table.extend(header_of(name, section));
        }
        let names = self.names.len() as u64;
        let own = Section {
            name: Vec::new(),
            header_at: 0,
            kind: 3,
            flags: 0,
            address: 0,
            offset: names_at,
            bytes: names,
        };
        table.extend(header_of(0, &own));
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend([2_u16, 62].map(u16::to_le_bytes).concat());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([0, 64, names_at + names].map(u64::to_le_bytes).concat());
        bytes.extend([0; 4]);
        let (segments, sections) = (self.segments.len() as u16, self.sections.len() as u16 + 2);
        let counts = [64, 56, segments, 64, sections, sections - 1];
        bytes.extend(counts.map(u16::to_le_bytes).concat());
        for segment in &self.segments {
            bytes.extend([segment.kind, segment.flags].map(u32::to_le_bytes).concat());
            let words = [segment.offset, segment.address, segment.address, segment.bytes];
            bytes.extend(words.map(u64::to_le_bytes).concat());
            bytes.extend([segment.bytes, 0x1000].map(u64::to_le_bytes).concat());
        }
        bytes.resize(AT as usize, 0);
        bytes.extend([self.content, self.names, table].concat());
        bytes
    }

    fn write(self, directory: &Directory) -> PathBuf {
        let path = directory.path("image");
        fs::write(&path, self.bytes()).unwrap();
        path
    }
}

fn header_of(name: u32, section: &Section) -> Vec<u8> {
    let mut bytes = [name, section.kind].map(u32::to_le_bytes).concat();
    let words = [section.flags, section.address, section.offset, section.bytes, 0, 8, 0];
    bytes.extend(words.map(u64::to_le_bytes).concat());
    bytes.truncate(64);
    bytes
}

/// One function, and the words of the file header that a lie stands in.
fn header(directory: &Directory, at: usize, word: u64) -> PathBuf {
    let path = Image::new(&[CODE], function(&[0x44, 0x0e, 16])).whole().write(directory);
    let mut bytes = fs::read(&path).unwrap();
    let len = if at < 52 { 8 } else { 2 };
    bytes[at..at + len].copy_from_slice(&word.to_le_bytes()[..len]);
    fs::write(&path, bytes).unwrap();
    path
}

fn x86() -> Writer {
    Writer::new(Kind::EhFrame, Machine::X86_64)
}

fn function(instructions: &[u8]) -> Vec<u8> {
    let mut writer = x86();
    let cie = writer.cie("zR", 1, &ENTRY);
    writer.fde(cie, 0x1000, 0x100, instructions);
    writer.bytes
}

fn long_names(directory: &Directory) -> PathBuf {
    let mut image = Image::new(&[CODE], function(&[0x44, 0x0e, 16])).whole();
    image = (0..65_500).fold(image, |image, _| image.section(b"", 1, AT, 0));
    image.names = vec![b'a'; (4 << 20) - 64];
    image.names.push(0);
    image.write(directory)
}

fn notes(directory: &Directory) -> PathBuf {
    let note = Segment { kind: PT_NOTE, flags: 0, offset: AT, address: 0, bytes: 64 << 10 };
    Image::new(&vec![note; 1024], vec![0; 64 << 10]).write(directory)
}

fn claim(directory: &Directory, offset: u64, bytes: u64) -> PathBuf {
    let image = Image::new(&[CODE], function(&[]));
    image.section(b".eh_frame", 1, offset, bytes).write(directory)
}

fn sparse(directory: &Directory, bytes: u64) -> PathBuf {
    let path = claim(directory, AT + 0x1000, bytes);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5 << 30).unwrap();
    path
}

fn two_large(directory: &Directory) -> PathBuf {
    let image = Image::new(&[CODE], function(&[])).section(b".eh_frame", 1, AT, 40 << 20);
    let path = image.section(b".debug_frame", 1, AT, 40 << 20).write(directory);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5 << 30).unwrap();
    path
}

fn no_bits(directory: &Directory) -> PathBuf {
    Image::new(&[CODE], vec![]).section(b".eh_frame", SHT_NOBITS, AT, HUGE).write(directory)
}

fn huge_code(directory: &Directory) -> PathBuf {
    let segments = [code(0, 0x1000, HUGE), code(HUGE, 0, u64::MAX), code(1, u64::MAX, 1)];
    Image::new(&segments, function(&[4, 255, 255, 255, 255, 0x0e, 16])).whole().write(directory)
}

fn two_functions(directory: &Directory, start: u64, bytes: u64) -> PathBuf {
    let mut writer = x86();
    // Absolute addresses.
    let cie = writer.cie_with(&[&[1, b'R', 0, 1, 0x78, 16, 4], &ENTRY[..]].concat());
    for start in [start, start + bytes - 0x100] {
        writer.fde_with(cie, &[start, 0x100].map(u64::to_le_bytes).concat());
    }
    Image::new(&[code(0, start, bytes)], writer.bytes).whole().write(directory)
}

fn far_apart(directory: &Directory) -> PathBuf {
    two_functions(directory, 0x1000, (4 << 30) + 0x2000)
}

fn apart(directory: &Directory) -> PathBuf {
    two_functions(directory, 0x1000, 1 << 30)
}

/// As many of the smallest FDEs as there may be, each of another function.
fn functions(directory: &Directory, segments: &[Segment]) -> PathBuf {
    let mut writer = x86();
    let cie = writer.cie_with(&[&[1, b'R', 0, 1, 0x78, 16, 0x12], &ENTRY[..]].concat());
    while writer.bytes.len() + 12 <= MAX {
        // Two bytes behind itself, relative to itself.
        writer.fde_with(cie, &[2, 0, 1, 0]);
    }
    Image::new(segments, writer.bytes).whole().write(directory)
}

fn in_segments(directory: &Directory) -> PathBuf {
    // All of them are looked through before the last has it.
    let mut segments = vec![code(0, 1, 1); 1023];
    segments.push(CODE);
    functions(directory, &segments)
}

fn overlapping(directory: &Directory) -> PathBuf {
    let mut writer = x86();
    let cie = writer.cie_with(&[&[1, b'R', 0, 1, 0x78, 16, 2], &ENTRY[..]].concat());
    while writer.bytes.len() + 12 <= MAX {
        writer.fde_with(cie, &[0, 0x10, 255, 127]);
    }
    Image::new(&[CODE], writer.bytes).whole().write(directory)
}

/// Two CIEs that differ, in turn.
fn many_rows(directory: &Directory) -> PathBuf {
    let mut writer = x86();
    let cies = [8, 16].map(|offset| {
        let head = [1, b'R', 0, 1, 0x78, 16, 0x12, 0x0c, 7, offset, 0x90, 1];
        writer.cie_with(&head)
    });
    for cie in cies.iter().cycle() {
        if writer.bytes.len() + 12 > MAX {
            break;
        }
        writer.fde_with(*cie, &[2, 0, 1, 0]);
    }
    Image::new(&[CODE], writer.bytes).whole().write(directory)
}

/// Sections of functions with as many rows as bytes can say.
fn rows(directory: &Directory, sections: usize) -> PathBuf {
    let mut writer = x86();
    let cie = writer.cie_with(&[&[1, b'R', 0, 1, 0x78, 16, 4], &ENTRY[..]].concat());
    let (each, bytes) = (200_000, MAX / sections);
    let program = [0x41, 0x86, 2, 0x41, 0xc6].repeat(each);
    let mut start = 0x1000_u64;
    while writer.bytes.len() + program.len() + 32 < bytes {
        let range = [start, 2 * each as u64].map(u64::to_le_bytes).concat();
        writer.fde_with(cie, &[&range, &program[..]].concat());
        start += 2 * each as u64;
    }
    let bytes = writer.bytes.len() as u64;
    let mut image = Image::new(&[CODE], writer.bytes).whole();
    if sections == 2 {
        // What is a CIE in one section is none in the other: the same rows again.
        let mut again = Writer::new(Kind::DebugFrame, Machine::X86_64);
        let cie = again.cie_with(&[&[1, 0, 1, 0x78, 16], &ENTRY[..]].concat());
        for index in 0..start / (2 * each as u64) {
            let range = [0x1001 + index * 2 * each as u64, 2 * each as u64];
            let range = range.map(u64::to_le_bytes).concat();
            if again.bytes.len() + program.len() + 32 < bytes as usize {
                again.fde_with(cie, &[&range, &program[..]].concat());
            }
        }
        let again = again.bytes;
        let len = again.len() as u64;
        image.content.extend(again);
        image = image.section(b".debug_frame", 1, AT + bytes, len);
    }
    image.write(directory)
}

/// Numbers as long as they may be, states as deep.
fn deep() -> Vec<u8> {
    let long = [&[0x0e][..], &[0x80; 9], &[0]].concat();
    let long = [&long[..], &[0x2e], &[0xff; 9], &[1], &[0x86], &[0x80; 9], &[0]].concat();
    [&[0x0a; 15][..], &long.repeat(20), &[0x0b; 15]].concat()
}

fn program(directory: &Directory, instructions: &[u8]) -> PathBuf {
    let mut writer = x86();
    let cie = writer.cie("zR", 1, &ENTRY);
    let body = instructions.repeat((1 << 20) / instructions.len());
    let mut start = 0x1000;
    while writer.bytes.len() + body.len() + 32 < MAX {
        writer.fde(cie, start, 0x100, &body);
        start += 0x100;
    }
    Image::new(&[CODE], writer.bytes).whole().write(directory)
}

/// CIEs that each begin in the instructions of the one before, so that each runs a million.
fn nested(directory: &Directory) -> PathBuf {
    let (count, each) = (250, 24);
    let end = count * each + 1_000_000;
    let mut bytes = Vec::with_capacity(MAX);
    for index in 0..count {
        let mut cie = ((end - index * each) as u32).to_le_bytes().to_vec();
        cie.extend([0, 0, 0, 0, 1, b'R', 0, 1, 0x78, 16, 0x12, 0x16, 0, 21]);
        cie.resize(each, 0);
        bytes.extend(cie);
    }
    bytes.resize(end + 4, 0);
    let mut writer = Writer { bytes, ..x86() };
    let whole = writer.cie_with(&[&[1, b'R', 0, 1, 0x78, 16, 0x12], &ENTRY[..]].concat());
    let mut index = 0;
    while writer.bytes.len() + 12 <= MAX {
        let cie = if index < count { index * each } else { whole };
        writer.fde_with(cie, &[2, 0, 1, 0]);
        index += 1;
    }
    Image::new(&[CODE], writer.bytes).whole().write(directory)
}

fn many_cies(directory: &Directory) -> PathBuf {
    let mut writer = x86();
    let body = [&[1, b'R', 0, 1, 0x78, 16, 0x12], &ENTRY[..]].concat();
    let cies: Vec<usize> = (0..32_768).map(|_| writer.cie_with(&body)).collect();
    let mut turn = cies.iter().cycle();
    while writer.bytes.len() + 12 <= MAX {
        writer.fde_with(*turn.next().unwrap(), &[2, 0, 1, 0]);
    }
    Image::new(&[CODE], writer.bytes).whole().write(directory)
}

fn astray(directory: &Directory) -> PathBuf {
    let header =
        Segment { kind: PT_GNU_EH_FRAME, flags: 0, offset: AT, address: SECTION, bytes: 8 };
    let load = Segment { kind: PT_LOAD, flags: 0, offset: AT, address: SECTION, bytes: HUGE };
    let content = [&[1, 0x1b, 3, 0x3b][..], &[0xff, 0xff, 0xff, 0x7f]].concat();
    Image::new(&[CODE, header, load], content).write(directory)
}
