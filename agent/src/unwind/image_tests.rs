//! Files that lie, or change while they are read: what comes of them is a sound table or none, soon, and
//! within bounds of memory.

use std::{
    env, fs,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::unwind::table::CHUNK_WORDS;

use super::*;
use crate::process::fixture::Directory;
use corpus::{ALL, Outcome};

#[path = "image_corpus.rs"]
mod corpus;

/// Longest a file may take on a loaded host, and on a CPU, in milliseconds: 1.2 seconds are the most in a
/// debug build.
const PATIENCE: Duration = Duration::from_secs(30);
const CPU: u64 = 3000;
/// Memory that one file may take, in KiB; the daemon has 512 MiB.
const MEMORY: u64 = 320 << 10;
/// Address space of the whole corpus, in KiB.
const SPACE: u64 = 1536 << 10;

/// Reads a file and makes its table.
fn table(path: &Path) -> Result<Option<Table>, ImageError> {
    let source = Source::read(&File::open(path).unwrap(), None)?;
    assert!(source.len() as u64 <= MAX_TABLES);
    source.content();
    Ok(source.table()?.table)
}

/// The same, checked.
fn outcome(path: &Path) -> Result<Outcome, ImageError> {
    checked(table(path)?)
}

fn checked(table: Option<Table>) -> Result<Outcome, ImageError> {
    let Some(table) = table else { return Ok(Outcome::Bare) };
    check(&table);
    Ok(Outcome::Table)
}

fn check(table: &Table) {
    assert!(table.is_sound());
    let global: Vec<u16> = (0..table.rules.len() as u16).collect();
    let (words, _) = table.place(CHUNK_WORDS as u32 - 1, &global);
    assert!(words.len() <= table.words());
}

/// Ends the other thread, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A line of `/proc/self/status`, in KiB.
fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

/// How long this thread ran on a CPU, in milliseconds.
fn ran() -> u64 {
    let printed = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    printed.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000_000
}

#[test]
#[ignore = "run by `hostile_files_cost_neither_time_nor_memory`, in a process of its own"]
fn corpus_in_bounds() {
    let directory = Directory::new("corpus");
    let mut wrong = Vec::new();
    for (name, file, expected) in ALL {
        let path = file(&directory);
        // The most memory is counted from now on (proc(5), clear_refs).
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS:");
        let (started, ran_before) = (Instant::now(), ran());
        let table = table(&path);
        let (took, more) = (started.elapsed(), status("VmHWM:").saturating_sub(before));
        let (wall, cpu, mib) = (took.as_millis(), ran() - ran_before, more >> 10);
        let outcome = table.and_then(checked);
        println!("{wall:>5} ms, CPU {cpu:>4} ms, {mib:>3} MiB  {name}: {outcome:?}");
        let panicked = matches!(outcome, Err(ImageError::Panicked));
        let is_other = outcome.unwrap_or(Outcome::Refused) != expected;
        if panicked || is_other || took > PATIENCE || cpu > CPU || more > MEMORY {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn hostile_files_cost_neither_time_nor_memory() {
    let bounded = format!("ulimit -v {SPACE} && exec \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &bounded, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "unwind::image::tests::corpus_in_bounds", "--ignored", "--nocapture"])
        .env("RUST_TEST_THREADS", "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}");
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{failed}");
}

#[test]
fn a_cut_file_is_a_table_or_none() {
    let directory = Directory::new("cutimage");
    let program = directory.compile("cut", "", &["-static-pie", "-s"]);
    let bytes = fs::read(&program).unwrap();
    assert_eq!(outcome(&program).unwrap(), Outcome::Table);
    let file = File::options().write(true).open(&program).unwrap();
    for length in (0..bytes.len()).step_by(97).rev() {
        file.set_len(length as u64).unwrap();
        let outcome = outcome(&program);
        assert!(!matches!(outcome, Err(ImageError::Panicked)), "at {length}");
        assert!(length > 64 || outcome.is_err(), "at {length}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_a_table_or_none() {
    let directory = Directory::new("swapped");
    let program = directory.compile("swapped", "", &[]);
    let whole = fs::read(&program).unwrap();
    let original = outcome(&program).unwrap();
    assert_eq!(original, Outcome::Table);
    let done = AtomicBool::new(false);
    let (mut tables, mut none) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&program).unwrap();
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            while !done.load(Relaxed) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at = random % whole.len() as u64;
                match random >> 60 {
                    0..6 => file.set_len(at).unwrap(),
                    6..12 => file.write_all_at(&random.to_le_bytes(), at).unwrap(),
                    _ => file.write_all_at(&whole, 0).unwrap(),
                }
            }
        });
        let _stop = Stop(&done);
        for _ in 0..2000 {
            match outcome(&program) {
                Ok(Outcome::Table) => tables += 1,
                Err(ImageError::Panicked) => panic!("the parser failed"),
                _ => none += 1,
            }
        }
    });
    println!("{tables} tables, {none} times none");
    assert!(tables > 0 && none > 0);
}

#[test]
fn a_second_table_speaks_where_the_first_is_silent() {
    let (one, two) = (Rule(1 << 16 | 1), Rule(2 << 16 | 1));
    let first = [(10, one), (20, Rule::NONE), (40, one)];
    let second = [(5, two), (15, Rule::NONE), (30, two), (50, Rule::NONE)];
    let expected = [(5, two), (10, one), (20, Rule::NONE), (30, two), (40, one)];
    assert_eq!(merge(&first, &second), expected);
    assert_eq!(merge(&first, &[]), first);
}

/// Code whose rules are in `.debug_frame` only.
const FRAMELESS: [&str; 3] =
    ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fomit-frame-pointer"];

#[test]
fn compressed_debug_information_says_the_same() {
    let directory = Directory::new("packed");
    let plain = directory.compile("plain", "", &FRAMELESS);
    let expected = table(&plain).unwrap().unwrap();
    let without = directory.path("without");
    let objcopy = |options: &[&str], to: &Path| {
        let status = Command::new("objcopy").args(options).arg(&plain).arg(to).status();
        assert!(status.expect("this test needs objcopy: apt-get install binutils").success());
    };
    objcopy(&["--strip-debug"], &without);
    assert_ne!(table(&without).unwrap().unwrap(), expected, "the rules are debug information");
    for way in ["zlib", "zstd", "zlib-gnu"] {
        let packed = directory.path(way);
        objcopy(&[&format!("--compress-debug-sections={way}")], &packed);
        let file = File::open(&packed).unwrap();
        let sections = Header::read(&file).unwrap().sections(&file).unwrap();
        let name: &[u8] = if way == "zlib-gnu" { b".zdebug_frame" } else { b".debug_frame" };
        let section = sections.named(name).unwrap();
        assert_eq!(section.flags & SHF_COMPRESSED != 0, way != "zlib-gnu", "{way}");
        assert_eq!(table(&packed).unwrap().unwrap(), expected, "{way}");
        // A header that lies: what is left is what the other section says.
        let size_at = section.offset + if way == "zlib-gnu" { 4 } else { 8 };
        for size in [u64::MAX, 1] {
            let lying = if way == "zlib-gnu" { size.to_be_bytes() } else { size.to_le_bytes() };
            let file = fs::OpenOptions::new().write(true).open(&packed).unwrap();
            file.write_all_at(&lying, size_at).unwrap();
            assert_eq!(table(&packed).unwrap(), table(&without).unwrap(), "{way} {size:#x}");
        }
    }
}
