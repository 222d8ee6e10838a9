//! Every way to block that a program can take by itself: one row each in `workloads/wait_table`, with
//! the states its wait has by construction. What this machine does not have says so.

use std::{collections::BTreeMap, ffi::OsString, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    check::conservation_problems,
    fixture::Recorder,
    host,
    report::{Cause, Report, Span, States, Thread, blocked, get},
};
use serde::Deserialize;

/// Share of the blocked time that must have an expected state, and of which the first expected one
/// must be half.
const RIGHT: f64 = 0.95;
/// A row's wait is longer than this unless it is made of many short ones.
const SOME_NS: u64 = 100_000;

/// What is between the helper and the waiting thread wakes it: a kernel worker, the network's interrupt,
/// the second's timer by which a lease is looked at again.
const WOKEN_BY_OTHERS: [&str; 4] = [
    "read of a terminal",
    "write to a full TCP socket",
    "close of a lingering socket",
    "open of a leased file",
];

#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    expected: String,
    pid: u32,
    tid: u32,
    /// A thread of its own process ends the wait.
    helped: bool,
    scope: Option<String>,
    skipped: Option<String>,
    failed: Option<String>,
}

#[test]
fn every_wait_has_its_state() -> Result<()> {
    if !host::can_record() {
        return Ok(());
    }
    let recorder = Recorder::new()?;
    let rows = recorder.file("rows");
    let folder = recorder.file("folders");
    fs::create_dir(&folder)?;
    let program = PathBuf::from(env!("WORKLOAD_WAIT_TABLE"));
    let words: Vec<OsString> = vec![program.into(), rows.clone().into(), folder.into()];
    let recording = recorder.record(words)?;
    let report = recording.report()?;
    let rows = rows_of(&fs::read_to_string(rows)?)?;
    let mut problems = conservation_problems(report);
    for row in rows.values() {
        match judge(row, report) {
            Ok(text) => println!("{text}"),
            Err(problem) => problems.push(problem),
        }
    }
    ensure!(rows.len() > 120, "only {} rows ran", rows.len());
    ensure!(problems.is_empty(), "{} problems:\n- {}", problems.len(), problems.join("\n- "));
    Ok(())
}

/// The rows by name. A row that failed after it began has two lines: the later one says it.
fn rows_of(text: &str) -> Result<BTreeMap<String, Row>> {
    let row = |line| -> Result<(String, Row)> {
        let row: Row = serde_json::from_str(line).with_context(|| format!("in {line}"))?;
        Ok((row.name.clone(), row))
    };
    text.lines().map(row).collect()
}

fn judge(row: &Row, report: &Report) -> Result<String, String> {
    let name = &row.name;
    if let Some(reason) = &row.failed {
        return Err(format!("`{name}` failed: {reason}"));
    }
    if let Some(reason) = &row.skipped {
        return Ok(format!("`{name}` cannot be run here: {reason}"));
    }
    let states = states_of(row, report).ok_or_else(|| format!("`{name}` is not in the report"))?;
    let all = blocked(states);
    let expected: Vec<&str> = row.expected.split(',').collect();
    let right: u64 = expected.iter().map(|state| get(states, state)).sum();
    let first = get(states, expected[0]);
    let share = right as f64 / all.max(1) as f64;
    if all < SOME_NS || share < RIGHT || first * 2 < all * u64::from(expected.len() < 3) {
        return Err(format!("`{name}`: {:.2} % is {}: {states:?}", share * 100.0, row.expected));
    }
    if row.helped && !WOKEN_BY_OTHERS.contains(&name.as_str()) {
        let span = report.spans.iter().find(|span| span.name == *name);
        let causes = span.map_or(&[][..], |span| &span.causes);
        let helper = |cause: &&Cause| {
            cause.state == expected[0] && cause.kind == "waker" && cause.pid == row.pid
        };
        let helped: u64 = causes.iter().filter(helper).map(|cause| cause.ns).sum();
        if (helped as f64) < RIGHT * first as f64 {
            return Err(format!("`{name}`: not woken by its own process: {causes:?}"));
        }
    }
    Ok(format!("`{name}`: {:.2} % of {all} ns is {}", share * 100.0, row.expected))
}

fn states_of<'a>(row: &Row, report: &'a Report) -> Option<&'a States> {
    if row.scope.as_deref() == Some("thread") {
        let own = |thread: &&Thread| (thread.pid, thread.tid) == (row.pid, row.tid);
        return report.threads.iter().find(own).map(|thread| &thread.states);
    }
    let own = |span: &&Span| span.name == row.name;
    report.spans.iter().find(own).map(|span| &span.states)
}
