//! Segments no publisher would make: hotspan finishes, reports what it refused, and no lie reaches a
//! span or a thread of the honest process beside the liar.

use std::ffi::OsString;

use anyhow::{Result, ensure};
use hotspan_tests::{
    check::{Checks, Verdict},
    fixture::{Language, Recorder},
    host::{can_record, program},
    scenario::settled,
};

/// Trace id of every lie of `hostile`.
const LIE: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";

/// Runs `hostile CASE` around an honest workload. `counted`: the loss must tell of it.
fn survives(case: &str, counted: bool) -> Result<()> {
    if can_record() { settled(|| survives_once(case, counted)) } else { Ok(()) }
}

fn survives_once(case: &str, counted: bool) -> Result<Verdict> {
    let recorder = Recorder::new()?;
    let mut command: Vec<OsString> = vec![program("hostile")?.into(), case.into(), "--".into()];
    command.extend(recorder.scenario_command(Language::C, "mutex")?);
    let recording = recorder.record(command)?;
    ensure!(recording.status.success(), "{}: {}", recording.status, recording.stderr);

    let mut checks = Checks::new(format!("hostile {case}"), &recording)?;
    let honest = recording.truths[0].pid;
    checks.found().exact_sums().active_time().cpu_time().intended_states();
    checks.threads().causes("lock").conservation();
    let mislabelled: Vec<_> = checks
        .strangers
        .iter()
        .filter(|span| span.process.pid == honest)
        .map(|span| format!("{}/{}", span.trace_id, span.span_id))
        .collect();
    checks.require(mislabelled.is_empty(), || format!("the honest process has {mislabelled:?}"));
    let false_causes = checks
        .pairs
        .iter()
        .flat_map(|(_, span)| &span.causes)
        .filter(|cause| cause.trace_id == LIE)
        .count();
    checks.require(false_causes == 0, || format!("{false_causes} causes name a lie"));
    let loss = checks.report.loss.clone();
    checks.require(!counted || !loss.is_empty(), || "no loss says so".to_owned());
    Ok(checks.finish())
}

#[test]
fn bad_magic() -> Result<()> {
    survives("bad_magic", true)
}

#[test]
fn wrong_sizes() -> Result<()> {
    survives("wrong_sizes", true)
}

#[test]
fn truncated_while_mapped() -> Result<()> {
    survives("truncated", true)
}

#[test]
fn random_bytes() -> Result<()> {
    survives("random", true)
}

#[test]
fn an_owner_in_another_process() -> Result<()> {
    survives("lying_owner", true)
}

#[test]
fn a_head_that_jumps() -> Result<()> {
    survives("wild_head", true)
}

#[test]
fn a_ring_that_laps() -> Result<()> {
    survives("lapping", true)
}

#[test]
fn names_longer_than_their_slots() -> Result<()> {
    survives("names", false)
}

#[test]
fn two_lanes_of_one_thread() -> Result<()> {
    survives("twins", true)
}
