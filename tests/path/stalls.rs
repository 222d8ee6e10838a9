//! A process that cannot be read: whoever opens its `/proc/PID/maps` waits until it is let go. It
//! delays nobody else's record, neither while hotspan runs nor when it starts, and it is counted.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    check::conservation_problems,
    fixture::{Language, Recorder},
    host::{self, Scratch, can_record, wait_for_child, wait_until},
    publisher::{MIXED, Publisher, all_found},
    report::Report,
    service::{Health, Place, SOON},
};

/// Exit code of a workload that this host cannot run.
const SKIPPED: i32 = 77;
/// At least so long it hangs while others publish.
const HANGS: Duration = Duration::from_secs(10);

/// Hangs until it is let go.
struct Stall {
    child: Child,
    _folder: Scratch,
}

// === impl Stall ===

impl Stall {
    /// Hangs when this returns; none where no process can.
    fn start() -> Result<Option<Self>> {
        let folder = Scratch::new()?;
        let mut child = Command::new(host::stall())
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().context("a pipe")?;
        let mut stall = Self { child, _folder: folder };
        let (sender, line) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            // The end of what it says reads as an empty line.
            let _ = BufReader::new(said).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line = match line.recv_timeout(SOON) {
            Err(RecvTimeoutError::Timeout) => "it does not hang".to_owned(),
            line => line?,
        };
        if line.starts_with("hangs ") {
            return Ok(Some(stall));
        }
        let status = wait_for_child(&mut stall.child, SOON)?.context("it does not end")?;
        ensure!(status.code() == Some(SKIPPED), "{status}: {line}");
        eprintln!("skipped: no process can hang here");
        Ok(None)
    }

    /// Lets it go. It hung all the while, or this is an error.
    fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = wait_for_child(&mut self.child, SOON)?.context("it does not end")?;
        ensure!(status.success(), "it did not hang all the while: {status}");
        Ok(())
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        // Ended already, or the test failed: its own processes go with it.
        drop(self.child.stdin.take());
        let _ = wait_for_child(&mut self.child, SOON);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The longest time between two batches from now on until `done`, Unix ns.
fn longest_gap(place: &Place, when: &str, mut done: impl FnMut() -> bool) -> Result<u64> {
    let mut batches: Vec<u64> = Vec::new();
    let ended = wait_until(SOON + HANGS, || {
        let last =
            place.health().ok().and_then(|health| Some(health.agents.first()?.last_batch_unix_ns));
        batches.extend(last.filter(|last| batches.last() != Some(last)));
        batches.len() > 4 && done()
    });
    ensure!(ended, "{when} batches stay away: {batches:?}");
    Ok(batches.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0))
}

fn counted(place: &Place) -> impl FnMut() -> bool {
    move || place.health().is_ok_and(|health| unread(&health) > 0)
}

fn unread(health: &Health) -> u64 {
    health.agents[0].loss.get("processes_unread").copied().unwrap_or(0)
}

#[test]
fn a_process_that_cannot_be_read_delays_nobody() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let service = place.run(&[])?;
    let publisher = Publisher::start(MIXED);
    let usual = longest_gap(&place, "before", || true)?;
    let Some(stall) = Stall::start()? else { return Ok(()) };
    let began = Instant::now();
    let mut is_counted = counted(&place);
    let hanging = longest_gap(&place, "beside a process that hangs", || {
        began.elapsed() >= HANGS && is_counted()
    })?;
    let truths = publisher.finish()?;
    place.settle()?;
    all_found(&place, "beside a process that hangs", truths)?;
    let health = place.health()?;
    stall.end()?;
    println!(
        "batches every {usual} ns at most, {hanging} ns beside it; {:?}",
        health.agents[0].loss
    );
    ensure!(hanging < 3 * usual, "a batch came after {hanging} ns, not {usual} ns");
    ensure!(unread(&health) < 5, "one process is counted once: {:?}", health.agents[0].loss);
    let agent = &health.agents[0];
    let full: Vec<_> = agent.loss.keys().filter(|key| key.ends_with("ring_full")).collect();
    ensure!(full.is_empty(), "records were lost: {full:?}");
    ensure!(service.stop()?.success(), "it does not end well");
    Ok(())
}

#[test]
fn a_process_that_cannot_be_read_does_not_keep_hotspan_from_starting() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let Some(stall) = Stall::start()? else { return Ok(()) };
    let recording = Recorder::new()?.scenario(Language::C, "nested")?;
    ensure!(recording.status.success(), "{}: {}", recording.status, recording.stderr);
    let report: &Report = recording.report()?;
    let (spans, truths) = (report.spans.len(), recording.truths.len());
    ensure!(spans >= truths && truths > 0, "{spans} spans for {truths} truths");
    let problems = conservation_problems(report);
    ensure!(problems.is_empty(), "{problems:?}");

    let place = Place::new()?;
    let service = place.run(&[])?;
    let truths = Publisher::start(&["nested"]).finish()?;
    place.settle()?;
    all_found(&place, "after a start beside a process that hangs", truths)?;
    ensure!(wait_until(SOON, counted(&place)), "it is not counted: {:?}", place.health()?);
    stall.end()?;
    ensure!(service.stop()?.success(), "it does not end well");
    Ok(())
}
