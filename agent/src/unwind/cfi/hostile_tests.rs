//! Sections that lie: each lie costs what it is about, and neither time nor memory.

use std::time::{Duration, Instant};

use agent_ebpf::unwind::{CfaRule, FrameRule, Machine, ReturnRule, Rule};

use super::{Kind, Summary, build::Writer, images::Table};

const ENTRY: [u8; 5] = [0x0c, 7, 8, 0x90, 1];

fn x86() -> (Writer, usize) {
    let mut writer = Writer::new(Kind::EhFrame, Machine::X86_64);
    let cie = writer.cie("zR", 1, &ENTRY);
    (writer, cie)
}

fn sp(offset: i64) -> Rule {
    let cfa = (CfaRule::Sp, 0, offset);
    Rule::new(cfa, (FrameRule::Same, 0), (ReturnRule::BelowCfa, 0)).unwrap()
}

fn function(instructions: &[u8]) -> Table {
    let (mut writer, cie) = x86();
    writer.fde(cie, 0x1000, 0x100, instructions);
    writer.table()
}

#[test]
fn a_bad_entry_loses_itself() {
    let (mut writer, cie) = x86();
    let of_nobody = writer.cie("zR", 1, &[0x3f]);
    let other_return = writer.cie_with(&[1, 0, 1, 0x78, 17]);
    writer.fde(cie, 0x1000, 0x100, &[0x44, 0x0e, 16]);
    // An unknown instruction; CIEs that cannot be followed; a CIE that is none; no code; too short.
    writer.fde(cie, 0x1100, 0x100, &[0x44, 0x0e, 24, 0x44, 0x3f, 0x44, 0x0e, 32]);
    writer.fde(of_nobody, 0x1200, 0x100, &[]);
    writer.fde(other_return, 0x1300, 0x100, &[]);
    writer.fde(writer.bytes.len(), 0x1400, 0x100, &[]);
    writer.fde(cie, 0x20_0000, 0x100, &[]);
    writer.fde_with(cie, &[1, 2]);
    writer.entry(0xffff_0000, &[]);
    writer.bytes.extend([2, 0, 0, 0, 9, 9]);
    // A terminator, behind which it goes on.
    writer.bytes.extend([0, 0, 0, 0]);
    writer.fde(cie, 0x1500, 0x100, &[0x44, 0x0e, 40]);
    let table = writer.table();
    let expected = [
        (0x1000, sp(8)),
        (0x1004, sp(16)),
        (0x1100, sp(8)),
        (0x1104, sp(24)),
        (0x1108, Rule::BAD),
        (0x1200, Rule::NONE),
        (0x1500, sp(8)),
        (0x1504, sp(40)),
        (0x1600, Rule::NONE),
    ];
    assert_eq!(table.rows, expected);
    let summary = Summary { entries: 2, refused: 8, rows: 9, bad_rows: 1, truncated: false };
    assert_eq!(table.summary, summary);
}

#[test]
fn an_entry_past_the_end_ends_the_section() {
    let (mut writer, cie) = x86();
    writer.fde(cie, 0x1000, 0x100, &[]);
    let whole = writer.bytes.len();
    writer.fde(cie, 0x1100, 0x100, &[]);
    for length in [whole + 1, whole + 3, whole + 4, writer.bytes.len() - 1] {
        let cut = Writer { bytes: writer.bytes[..length].to_vec(), ..writer.clone() };
        let table = cut.table();
        assert_eq!(table.rows, [(0x1000, sp(8)), (0x1100, Rule::NONE)]);
        assert!(table.summary.truncated);
    }
    for length in [0xffff_fff0_u32, 0xffff_fffe, 0x7fff_ffff, u32::MAX] {
        let mut writer = Writer { bytes: writer.bytes[..whole].to_vec(), ..writer.clone() };
        writer.bytes.extend(length.to_le_bytes());
        writer.bytes.extend([0xff; 8]);
        assert!(writer.table().summary.truncated, "{length:#x}");
        assert_eq!(writer.table().summary.entries, 1);
    }
}

#[test]
fn a_later_start_cuts_and_the_first_of_equals_stays() {
    let (mut writer, cie) = x86();
    writer.fde(cie, 0x1080, 0x20, &[0x0e, 24]);
    writer.fde(cie, 0x1000, 0x100, &[0x0e, 16, 0x02, 0x90, 0x0e, 32]);
    writer.fde(cie, 0x1080, 0x80, &[0x0e, 40]);
    let table = writer.table();
    let expected = [(0x1000, sp(16)), (0x1080, sp(24)), (0x10a0, Rule::NONE)];
    assert_eq!(table.rows, expected);
    assert_eq!((table.summary.entries, table.summary.refused), (2, 1));
}

#[test]
fn padding_keeps_the_rule_and_gaps_have_none() {
    let (mut writer, cie) = x86();
    writer.fde(cie, 0x1000, 0xf1, &[0x0e, 16]);
    writer.fde(cie, 0x1100, 0xf0, &[0x0e, 24]);
    writer.fde(cie, 0x1200, 0x10, &[0x0e, 24]);
    let expected = [
        (0x1000, sp(16)),
        (0x1100, sp(24)),
        (0x11f0, Rule::NONE),
        (0x1200, sp(24)),
        (0x1210, Rule::NONE),
    ];
    assert_eq!(writer.table().rows, expected);
}

#[test]
fn a_function_ends_with_its_segment() {
    let (mut writer, cie) = x86();
    writer.fde(cie, 0x1f_fff0, 0x7fff_ffff, &[0x44, 0x0e, 16]);
    let expected = [(0x1f_fff0, sp(8)), (0x1f_fff4, sp(16)), (0x20_0000, Rule::NONE)];
    assert_eq!(writer.table().rows, expected);
}

#[test]
fn segments_may_overlap_and_come_in_any_order() {
    let (mut writer, cie) = x86();
    for start in [0x1000, 0x2000, 0x3000, 0x4000] {
        writer.fde(cie, start, 0x1000, &[]);
    }
    let code = [0x3f00..0x4000, 0x3000..0x3100, 0x1000..0x2000, 0x1f00..0x2800, 0x3080..0x30c0];
    let table = Table::of(&writer.section(), &code);
    let expected = [(0x1000, sp(8)), (0x2800, Rule::NONE), (0x3000, sp(8)), (0x3100, Rule::NONE)];
    assert_eq!(table.rows, expected);
    assert_eq!((table.summary.entries, table.summary.refused), (3, 1));
}

#[test]
fn nothing_is_said_past_the_end() {
    // advance4 0x1000, advance8 past all addresses, advance to the end exactly
    let past: [&[u8]; 3] = [
        &[0x44, 0x0e, 16, 4, 0, 0x10, 0, 0, 0x0e, 24, 0x44, 0x0e, 32],
        &[0x44, 0x0e, 16, 0x1d, 255, 255, 255, 255, 255, 255, 255, 255, 0x0e, 24],
        &[0x44, 0x0e, 16, 2, 0xfc, 0x0e, 24],
    ];
    for code in past {
        let table = function(code);
        assert_eq!(table.rows, [(0x1000, sp(8)), (0x1004, sp(16)), (0x1100, Rule::NONE)]);
        assert_eq!(table.summary.entries, 1);
    }
    // No distance: the row never was.
    let expected = [(0x1000, sp(24)), (0x1100, Rule::NONE)];
    assert_eq!(function(&[0x0e, 16, 0x40, 0x0e, 24]).rows, expected);
}

#[test]
fn moving_back_is_broken() {
    // CIE with absolute addresses: set_loc 0x1010, then 0x1008.
    let (mut writer, _) = x86();
    let cie = writer.cie_with(&[&[1, b'z', b'R', 0, 1, 0x78, 16, 1, 2], &ENTRY[..]].concat());
    let code = [1, 0x10, 0x10, 0x0e, 16, 1, 8, 0x10, 0x0e, 24];
    writer.fde_with(cie, &[&[0, 0x10, 0, 1, 0], &code[..]].concat());
    let table = writer.table();
    assert_eq!(table.rows, [(0x1000, sp(8)), (0x1010, Rule::BAD), (0x1100, Rule::NONE)]);
}

#[test]
fn huge_numbers_are_bad() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let endless = [0x80; 60];
    // As offset of the CFA, of rbp, of the return address: one row is bad, the next one good again.
    for (set, undo) in [(&[0x0e][..], &[0x0e, 8][..]), (&[0x86], &[0xc6]), (&[0x90], &[0xd0])] {
        let code = [set, &huge, &[0x41], undo].concat();
        let expected = [(0x1000, Rule::BAD), (0x1001, sp(8)), (0x1100, Rule::NONE)];
        assert_eq!(function(&code).rows, expected);
        let code = [&[0x41], set, &endless, &[0x41], undo].concat();
        let expected = [(0x1000, sp(8)), (0x1001, Rule::BAD), (0x1100, Rule::NONE)];
        assert_eq!(function(&code).rows, expected);
    }
    // As length of an expression.
    assert_eq!(function(&[&[0x0f][..], &huge].concat()).rows[0], (0x1000, Rule::BAD));
    // Largest offset that fits, and the next.
    assert_eq!(function(&[0x0e, 0xff, 0xff, 0xff, 3]).rows[0].1, sp(0x7f_ffff));
    assert_eq!(function(&[0x0e, 0x80, 0x80, 0x80, 4]).rows[0].1, Rule::BAD);
}

/// Longest any of the bombs below may take in a debug build on a loaded host; each takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_long_program_is_given_up() {
    let started = Instant::now();
    // 16 MiB of instructions that all do something.
    let table = function(&vec![0x0a; 16 << 20]);
    assert_eq!(table.rows[0], (0x1000, Rule::BAD));
    let table = function(&[0x0a, 0x0b].repeat(8 << 20));
    assert_eq!(table.rows[0], (0x1000, Rule::BAD));
    assert_eq!(table.summary.refused, 1);
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn many_functions_are_as_many_rows() {
    let started = Instant::now();
    let mut writer = Writer::new(Kind::EhFrame, Machine::X86_64);
    // The shortest there are: two bytes each of start and length, no augmentation.
    let cie = writer.cie_with(&[&[1, b'R', 0, 1, 0x78, 16, 2], &ENTRY[..]].concat());
    for index in 0..1_000_000_u32 {
        let start = 0x1000 + (index % 0xe000) as u16;
        let [low, high] = start.to_le_bytes();
        writer.fde_with(cie, &[low, high, 1, 0]);
    }
    let table = writer.table();
    assert_eq!(table.rows, [(0x1000, sp(8)), (0xf000, Rule::NONE)]);
    assert_eq!((table.summary.entries, table.summary.refused), (0xe000, 1_000_000 - 0xe000));
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn long_cies_are_not_read_for_each_function() {
    let started = Instant::now();
    let mut writer = Writer::new(Kind::EhFrame, Machine::X86_64);
    // CIEs within CIEs: each begins in the instructions of the one before, and all end together.
    let count = 4_000;
    let each = 24;
    let mut bytes = Vec::new();
    for index in 0..count {
        let length = (count - index) * each - 4;
        let mut cie = (length as u32).to_le_bytes().to_vec();
        cie.extend([0, 0, 0, 0, 1, b'R', 0, 1, 0x78, 16, 2]);
        cie.extend(ENTRY);
        // An expression to skip over, up to the same in the next CIE.
        cie.extend(if index + 1 < count { [0x16, 0, 21] } else { [0; 3] });
        cie.truncate(each);
        cie.resize(each, 0);
        bytes.extend(cie);
    }
    writer.bytes = bytes;
    for index in 0..count {
        let start = 0x1000 + index as u16 * 2;
        let [low, high] = start.to_le_bytes();
        writer.fde_with(index * each, &[low, high, 2, 0]);
    }
    let table = writer.table();
    assert!(table.summary.entries > 0, "no CIE can be read");
    assert!(table.summary.refused > 0, "all CIEs were read: {:?}", table.summary);
    assert_eq!(table.summary.entries + table.summary.refused, count as u64);
    assert!(started.elapsed() < PATIENCE);
}
