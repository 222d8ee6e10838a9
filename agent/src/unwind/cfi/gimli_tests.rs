//! Tables of real files and of generated programs, compared with gimli.

use std::{ops::Range, sync::LazyLock, time::Instant};

use agent_ebpf::unwind::Machine;
use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};
use proptest::prelude::*;

use super::{
    Kind, Section,
    build::{CODE, Writer},
    images::{self, Image, Table},
    oracle::compare,
};

/// All of it.
const ANYWHERE: Range<u64> = 0..u64::MAX;

static LIBC: LazyLock<Image> = LazyLock::new(|| Image::read(&images::libc()));
static LIBC_TABLE: LazyLock<Table> = LazyLock::new(|| LIBC.table());

#[test]
fn files_say_what_gimli_says() {
    for path in images::all() {
        let image = Image::read(&path);
        let started = Instant::now();
        let table = image.table();
        let took = started.elapsed();
        let comparison = compare(&image.section(), &image.code, &table);
        println!("{}: {:?} in {took:?}", path.display(), table.summary);
        println!(
            "    {} FDEs, {} addresses, {} frame pointers lost; bad: {:#?}",
            comparison.fdes, comparison.addresses, comparison.lost, comparison.bad
        );
        let some: Vec<_> = comparison.differences.iter().take(10).collect();
        assert!(some.is_empty(), "{} differences: {some:#?}", comparison.differences.len());
        assert_eq!(comparison.broken, 0);
        assert!(!table.summary.truncated);
        assert_eq!(table.summary.entries, comparison.fdes);
    }
}

/// Speed of a release build: `cargo test --release -p hotspan --lib how_long -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn how_long_files_take() {
    for path in images::all() {
        let image = Image::read(&path);
        let mut best = u128::MAX;
        for _ in 0..10 {
            let started = Instant::now();
            let mut all = Vec::new();
            super::rows(&image.section(), &image.code, &mut |address, rule| {
                all.push((address, rule))
            });
            best = best.min(started.elapsed().as_micros());
        }
        println!("{}: {} KiB, {best} us", path.display(), image.bytes.len() >> 10);
    }
}

/// An expression, mostly of shapes that rules know.
fn expression() -> impl Strategy<Value = Vec<u8>> {
    let register = prop_oneof![Just(6u8), Just(7), Just(29), Just(31), 0..32u8];
    let tail = prop_oneof![
        2 => Just(vec![]),
        2 => Just(vec![0x06]),
        2 => (0..20u8).prop_map(|words| vec![0x06, 0x23, words * 8 % 128]),
        1 => (0..128u8).prop_map(|bytes| vec![0x06, 0x23, bytes]),
        1 => (0..16u8).prop_map(|number| vec![0x30 + number, 0x1c, 0x06, 0x38, 0x22]),
        1 => Just(vec![0x06, 0x06]),
        1 => Just(vec![0x32, 0x1e]),
    ];
    let plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22].to_vec();
    prop_oneof![
        8 => (register, 0..128u8, tail)
            .prop_map(|(register, offset, tail)| [&[0x70 + register, offset], &tail[..]].concat()),
        1 => Just(plt),
        // Of the CFA, which is on the stack where registers are recovered.
        1 => (0..64u8).prop_map(|offset| vec![0x96, 0x23, offset]),
    ]
}

/// One instruction that gimli knows, mostly about the registers that rules speak of. 34 is
/// whether AArch64's return address is signed, which gimli follows and we do not.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let register =
        || prop_oneof![Just(6u8), Just(7), Just(16), Just(29), Just(30), Just(31), 0..34u8];
    let block = |head: Vec<u8>, code: Vec<u8>| [head, vec![code.len() as u8], code].concat();
    prop_oneof![
        8 => (1..16u8).prop_map(|delta| vec![0x40 + delta]),
        1 => (0..255u8).prop_map(|delta| vec![0x02, delta]),
        1 => (0..2u8).prop_map(|high| vec![0x03, 1, high]),
        4 => (register(), 0..30u8).prop_map(|(register, offset)| vec![0x80 + register, offset]),
        2 => register().prop_map(|register| vec![0xc0 + register]),
        1 => (register(), 0..30u8).prop_map(|(register, offset)| vec![0x05, register, offset]),
        1 => (register(), 0..128u8).prop_map(|(register, offset)| vec![0x11, register, offset]),
        1 => (6..9u8, register()).prop_map(|(opcode, register)| vec![opcode, register]),
        1 => (register(), register()).prop_map(|(register, other)| vec![0x09, register, other]),
        1 => (0x14..0x16u8, register()).prop_map(|(opcode, register)| vec![opcode, register, 3]),
        2 => Just(vec![0x0a]),
        2 => Just(vec![0x0b]),
        3 => (register(), 0..128u8).prop_map(|(register, offset)| vec![0x0c, register, offset]),
        1 => (register(), 0..128u8).prop_map(|(register, offset)| vec![0x12, register, offset]),
        2 => register().prop_map(|register| vec![0x0d, register]),
        3 => (0..128u8).prop_map(|offset| vec![0x0e, offset]),
        1 => (0..128u8).prop_map(|offset| vec![0x13, offset]),
        2 => expression().prop_map(move |code| block(vec![0x0f], code)),
        2 => (register(), expression()).prop_map(move |(register, code)| {
            block(vec![0x10, register], code)
        }),
        1 => (register(), expression()).prop_map(move |(register, code)| {
            block(vec![0x16, register], code)
        }),
        1 => Just(vec![0x2e, 16]),
        1 => Just(vec![0x2d]),
        1 => Just(vec![0x3c]),
    ]
}

/// The addresses of each function of `.eh_frame`, and where its instructions are in the section.
fn instructions(section: &Section<'_>) -> Vec<(Range<u64>, Range<usize>)> {
    let bases = BaseAddresses::default().set_eh_frame(section.address);
    let theirs = EhFrame::new(section.bytes, LittleEndian);
    let mut all = Vec::new();
    let mut entries = theirs.entries(&bases);
    while let Some(entry) = entries.next().unwrap() {
        let CieOrFde::Fde(fde) = entry else { continue };
        let fde = fde.parse(EhFrame::cie_from_offset).unwrap();
        let end = fde.offset() + 4 + fde.entry_len();
        // Length, CIE, start and length of four bytes each as everywhere, then the augmentation's.
        let start = fde.offset() + 17 + usize::from(section.bytes[fde.offset() + 16]);
        all.push((fde.initial_address()..fde.end_address(), start..end));
    }
    all
}

fn program(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(instruction(), 0..length).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn generated_programs_say_what_gimli_says(
        is_arm in any::<bool>(),
        in_debug_frame in any::<bool>(),
        wide in any::<bool>(),
        functions in prop::collection::vec((program(24), 0..40u64, 1..600u32), 1..6),
    ) {
        let machine = if is_arm { Machine::Aarch64 } else { Machine::X86_64 };
        let kind = if in_debug_frame { Kind::DebugFrame } else { Kind::EhFrame };
        let mut writer = Writer { wide: wide && in_debug_frame, ..Writer::new(kind, machine) };
        let letters = if in_debug_frame { "" } else { "zR" };
        let cie = match machine {
            Machine::X86_64 => writer.cie(letters, 1, &[0x0c, 7, 8, 0x90, 1]),
            Machine::Aarch64 => writer.cie(letters, 4, &[0x0c, 31, 0]),
        };
        let mut start = 0x1000;
        for (program, gap, length) in functions {
            start += gap;
            writer.fde(cie, start, length, &program);
            start += u64::from(length);
        }
        let comparison = compare(&writer.section(), &[CODE], &writer.table());
        prop_assert!(comparison.differences.is_empty(), "{:#?}", comparison.differences);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_read(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        is_arm in any::<bool>(),
        in_debug_frame in any::<bool>(),
    ) {
        let machine = if is_arm { Machine::Aarch64 } else { Machine::X86_64 };
        let kind = if in_debug_frame { Kind::DebugFrame } else { Kind::EhFrame };
        Table::of(&Section { bytes: &bytes, address: 0x1000, kind, machine }, &[ANYWHERE]);
    }

    #[test]
    fn flipped_bits_are_read(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..200),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = LIBC.bytes.clone();
        for (at, bit) in flips {
            *at.get_mut(&mut bytes) ^= 1 << bit;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 8);
        for kind in [Kind::EhFrame, Kind::DebugFrame] {
            let section = Section { bytes: &bytes, kind, ..LIBC.section() };
            Table::of(&section, &LIBC.code);
            Table::of(&section, &[ANYWHERE]);
        }
    }

    #[test]
    fn flipped_instructions_lose_one_function(
        which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let functions = instructions(&LIBC.section());
        let (range, place) = which.get(&functions);
        let mut bytes = LIBC.bytes.clone();
        bytes[place.start + at.index(place.len())] ^= 1 << bit;
        let table = Table::of(&Section { bytes: &bytes, ..LIBC.section() }, &LIBC.code);
        // What pads it has its last rule.
        let around = range.start..range.end + 16;
        let starts = |table: &Table| -> Vec<u64> {
            table.rows.iter().map(|&(at, _)| at).filter(|at| !around.contains(at)).collect()
        };
        for at in starts(&LIBC_TABLE).into_iter().chain(starts(&table)) {
            prop_assert_eq!(LIBC_TABLE.at(at), table.at(at), "{:#x}", at);
        }
        let summary = table.summary;
        prop_assert_eq!(summary.entries + summary.refused, LIBC_TABLE.summary.entries);
        prop_assert!(summary.refused <= 1);
    }
}
