//! Lives of processes and threads: fork, exec, processes of 5 ms, deaths inside of a span, and
//! spans older than the agent.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use hotspan_tests::{
    check::{Checks, Verdict},
    fixture::{Language, Recorder},
    host::{can_record, wait_for_child, wait_until},
    report::get,
    scenario::{settled, whole_path},
};

/// How much longer than its truth a span may be whose thread died in it: what the workload still
/// does after its last clock read (it writes the truth).
const DYING: i64 = 20_000_000;

fn open_spans_end(checks: &mut Checks<'_>) {
    let mut problems = Vec::new();
    for (truth, span) in checks.pairs.iter().filter(|(truth, _)| truth.open) {
        let longer = span.active_ns as i64 - truth.wall_ns as i64;
        if !(-20_000..DYING).contains(&longer) {
            problems.push(format!("`{}` is {longer} ns longer than its truth", truth.name));
        }
    }
    checks.require(problems.is_empty(), || problems.join("; "));
}

#[test]
fn a_fork_child_publishes() -> Result<()> {
    whole_path("fork", |checks| {
        let spans = checks.pairs.len();
        checks.require(spans == 20, || format!("{spans} spans"));
    })
}

#[test]
fn an_exec_chain_is_one_process() -> Result<()> {
    whole_path("exec", |checks| {
        open_spans_end(checks);
        let spans = checks.pairs.len();
        checks.require(spans == 4, || format!("{spans} spans"));
    })
}

#[test]
fn a_process_of_5_ms() -> Result<()> {
    whole_path("short", |checks| {
        let spans = checks.pairs.len();
        checks.require(spans == 3, || format!("{spans} spans"));
    })
}

#[test]
fn death_ends_a_span() -> Result<()> {
    whole_path("exit_in_span", |checks| {
        open_spans_end(checks);
        // Each after a first one, which makes the lane.
        let spans = checks.pairs.len();
        checks.require(spans == 30, || format!("{spans} spans"));
    })
}

/// The span is open when hotspan comes: what lies before is `unknown.before_attach`, the rest is
/// right, and it does not claim to be exact.
#[test]
fn a_span_older_than_the_agent() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    Language::BOTH.into_iter().try_for_each(|language| settled(|| older_than_the_agent(language)))
}

fn older_than_the_agent(language: Language) -> Result<Verdict> {
    let recorder = Recorder::new()?;
    let (ready, go) = (recorder.file("ready"), recorder.file("go"));
    let command = recorder.scenario_command(language, "before_attach")?;
    let mut workload = Command::new(&command[0])
        .args(&command[1..])
        .arg("--ready")
        .arg(&ready)
        .arg("--go")
        .arg(&go)
        .stdin(Stdio::null())
        .spawn()?;
    let pid = workload.id();
    let is_ready = wait_until(Duration::from_secs(10), || ready.exists());
    // Says go, then lives as long as the workload: a recording ends with its command.
    let script = format!(": > {}; while kill -0 {pid} 2>&-; do sleep 0.02; done", go.display());
    let running = recorder.pid(pid).start(["sh", "-c", &script].map(Into::into).to_vec());
    let ended = wait_for_child(&mut workload, Duration::from_secs(40))?;
    if ended.is_none() {
        workload.kill()?;
        workload.wait()?;
    }
    ensure!(is_ready && ended.is_some(), "the workload did not play its part");
    let recording = running?.finish()?;
    let mut checks = Checks::new(format!("before_attach {language:?}"), &recording)?;
    checks.found().no_strangers().exact_sums().conservation();
    let mut problems = Vec::new();
    for (truth, span) in &checks.pairs {
        let unknown = get(&span.states, "unknown.before_attach");
        let early = truth.name == "before attach";
        if early != (unknown > 0) || early == span.exact.states {
            problems.push(format!("`{}`: exact {:?}, {:?}", truth.name, span.exact, span.states));
        }
    }
    Ok(checks.require(problems.is_empty(), || problems.join("; ")).finish())
}
