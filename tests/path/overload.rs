//! Too much for hotspan: rings forced tiny, and a hotspan that is stopped while its workload runs,
//! lose records. The account of time loses nothing, and what is lost is reported.

use std::time::Duration;

use anyhow::{Result, ensure};
use hotspan_tests::{
    check::Checks,
    fixture::{Language, Recorder, Recording},
    host::{can_record, has_child, signal, wait_until},
    report::get,
    scenario::settled,
};

const SOON: Duration = Duration::from_secs(20);

/// What holds however much is lost.
fn totals_hold(checks: &mut Checks<'_>) {
    checks.threads().schedstat().exact_sums().conservation();
    let lost: u64 = checks.report.conservation.values().flat_map(|kind| kind.lost.values()).sum();
    let shown: u64 = checks.report.loss.values().sum();
    checks.require(lost == 0 || shown > 0, || format!("{lost} lost, but loss says nothing"));
    // What a span lost it must not invent: its truth bounds the time it ran.
    let mut problems = Vec::new();
    for (truth, span) in &checks.pairs {
        let running = get(&span.states, "running");
        if running > truth.wall_ns + 100_000 {
            problems.push(format!("`{}` ran {running} of {} ns", truth.name, truth.wall_ns));
        }
    }
    checks.require(problems.is_empty(), || problems.join("; "));
}

fn with_tiny_rings(scenario: &str) -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    for language in Language::BOTH {
        settled(|| {
            let recorder = Recorder::new()?.env("HOTSPAN_RING_BYTES", "4096");
            let recording = recorder.scenario(language, scenario)?;
            let name = format!("{scenario} {language:?}, tiny rings");
            let mut checks = Checks::new(name, &recording)?;
            totals_hold(&mut checks);
            Ok(checks.finish())
        })?;
    }
    Ok(())
}

/// Nobody drains the tiny rings while the workload runs: most of its records are lost.
fn stopped(language: Language, scenario: &str) -> Result<Recording> {
    let recorder = Recorder::new()?.env("HOTSPAN_RING_BYTES", "4096");
    let truth = recorder.file("truth.json");
    let command = recorder.scenario_command(language, scenario)?;
    let name = if language == Language::C { "truth_c" } else { "truth" };
    let running = recorder.start(command)?;
    let pid = running.child.id();
    ensure!(wait_until(SOON, || has_child(pid, name)), "the workload does not start");
    signal(&running.child, libc::SIGSTOP)?;
    let ended = wait_until(SOON, || truth.exists());
    signal(&running.child, libc::SIGCONT)?;
    ensure!(ended, "the workload does not end while hotspan is stopped");
    running.finish()
}

fn with_a_stopped_daemon(scenario: &str) -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    for language in Language::BOTH {
        settled(|| {
            let recording = stopped(language, scenario)?;
            let mut checks = Checks::new(format!("{scenario} {language:?}, stopped"), &recording)?;
            totals_hold(&mut checks);
            let lost: u64 = checks.report.conservation.values().flat_map(|k| k.lost.values()).sum();
            let tested = || "nothing was lost, so nothing was tested".to_owned();
            Ok(checks.require(lost > 0, tested).finish())
        })?;
    }
    Ok(())
}

#[test]
fn a_full_ring_costs_no_time() -> Result<()> {
    with_tiny_rings("storm")
}

#[test]
fn a_full_ring_costs_no_waits() -> Result<()> {
    with_tiny_rings("mutex")
}

#[test]
fn a_full_ring_costs_no_short_spans() -> Result<()> {
    with_tiny_rings("many")
}

#[test]
fn a_stopped_daemon_costs_no_time_of_threads_that_died() -> Result<()> {
    with_a_stopped_daemon("storm")
}

#[test]
fn a_stopped_daemon_costs_no_time_of_waits() -> Result<()> {
    with_a_stopped_daemon("mutex")
}
