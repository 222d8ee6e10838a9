//! Bursts of processes that are over after 30 ms: how long after its first sample one has a stack that
//! was walked whole in the kernel, and how many of its stacks are whole when all are reported.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent_ebpf::unwind::Stop;
use anyhow::{Context as _, Result};
use hotspan_tests::unwind::program;

use super::recording::{Recording, set_nice};
use crate::{
    Line,
    sample::{apart, median, quantile},
};

/// So that a process of 30 ms is met often.
const HZ: u64 = 997;
const BURSTS: usize = 20;
const PROCESSES: usize = 10;
/// Tables of all that the host runs already: nothing says that there are no more to come.
const WARM: Duration = Duration::from_secs(6);

/// What one process had.
#[derive(Debug, Default)]
struct Life {
    samples: usize,
    whole: usize,
    first: u64,
    first_in_kernel: Option<u64>,
}

pub(super) fn measure() -> Result<Vec<Line>> {
    let program = program("pie").context("the fixture was not built")?;
    let mut recording = Recording::start(HZ)?;
    // What the host runs already is another matter.
    recording.run(WARM)?;
    let mut pids = Vec::new();
    for _ in 0..BURSTS {
        let mut burst: Vec<Child> = Vec::new();
        for _ in 0..PROCESSES {
            let mut command = Command::new(&program);
            command.arg("short").stdin(Stdio::null()).stdout(Stdio::null());
            let nice = recording.nice();
            // SAFETY: between fork and exec, a plain system call without locks or memory.
            unsafe {
                command.pre_exec(move || {
                    set_nice(nice);
                    Ok(())
                })
            };
            burst.push(command.spawn()?);
        }
        pids.extend(burst.iter().map(Child::id));
        let mut running = burst;
        while !running.is_empty() {
            recording.round()?;
            let mut still = Vec::new();
            for mut child in running {
                if child.try_wait()?.is_none() {
                    still.push(child);
                }
            }
            running = still;
        }
    }
    let (samples, stacks, _) = recording.finish()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut lives: BTreeMap<u32, Life> = BTreeMap::new();
    let mut late = 0;
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    let mut ordered: Vec<_> = samples.iter().filter(|s| pids.contains(&s.pid)).collect();
    ordered.sort_by_key(|sample| sample.at);
    for sample in ordered {
        let life = lives.entry(sample.pid).or_default();
        if life.samples == 0 {
            life.first = sample.at;
        }
        life.samples += 1;
        let Some(stack) = stacks.get(&sample.stack) else { continue };
        let mut settled = stack.clone();
        settled.settle(deadline);
        let is_whole = settled.definition.stop == Stop::Bottom;
        life.whole += usize::from(is_whole);
        if !is_whole {
            let with = if stack.definition.copied { "with a copy" } else { "without a copy" };
            *ends.entry(format!("{:?} {with}", settled.definition.stop)).or_default() += 1;
        }
        late += usize::from(is_whole && stack.definition.copied);
        if stack.definition.stop == Stop::Bottom && life.first_in_kernel.is_none() {
            life.first_in_kernel = Some(sample.at);
        }
    }
    let lives: Vec<Life> = lives.into_values().collect();
    Ok(lines(&lives, late, &ends, pids.len()))
}

fn lines(lives: &[Life], late: usize, ends: &BTreeMap<String, usize>, started: usize) -> Vec<Line> {
    let delays: Vec<f64> = lives
        .iter()
        .filter_map(|life| Some((life.first_in_kernel? - life.first) as f64 / 1e6))
        .collect();
    let shares: Vec<f64> =
        lives.iter().map(|life| life.whole as f64 * 100.0 / life.samples as f64).collect();
    let samples: usize = lives.iter().map(|life| life.samples).sum();
    let whole: usize = lives.iter().map(|life| life.whole).sum();
    let without = lives.iter().filter(|life| life.whole == 0).count();
    let noise = apart(&shares);
    vec![
        Line::new("exec storm: first sample to first whole stack", median(&delays), "ms")
            .noise(apart(&delays))
            .note(format!(
                "walked in the kernel: {} of {} sampled processes, of {started} started",
                delays.len(),
                lives.len()
            )),
        Line::new("  of 95 % of them at most", quantile(&delays, 0.95), "ms"),
        Line::new(
            "exec storm: samples without a whole stack",
            share(samples - whole, samples),
            "%",
        )
        .noise(noise)
        .note(format!(
            "{samples} samples, {late} reported late; {without} processes without any; {ends:?}"
        )),
    ]
}

fn share(part: usize, all: usize) -> f64 {
    part as f64 * 100.0 / all.max(1) as f64
}
