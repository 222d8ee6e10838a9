//! The standard host load, and what hotspan costs beside it: 100 idle processes, two pipe ping-pong
//! pairs at 10,000 round trips a second in all, 20 execs a second, and a Python burner 60 frames
//! deep. Everything ends by itself after a minute, whatever happens here.

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hotspan_tests::host::read_text;

use crate::{
    Line,
    agent::{Agent, Stats, difference},
    sample::{apart, median},
};

const IDLE_PROCESSES: usize = 100;
const LIFE: Duration = Duration::from_secs(60);
/// hotspan finds its way (tables, symbols) before it is measured. A recording has no API to ask whether it
/// has, and under a load that forks all the time it is never idle.
const SETTLE: Duration = Duration::from_secs(3);
const SLICE: Duration = Duration::from_secs(2);
const SLICES: usize = 8;
const IDLE_SLICES: usize = 3;

const BURNER: &str = "
import sys, time
until = time.monotonic() + float(sys.argv[1])
def deep(n):
    if n: return deep(n - 1)
    while time.monotonic() < until:
        sum(range(200))
deep(60)
";

/// Processes of the load; all ended and reaped with it.
#[derive(Debug)]
pub(crate) struct Load(Vec<Child>);

pub(crate) fn measure() -> Result<Vec<Line>> {
    let _stats = Stats::enable()?;
    let agent = Agent::start(false)?;
    let quiet = Cost::measure(&agent, IDLE_SLICES)?;
    let load = Load::start()?;
    thread::sleep(SETTLE);
    let busy = Cost::measure(&agent, SLICES)?;
    let rss = agent.megabytes("smaps_rollup", "Rss").context("smaps_rollup")?;
    let peak = agent.megabytes("status", "VmHWM").unwrap_or(rss);
    let maps = agent.map_megabytes()?;
    drop(load);
    agent.stop()?;
    let switches = format!("{:.0} switches/s on the host", busy.switches);
    Ok(vec![
        busy.line("agent CPU at the standard load, kernel programs included").target(0.5),
        Line::new("  of it, the daemon", median(&busy.daemon), "% host").note(switches),
        Line::new("  of it, kernel programs", median(&busy.kernel), "% host")
            .note("with the cost of counting it, 64 ns a run"),
        quiet
            .line("agent CPU without that load")
            .target(0.1)
            .note(format!("{:.0} switches/s; idle only if nothing else runs here", quiet.switches)),
        Line::new("RSS + kernel maps at the standard load", rss + maps, "MB").target(60.0),
        Line::new("  of it, RSS", rss, "MB").note(format!("peak {peak:.1} MB")),
        Line::new("  of it, kernel maps", maps, "MB"),
    ])
}

/// CPU time in percent of the host, per slice of time.
#[derive(Default)]
struct Cost {
    daemon: Vec<f64>,
    kernel: Vec<f64>,
    both: Vec<f64>,
    switches: f64,
}

impl Cost {
    fn measure(agent: &Agent, slices: usize) -> Result<Self> {
        let cpus = thread::available_parallelism()?.get() as f64;
        let mut cost = Self::default();
        let (begin, switches) = (Instant::now(), context_switches());
        for _ in 0..slices {
            let (at, cpu, programs) = (Instant::now(), agent.cpu_seconds()?, agent.programs()?);
            // A length of time is what is measured.
            thread::sleep(SLICE);
            let host = at.elapsed().as_secs_f64() * cpus / 100.0;
            let daemon = (agent.cpu_seconds()? - cpu) / host;
            let runs = difference(&programs, &agent.programs()?);
            let kernel = runs.values().map(|runs| runs.ns).sum::<u64>() as f64 / 1e9 / host;
            cost.daemon.push(daemon);
            cost.kernel.push(kernel);
            cost.both.push(daemon + kernel);
        }
        cost.switches = (context_switches() - switches) as f64 / begin.elapsed().as_secs_f64();
        Ok(cost)
    }

    fn line(&self, quantity: &str) -> Line {
        Line::new(quantity, median(&self.both), "% host").noise(apart(&self.both))
    }
}

/// Of the whole host since boot.
pub(crate) fn context_switches() -> u64 {
    let text = read_text("/proc/stat");
    let line = text.lines().find_map(|line| line.strip_prefix("ctxt "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

// === impl Load ===

impl Load {
    pub(crate) fn start() -> Result<Self> {
        let this = std::env::current_exe()?;
        let mut load = Self(Vec::new());
        for _ in 0..IDLE_PROCESSES {
            load.add(Command::new("sleep").arg(LIFE.as_secs().to_string()))?;
        }
        for part in ["ping-pong", "ping-pong", "execs"] {
            load.add(Command::new(&this).args(["part", part]))?;
        }
        load.add(Command::new("python3").args(["-c", BURNER]).arg(LIFE.as_secs().to_string()))?;
        Ok(load)
    }

    fn add(&mut self, command: &mut Command) -> Result<()> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        self.0.push(child);
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Without effect on one that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One process of the load.
pub(crate) fn part(arguments: &[String]) -> Result<()> {
    match arguments.first().map(String::as_str) {
        Some("ping-pong") => ping_pong(),
        Some("execs") => execs(),
        _ => bail!("not a part of the load"),
    }
}

/// 5,000 round trips a second: 10 every 2 ms.
fn ping_pong() -> Result<()> {
    let (mut from_first, mut to_second) = std::io::pipe()?;
    let (mut from_second, mut to_first) = std::io::pipe()?;
    thread::spawn(move || -> std::io::Result<()> {
        let mut byte = [0];
        while from_first.read(&mut byte)? == 1 {
            to_first.write_all(&byte)?;
        }
        Ok(())
    });
    let begin = Instant::now();
    let mut due = begin;
    while begin.elapsed() < LIFE {
        for _ in 0..10 {
            let mut byte = [0];
            to_second.write_all(&byte)?;
            from_second.read_exact(&mut byte)?;
        }
        due += Duration::from_millis(2);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn execs() -> Result<()> {
    let begin = Instant::now();
    let mut due = begin;
    while begin.elapsed() < LIFE {
        Command::new("true").status()?;
        due += Duration::from_millis(50);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}
