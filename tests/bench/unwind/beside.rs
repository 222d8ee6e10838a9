//! The same burner under hotspan and under `perf record --call-graph dwarf`, which copies the stack at
//! every sample and unwinds later: CPU time of the tool, and bytes per sample.
//!
//! perf's is its process: its copies are made in the interrupt and nobody counts them; what it takes to
//! unwind them comes afterwards. hotspan's is its process and its kernel programs, for the whole host.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::wire::{
    Sample,
    stack::{COPY_HEADER_LEN, COPY_PAGES, PAGE, STACK_HEADER_LEN},
};
use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    host::{Scratch, wait_until},
    perf,
    unwind::{Fixture, program},
};

use super::recording::Recording;
use crate::{
    Line,
    agent::{Agent, difference},
    sample::{apart, median},
    watched,
};

const HZ: u64 = 499;
/// Of the recursion: 44 in all.
const DEPTH: &str = "36";
const ROUNDS: usize = 4;
const WINDOW: Duration = Duration::from_secs(3);
/// Tables are made, files opened: of one process, whose samples nobody can ask for while it is recorded.
const WARM: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

pub(super) fn measure() -> Result<Vec<Line>> {
    ensure!(perf::is_installed(), "there is no perf");
    let program = program("pie").context("the fixture was not built")?;
    let fixture = Fixture::start(&program, &["deep", DEPTH])?;
    let pid = fixture.pid.to_string();
    let (mut ours, mut in_kernel, mut in_timer) = (Vec::new(), Vec::new(), Vec::new());
    let (mut theirs, mut their_bytes, mut afterwards) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (all, kernel, timer) = hotspan(&pid)?;
        ours.push(all);
        in_kernel.push(kernel);
        in_timer.push(timer);
        let perf = by_perf(&pid)?;
        afterwards.push(perf.afterwards_us * HZ as f64 / 1e6 * 100.0);
        theirs.push(perf.cpu + perf.afterwards_us * HZ as f64 / 1e6 * 100.0);
        their_bytes.push(perf.bytes);
    }
    let (bytes, stacks) = bytes_of_hotspan(fixture.pid)?;
    fixture.end()?;
    let ratio: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    Ok(vec![
        Line::new(format!("CPU at {HZ} Hz and 44 frames, hotspan"), median(&ours), "% CPU")
            .noise(apart(&ours))
            .note(format!(
                "{:.3} of it kernel programs for the whole host, {:.3} the timer's",
                median(&in_kernel),
                median(&in_timer)
            )),
        Line::new("  the same, perf record --call-graph dwarf", median(&theirs), "% CPU")
            .noise(apart(&theirs))
            .note(format!(
                "{:.3} of it unwinding afterwards; its copying in the interrupt is not in it",
                median(&afterwards)
            )),
        Line::new("  hotspan beside perf", median(&ratio), "x").noise(apart(&ratio)),
        Line::new("bytes per sample, hotspan", bytes, "B").note(stacks),
        Line::new("  the same, perf record --call-graph dwarf", median(&their_bytes), "B")
            .noise(apart(&their_bytes)),
    ])
}

/// Percent of a CPU: of all of it, of its kernel programs, and of the timer's among them.
fn hotspan(pid: &str) -> Result<(f64, f64, f64)> {
    let agent = Agent::start_with(&["--hz", &HZ.to_string(), "--pid", pid], None)?;
    thread::sleep(WARM);
    let (at, cpu, programs) = (Instant::now(), agent.cpu_seconds()?, agent.programs()?);
    // A length of time is what is measured.
    thread::sleep(WINDOW);
    let (time, cpu) = (at.elapsed().as_secs_f64(), agent.cpu_seconds()? - cpu);
    let runs = difference(&programs, &agent.programs()?);
    agent.stop()?;
    let kernel = runs.values().map(|runs| runs.ns).sum::<u64>() as f64 / 1e9;
    let timer = runs.get("timer_sample").map_or(0.0, |runs| runs.ns as f64 / 1e9);
    let percent = |seconds: f64| seconds * 100.0 / time;
    Ok((percent(cpu + kernel), percent(kernel), percent(timer)))
}

/// What perf took.
struct Perf {
    /// Percent of a CPU while it recorded.
    cpu: f64,
    /// Bytes written per sample.
    bytes: f64,
    /// CPU time per sample to unwind it.
    afterwards_us: f64,
}

fn by_perf(pid: &str) -> Result<Perf> {
    let scratch = Scratch::new()?;
    let data = scratch.file("perf.data");
    let mut command = Command::new("perf");
    command.args(["record", "-q", "-e", "cpu-clock", "-F", &HZ.to_string()]);
    command.args(["--call-graph", "dwarf", "-p", pid, "-o"]).arg(&data);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut perf = Running(command.spawn().context("perf does not start")?);
    let length = || data.metadata().map_or(0, |data| data.len());
    ensure!(wait_until(SOON, || length() > 100_000), "perf takes no samples");
    thread::sleep(WARM);
    let (at, cpu) = (Instant::now(), watched::cpu_seconds(perf.0.id())?);
    thread::sleep(WINDOW);
    let cpu = (watched::cpu_seconds(perf.0.id())? - cpu) * 100.0 / at.elapsed().as_secs_f64();
    hotspan_tests::host::signal(&perf.0, libc::SIGINT)?;
    perf.0.wait()?;
    let begin = children_cpu_us();
    let script = |fields: &str| {
        let mut script = Command::new("perf");
        script.args(["script", "--no-inline", "-F", fields, "-i"]).arg(&data);
        script.stderr(Stdio::null()).output()
    };
    let lines = String::from_utf8_lossy(&script("tid")?.stdout).lines().count();
    ensure!(lines > 0, "perf has no samples");
    let samples = lines as f64;
    // Reading the file and finding symbols is in both, nearly.
    let reading = children_cpu_us() - begin;
    let begin = children_cpu_us();
    script("tid,ip")?;
    let afterwards_us = (children_cpu_us() - begin - reading).max(0.0) / samples;
    Ok(Perf { cpu, bytes: length() as f64 / samples, afterwards_us })
}

/// CPU time of all children that were waited for.
fn children_cpu_us() -> f64 {
    // SAFETY: all-zero is a valid value of this plain struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live value of the type.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let us = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// What went through the rings for each sample of the burner.
fn bytes_of_hotspan(pid: u32) -> Result<(f64, String)> {
    let mut recording = Recording::start(HZ)?;
    recording.run(WARM + WINDOW)?;
    let (samples, stacks, _) = recording.finish()?;
    let samples = samples.iter().filter(|sample| sample.pid == pid).count();
    ensure!(samples > 0, "hotspan has no samples");
    let (mut bytes, mut copies, mut defined) = (samples * size_of::<Sample>(), 0, 0);
    for stack in stacks.values().map(|stack| &stack.definition).filter(|stack| stack.tgid == pid) {
        defined += 1;
        copies += usize::from(stack.copied);
        bytes += STACK_HEADER_LEN + stack.frames.len() * 8;
    }
    // At most: a copy ends with the stack.
    bytes += copies * (COPY_HEADER_LEN + COPY_PAGES * PAGE);
    let note = format!("{samples} samples, {defined} stacks, {copies} copies of new ones");
    Ok((bytes as f64 / samples as f64, note))
}

/// Ended with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Without effect on one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
