//! The truth through the whole path: kernel, join, stream, store, API. One `hotspan run` serves all
//! scenarios of a test; the bounds are those of a recording.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    accounting,
    check::{Checks, Verdict},
    fixture::{Language, Recorder, Recording},
    host::{can_record, wait_for_child},
    scenario::settled,
    service::{Place, Service},
    truth::Truth,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Spans asked for one by one: beyond, the list says enough.
const DETAILED: usize = 300;

/// Runs a scenario beside a running service and asks the service about it.
fn observe(place: &Place, language: Language, scenario: &str) -> Result<Recording> {
    let recorder = Recorder::new()?;
    let command = recorder.scenario_command(language, scenario)?;
    let mut workload = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let status = wait_for_child(&mut workload, LIMIT)?;
    if status.is_none() {
        workload.kill()?;
        workload.wait()?;
    }
    let status = status.with_context(|| format!("{scenario} does not end"))?;
    let truths = Truth::load_all(&recorder.file("truth.json"))?;
    place.settle()?;
    let pids: Vec<u32> = truths.iter().map(|truth| truth.pid).collect();
    let few = truths.iter().map(|truth| truth.spans.len()).sum::<usize>() <= DETAILED;
    let report = place.report(&pids, few)?;
    Ok(recorder.finished(status, report, truths))
}

fn through_the_store(place: &Place, scenario: &str, causes: Option<&str>) -> Result<()> {
    for language in Language::BOTH {
        settled(|| {
            let recording = observe(place, language, scenario)?;
            let name = format!("{scenario} {language:?}, stored");
            let mut checks = Checks::new(name, &recording)?;
            checks.found().no_strangers().exact_sums().active_time().cpu_time().intended_states();
            if let Some(state) = causes {
                checks.causes(state);
            }
            Ok::<Verdict, _>(checks.finish())
        })?;
    }
    Ok(())
}

/// The service ends; what it stored is served by a collector that never saw the agent.
fn ends_well(place: &Place, service: Service) -> Result<()> {
    let (collector, _) = accounting::end_well(place, service, None, &[])?;
    let status = collector.stop()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn scenarios(all: &[(&str, Option<&str>)]) -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let service = place.run(&[])?;
    for (scenario, causes) in all {
        through_the_store(&place, scenario, *causes)?;
    }
    ends_well(&place, service)
}

#[test]
fn waits() -> Result<()> {
    scenarios(&[
        ("sleep", None),
        ("mutex", Some("lock")),
        ("condvar", None),
        ("pipe", None),
        ("unix_socket", None),
        ("tcp_socket", None),
        ("poll", None),
        ("fsync", None),
        ("waitpid", None),
        ("producers", Some("notify")),
    ])
}

#[test]
fn time_on_the_cpu() -> Result<()> {
    scenarios(&[
        ("burn", None),
        ("contention", None),
        ("nested", None),
        ("two_threads", None),
        ("no_switch", None),
        ("many", None),
        ("storm", None),
        ("migrate", None),
    ])
}
