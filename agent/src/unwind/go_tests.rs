//! Rows of Go's own table against those of the debug information in the same program.

use std::{collections::BTreeMap, fs, os::unix::fs::FileExt as _, path::PathBuf, process::Command};

use super::*;
use crate::{
    process::{elf::Header, file, fixture::Directory},
    unwind::cfi::{self, Kind},
};

/// Uses what switches stacks: the scheduler, the clock, a signal.
const SOURCE: &str = r#"package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	signal.Notify(make(chan os.Signal, 1))
	go fmt.Println(time.Now())
	time.Sleep(time.Millisecond)
}
"#;

/// The program with uncompressed debug information; none without a Go compiler.
fn program(directory: &Directory, options: &str) -> Option<PathBuf> {
    let program = directory.path("program");
    fs::write(directory.path("main.go"), SOURCE).unwrap();
    fs::write(directory.path("go.mod"), "module tiny\n\ngo 1.18\n").unwrap();
    for go in ["go", "/usr/local/go/bin/go"] {
        let mut command = Command::new(go);
        command.args(["build", &format!("-ldflags={options}"), "-o"]).arg(&program).arg(".");
        let command = command.envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local")]);
        if let Ok(output) = command.current_dir(directory.path("")).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return Some(program);
        }
    }
    println!("skipped: no Go compiler");
    None
}

/// Headers, code and table of a program.
fn parts(file: &File) -> (elf::Sections, Vec<Segment>, GoTable) {
    let header = Header::read(file).unwrap();
    let sections = header.sections(file).unwrap();
    let segments = header.segments(file).unwrap();
    let code = segments.into_iter().filter(|segment| segment.code().is_some()).collect();
    let table = GoTable::of(file, &sections).unwrap();
    (sections, code, table)
}

fn at(rows: &[(u64, Rule)], address: u64) -> Rule {
    let after = rows.partition_point(|row| row.0 <= address);
    after.checked_sub(1).map_or(Rule::NONE, |index| rows[index].1)
}

#[test]
fn it_says_what_debug_information_says_and_where_that_is_wrong() {
    let directory = Directory::new("gorows");
    let Some(program) = program(&directory, "-compressdwarf=false") else { return };
    let file = File::open(&program).unwrap();
    let (sections, code, table) = parts(&file);
    let ours = rows(&file, Machine::X86_64, &code, &table);
    assert!(ours.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let section = sections.named(b".debug_frame").unwrap();
    let bytes = elf::read(&file, section.offset, section.bytes as usize).unwrap();
    let section = cfi::Section {
        bytes: &bytes,
        address: 0,
        kind: Kind::DebugFrame,
        machine: Machine::X86_64,
    };
    let ranges: Vec<_> = code.iter().filter_map(Segment::code).collect();
    let mut theirs = Vec::new();
    cfi::rows(&section, &ranges, &mut |address, rule| theirs.push((address, rule)));
    let (mut same, mut other) = (0, Vec::new());
    for &(address, rule) in ours.iter().chain(&theirs) {
        let (our, their) = (at(&ours, address), at(&theirs, address));
        // Functions at the end or the border of a stack, and the gaps between functions.
        let is_ours = [Rule::STOP, Rule::SWITCH].contains(&our);
        if is_ours || their == Rule::NONE || our == Rule::NONE {
            continue;
        }
        // The return address is popped: nobody can follow either.
        let is_popped = our == Rule::BAD && their.cfa_offset() < 8;
        if is_popped || our.cfa() == their.cfa() && our.cfa_offset() == their.cfa_offset() {
            same += 1;
        } else {
            other.push((address, rule, our, their));
        }
    }
    assert!(same > 5000 && other.is_empty(), "{same} alike, not {:x?}", other.first());

    let nm = Command::new("nm").arg(&program).output().expect("this test needs nm");
    let names = String::from_utf8_lossy(&nm.stdout).into_owned();
    let symbols: BTreeMap<&str, u64> = names
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((u64::from_str_radix(words.next()?, 16).ok()?, words.nth(1)?))
        })
        .map(|(address, name)| (name, address))
        .collect();
    let rule = |name: &str| at(&ours, symbols[name]);
    // The linker adds the calling convention to some of their names, and leaves out what nobody calls.
    let switch = ["systemstack", "asmcgocall", "cgocallback", "morestack", "nanotime1"];
    let is_here = |name: &&String| symbols.contains_key(name.as_str());
    let names = switch.map(|name| [format!("runtime.{name}.abi0"), format!("runtime.{name}")]);
    let named = names.iter().filter_map(|names| names.iter().find(|name| is_here(name)));
    let here: Vec<&str> = named.map(String::as_str).collect();
    assert!(here.len() >= 3, "{here:?}");
    for name in here {
        assert_eq!(rule(name), Rule::SWITCH, "{name}");
    }
    assert_eq!(rule("runtime.goexit.abi0"), Rule::STOP);
    assert_eq!(rule("runtime.mcall"), Rule::STOP, "it leaves the goroutine for good");
    let (sp, saved) = ((CfaRule::Sp, 0, 8), (FrameRule::Same, 0));
    let entered = Rule::new(sp, saved, (ReturnRule::BelowCfa, 0));
    assert_eq!(Some(rule("runtime.sigtramp.abi0")), entered, "the signal's frame is below it");
    // Behind `push %rbp` it is there; functions written by hand are looked at.
    let has_saved = |name: &str| {
        let from = symbols[name];
        ours.iter().any(|row| (from..from + 64).contains(&row.0) && is_saved(row.1))
    };
    assert!(has_saved("main.main") && has_saved("runtime.asyncPreempt.abi0"));
    assert!(has_saved("runtime.sigtramp.abi0"), "by `mov`");
}

fn is_saved(rule: Rule) -> bool {
    rule.frame() == FrameRule::AtCfa as u8 && rule.frame_offset() == -16
}

#[test]
fn damaged_tables_are_bounded_rows_or_none() {
    let directory = Directory::new("gorowsdamaged");
    let Some(program) = program(&directory, "-s -w") else { return };
    let copy = file::copy(&File::open(&program).unwrap()).unwrap();
    let (_, code, table) = parts(&copy);
    let whole = rows(&copy, Machine::X86_64, &code, &table);
    assert!(whole.len() > 5000);
    let original = elf::read(&copy, table.at, table.bytes as usize).unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for _ in 0..40 {
        let mut changed = original.clone();
        for _ in 0..1 + next(4096) {
            let byte = next(256) as u8;
            changed[next(original.len())] = byte;
        }
        copy.write_all_at(&changed, table.at).unwrap();
        let rows = rows(&copy, Machine::X86_64, &code, &table);
        assert!(rows.len() <= MAX_WORDS && rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
