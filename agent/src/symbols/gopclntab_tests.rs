//! Tests against what a Go program says of its own code, and of damaged tables.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use super::*;
use crate::process::fixture::Directory;
use crate::{
    model::id::Pid,
    process::{
        elf::{Header, read},
        file,
        gopclntab::HEADER,
        maps::ProcessMap,
    },
    symbols::{FrameAddress, Symbols, elf::Elf, fixture::*},
};

/// Prints every eighth place in some functions with name and line there, as `runtime` knows them, but
/// not where something is inlined (there the names of its frames differ).
const SOURCE: &str = r#"package main

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
)

//go:noinline
func work(n int) int {
	s := 0
	for i := 0; i < n; i++ {
		s += i * i
	}
	return s
}

type shop[T any] struct{ t T }

//go:noinline
func (s *shop[T]) total() T { return s.t }

func main() {
	work((&shop[int]{7}).total())
	for _, f := range []any{work, main, (*shop[int]).total, fmt.Sprintf, strings.Index, os.Open} {
		start := reflect.ValueOf(f).Pointer()
		for pc := start; pc < start+160; pc += 8 {
			frames := runtime.CallersFrames([]uintptr{pc + 1})
			frame, more := frames.Next()
			whole := runtime.FuncForPC(start)
			if more || frame.Func == nil || frame.Line == 0 || frame.Func.Entry() != whole.Entry() || frame.Function != whole.Name() {
				continue
			}
			fmt.Printf("%x %s:%d %s\n", pc, frame.File, frame.Line, frame.Function)
		}
	}
	fmt.Println("end")
	fmt.Scanln()
}
"#;

/// The program built by `go build` with these options; none without a Go compiler.
fn build(directory: &Directory, name: &str, options: &[&str]) -> Option<PathBuf> {
    let program = directory.path(name);
    fs::write(directory.path("main.go"), SOURCE).unwrap();
    fs::write(directory.path("go.mod"), "module tiny\n\ngo 1.18\n").unwrap();
    for go in ["go", "/usr/local/go/bin/go"] {
        let mut command = Command::new(go);
        command.args(["build", "-o"]).arg(&program).args(options).arg(".");
        command.envs([("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local")]);
        if let Ok(output) = command.current_dir(directory.path("")).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return Some(program);
        }
    }
    println!("skipped: no Go compiler");
    None
}

/// As `runtime` shows it: without the types a generic function is made for.
fn without_types(name: &str) -> String {
    match (name.find('['), name.rfind(']')) {
        (Some(from), Some(to)) => format!("{}[...{}", &name[..from], &name[to..]),
        _ => name.to_owned(),
    }
}

/// Compares what is found in a running program with what it says.
fn check(program: &std::path::Path) {
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let printed: Vec<String> = lines.take_while(|line| line != "end").collect();
    let map = Arc::new(ProcessMap::read(Pid(child.id())).unwrap());
    let (frames, expected): (Vec<_>, Vec<_>) = printed
        .iter()
        .map(|line| {
            let (address, rest) = line.split_once(' ').unwrap();
            (FrameAddress::Ip(u64::from_str_radix(address, 16).unwrap()), rest)
        })
        .unzip();
    let symbols = Symbols::spawn().unwrap();
    let found = symbols.resolve(vec![request(&map, &frames)]);
    child.kill().unwrap();
    child.wait().unwrap();
    let found: Vec<_> = found[0]
        .iter()
        .map(|frame| format!("{}:{} {}", frame.file, frame.line, without_types(&frame.name)))
        .collect();
    assert!(expected.len() > 20 && expected.iter().any(|line| line.ends_with(" main.work")));
    assert_eq!(found, expected, "{program:?}");
    let lines: HashSet<_> = expected.iter().filter(|line| line.ends_with(" main.work")).collect();
    assert!(lines.len() > 1, "{lines:?}");
}

#[test]
fn go_functions_have_names_and_lines_with_symbols_or_without() {
    let directory = Directory::new("go");
    let kinds: [(&str, &[&str]); 4] = [
        ("plain", &[]),
        ("nodebug", &["-ldflags=-w"]),
        ("stripped", &["-ldflags=-s -w"]),
        ("anywhere", &["-ldflags=-s -w", "-buildmode=pie"]),
    ];
    for (name, options) in kinds {
        let Some(program) = build(&directory, name, options) else { return };
        check(&program);
    }
}

/// Between sections of code there may be anybody's.
#[test]
fn a_hole_in_the_table_is_no_function() {
    let directory = Directory::new("gohole");
    let Some(program) = build(&directory, "stripped", &["-ldflags=-s -w"]) else { return };
    let copy = file::copy(&File::open(&program).unwrap()).unwrap();
    let table = Elf::disarm(&copy, 0).unwrap().go.expect("a table");
    let entry = |index: u64| table.at + table.table + 8 * index;
    let begin = read(&copy, entry(100), 4).unwrap();
    let begin = u64::from(u32::from_le_bytes(*begin.first_chunk().unwrap()));
    let at = ImageAddress(table.text + begin);
    let before = table.frame(&copy, ImageAddress(at.0 - 1)).unwrap();
    assert!(table.frame(&copy, at).is_some());
    copy.write_all_at(&[0; 4], entry(100) + 4).unwrap();
    assert_eq!(table.frame(&copy, at), None);
    assert_eq!(table.frame(&copy, ImageAddress(at.0 - 1)), Some(before));
}

#[test]
fn damaged_tables_are_no_panic() {
    let directory = Directory::new("godamaged");
    let Some(program) = build(&directory, "stripped", &["-ldflags=-s -w"]) else { return };
    let copy = file::copy(&File::open(&program).unwrap()).unwrap();
    let good = Elf::disarm(&copy, 0).unwrap().go.expect("a table");
    let sections = Header::read(&copy).unwrap().sections(&copy).unwrap();
    let text = good.text;
    let at = usize::try_from(good.at).unwrap();
    let original = read(&copy, good.at, usize::try_from(good.bytes).unwrap()).unwrap();
    assert!(good.frame(&copy, ImageAddress(text)).is_some());
    assert!(good.frame(&copy, ImageAddress(text - 1)).is_none());
    assert!(good.frame(&copy, ImageAddress(u64::MAX)).is_none());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    for round in 0..2000 {
        // The header, the functions, or anything.
        let below = [HEADER, original.len()][round % 2];
        let mut changed = original.clone();
        for _ in 0..1 + next(64) {
            changed[next(below)] = u8::try_from(next(256)).unwrap();
        }
        if round % 3 == 0 {
            changed[..8].copy_from_slice(&original[..8]);
        }
        copy.write_all_at(&changed, at as u64).unwrap();
        let Some(table) = GoTable::of(&copy, &sections) else { continue };
        for _ in 0..8 {
            table.frame(&copy, ImageAddress(text + next(1 << 20) as u64));
        }
    }
}
