//! Tests with real children. The child of a program of tests is one of its tests.

use super::*;

/// No test: what a child of this program runs.
#[test]
#[ignore = "the life of a child of the other tests"]
fn the_life_of_a_child() {
    // Whoever runs all that is ignored has no socket there.
    let link = fs::read_link("/proc/self/fd/0").unwrap_or_default();
    if link.to_string_lossy().starts_with("socket:") {
        assert_eq!(life::live(), ExitCode::SUCCESS);
    }
}

use std::{os::unix::fs::MetadataExt as _, path::Path, process::Command as Program, sync::Arc};

use super::lines::{Asked, Lines, Owner, Reply};
use crate::{
    ledger::{AtomicTally, DaemonCounter},
    process::{
        file::{self, Version},
        fixture::Directory,
        maps::{Device, FileId, FileOffset},
    },
};

/// No test waits that long: what comes, comes before.
const LONG: Duration = Duration::from_secs(300);
const USER: Owner = Owner(12_345);

fn lines() -> (Lines, Arc<AtomicTally>) {
    let counters = Arc::new(AtomicTally::default());
    (Lines::new((48, 1 << 30), Arc::clone(&counters)), counters)
}

fn asked(program: &Path, owner: Owner) -> Asked {
    let file = File::open(program).unwrap();
    let meta = file.metadata().unwrap();
    let device = Device { major: libc::major(meta.dev()), minor: libc::minor(meta.dev()) };
    let id = FileId { device, inode: meta.ino() };
    let version = Version::of(&file).unwrap();
    Asked { id, version, owner, file: Arc::new(file), path: program.into() }
}

/// Where a function is, in the file as well: cc lays code out at equal offsets and addresses.
fn place(program: &Path, function: &str) -> FileOffset {
    let nm = Program::new("nm").arg(program).output().unwrap();
    let nm = String::from_utf8(nm.stdout).unwrap();
    let line = nm.lines().find(|line| line.ends_with(&format!(" {function}"))).unwrap();
    FileOffset(u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap())
}

fn ask(lines: &mut Lines, asked: &Asked, at: FileOffset) -> Reply {
    lines.ask(asked, &[at], Instant::now() + LONG).reply
}

/// The name of the function itself.
fn name(reply: Reply) -> String {
    let Reply::Named(named) = reply else { panic!("{reply:?}") };
    named[0].1.last().map(|frame| frame.name.clone()).unwrap_or_default()
}

/// Debug information that nests inlined functions as deep as nobody's stack is.
const NESTED: &str = include_str!("../../../../tests/workloads/attacks/nested.s");

fn nested(directory: &Directory, id: &str) -> std::path::PathBuf {
    let (source, program) = (directory.path("nested.s"), directory.path(&format!("nested{id}")));
    fs::write(&source, NESTED).unwrap();
    let id = format!("-Wl,--build-id=0x{id}");
    let mut cc = Program::new("cc");
    cc.args(["-no-pie", "-nostdlib", "-Wl,-e,main", "-Wl,-Ttext-segment=0x0", &id, "-o"]);
    assert!(cc.arg(&program).arg(&source).status().unwrap().success());
    program
}

#[test]
fn a_file_that_ends_its_child_is_refused_and_the_others_are_read() {
    let directory = Directory::new("nesting");
    let honest = directory.compile("fixture", "", &[]);
    let (first, same) = (nested(&directory, "0011223344556677"), directory.path("same"));
    fs::copy(&first, &same).unwrap();
    let (mut lines, counters) = lines();
    let (plain, deep) = (place(&honest, "plain"), place(&first, "main"));
    let honest = asked(&honest, USER);
    assert_eq!(name(ask(&mut lines, &honest, plain)), "plain");
    // Its child held another file as well: which of them it was, a child of its own tells.
    assert_eq!(ask(&mut lines, &asked(&first, USER), deep), Reply::Refused);
    assert_eq!(counters.get(DaemonCounter::SymbolParsersLost), 1);
    assert_eq!(name(ask(&mut lines, &honest, plain)), "plain");
    // The same build under another name ends nobody any more; the same from root is another matter.
    assert_eq!(ask(&mut lines, &asked(&same, USER), deep), Reply::Refused);
    assert_eq!(counters.get(DaemonCounter::SymbolParsersLost), 1);
    assert_eq!(ask(&mut lines, &asked(&same, Owner(0)), deep), Reply::Refused);
    assert_eq!(counters.get(DaemonCounter::SymbolParsersLost), 2);
}

#[test]
fn a_user_who_ends_children_again_and_again_waits_and_nobody_else() {
    let directory = Directory::new("strikes");
    let honest = directory.compile("fixture", "", &[]);
    let plain = place(&honest, "plain");
    let (mut lines, counters) = lines();
    for n in 0..3 {
        let program = nested(&directory, &format!("001122334455667{n}"));
        let deep = place(&program, "main");
        assert_eq!(ask(&mut lines, &asked(&program, USER), deep), Reply::Refused, "{n}");
    }
    assert_eq!(ask(&mut lines, &asked(&honest, USER), plain), Reply::Shed);
    assert_eq!(counters.get(DaemonCounter::SymbolFilesShed), 1);
    assert_eq!(name(ask(&mut lines, &asked(&honest, Owner(0)), plain)), "plain");
    assert_eq!(name(ask(&mut lines, &asked(&honest, Owner(1000)), plain)), "plain");
}

/// f(x<S, S>), of which each S is the whole type before it.
#[test]
fn a_name_that_stands_for_gigabytes_is_cut() {
    let mut name_of_it = "_Z1f1aIiiE".to_owned();
    for level in 0..28 {
        let back = match level {
            0 => "S0_".to_owned(),
            n => format!("S{}_", char::from_digit(n, 36).unwrap().to_ascii_uppercase()),
        };
        name_of_it.push_str(&format!("S_I{back}{back}E"));
    }
    let directory = Directory::new("bomb");
    let text =
        format!("int bomb(void) __asm__(\"{name_of_it}\");\nint bomb(void) {{ return 1; }}\n");
    let program = directory.compile("fixture", &text, &["-g0"]);
    let at = place(&program, &name_of_it);
    let (mut lines, counters) = lines();
    assert!(name(ask(&mut lines, &asked(&program, USER), at)).len() <= 4096);
    assert_eq!(counters.get(DaemonCounter::SymbolParsersLost), 0);
}

#[test]
fn who_is_late_is_not_waited_for_and_comes_later() {
    let directory = Directory::new("late");
    let program = directory.compile("fixture", "", &[]);
    let (plain, program) = (place(&program, "plain"), asked(&program, USER));
    let (mut lines, _) = lines();
    let at = [plain];
    assert_eq!(lines.ask(&program, &at, Instant::now()).reply, Reply::Late);
    let until = Instant::now() + LONG;
    let told = loop {
        assert!(Instant::now() < until);
        if let Some(told) = lines.collect().pop() {
            break told;
        }
        std::thread::yield_now();
    };
    assert_eq!((told.id, name(told.reply)), (program.id, "plain".to_owned()));
    assert_eq!(name(ask(&mut lines, &program, plain)), "plain");
}

#[test]
fn a_child_is_behind_its_fence() {
    let directory = Directory::new("fence");
    let program = directory.compile("fixture", "", &[]);
    let mut parser = Parser::start().unwrap();
    parser.prepare(Instant::now() + LONG).unwrap();
    parser.ask(&Question::Identify, &[&File::open(&program).unwrap()]).unwrap();
    let answer = parser.answer(Instant::now() + LONG);
    assert!(matches!(answer, Ok(Answer::Identity { build_id: Some(_), .. })), "{answer:?}");
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", parser.child.id()));
    // The thread that parses; in a program of tests there are others, which do not.
    let threads = fs::read_dir(format!("/proc/{}/task", parser.child.id())).unwrap();
    let threads = threads.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let thread = threads.max_by_key(|thread| thread.parse::<u32>().unwrap()).unwrap();
    let status = read(&format!("task/{thread}/status")).unwrap();
    let has = |line: &str| status.lines().any(|its| its.split_whitespace().eq(line.split(' ')));
    assert!(has("CapEff: 0000000000000000") && has("CapPrm: 0000000000000000"), "{status}");
    assert!(has("NoNewPrivs: 1") && has("Seccomp: 2"), "{status}");
    let limits = read("limits").unwrap();
    let has = |start: &str, limit: u64| {
        let line = limits.lines().find(|line| line.starts_with(start)).unwrap();
        line.split_whitespace().any(|word| word == limit.to_string())
    };
    assert!(has("Max data size", 192 << 20) && has("Max core file size", 0), "{limits}");
    let time = limits.lines().find(|line| line.starts_with("Max cpu time")).unwrap();
    assert!(time.split_whitespace().nth(3).unwrap().parse::<u64>().is_ok(), "{time}");
    // What it says is not believed when it makes no sense, and it ends with its socket.
    parser.ask(&Question::Close { key: 7 }, &[]).unwrap();
    assert_eq!(parser.answer(Instant::now()), Err(Silence::Late));
    let Parser { ref mut child, ref socket, .. } = parser;
    rustix::net::shutdown(socket, rustix::net::Shutdown::Both).unwrap();
    assert!(child.wait().unwrap().code().is_some());
}

#[test]
fn of_a_large_packed_file_no_more_is_unpacked_than_a_user_may() {
    let directory = Directory::new("inflate");
    let program = directory.compile("fixture", "", &["-Wl,--compress-debug-sections=zlib"]);
    let zeros = directory.path("zeros");
    File::create(&zeros).unwrap().set_len(300 << 20).unwrap();
    let mut objcopy = Program::new("objcopy");
    objcopy.args(["--decompress-debug-sections", "--add-section"]);
    objcopy.arg(format!(".debug_types={}", zeros.display())).arg(&program);
    assert!(objcopy.status().unwrap().success());
    let mut objcopy = Program::new("objcopy");
    assert!(
        objcopy.arg("--compress-debug-sections=zlib").arg(&program).status().unwrap().success()
    );
    fs::remove_file(&zeros).unwrap();
    let (plain, copies) =
        (place(&program, "plain"), [1, 2].map(|n| directory.path(&format!("{n}"))));
    let (mut lines, counters) = lines();
    let replies = copies.map(|copy| {
        fs::copy(&program, &copy).unwrap();
        ask(&mut lines, &asked(&copy, USER), plain)
    });
    let [first, second] = replies;
    assert_eq!((name(first), second), ("plain".to_owned(), Reply::Shed));
    assert_eq!(counters.get(DaemonCounter::SymbolFilesShed), 1);
    // Root's are not in question: they go on.
    assert_eq!(name(ask(&mut lines, &asked(&program, Owner(0)), plain)), "plain");
}

/// What a child costs: the same names of a large program, asked of a child and read in this process.
#[test]
#[ignore = "prints figures: to be run alone"]
fn names_of_a_large_program_cost_as_much_as_they_did() {
    let program = std::env::var_os("HOTSPAN_BIN").unwrap_or("/proc/self/exe".into());
    let program = fs::canonicalize(program).unwrap();
    let file = File::open(&program).unwrap();
    let header = crate::process::elf::Header::read(&file).unwrap();
    let segments = header.segments(&file).unwrap();
    let code = segments.iter().find(|segment| segment.code().is_some()).unwrap();
    let step = code.bytes / 2000;
    let places: Vec<_> = (0..2000).map(|n| FileOffset(code.offset + n * step)).collect();
    for round in 0..3 {
        let began = Instant::now();
        let mut names = crate::symbols::names::Names::new();
        let copy = file::nameless().unwrap();
        let mut image = crate::symbols::image::Image::read(&file, copy, 0).unwrap();
        let here = places.iter().map(|&at| image.frames(&mut names, at).unwrap());
        let here: Vec<_> = here.collect();
        let first = began.elapsed();
        let began = Instant::now();
        let (mut lines, _) = lines();
        let asked = asked(&program, USER);
        let mut there = Vec::new();
        for places in places.chunks(MAX_OFFSETS) {
            let told = lines.ask(&asked, places, Instant::now() + LONG);
            let Reply::Named(named) = told.reply else { panic!("{told:?}") };
            there.extend(named.into_iter().map(|(_, frames)| frames));
        }
        let second = began.elapsed();
        let is_same = here.iter().zip(&there).all(|(here, there)| {
            let there = there.iter().map(|frame| (frame.name.as_str(), frame.line));
            here.iter().map(|frame| (&*frame.name, frame.line)).eq(there)
        });
        assert!(is_same && here.len() == there.len());
        println!("round {round}: here {first:?}, by a child {second:?}");
    }
}
