//! Steps on stacks written down by hand from the ABIs.

extern crate std;

use std::collections::BTreeMap;

use super::*;

/// Memory by address; registers are 1000 + number, those of a context 2000 + number.
struct Written(BTreeMap<u64, u64>);

impl Memory for Written {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.0.get(&address).copied()
    }

    fn pair(&mut self, address: u64) -> Option<[u64; 2]> {
        Some([self.word(address)?, self.word(address + 8)?])
    }

    fn register(&mut self, number: u8, context: u64) -> Option<u64> {
        Some(if context == 0 { 0x9000 } else { 0xa000 } + u64::from(number) * 8)
    }
}

const IP: u64 = 0x40_1000;
const BACK: u64 = 0x40_2000;

fn at(sp: u64, bp: u64) -> Cursor {
    Cursor { ip: IP, sp, bp, exact: 1, innermost: 1, ..Cursor::default() }
}

fn rule(cfa: (CfaRule, u8, i64), frame: (FrameRule, i64), ret: (ReturnRule, i8)) -> Rule {
    Rule::new(cfa, frame, ret).unwrap()
}

const BELOW: (ReturnRule, i8) = (ReturnRule::BelowCfa, 0);
const SAME: (FrameRule, i64) = (FrameRule::Same, 0);

fn walk(machine: Machine, rule: Rule, cursor: &mut Cursor, words: &[(u64, u64)]) -> Option<Stop> {
    step(machine, rule, cursor, &mut Written(words.iter().copied().collect()))
}

#[test]
fn the_caller_of_a_function_that_pushed() {
    let mut cursor = at(0x7000, 0x7777);
    let pushed = rule((CfaRule::Sp, 0, 16), (FrameRule::AtCfa, -16), BELOW);
    let words = [(0x7000, 0x8888), (0x7008, BACK)];
    assert_eq!(walk(Machine::X86_64, pushed, &mut cursor, &words), None);
    assert_eq!((cursor.ip, cursor.sp, cursor.bp), (BACK, 0x7010, 0x8888));
    assert_eq!((cursor.exact, cursor.innermost, cursor.inside()), (0, 0, BACK - 1));
}

#[test]
fn a_frame_below_its_callee_is_none() {
    let by_frame = rule((CfaRule::Fp, 0, 16), (FrameRule::AtCfa, -16), BELOW);
    let mut cursor = at(0x7000, 0x6000);
    assert_eq!(walk(Machine::X86_64, by_frame, &mut cursor, &[]), Some(Stop::Progress));
    // An empty frame is one only if it is the innermost.
    let empty = rule((CfaRule::Sp, 0, 0), SAME, (ReturnRule::Link, 0));
    let mut cursor = Cursor { lr: BACK | 0x7f << 56, ..at(0x7000, 0) };
    assert_eq!(walk(Machine::Aarch64, empty, &mut cursor, &[]), None);
    assert_eq!(cursor.ip, BACK, "without its signature");
    assert_eq!(walk(Machine::Aarch64, empty, &mut cursor, &[]), Some(Stop::Progress));
}

#[test]
fn registers_are_known_in_the_innermost_frame_only() {
    // __vfork keeps its return address in rdi, number 5.
    let vfork = rule((CfaRule::Sp, 0, 8), SAME, (ReturnRule::Register, 5));
    let mut cursor = at(0x7000, 0);
    assert_eq!(walk(Machine::X86_64, vfork, &mut cursor, &[]), None);
    assert_eq!((cursor.ip, cursor.sp), (0x9028, 0x7008));
    assert_eq!(walk(Machine::X86_64, vfork, &mut cursor, &[]), Some(Stop::Register));
    // Hand-written code keeps the stack pointer in r11.
    let r11 = rule((CfaRule::Register, 11, 8), SAME, BELOW);
    let mut cursor = at(0x7000, 0);
    assert_eq!(walk(Machine::X86_64, r11, &mut cursor, &[(0x9058, BACK)]), None);
    assert_eq!((cursor.ip, cursor.sp), (BACK, 0x9060));
}

#[test]
fn a_realigned_frame_is_found_through_its_saved_address() {
    // GCC: lea 8(%rsp), %r10; and $-32, %rsp; push -8(%r10); push %rbp; mov %rsp, %rbp; push %r10
    let mut cursor = at(0x6f00, 0x7000);
    let drap = rule((CfaRule::DerefFp, 0, -8), (FrameRule::AtFp, 0), BELOW);
    let words = [(0x6ff8, 0x7400), (0x7000, 0x8888), (0x73f8, BACK)];
    assert_eq!(walk(Machine::X86_64, drap, &mut cursor, &words), None);
    assert_eq!((cursor.ip, cursor.sp, cursor.bp), (BACK, 0x7400, 0x8888));
}

#[test]
fn a_lazy_plt_entry_pushes_from_its_eleventh_byte_on() {
    let plt = rule((CfaRule::Plt, 11, 0), SAME, BELOW);
    for (offset, cfa) in [(10, 0x7008), (11, 0x7010)] {
        let mut cursor = Cursor { ip: IP + offset, ..at(0x7000, 0) };
        let words = [(0x7000, BACK), (0x7008, BACK)];
        assert_eq!(walk(Machine::X86_64, plt, &mut cursor, &words), None);
        assert_eq!(cursor.sp, cfa);
    }
}

#[test]
fn what_a_signal_interrupted_is_known_whole() {
    let words = |context: u64, bp: u64, sp: u64| {
        [
            (context + bp * 8, 0x8888),
            (context + bp * 8 + 8, BACK + 4),
            (context + sp * 8, 0x1000),
            (context + sp * 8 + 8, BACK),
        ]
    };
    for (machine, context, bp, sp) in
        [(Machine::X86_64, 0x7000 + 40, 10, 15), (Machine::Aarch64, 0x7000 + 312, 29, 31)]
    {
        let mut cursor = Cursor { exact: 0, innermost: 0, ..at(0x7000, 1) };
        // The interrupted stack may lie below: an alternate stack was in use.
        let stop = walk(machine, Rule::SIGNAL, &mut cursor, &words(context, bp, sp));
        assert_eq!(stop, None);
        assert_eq!((cursor.ip, cursor.sp, cursor.bp), (BACK, 0x1000, 0x8888));
        assert_eq!((cursor.exact, cursor.innermost, cursor.context), (1, 1, context));
    }
}

#[test]
fn aarch64_finds_the_return_address_beside_or_apart_from_the_frame_pointer() {
    // stp x29, x30, [sp, #-32]!; mov x29, sp
    let frame = rule((CfaRule::Fp, 0, 32), (FrameRule::AtCfa, -32), (ReturnRule::BesideFrame, 1));
    let mut cursor = at(0x7000, 0x7000);
    let words = [(0x7000, 0x8888), (0x7008, BACK)];
    assert_eq!(walk(Machine::Aarch64, frame, &mut cursor, &words), None);
    assert_eq!((cursor.ip, cursor.sp, cursor.bp), (BACK, 0x7020, 0x8888));
    // str x30, [sp, #-16]!
    let alone = rule((CfaRule::Sp, 0, 16), (FrameRule::Same, -16), (ReturnRule::BesideFrame, 0));
    let mut cursor = at(0x7000, 5);
    assert_eq!(walk(Machine::Aarch64, alone, &mut cursor, &[(0x7000, BACK)]), None);
    assert_eq!((cursor.ip, cursor.sp, cursor.bp), (BACK, 0x7010, 5));
}

#[test]
fn without_a_table_the_code_tells_how_far_the_prologue_is() {
    let step = |code: u64, words: &[(u64, u64)]| {
        let mut cursor = at(0x7000, 0x7100);
        let mut all = std::vec::Vec::from(words);
        all.push((IP, code));
        let stop = walk(Machine::X86_64, Rule::NONE, &mut cursor, &all);
        (stop, cursor.ip, cursor.sp, cursor.bp)
    };
    let words = [(0x7000, BACK), (0x7008, BACK + 8), (0x7100, 0x7200), (0x7108, BACK + 16)];
    // push %rbp; ret; endbr64
    for code in [0x55, 0xc3, 0xfa1e_0ff3] {
        assert_eq!(step(code, &words), (None, BACK, 0x7008, 0x7100), "{code:#x}");
    }
    // mov %rsp, %rbp
    assert_eq!(step(0xe5_8948, &words), (None, BACK + 8, 0x7010, BACK));
    // Anything else.
    assert_eq!(step(0x90, &words), (None, BACK + 16, 0x7110, 0x7200));
}

#[test]
fn a_chain_of_frame_pointers_ends_in_zero_but_no_register_does() {
    let mut cursor = at(0x7000, 0);
    assert_eq!(walk(Machine::X86_64, Rule::NONE, &mut cursor, &[]), Some(Stop::Frame));
    let mut cursor = at(0x7000, 0x7010);
    let words = [(0x7010, 0), (0x7018, BACK)];
    assert_eq!(walk(Machine::X86_64, Rule::NONE, &mut cursor, &words), None);
    assert_eq!(walk(Machine::X86_64, Rule::NONE, &mut cursor, &words), Some(Stop::Bottom));
    let mut cursor = at(0x7000, 0x7010);
    let zero = [(0x7010, 0x7020), (0x7018, 0)];
    assert_eq!(walk(Machine::X86_64, Rule::NONE, &mut cursor, &zero), Some(Stop::Bottom));
}

#[test]
fn a_trampoline_without_a_table_is_known_by_its_bytes() {
    for code in [0x0f00_0000_0fc0_c748, 0x05_0f00_0000_0fb8] {
        let mut cursor = Cursor { exact: 0, innermost: 0, ..at(0x7000, 0) };
        let context = 0x7000 + 40;
        let words = [
            (IP, code),
            (context + 80, 1),
            (context + 88, 2),
            (context + 120, 0x7800),
            (context + 128, BACK),
        ];
        assert_eq!(walk(Machine::X86_64, Rule::NONE, &mut cursor, &words), None);
        assert_eq!((cursor.ip, cursor.sp, cursor.exact), (BACK, 0x7800, 1));
    }
}

#[test]
fn every_stop_is_listed_under_its_number() {
    for (number, stop) in Stop::ALL.into_iter().enumerate() {
        assert_eq!(stop as usize, number);
    }
}

#[test]
fn where_stacks_are_switched_the_frame_pointer_leads_anywhere() {
    for bp in [0x1000, 0x7f00_0000_0000] {
        let mut cursor = Cursor { exact: 0, innermost: 0, ..at(0x7000, bp) };
        let words = [(bp, 0x4000), (bp + 8, BACK)];
        assert_eq!(walk(Machine::X86_64, Rule::NONE, &mut cursor, &words), Some(Stop::Frame));
        assert_eq!(walk(Machine::X86_64, Rule::SWITCH, &mut cursor, &words), None);
        assert_eq!((cursor.ip, cursor.sp, cursor.bp, cursor.chained), (BACK, bp + 16, 0x4000, 1));
    }
    // Zero is not the end of the chain: nothing leads back. The kernel's half and odd words neither.
    for bp in [0, 8, 0x7004, 1 << 47, u64::MAX] {
        let mut cursor = Cursor { chained: 1, exact: 0, innermost: 0, ..at(0x7000, bp) };
        let all = [(bp & !7, 0), (bp, 0), (bp.wrapping_add(8), BACK)];
        let stop = walk(Machine::X86_64, Rule::SWITCH, &mut cursor, &all);
        assert_eq!(stop, Some(Stop::Frame), "{bp:#x}");
    }
}
