//! Tests on what linkers made, and on code of other linkers and machines written down here.

use std::process::Command;

use super::*;
use crate::{
    process::{elf::Header, fixture::Directory},
    symbols::elf::Elf,
};

/// Calls in every form a linker makes: `strtol` only, `labs` whose address is taken as well, and what is
/// called when the program ends.
const CALLS: &str = "#include <stdlib.h>\n#include <string.h>\n\
    long (*volatile taken)(long) = labs;\n\
    __attribute__((noipa)) long calls(const char *s) { return labs(strtol(s, 0, 10)) + strlen(s); }\n";

/// Every stub of a file as we have it.
fn ours(copy: &File) -> Vec<(u64, u64, Option<Callee>)> {
    let sections = Header::read(copy).unwrap().sections(copy).unwrap();
    let plt = Plt::of(Header::read(copy).unwrap().machine, &sections).unwrap();
    let stubs = plt.read(copy);
    let callee = |stub: &Stub| plt.callee(copy, ImageAddress(stub.range.start));
    stubs.iter().map(|stub| (stub.range.start, stub.range.end, callee(stub))).collect()
}

/// Addresses and names that binutils has for them: lines of `0000000000001030 <puts@plt>:`.
fn theirs(program: &std::path::Path) -> Vec<(u64, String)> {
    let mut objdump = Command::new("objdump");
    for section in [".plt", ".plt.got", ".plt.sec"] {
        objdump.args(["-j", section]);
    }
    let output = objdump.arg("-d").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let stub = |line: &str| {
        let (address, rest) = line.split_once(" <")?;
        let name = rest.strip_suffix("@plt>:")?;
        Some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
    };
    text.lines().filter_map(stub).collect()
}

#[test]
fn stubs_have_the_names_that_binutils_gives_them() {
    let forms: [&[&str]; 6] = [
        &[],
        &["-Wl,-z,lazy", "-no-pie"],
        &["-Wl,-z,now"],
        &["-Wl,-z,lazy", "-fcf-protection", "-Wl,-z,ibtplt"],
        &["-Wl,-z,now", "-fcf-protection", "-Wl,-z,ibtplt"],
        &["-fuse-ld=gold"],
    ];
    for form in forms.iter().filter(|_| cfg!(target_arch = "x86_64")) {
        let directory = Directory::new("plt");
        let program = directory.compile("calls", CALLS, &[&["-s"], *form].concat());
        let copy = Elf::copy(&File::open(&program).unwrap()).unwrap();
        let ours = ours(&copy);
        let theirs = theirs(&program);
        // gold's are no news to objdump in all versions.
        assert!(theirs.len() >= 4 || form.contains(&"-fuse-ld=gold"), "{form:?}: {theirs:?}");
        for (address, name) in &theirs {
            let stub = ours.iter().find(|stub| stub.0 == *address);
            let stub = stub.unwrap_or_else(|| panic!("{form:?}: {address:#x} {name} in {ours:x?}"));
            let name = name.split('@').next().unwrap();
            assert_eq!(stub.2, Some(Callee::Named(name.into())), "{form:?}");
        }
        let names: Vec<_> = ours.iter().filter_map(|stub| stub.2.as_ref()).collect();
        for name in ["strtol", "strlen", "printf", "fflush"] {
            assert!(names.contains(&&Callee::Named(name.into())), "{form:?}: {name} in {ours:x?}");
        }
    }
}

/// In a static program only IFUNCs have stubs.
#[test]
fn stubs_of_static_programs_lead_to_resolvers() {
    for form in ["-static", "-static-pie"] {
        let directory = Directory::new("iplt");
        let program = directory.compile("calls", CALLS, &[form]);
        let copy = Elf::copy(&File::open(&program).unwrap()).unwrap();
        let nm = Command::new("nm").arg(&program).output().unwrap();
        let nm = String::from_utf8(nm.stdout).unwrap();
        let resolvers: HashSet<u64> = nm
            .lines()
            .filter(|line| line.contains(" i "))
            .map(|line| u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap())
            .collect();
        let found = ours(&copy);
        assert!(!found.is_empty(), "{form}");
        for stub in &found {
            let Some(Callee::Resolved(ImageAddress(at))) = stub.2 else { panic!("{stub:x?}") };
            assert!(resolvers.contains(&at), "{form}: {stub:x?} of {resolvers:x?}");
        }
    }
}

#[test]
fn what_is_between_stubs_is_none() {
    let directory = Directory::new("between");
    let program = directory.compile("calls", CALLS, &["-Wl,-z,lazy", "-no-pie"]);
    let copy = Elf::copy(&File::open(&program).unwrap()).unwrap();
    let sections = Header::read(&copy).unwrap().sections(&copy).unwrap();
    let plt = Plt::of(Header::read(&copy).unwrap().machine, &sections).unwrap();
    let section = sections.named(b".plt").unwrap();
    let at = |offset: u64| plt.callee(&copy, ImageAddress(section.address + offset));
    // The first calls the loader, whatever function is wanted.
    assert_eq!((at(0), at(15)), (None, None));
    assert!(at(16).is_some() && at(16) == at(31));
    assert_eq!(at(section.bytes), None);
    assert_eq!(plt.callee(&copy, ImageAddress(section.address - 1)), None);
}

#[test]
fn code_of_other_linkers() {
    let at = 0x1000;
    let stub = |code: &[u8]| x86_64(code, at);
    // mold: endbr64; mov $3, %r11d; jmp *0x2000(%rip).
    let mold =
        [&[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0xbb, 3, 0, 0, 0, 0xff, 0x25][..], &[0, 0x20, 0, 0]];
    assert_eq!(stub(&mold.concat()), Some(Reference::Slot(0x3010)));
    // MPX: bnd jmp *-0x10(%rip).
    let bound = [0xf2, 0xff, 0x25, 0xf0, 0xff, 0xff, 0xff, 0x90];
    assert_eq!(stub(&bound), Some(Reference::Slot(0xff7)));
    // lld's retpoline: mov 0x2000(%rip), %r11.
    let retpoline = [0x4c, 0x8b, 0x1d, 0, 0x20, 0, 0, 0xe8];
    assert_eq!(stub(&retpoline), Some(Reference::Slot(0x3007)));
    // push 0x2010(%rip), and code that is cut.
    assert_eq!(stub(&[0xff, 0x35, 0x10, 0x20, 0, 0, 0xff, 0x25]), None);
    for code in [&mold.concat()[..], &bound, &retpoline] {
        for bytes in 0..7 {
            assert_eq!(stub(&code[..bytes]), None);
        }
    }
}

#[test]
fn code_of_aarch64() {
    let code = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    // adrp x16, 0x11000; ldr x17, [x16, #0xfa8]; add x16, x16, #0xfa8; br x17.
    let plain = [0x9000_0090, 0xf947_d611, 0x913e_a210, 0xd61f_0220];
    // stp x16, x30, [sp, #-16]!; adrp; ldr; add; br; nop; nop; nop: the header.
    let header = [0xa9bf_7bf0, 0x9000_0090, 0xf947_ce11, 0x913e_6210, 0xd61f_0220, 0xd503_201f];
    let padded = [&header[..], &[0xd503_201f, 0xd503_201f]].concat();
    let mut found = Vec::new();
    of_aarch64(0x1000, &code(&[&padded[..], &plain].concat()), &mut found);
    assert_eq!(
        found,
        [(0x1004..0x1014, Reference::Slot(0x11f98)), (0x1020..0x1030, Reference::Slot(0x11fa8))]
    );
    // bti c; adrp x16, -0x1000; ldr; add; autia1716; br x17.
    let bti = [0xd503_245f, 0xf0ff_fff0, 0xf947_d611, 0x913e_a210, 0xd503_219f, 0xd61f_0220];
    found.clear();
    of_aarch64(0x2000, &code(&bti), &mut found);
    assert_eq!(found, [(0x2000..0x2018, Reference::Slot(0x1fa8))]);
    found.clear();
    of_aarch64(0x2000, &code(&bti[..5]), &mut found);
    assert_eq!(found, []);
}
