//! What a workload knows about itself: one JSON document per process, written by the workloads in
//! Rust and in C alike, read by the tests. Times are nanoseconds of CLOCK_MONOTONIC.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// One process's truth. A process that executes several programs writes one per program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Truth {
    pub scenario: String,
    /// `c` or `rust`
    pub language: String,
    pub pid: u32,
    pub spans: Vec<SpanTruth>,
    pub threads: Vec<ThreadTruth>,
}

/// One span on one thread. Several activations there are added up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SpanTruth {
    pub trace_id: String,
    pub span_id: String,
    pub parent_span_id: String,
    pub name: String,
    /// The state its waits are in; `running` when it has none.
    pub intended_state: String,
    /// Between the clock reads beside its markers.
    pub wall_ns: u64,
    /// Thread CPU clock between the same places.
    pub cpu_ns: u64,
    /// Time between the reads of the two clocks: how much `cpu_ns` may hold that `wall_ns` does not.
    pub slack_ns: u64,
    /// How long its waits were meant to be, 0 when not known.
    pub intended_wait_ns: u64,
    /// Number of intended waits.
    pub waits: u64,
    /// Context switches of the thread meanwhile (getrusage).
    pub switch_ins: u64,
    pub activations: u64,
    pub pid: u32,
    pub tid: u32,
    /// The thread that ended its waits, 0 when not known.
    pub waker_tid: u32,
    /// The span that thread was in, "" for none.
    pub waker_span_id: String,
    pub start_ns: u64,
    pub end_ns: u64,
    /// Its thread died in it: the truth ends shortly before.
    pub open: bool,
    /// The first its thread published: its truth holds the making of the lane, which comes before
    /// its first marker.
    pub cold: bool,
}

/// One thread, from the first to the last instruction of its function.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ThreadTruth {
    pub pid: u32,
    pub tid: u32,
    pub is_main: bool,
    pub start_ns: u64,
    pub end_ns: u64,
    /// Thread CPU clock at the end: all of its life.
    pub cpu_ns: u64,
    /// Context switches of all its life.
    pub switch_ins: u64,
    /// The kernel's own account at the end (schedstat): CPU and run-queue time of all its life.
    pub run_ns: u64,
    pub delay_ns: u64,
    /// Run-queue and CPU time before the first instruction.
    pub delay_at_start_ns: u64,
    pub cpu_at_start_ns: u64,
}

/// A span of all its threads together.
pub type SpanKey = (String, String);

// === impl Truth ===

impl Truth {
    /// Writes the document.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The truth at `path` and those of the other processes, at `path.*`.
    pub fn load_all(path: &Path) -> Result<Vec<Self>> {
        let folder = path.parent().context("a truth file has a folder")?;
        let prefix = path.file_name().context("a truth file has a name")?;
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if is_of(&entry.file_name(), prefix.to_owned()) {
                files.push(entry.path());
            }
        }
        files.sort();
        files
            .iter()
            .map(|file| {
                let text = fs::read(file)?;
                serde_json::from_slice(&text).with_context(|| format!("in {}", file.display()))
            })
            .collect()
    }
}

fn is_of(name: &OsString, prefix: OsString) -> bool {
    let name = name.to_string_lossy();
    let prefix = prefix.to_string_lossy();
    name.strip_prefix(prefix.as_ref()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

// === impl SpanTruth ===

impl SpanTruth {
    pub fn key(&self) -> SpanKey {
        (self.trace_id.clone(), self.span_id.clone())
    }
}

/// All spans of all processes; the halves of a span on several threads are added up.
pub fn spans(truths: &[Truth]) -> BTreeMap<SpanKey, SpanTruth> {
    let mut spans: BTreeMap<SpanKey, SpanTruth> = BTreeMap::new();
    for span in truths.iter().flat_map(|truth| &truth.spans) {
        spans
            .entry(span.key())
            .and_modify(|sum| {
                sum.wall_ns += span.wall_ns;
                sum.cpu_ns += span.cpu_ns;
                sum.slack_ns += span.slack_ns;
                sum.waits += span.waits;
                sum.intended_wait_ns += span.intended_wait_ns;
                sum.switch_ins += span.switch_ins;
                sum.activations += span.activations;
                sum.start_ns = sum.start_ns.min(span.start_ns);
                sum.end_ns = sum.end_ns.max(span.end_ns);
                sum.open |= span.open;
                sum.cold |= span.cold;
            })
            .or_insert_with(|| span.clone());
    }
    spans
}

/// All threads of all processes; the programs of one exec chain are one thread.
pub fn threads(truths: &[Truth]) -> BTreeMap<(u32, u32), ThreadTruth> {
    let mut threads: BTreeMap<(u32, u32), ThreadTruth> = BTreeMap::new();
    for thread in truths.iter().flat_map(|truth| &truth.threads) {
        threads
            .entry((thread.pid, thread.tid))
            .and_modify(|all| {
                let (first, last) =
                    if all.end_ns < thread.end_ns { (&*all, thread) } else { (thread, &*all) };
                *all = ThreadTruth {
                    start_ns: first.start_ns,
                    delay_at_start_ns: first.delay_at_start_ns,
                    cpu_at_start_ns: first.cpu_at_start_ns,
                    ..last.clone()
                };
            })
            .or_insert_with(|| thread.clone());
    }
    threads
}
