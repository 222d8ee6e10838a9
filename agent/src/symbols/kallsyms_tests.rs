//! Tests on lists made up, with all that lies between symbols.

use super::*;

const LIST: &str = "\
0000000000001000 A per_cpu_offset
ffffffff81000000 T _stext
ffffffff81000000 T first
ffffffff81000100 t b
ffffffff81000200 D table_in_code
ffffffff81000300 W weak
ffffffff81000400 T _etext
ffffffff81000800 T mark_of_the_linker
ffffffff82000000 D data
ffffffff83000000 T _sinittext
ffffffff83000100 t start_up
ffffffff83000180 T _einittext
ffffffffc0002000 t two_first\t[two]
ffffffffc0002f00 t two_last\t[two]
ffffffffc0001000 t one_first\t[one]
ffffffffc0001010 t one_last\t[one]
ffffffffc0010000 t bpf_prog_6deef7357e7b4530_a\t[bpf]
ffffffffc0010200 t bpf_prog_6deef7357e7b4530_late\t[bpf]
ffffffffc0011000 t bpf_trampoline_42\t[bpf]
ffffffffc0018000 t bpf_prog_6deef7357e7b4530_b\t[bpf]
ffffffffc0020000 d one_data\t[one]
";

fn names(list: &str, lengths: &Lengths, addresses: &[u64]) -> Vec<String> {
    let list = Kallsyms::read(list.as_bytes(), lengths).unwrap();
    addresses.iter().map(|&at| list.at(at).unwrap_or("-").to_owned()).collect()
}

#[test]
fn code_of_the_image_ends_with_it() {
    let at = |offset: u64| 0xffff_ffff_8100_0000 + offset;
    let addresses = [at(0), at(0xff), at(0x100), at(0x1ff), at(0x200), at(0x2ff), at(0x300)];
    let expected = ["_stext", "_stext", "b", "b", "-", "-", "weak"];
    assert_eq!(names(LIST, &Lengths::new(), &addresses), expected);
    let addresses = [at(0x3ff), at(0x400), at(0x7ff), at(0x800), at(0x10_0000), at(0x100_0000)];
    assert_eq!(names(LIST, &Lengths::new(), &addresses), ["weak", "-", "-", "-", "-", "-"]);
    let addresses = [at(0x200_00ff), at(0x200_017f), at(0x200_0180), at(0x200_0200)];
    let expected = ["_sinittext", "start_up", "-", "-"];
    assert_eq!(names(LIST, &Lengths::new(), &addresses), expected);
    let outside = [0x1000, 0xffff_ffff_80ff_ffff, u64::MAX];
    assert_eq!(names(LIST, &Lengths::new(), &outside), ["-", "-", "-"]);
}

#[test]
fn a_module_does_not_reach_to_the_next() {
    let at = |offset: u64| 0xffff_ffff_c000_0000 + offset;
    let addresses = [at(0xfff), at(0x1000), at(0x1010), at(0x1fff), at(0x2000), at(0x2eff)];
    let expected = ["-", "one_first", "one_last", "one_last", "two_first", "two_first"];
    assert_eq!(names(LIST, &Lengths::new(), &addresses), expected);
    // A page, and what is left of its last.
    let addresses = [at(0x2fff), at(0x3fff), at(0x4000), at(0xffff), at(0x2_0000)];
    let expected = ["two_last", "two_last", "-", "-", "-"];
    assert_eq!(names(LIST, &Lengths::new(), &addresses), expected);
}

#[test]
fn a_program_ends_where_its_length_says() {
    let at = |offset: u64| 0xffff_ffff_c001_0000 + offset;
    let addresses =
        [at(0), at(0x3f), at(0x40), at(0x200), at(0xfff), at(0x1000), at(0x1fff), at(0x2000)];
    let lengths = Lengths::from([(at(0), 0x40), (at(0x8000), 0x9000)]);
    let (a, late) = ("bpf_prog_6deef7357e7b4530_a", "bpf_prog_6deef7357e7b4530_late");
    let trampoline = "bpf_trampoline_42";
    let expected = [a, a, "-", late, late, trampoline, trampoline, "-"];
    assert_eq!(names(LIST, &lengths, &addresses), expected);
    let expected = [a, a, a, late, late, trampoline, trampoline, "-"];
    assert_eq!(names(LIST, &Lengths::new(), &addresses), expected);
    // The last of the list.
    let b = "bpf_prog_6deef7357e7b4530_b";
    let addresses = [at(0x7fff), at(0x8fff), at(0x9fff), at(0xa000), at(0xffff), at(0x1_0fff)];
    assert_eq!(names(LIST, &lengths, &addresses), ["-", b, b, b, b, "-"]);
    assert_eq!(names(LIST, &Lengths::new(), &addresses), ["-", b, "-", "-", "-", "-"]);
}

#[test]
fn without_marks_of_the_image_symbols_still_end() {
    let list = "ffffffff81000000 T a\nffffffff81000040 T z\nffffffffc0000000 t m\t[m]\n";
    let at = |offset: u64| 0xffff_ffff_8100_0000 + offset;
    let addresses = [at(0x3f), at(0x40), at(0x1fff), at(0x2000), at(0x3f00_0000)];
    assert_eq!(names(list, &Lengths::new(), &addresses), ["a", "z", "z", "-", "m"]);
}

#[test]
fn hidden_addresses_and_nonsense_are_no_functions() {
    let list = "0000000000000000 T _stext\nxyz T a\nffffffff81000000\nffffffff81000000 T\n\n";
    assert_eq!(names(list, &Lengths::new(), &[0, 0xffff_ffff_8100_0000]), ["-", "-"]);
}
