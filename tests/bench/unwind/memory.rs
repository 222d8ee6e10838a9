//! What tables and slabs of a whole host take in the kernel, while a standard load runs beside a Java
//! and a JavaScript program.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use agent_ebpf::unwind::table::{CODE_WORDS, ProcessCode};
use anyhow::Result;
use hotspan::ledger::DaemonCounter;
use hotspan_tests::host::{Scratch, read_text};

use super::{files, recording::Recording};
use crate::{
    Line,
    agent::{map_megabytes, named_map_megabytes},
    load::Load,
    sample::median,
};

/// So that rarely running processes are met too.
const HZ: u64 = 499;
const TIME: Duration = Duration::from_secs(12);
/// Words of a mapping in a slab: its start apart from the rest.
const MAPPING_WORDS: u32 = 2 + CODE_WORDS;

const JAVA: &str = "public class Burn { public static void main(String[] words) {
long until = System.nanoTime() + 30_000_000_000L, sum = 0;
while (System.nanoTime() < until) sum += Integer.toString((int) sum).hashCode();
System.out.println(sum); } }";
const SCRIPT: &str = "const until = Date.now() + 30000; let sum = 0;
while (Date.now() < until) sum += JSON.stringify({ sum }).length;";

/// Ended with this value.
struct Burners(Vec<Child>);

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Without effect on one that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(super) fn measure() -> Result<Vec<Line>> {
    let scratch = Scratch::new()?;
    let _load = Load::start()?;
    let _burners = Burners(burners(&scratch));
    let mut recording = Recording::start(HZ)?;
    recording.run(TIME)?;
    let slabs = slabs();
    let others = map_megabytes(recording.objects())?;
    // Made on demand. By name: other agents' are among them.
    let chunks = named_map_megabytes("hotspan_rows")?;
    let counters = recording.unwound();
    let bytes = counters.bytes.load(Relaxed) as f64;
    let note = format!(
        "{} files with tables, {} without, {} refused, {} over budget",
        counters.files.load(Relaxed),
        counters.files_bare.load(Relaxed),
        counters.counts.get(DaemonCounter::UnwindFilesRefused),
        counters.counts.get(DaemonCounter::UnwindTablesOverBudget)
    );
    recording.finish()?;
    let most = slabs.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Line::new("tables and slabs of this host in the kernel", bytes / 1e6, "MB")
            .target(64.0)
            .note(note),
        Line::new("  chunks they lie in", chunks, "MB").note("of every agent that is here"),
        Line::new("  all other kernel maps", others, "MB").note("rules, files, rings, accounts"),
        Line::new("slab of a process", median(&slabs) / 1e3, "kB").note(format!(
            "{} processes, the largest {:.1} kB; beside it {} bytes in the hash",
            slabs.len(),
            most / 1e3,
            size_of::<ProcessCode>()
        )),
    ])
}

/// Those that can be had.
fn burners(scratch: &Scratch) -> Vec<Child> {
    let source = scratch.file("Burn.java");
    let java = fs::write(&source, JAVA).ok().map(|()| {
        let mut java = Command::new("java");
        java.arg(source);
        java
    });
    let node = files::node().map(|node| {
        let mut command = Command::new(node);
        command.args(["-e", SCRIPT]);
        command
    });
    let quiet = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
    };
    java.into_iter().chain(node).filter_map(quiet).collect()
}

/// Bytes of the slab every process of this host would have, by its mappings.
fn slabs() -> Vec<f64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let bytes = processes.filter_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let maps = read_text(format!("/proc/{pid}/maps"));
        let is_code = |line: &&str| line.split(' ').nth(1).is_some_and(|flags| flags.contains('x'));
        let code = maps.lines().filter(is_code).count();
        (code > 0).then(|| code as f64 * f64::from(MAPPING_WORDS * 4))
    });
    bytes.collect()
}
