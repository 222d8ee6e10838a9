//! Tests on what is between symbols: where the name of a function ends.

use std::{collections::HashMap, fs, path::Path, process::Command, sync::Arc};

use super::{Frame, bounds::Bounds, module::*};
use crate::{
    ledger::AtomicTally,
    process::{
        elf::Header,
        fixture::{Directory, NOBODY, map_of},
        maps::{Address, Backing, FileOffset},
    },
};

/// Code with sizes and without, in two sections of its own, of which the second has no symbols.
const ASSEMBLY: &str = r#"__asm__(
    ".pushsection code_a,\"ax\",@progbits\n"
    ".type sized,@function\n"
    "sized: .skip 16,0x90\n"
    "inside: .skip 16,0x90\n"
    ".size sized,.-sized\n"
    ".skip 16,0x90\n"
    ".type bare,@function\n"
    "bare: .skip 16,0x90\n"
    ".type whole,@function\n"
    "whole:\n"
    "same: .skip 8,0x90\n"
    ".size whole,.-whole\n"
    ".skip 24,0x90\n"
    "last: .skip 8,0x90\n"
    "\"$x.7\": .skip 8,0x90\n"
    ".popsection\n"
    ".pushsection code_b,\"ax\",@progbits\n"
    ".skip 64,0x90\n"
    ".popsection\n");
"#;

/// Asks for names by addresses in a program, which cc lays out at equal file offsets.
struct Asker(Modules);

impl Asker {
    fn new() -> Self {
        Self(Modules::new(Bounds::default(), Arc::new(AtomicTally::default())))
    }

    fn name(&mut self, program: &Path, at: u64) -> Option<String> {
        let map = map_of(program);
        let mapping = map.lookup(Address(0x10000)).unwrap();
        let Backing::File { id, path, .. } = &mapping.backing else { panic!("{mapping:?}") };
        self.0.begin_batch();
        let frames = self.0.user(NOBODY, mapping, (*id, path), FileOffset(at))?;
        frames.last().map(|frame: &Frame| frame.name.to_string())
    }
}

fn symbols_of(program: &Path) -> HashMap<String, u64> {
    let nm = Command::new("nm").arg(program).output().unwrap();
    let line = |line: &str| {
        let (address, rest) = line.split_once(' ')?;
        Some((rest.get(2..)?.to_owned(), u64::from_str_radix(address, 16).ok()?))
    };
    String::from_utf8(nm.stdout).unwrap().lines().filter_map(line).collect()
}

fn section(program: &Path, name: &str) -> (u64, u64) {
    let file = fs::File::open(program).unwrap();
    let sections = Header::read(&file).unwrap().sections(&file).unwrap();
    let section = sections.named(name.as_bytes()).unwrap();
    (section.address, section.bytes)
}

#[test]
fn no_name_reaches_over_the_end_of_its_function() {
    for option in ["-g0", "-g"] {
        let directory = Directory::new(&format!("labels{option}"));
        let program = directory.compile("labels", ASSEMBLY, &[option]);
        let sized = symbols_of(&program)["sized"];
        let mut asker = Asker::new();
        let mut expect = |from: u64, to: u64, name: Option<&str>| {
            for at in [from, from + 1, to - 1] {
                let found = asker.name(&program, at);
                assert_eq!(found.as_deref(), name, "{option}: {at:#x}, sized is {sized:#x}");
            }
        };
        expect(sized, sized + 16, Some("sized"));
        // A label inside of a function is not another.
        expect(sized + 16, sized + 32, Some("sized"));
        expect(sized + 32, sized + 48, None);
        expect(sized + 48, sized + 64, Some("bare"));
        expect(sized + 64, sized + 72, Some("whole"));
        // Its other name has no size, but ends with it.
        expect(sized + 72, sized + 96, None);
        // A mark is no function.
        expect(sized + 96, sized + 112, Some("last"));
        let (nameless, bytes) = section(&program, "code_b");
        assert_eq!(bytes, 64);
        expect(nameless, nameless + 64, None);
    }
}

/// `_init` has no size, and what is linked next are stubs.
#[test]
fn stubs_are_called_after_what_they_call() {
    let calls = "#include <stdlib.h>\n\
                 __attribute__((noipa)) long calls(const char *s) { return strtol(s, 0, 10); }\n";
    for option in ["-Wl,-z,lazy", "-Wl,-z,now"] {
        let directory = Directory::new("stubs");
        let program = directory.compile("stubs", calls, &[option]);
        let mut asker = Asker::new();
        let (init, bytes) = section(&program, ".init");
        assert_eq!(asker.name(&program, init + bytes - 1).as_deref(), Some("_init"));
        let (plt, bytes) = section(&program, ".plt");
        assert_eq!(asker.name(&program, init + bytes.min(plt - init - 1)), None, "padding");
        assert_eq!(asker.name(&program, plt), None, "the stub of all stubs");
        let mut names: Vec<_> = (plt + 16..plt + bytes)
            .filter_map(|at| {
                let name = asker.name(&program, at);
                assert!(name.as_deref().is_some_and(|name| name.ends_with("@plt")), "{name:?}");
                name
            })
            .collect();
        names.dedup();
        assert!(names.iter().any(|name| name == "strtol@plt"), "{names:?}");
        assert_eq!(names.len() as u64, bytes / 16 - 1, "{names:?}");
    }
}

/// A static program's stubs are those of functions that a resolver chooses.
#[test]
fn stubs_of_static_programs_are_called_after_resolvers() {
    let calls = "#include <string.h>\n\
                 __attribute__((noipa)) unsigned long calls(const char *s) { return strlen(s); }\n";
    let directory = Directory::new("staticstubs");
    let program = directory.compile("stubs", calls, &["-static-pie"]);
    let (plt, bytes) = section(&program, ".plt");
    let mut asker = Asker::new();
    let names: Vec<_> = (plt..plt + bytes).step_by(16).map(|at| asker.name(&program, at)).collect();
    let is_known = |name: &&Option<String>| name.as_deref().is_some_and(|n| n.ends_with("@plt"));
    assert!(names.iter().filter(is_known).count() >= names.len() - 1, "{names:?}");
    // glibc's resolver has a name of its own as well.
    let is_it = |name: &&str| ["strlen@plt", "strlen_ifunc@plt"].contains(name);
    assert!(names.iter().flatten().any(|name| is_it(&name.as_str())), "{names:?}");
}

/// What the compiler thinks is rarely run it puts elsewhere, as a symbol of its own. Debug information
/// knows that it is the same function.
#[test]
fn the_cold_part_of_a_function_has_its_name() {
    const SPLIT: &str = r#"
        __attribute__((cold, noinline)) void rarely(int n) { __asm__ volatile("" :: "r"(n)); }
        __attribute__((noinline)) int split(int n) {
            if (__builtin_expect(n > 5, 0)) { rarely(n); rarely(n + 1); rarely(n + 2); }
            __asm__ volatile("" ::: "memory");
            return n + 1;
        }
    "#;
    for (option, expected) in [("-g0", "split.cold"), ("-g", "split")] {
        let directory = Directory::new(&format!("cold{option}"));
        let options = [option, "-O2", "-freorder-blocks-and-partition"];
        let program = directory.compile("cold", SPLIT, &options);
        let symbols = symbols_of(&program);
        let mut asker = Asker::new();
        let cold = symbols["split.cold"];
        assert_eq!(asker.name(&program, cold).as_deref(), Some(expected), "{option}");
        assert_eq!(asker.name(&program, symbols["split"]).as_deref(), Some("split"), "{option}");
    }
}
