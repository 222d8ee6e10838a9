//! The host changes under a running hotspan, and nothing stops for good: a program ends, a CPU goes
//! and comes back.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use hotspan_lanes::{Span, span_clear, span_set};
use hotspan_tests::{
    fixture::Recorder,
    host::{can_record, wait_until},
    publisher::{Publisher, all_found},
    report::get,
    service::{Place, SOON},
};

/// The last spans of a program that ends are not later than the others, though nobody has a lane any
/// more: batches come rarely then, but not before these are reported.
#[test]
fn last_spans_do_not_wait_for_a_rare_batch() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let service = place.run(&[])?;
    let mut batches: Vec<u64> = Vec::new();
    let publisher = Publisher::start(&["nested"]);
    let began = unix_now_ns()?;
    // Until it is known how often batches come meanwhile.
    let usual_known = || {
        see(&place, &mut batches);
        batches.iter().filter(|&&batch| batch > began).count() > 3
    };
    ensure!(wait_until(SOON, usual_known), "too few batches come: {batches:?}");
    let truths = publisher.finish()?;
    let ended = unix_now_ns()?;
    let is_newer = || {
        see(&place, &mut batches);
        batches.last().is_some_and(|&batch| batch >= ended)
    };
    ensure!(wait_until(SOON, is_newer), "no newer batch comes");
    let pid = truths.last().context("a truth")?.pid;
    let spans = place.spans_of(pid, false)?;
    let end = spans.iter().map(|span| span.start_unix_ns + span.wall_ns).max().context("spans")?;
    let gaps = batches.windows(2).map(|two| (two[1], two[1] - two[0]));
    let usual = gaps.clone().filter(|&(at, gap)| at - gap > began && at < end);
    let usual = usual.map(|(_, gap)| gap).max().context("two batches while it publishes")?;
    // The last spans are in the first batch after their end.
    let (_, last) = gaps.into_iter().find(|&(at, _)| at >= end).context("the last batch")?;
    println!("batches after {usual} ns while it publishes, with its last spans after {last} ns");
    ensure!(last < 3 * usual, "the last spans came {last} ns after a batch, not {usual} ns");
    all_found(&place, "the last spans", truths)?;
    ensure!(service.stop()?.success(), "it does not end well");
    Ok(())
}

/// Notes the last batch, if it is a new one.
fn see(place: &Place, batches: &mut Vec<u64>) {
    let Ok(health) = place.health() else { return };
    let last = health.agents.first().map(|agent| agent.last_batch_unix_ns);
    if let Some(last) = last.filter(|last| batches.last() != Some(last)) {
        batches.push(last);
    }
}

fn unix_now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// A CPU that can be taken away. Brought back when this value goes.
struct Cpu {
    number: usize,
    switch: PathBuf,
}

// === impl Cpu ===

impl Cpu {
    /// The last one, unless it is the only one or cannot be missed.
    fn to_spare() -> Option<Self> {
        let number = std::thread::available_parallelism().ok()?.get() - 1;
        let switch = PathBuf::from(format!("/sys/devices/system/cpu/cpu{number}/online"));
        (fs::read_to_string(&switch).ok()?.trim() == "1").then_some(Self { number, switch })
    }

    /// Away and back at once: whoever looks now and then sees no difference.
    fn blink(&self) -> Result<()> {
        fs::write(&self.switch, "0").context("a CPU cannot be taken away")?;
        Ok(fs::write(&self.switch, "1")?)
    }

    /// The calling thread runs there only.
    fn run_here(&self) -> Result<()> {
        // SAFETY: a zeroed set is an empty one; the call reads it and changes this thread alone.
        let result = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(self.number, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
        };
        ensure!(result == 0, "CPU {}: {}", self.number, std::io::Error::last_os_error());
        Ok(())
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        // It is there already, unless the test failed in between.
        let _ = fs::write(&self.switch, "1");
    }
}

/// A span of so much CPU time, all of it computing.
fn burn(id: u64, time: Duration) -> Result<()> {
    let span = Span {
        trace_id: [7; 16],
        span_id: id.to_le_bytes(),
        name: hotspan_lanes::name("burn"),
        ..Span::default()
    };
    span_set(&span).ok().context("this test cannot publish")?;
    let begin = cpu_time();
    while cpu_time() < begin + time {
        std::hint::spin_loop();
    }
    span_clear();
    Ok(())
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Its timer went with it (the event stays open and never counts again): the time that runs there
/// afterwards has stacks all the same, and that there were none for a while is reported.
#[test]
fn a_cpu_that_comes_back_has_stacks() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let Some(cpu) = Cpu::to_spare() else {
        eprintln!("skipped: no CPU here can be taken offline");
        return Ok(());
    };
    const BEFORE: u64 = 10;
    const AFTER: u64 = 80;
    let length = Duration::from_millis(100);
    let recorder = Recorder::new()?.pid(std::process::id());
    let (attached, done) = (recorder.file("attached"), recorder.file("done"));
    let script = format!(
        ": > {}; while [ ! -e {} ]; do sleep 0.05; done",
        attached.display(),
        done.display()
    );
    let running = recorder.start(vec!["sh".into(), "-c".into(), script.into()])?;
    ensure!(wait_until(SOON, || attached.exists()), "hotspan does not attach");
    cpu.run_here()?;
    for id in 0..BEFORE {
        burn(id + 1, length)?;
    }
    cpu.blink()?;
    // The scheduler let us go where there was a CPU.
    cpu.run_here()?;
    for id in BEFORE..BEFORE + AFTER {
        burn(id + 1, length)?;
    }
    fs::write(done, "")?;
    let recording = running.finish()?;
    let report = recording.report()?;
    let share = |from: u64, to: u64| -> Result<u64> {
        let (mut ran, mut seen) = (0, 0);
        for id in from..to {
            let hex: String = (id + 1).to_le_bytes().iter().map(|b| format!("{b:02x}")).collect();
            let span = report.spans.iter().find(|span| span.span_id == hex).context("a span")?;
            ran += get(&span.states, "running");
            let stacks = span.stacks.iter().filter(|stack| stack.state == "running");
            seen += stacks.map(|stack| stack.ns).sum::<u64>();
        }
        Ok(seen * 100 / ran.max(1))
    };
    let (before, late) = (share(0, BEFORE)?, share(BEFORE + AFTER / 2, BEFORE + AFTER)?);
    println!("running time with stacks: {before} % before, {late} % after; {:?}", report.loss);
    ensure!(before > 50, "only {before} % of running time has stacks on any day");
    ensure!(late > 50, "back online only {late} % of running time has stacks");
    ensure!(report.loss.contains_key("timers_stopped"), "nothing says that there were none");
    Ok(())
}
