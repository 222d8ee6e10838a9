//! What a sample with a stack of known depth costs in the kernel. One burner is pinned to each CPU, so
//! that nearly every tick of the timer meets one, in the real-time class, because the host may be busy;
//! which of them runs is switched by signals, so that all are measured in turns within one recording.

use std::time::{Duration, Instant};

use agent_ebpf::unwind::Stop;
use anyhow::{Result, ensure};
use hotspan_tests::unwind::{Fixture, program};

use super::recording::{FLUSH, Recording};
use crate::{
    Line,
    agent::{EMPTY_PROGRAM_NS, difference, pin},
    sample::{apart, median},
};

/// Shares no divisor with the kernel's tick.
const HZ: u64 = 997;
const ROUNDS: usize = 10;
/// Below what the kernel leaves the real-time class in a second.
const ROUND: Duration = Duration::from_millis(300);
/// What came meanwhile is taken over, and others get their turn.
const PAUSE: Duration = Duration::from_millis(200);
/// Until tables are made and placed; on a host that is busy it takes some time.
const WARM: Duration = Duration::from_secs(20);
/// So many samples in a row with whole stacks say so.
const SETTLED: usize = 100;
/// Frames above the recursion: three that burn, its scenario, `main`, and three that call it.
const OTHERS: usize = 8;
/// Real-time priorities: ours, so that a turn ends when it should, and below it theirs.
const OURS_FIRST: i32 = 2;
const BURNER: i32 = 1;
/// Samples of a turn that must be its burners'.
const OURS: f64 = 0.8;

/// A variant of the fixture, burning at one depth on every CPU.
struct Burners {
    quantity: String,
    target: Option<f64>,
    fixtures: Vec<Fixture>,
    us: Vec<f64>,
    all: u64,
}

pub(super) fn measure() -> Result<Vec<Line>> {
    let mut burners = Vec::new();
    for (variant, frames, target) in
        [("pie", 30, None), ("pie", 44, Some(25.0)), ("framed", 30, None), ("framed", 44, None)]
    {
        burners.extend(Burners::start(variant, frames, target)?);
    }
    ensure!(!burners.is_empty(), "no fixture was built");
    let mut recording = Recording::start(HZ)?;
    for burners in &burners {
        burners.warm(&mut recording)?;
    }
    // What was taken so far is taken over first.
    recording.run(2 * FLUSH)?;
    let warm = recording.samples.len();
    schedule(0, libc::SCHED_FIFO, OURS_FIRST)?;
    let measured = (0..ROUNDS)
        .try_for_each(|_| burners.iter_mut().try_for_each(|burners| burners.round(&mut recording)));
    schedule(0, libc::SCHED_OTHER, 0)?;
    measured?;
    let (samples, stacks, _) = recording.finish()?;
    let mut lines = Vec::new();
    for burners in &burners {
        let pids = burners.pids();
        let found: Vec<_> = samples[warm.min(samples.len())..]
            .iter()
            .filter(|sample| pids.contains(&sample.pid))
            .filter_map(|sample| Some(&stacks.get(&sample.stack)?.definition))
            .collect();
        let frames: usize = found.iter().map(|stack| stack.frames.len()).sum();
        let whole = found.iter().filter(|stack| stack.stop == Stop::Bottom).count();
        let count = found.len().max(1) as f64;
        let share = found.len() as f64 / burners.all.max(1) as f64;
        ensure!(share >= OURS, "only {share:.2} of the timer's runs were of the burners");
        let note = format!(
            "{:.1} frames in the mean, {:.1} % whole; {} samples, {:.1} % of the timer's runs",
            frames as f64 / count,
            whole as f64 * 100.0 / count,
            found.len(),
            share * 100.0
        );
        let line = Line::new(&burners.quantity, median(&burners.us), "us");
        let line = line.noise(apart(&burners.us)).note(note);
        lines.push(match burners.target {
            Some(target) => line.target(target),
            None => line,
        });
    }
    Ok(lines)
}

// === impl Burners ===

impl Burners {
    /// Starts and stops them; `None` where the variant could not be built.
    fn start(variant: &str, frames: usize, target: Option<f64>) -> Result<Option<Self>> {
        let Some(program) = program(variant) else { return Ok(None) };
        let depth = (frames - OTHERS).to_string();
        let mut fixtures = Vec::new();
        for cpu in 0..std::thread::available_parallelism()?.get() {
            let fixture = Fixture::start(&program, &["deep", &depth])?;
            let pinned = pin(i32::try_from(fixture.pid)?, cpu);
            ensure!(pinned, "pinning: {}", std::io::Error::last_os_error());
            fixtures.push(fixture);
        }
        let by = if variant == "pie" { "by table" } else { "by frame pointer" };
        let burners = Self {
            quantity: format!("on-CPU sample of {frames} frames {by}"),
            target,
            fixtures,
            us: Vec::new(),
            all: 0,
        };
        burners.stop()?;
        Ok(Some(burners))
    }

    /// Lets them run until their stacks are whole.
    fn warm(&self, recording: &mut Recording) -> Result<()> {
        let begin = Instant::now();
        let pids = self.pids();
        self.go_on()?;
        loop {
            recording.run(PAUSE)?;
            let latest = recording.samples.iter().rev().filter(|s| pids.contains(&s.pid));
            let stops = latest.take(SETTLED).map(|sample| {
                recording.stacks.get(&sample.stack).map(|stack| stack.definition.stop)
            });
            let whole = stops.filter(|stop| *stop == Some(Stop::Bottom)).count();
            if whole >= SETTLED * 9 / 10 || begin.elapsed() >= WARM {
                break;
            }
        }
        for fixture in &self.fixtures {
            schedule(i32::try_from(fixture.pid)?, libc::SCHED_RR, BURNER)?;
        }
        self.stop()
    }

    fn round(&mut self, recording: &mut Recording) -> Result<()> {
        const TIMER: &str = "timer_sample";
        let before = recording.programs()?;
        self.go_on()?;
        // A length of time is what is measured.
        std::thread::sleep(ROUND);
        self.stop()?;
        let runs = difference(&before, &recording.programs()?);
        recording.run(PAUSE)?;
        let runs = runs.get(TIMER).copied().unwrap_or_default();
        ensure!(runs.count > 0, "the timer does not run");
        self.us.push((runs.ns as f64 / runs.count as f64 - EMPTY_PROGRAM_NS) / 1000.0);
        self.all += runs.count;
        Ok(())
    }

    fn pids(&self) -> Vec<u32> {
        self.fixtures.iter().map(|fixture| fixture.pid).collect()
    }

    fn go_on(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    fn stop(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        self.fixtures.iter().try_for_each(|fixture| fixture.signal(signal))
    }
}

/// Changes the class of a thread; 0 is this one.
fn schedule(tid: i32, class: i32, priority: i32) -> Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameter is valid for the call.
    let changed = unsafe {
        libc::sched_setscheduler(tid, class | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    ensure!(changed == 0, "scheduling: {}", std::io::Error::last_os_error());
    Ok(())
}
