//! Processes that are over after 30 ms, one after the other: whether somebody who has to learn their
//! mappings first gets to know their stacks.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
};

use agent_ebpf::unwind::Stop;
use anyhow::{Context as _, Result, bail, ensure};
use hotspan_tests::{
    chains::chain,
    host,
    unwind::{Symbols, parse_address, program},
};

use super::{
    burns::BURN,
    watch::{Watch, addresses, is_exact, is_whole},
};

/// How many are started.
const PROCESSES: usize = 200;
/// So that nearly every one of them is sampled.
const HZ: u64 = 499;

/// What became of the stacks of the processes.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// Processes that were sampled in user code of the program.
    pub sampled: usize,
    /// Of those, processes with a stack from `_start` to a burning function.
    pub with_whole: usize,
    /// Different stacks, all and whole ones.
    pub stacks: (usize, usize),
    /// How the others ended, and whether a copy of them was sent.
    pub ends: BTreeMap<(Stop, bool), usize>,
}

/// Starts them one by one; most must be seen.
pub(crate) fn processes(variant: &str) -> Result<()> {
    if !host::can_record() {
        return Ok(());
    }
    let Some(program) = program(variant) else { return Ok(()) };
    // Ours is the tree that they are children of.
    let mut watch = Watch::start(std::process::id(), HZ)?;
    let mains = run(&mut watch, &program)?;
    watch.finish()?;
    let summary = summarize(&watch, &program, &mains)?;
    println!("short-lived: {summary:?} of {PROCESSES} processes");
    ensure!(summary.sampled >= PROCESSES / 2, "few were seen at all: {summary:?}");
    // All of them on a quiet host; on a crowded one the daemon may be late for some.
    ensure!(summary.with_whole * 10 >= summary.sampled * 8, "few have a whole stack: {summary:?}");
    Ok(())
}

/// Runs all of them while the agent works. Returns where each had its `main`.
fn run(watch: &mut Watch, program: &Path) -> Result<BTreeMap<u32, u64>> {
    let mut mains = BTreeMap::new();
    for _ in 0..PROCESSES {
        let mut child = Command::new(program)
            .arg("short")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("a short process does not start")?;
        let mut pipe = child.stdout.take().context("a piped child has a pipe")?;
        let status = loop {
            watch.round(Some(pipe.as_fd()))?;
            if let Some(status) = child.try_wait()? {
                break status;
            }
        };
        ensure!(status.success(), "a short process: {status}");
        let pid = child.id();
        let said = std::io::read_to_string(&mut pipe)?;
        let Some(address) = said.trim().strip_prefix("main ") else { bail!("it says {said}") };
        mains.insert(pid, parse_address(address)?);
    }
    Ok(mains)
}

/// Sorts their stacks.
fn summarize(watch: &Watch, program: &Path, mains: &BTreeMap<u32, u64>) -> Result<Summary> {
    let in_file = Symbols::of(program)?;
    let mut symbols = BTreeMap::new();
    for (&pid, &main) in mains {
        let mut moved = in_file.clone();
        moved.move_main_to(main)?;
        symbols.insert(pid, moved);
    }
    let mut summary = Summary::default();
    let mut sampled: BTreeMap<u32, bool> = BTreeMap::new();
    for stack in watch.all_stacks() {
        let Some(symbols) = symbols.get(&stack.tgid) else { continue };
        let chain = chain(&addresses(&stack), is_exact(&stack), symbols);
        // Before and after `main` the loader is at work: another matter.
        if !chain.last().is_some_and(|name| name.starts_with("burn_")) {
            continue;
        }
        let whole = BURN.problem(&chain).is_none() && is_whole(&stack);
        summary.stacks.0 += 1;
        summary.stacks.1 += usize::from(whole);
        if !whole {
            *summary.ends.entry((stack.stop, stack.copied)).or_default() += 1;
        }
        *sampled.entry(stack.tgid).or_default() |= whole;
    }
    summary.sampled = sampled.len();
    summary.with_whole = sampled.values().filter(|&&whole| whole).count();
    Ok(summary)
}
