//! Tables written by hand, byte by byte: what compilers write of special code, and what nobody should.

use agent_ebpf::unwind::{CfaRule, FrameRule, ReturnRule};

use super::{build::Writer, images::Table, *};

/// What every x86-64 compiler writes into its CIE: CFA = rsp + 8, return address at CFA - 8.
const ENTRY: [u8; 5] = [0x0c, 7, 8, 0x90, 1];

fn x86() -> Writer {
    Writer::new(Kind::EhFrame, Machine::X86_64)
}

fn sp(offset: i64) -> Rule {
    rule((CfaRule::Sp, 0, offset), (FrameRule::Same, 0), (ReturnRule::BelowCfa, 0))
}

fn rule(cfa: (CfaRule, u8, i64), frame: (FrameRule, i64), ret: (ReturnRule, i8)) -> Rule {
    Rule::new(cfa, frame, ret).unwrap()
}

/// The table of one function of 0x100 bytes at 0x1000.
fn function(instructions: &[u8]) -> Table {
    let mut writer = x86();
    let cie = writer.cie("zR", 1, &ENTRY);
    writer.fde(cie, 0x1000, 0x100, instructions);
    writer.table()
}

#[test]
fn a_frame_pointer_is_pushed_and_popped() {
    // advance 1, CFA + 16, rbp at CFA - 16, advance 3, CFA by rbp, advance1 0xf0, CFA = rsp + 8
    let code = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 2, 0xf0, 0x0c, 7, 8];
    let pushed = (FrameRule::AtCfa, -16);
    let below = (ReturnRule::BelowCfa, 0);
    let expected = [
        (0x1000, sp(8)),
        (0x1001, rule((CfaRule::Sp, 0, 16), pushed, below)),
        (0x1004, rule((CfaRule::Fp, 0, 16), pushed, below)),
        (0x10f4, rule((CfaRule::Sp, 0, 8), pushed, below)),
        (0x1100, Rule::NONE),
    ];
    let table = function(&code);
    assert_eq!(table.rows, expected);
    assert_eq!((table.summary.entries, table.summary.refused), (1, 0));
}

#[test]
fn aarch64_keeps_the_return_address_in_a_register() {
    let mut writer = Writer::new(Kind::EhFrame, Machine::Aarch64);
    // CFA = sp + 0; code in units of 4.
    let cie = writer.cie("zR", 4, &[0x0c, 31, 0]);
    // paciasp; stp x29, x30, [sp, -32]!; mov x29, sp; ...; ldp x29, x30, [sp], 32; autiasp; ret
    let prologue = [0x41, 0x2d, 0x41, 0x0e, 32, 0x9d, 4, 0x9e, 3, 0x41, 0x0d, 29];
    let epilogue = [0x4a, 0xde, 0xdd, 0x0c, 31, 0, 0x41, 0x2d];
    writer.fde(cie, 0x1000, 0x40, &[prologue.as_slice(), &epilogue].concat());
    // A leaf that saves x30 alone: str x30, [sp, -16]!
    writer.fde(cie, 0x1040, 0x20, &[0x41, 0x0e, 16, 0x9e, 2]);
    // _start: nobody returns.
    writer.fde(cie, 0x1060, 0x20, &[0x07, 30]);
    let link = rule((CfaRule::Sp, 0, 0), (FrameRule::Same, 0), (ReturnRule::Link, 0));
    let pair = ((FrameRule::AtCfa, -32), (ReturnRule::BesideFrame, 1));
    let alone = ((FrameRule::Same, -16), (ReturnRule::BesideFrame, 0));
    let expected = [
        (0x1000, link),
        (0x1008, rule((CfaRule::Sp, 0, 32), pair.0, pair.1)),
        (0x100c, rule((CfaRule::Fp, 0, 32), pair.0, pair.1)),
        (0x1034, link),
        (0x1044, rule((CfaRule::Sp, 0, 16), alone.0, alone.1)),
        (0x1060, Rule::STOP),
        (0x1080, Rule::NONE),
    ];
    assert_eq!(writer.table().rows, expected);
}

#[test]
fn offsets_come_in_many_ways() {
    let pushed = (FrameRule::AtCfa, -24);
    let expected = rule((CfaRule::Sp, 0, 8), pushed, (ReturnRule::BelowCfa, 0));
    // DW_CFA_offset, DW_CFA_offset_extended, DW_CFA_offset_extended_sf
    for code in [&[0x86, 3][..], &[0x05, 6, 3], &[0x11, 6, 3]] {
        assert_eq!(function(code).at(0x1000), expected);
    }
    // DW_CFA_GNU_negative_offset_extended, which gimli does not know
    assert_eq!(function(&[0x2f, 6, 3]).at(0x1000).frame_offset(), 24);
    // Offsets of the CFA in units of data.
    assert_eq!(function(&[0x13, 0x7d]).at(0x1000), sp(24));
    assert_eq!(function(&[0x12, 7, 0x7d]).at(0x1000), sp(24));
}

#[test]
fn a_signal_frame_needs_no_instructions() {
    let mut writer = x86();
    let cie = writer.cie("zRS", 1, &[]);
    // One that cannot be followed.
    writer.fde(cie, 0x0fff + 0x1000, 0x10, &[0x3f]);
    let table = writer.table();
    assert_eq!(table.rows, [(0x1fff, Rule::SIGNAL), (0x200f, Rule::NONE)]);
    assert_eq!(table.summary.entries, 1);
}

#[test]
fn vfork_keeps_the_return_address_in_a_register() {
    // pop %rdi: the return address is in rdi, CFA = rsp.
    let table = function(&[0x41, 0x0e, 0, 0x09, 16, 5]);
    let in_rdi = (ReturnRule::Register, 5);
    assert_eq!(table.at(0x1001), rule((CfaRule::Sp, 0, 0), (FrameRule::Same, 0), in_rdi));
}

#[test]
fn a_realigned_stack_is_found_through_memory() {
    let below = (ReturnRule::BelowCfa, 0);
    // GCC: CFA = r10; then rbp saved at rbp + 0, CFA = *(rbp - 8).
    let code = [0x41, 0x0c, 10, 0, 0x41, 0x10, 6, 2, 0x76, 0, 0x41, 0x0f, 3, 0x76, 0x78, 0x06];
    let table = function(&code);
    let r10 = (CfaRule::Register, 10, 0);
    assert_eq!(table.at(0x1001), rule(r10, (FrameRule::Same, 0), below));
    assert_eq!(table.at(0x1002), rule(r10, (FrameRule::AtFp, 0), below));
    assert_eq!(table.at(0x1003), rule((CfaRule::DerefFp, 0, -8), (FrameRule::AtFp, 0), below));
    // OpenSSL: CFA = *(rsp + 24) + 8, in two additions too.
    for code in [&[0x77, 24, 0x06, 0x23, 8][..], &[0x77, 24, 0x06, 0x23, 3, 0x35, 0x22]] {
        let code = [&[0x0f, code.len() as u8], code].concat();
        let expected = rule((CfaRule::DerefSp, 1, 24), (FrameRule::Same, 0), below);
        assert_eq!(function(&code).at(0x1000), expected);
    }
}

#[test]
fn an_expression_beyond_rules_is_bad() {
    let codes: [&[u8]; 7] = [
        &[],
        // *(rsp + 8) + 4, *(rsp + 8) + 128, **rsp, *rax, rsp + rbp, rsp * 2
        &[0x77, 8, 0x06, 0x23, 4],
        &[0x77, 8, 0x06, 0x23, 0x80, 1],
        &[0x77, 0, 0x06, 0x06],
        &[0x70, 0, 0x06],
        &[0x77, 0, 0x76, 0, 0x22],
        &[0x77, 0, 0x32, 0x1e],
    ];
    for code in codes {
        let table = function(&[&[0x0f, code.len() as u8], code].concat());
        assert_eq!(table.rows, [(0x1000, Rule::BAD), (0x1100, Rule::NONE)], "{code:x?}");
        assert_eq!((table.summary.entries, table.summary.bad_rows), (1, 1));
    }
}

#[test]
fn both_kinds_of_plt_are_known() {
    for threshold in [10, 11] {
        let code = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x30 + threshold, 0x2a, 0x33, 0x24, 0x22];
        let table = function(&[&[0x0e, 16, 0x46, 0x0e, 24, 0x4a, 0x0f, 11], &code[..]].concat());
        let plt = (CfaRule::Plt, threshold, 0);
        let expected = [
            (0x1000, sp(16)),
            (0x1006, sp(24)),
            (0x1010, rule(plt, (FrameRule::Same, 0), (ReturnRule::BelowCfa, 0))),
            (0x1100, Rule::NONE),
        ];
        assert_eq!(table.rows, expected);
    }
}

#[test]
fn states_are_remembered() {
    let code = [0x0e, 16, 0x41, 0x0a, 0x0e, 32, 0x86, 2, 0x41, 0x0b, 0x41, 0xc6];
    let lower = rule((CfaRule::Sp, 0, 32), (FrameRule::AtCfa, -16), (ReturnRule::BelowCfa, 0));
    let expected = [(0x1000, sp(16)), (0x1001, lower), (0x1002, sp(16)), (0x1100, Rule::NONE)];
    assert_eq!(function(&code).rows, expected);
}

#[test]
fn remembering_has_an_end() {
    assert_eq!(function(&[[0x0a; 16], [0x0b; 16]].concat()).summary.refused, 0);
    let code = [&[0x41, 0x0e, 16, 0x41], &[0x0a; 17][..]].concat();
    let table = function(&code);
    let expected = [(0x1000, sp(8)), (0x1001, sp(16)), (0x1002, Rule::BAD), (0x1100, Rule::NONE)];
    assert_eq!(table.rows, expected);
    assert_eq!(table.summary.refused, 1);
    assert_eq!(function(&[0x0b]).rows[0], (0x1000, Rule::BAD));
}

#[test]
fn debug_frame_of_version_4_in_both_widths() {
    for wide in [false, true] {
        let mut writer = Writer { wide, ..Writer::new(Kind::DebugFrame, Machine::X86_64) };
        writer.entry(0x1234_5678, &[1, 2, 3]);
        let cie = writer.cie_with(&[&[4, 0, 8, 0, 1, 0x78, 16], &ENTRY[..]].concat());
        let narrow = writer.cie_with(&[&[4, 0, 4, 0, 1, 0x78, 16], &ENTRY[..]].concat());
        let segmented = writer.cie_with(&[&[4, 0, 8, 2, 1, 0x78, 16], &ENTRY[..]].concat());
        writer.fde(cie, 0x1000, 0x100, &[0x44, 0x0e, 16]);
        // Of code that the linker removed: not worth mentioning.
        writer.fde(cie, 0, 0x100, &[]);
        writer.fde(cie, 0x5000, 0, &[]);
        writer.fde(narrow, 0x2000, 0x100, &[]);
        writer.fde(segmented, 0x3000, 0x100, &[]);
        let table = writer.table();
        assert_eq!(table.rows, [(0x1000, sp(8)), (0x1004, sp(16)), (0x1100, Rule::NONE)]);
        // The two of other machines, and the one without a CIE.
        assert_eq!((table.summary.entries, table.summary.refused), (1, 3));
    }
}

#[test]
fn eh_frame_has_short_ids_in_long_entries() {
    let mut writer = Writer { wide: true, ..x86() };
    let cie = writer.cie("zR", 1, &ENTRY);
    writer.fde(cie, 0x1000, 0x100, &[]);
    assert_eq!(writer.table().rows, [(0x1000, sp(8)), (0x1100, Rule::NONE)]);
}

#[test]
fn all_augmentations_are_passed_over() {
    // Letters, what is before the alignment factors, the data of "z".
    let cases: [(&str, &[u8], &[u8]); 5] = [
        ("zPLR", &[], &[0x9b, 1, 2, 3, 4, 0x1b, 0x1b]),
        ("zRX", &[], &[0x1b, 7, 7, 7]),
        ("ehzR", &[1, 2, 3, 4, 5, 6, 7, 8], &[0x1b]),
        // Aligned: at 0x12 of the section, its pointer begins at 0x18.
        ("zPR", &[], &[0x50, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x1b]),
        ("zPR", &[], &[0xff, 0x1b]),
    ];
    for (letters, pointer, data) in cases {
        let mut writer = x86();
        let mut body = [&[1], letters.as_bytes(), &[0], pointer, &[1, 0x78, 16]].concat();
        body.push(data.len() as u8);
        body.extend([data, &ENTRY].concat());
        let cie = writer.cie_with(&body);
        writer.fde(cie, 0x1000, 0x100, &[]);
        assert_eq!(writer.table().rows, [(0x1000, sp(8)), (0x1100, Rule::NONE)], "{letters}");
    }
}

#[test]
fn all_encodings_of_addresses() {
    let cases: [(u8, &[u8], u64); 9] = [
        // Absolute: 8 bytes, LEB128, 2, 4, 8 bytes, and signed.
        (0x00, &[0, 0x10, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0], 0x1000),
        (0x01, &[0x80, 0x20, 0x20], 0x1000),
        (0x02, &[0, 0x10, 0x20, 0], 0x1000),
        (0x03, &[0, 0x10, 0, 0, 0x20, 0, 0, 0], 0x1000),
        (0x0c, &[0, 0x10, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0], 0x1000),
        (0x0b, &[0, 0x10, 0, 0, 0x20, 0, 0, 0], 0x1000),
        (0x0a, &[0, 0x10, 0x20, 0], 0x1000),
        (0x09, &[0x80, 0x20, 0x20], 0x1000),
        // Relative to itself, at 0x20 of the section: -0x300000.
        (0x1b, &[0, 0, 0xd0, 0xff, 0x20, 0, 0, 0], 0x10_0020),
    ];
    for (encoding, addresses, start) in cases {
        let mut writer = x86();
        let body = [&[1, b'z', b'R', 0, 1, 0x78, 16, 1, encoding], &ENTRY[..]].concat();
        let cie = writer.cie_with(&body);
        assert_eq!(writer.bytes.len(), 0x18);
        writer.fde_with(cie, &[addresses, &[0]].concat());
        let expected = [(start, sp(8)), (start + 0x20, Rule::NONE)];
        assert_eq!(writer.table().rows, expected, "{encoding:#x}");
    }
    // Relative to what we do not know, indirect, omitted; a length below nothing.
    let refused: [(u8, &[u8]); 5] = [
        (0x3b, &[0, 0x10, 0, 0, 0x20, 0, 0, 0]),
        (0x9b, &[0, 0x10, 0, 0, 0x20, 0, 0, 0]),
        (0xff, &[]),
        (0x0d, &[0, 0x10, 0, 0, 0x20, 0, 0, 0]),
        (0x0b, &[0, 0x10, 0, 0, 0, 0, 0, 0xff]),
    ];
    for (encoding, addresses) in refused {
        let mut writer = x86();
        let body = [&[1, b'z', b'R', 0, 1, 0x78, 16, 1, encoding], &ENTRY[..]].concat();
        let cie = writer.cie_with(&body);
        writer.fde_with(cie, &[addresses, &[0]].concat());
        assert_eq!(writer.table().summary, Summary { refused: 1, ..Summary::default() });
    }
}
