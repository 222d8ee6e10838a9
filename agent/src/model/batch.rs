//! What one flush found, everything by name: the unit of queueing, delivery and storing. Stands on
//! its own; rows refer to the batch's own tables by index. The wire's dictionaries are the encoder's
//! business (`stream`), the store's are the store's.
//!
//! Times are ns of the host's CLOCK_MONOTONIC unless their name says unix: a step of the wall clock
//! changes no duration. They compare within one boot of a host.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    cause::Cause,
    clock::UnixNs,
    frame::Stack,
    id::{RunId, SpanId, Tid, TraceId},
    state::{State, StateTimes},
};

/// One flush.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The time it covers.
    pub from: u64,
    /// See `from`.
    pub to: u64,
    /// CLOCK_REALTIME - CLOCK_MONOTONIC when it was made.
    pub unix_offset_ns: i64,
    /// Table: processes rows refer to.
    pub processes: Vec<ProcessIdentity>,
    /// Table: stacks rows refer to.
    pub stacks: Vec<Stack>,
    /// What was added to spans.
    pub spans: Vec<SpanPart>,
    /// Stacks seen, in order of time.
    pub samples: Vec<SampleRow>,
    /// Waits of spans.
    pub waits: Vec<WaitRow>,
    /// Time of whole processes.
    pub totals: Vec<TotalRow>,
    /// Captured things it delivers.
    pub counts: Counts,
    /// The agent's accounting.
    pub account: Account,
}

const MINUTE_NS: u64 = 60_000_000_000;
/// Rows of one batch may lie in this many different minutes: stores keep rows by the minute, and a
/// hostile batch must not make a chunk each.
const MAX_MINUTES: usize = 4096;

/// A process image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessIdentity {
    /// In the initial pid namespace.
    pub pid: u32,
    /// When it was forked or last exec'ed; 0 when before the agent.
    pub since: u64,
    /// Name of its main thread.
    pub comm: Arc<str>,
    /// Name of its executable.
    pub service: Arc<str>,
}

/// What a flush adds to one span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanPart {
    /// W3C trace id.
    pub trace_id: TraceId,
    /// W3C span id.
    pub span_id: SpanId,
    /// Zero for none.
    pub parent: SpanId,
    /// Operation name, "" for none.
    pub name: Arc<str>,
    /// Index into `Batch::processes`.
    pub process: u32,
    /// Unix time of `start`, fixed when the span was first reported.
    pub start_unix_ns: UnixNs,
    /// First activation.
    pub start: u64,
    /// Last deactivation so far.
    pub end: u64,
    /// Added active time.
    pub active_ns: u64,
    /// Added time per state: sums to `active_ns` over all parts.
    pub states: StateTimes,
    /// Added active intervals `[from, to]`, in no order, overlapping where two threads were in it.
    pub active: Vec<(u64, u64)>,
    /// Every state so far is exact.
    pub exact: bool,
    /// Still active on a thread.
    pub open: bool,
    /// How many parts came before this one: a missing one shows.
    pub part: u32,
    /// Added losses by reason.
    pub loss: BTreeMap<Arc<str>, u64>,
}

/// A stack seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleRow {
    /// When.
    pub at: u64,
    /// Index into `Batch::processes`.
    pub process: u32,
    /// Thread.
    pub tid: Tid,
    /// Index into `Batch::spans`.
    pub span: Option<u32>,
    /// Index into `Batch::stacks`; none when no frame could be read.
    pub stack: Option<u32>,
    /// In which state: `running` for timer samples, else that of the wait.
    pub state: State,
    /// What it stands for.
    pub ns: u64,
}

/// Waits of one span in one state for one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitRow {
    /// Index into `Batch::spans`.
    pub span: u32,
    /// In which state.
    pub state: State,
    /// Who or what for.
    pub cause: Cause,
    /// Exact.
    pub ns: u64,
    /// Waits.
    pub count: u64,
}

/// A span as others name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanName {
    /// W3C trace id.
    pub trace_id: TraceId,
    /// W3C span id.
    pub span_id: SpanId,
    /// Operation name, "" for none.
    pub name: Arc<str>,
}

/// Time of all threads of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TotalRow {
    /// Index into `Batch::processes`.
    pub process: u32,
    /// The time it covers.
    pub from: u64,
    /// See `from`.
    pub to: u64,
    /// Sums over its threads: up to threads x (to - from).
    pub states: StateTimes,
}

/// Captured things, per kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Timer samples.
    pub samples: u64,
    /// Off-CPU intervals.
    pub intervals: u64,
    /// Their nanoseconds.
    pub interval_ns: u64,
    /// Markers read from lanes.
    pub markers: u64,
    /// Stack definitions.
    pub stacks: u64,
    /// Span parts.
    pub spans: u64,
}

/// The agent's accounting since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Per kind of captured things.
    pub kinds: BTreeMap<Arc<str>, KindAccount>,
    /// Everything lost or disturbed, and what else was counted: which of both is in the ledger.
    pub loss: BTreeMap<Arc<str>, u64>,
    /// What the agent itself took.
    pub cost: AgentCost,
    /// The last batch of a run that ended well.
    pub closed: bool,
    /// Who is over its share of what, those that lost most first. Of now: it is not stored.
    pub over: Vec<OverBudget>,
}

/// An owner that is over its share of something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverBudget {
    /// Of what, as a key: `span_bytes`.
    pub resource: Arc<str>,
    /// The process.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    /// What the process is called.
    pub comm: Arc<str>,
    /// Since when.
    pub since_unix_ns: u64,
    /// What it has lost since.
    pub shed: u64,
}

/// One kind's accounting: captured = linked + in the rings + lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindAccount {
    /// Counted at the source, before any buffer was asked for room.
    pub captured: u64,
    /// Reached the join.
    pub linked: u64,
    /// By reason.
    pub lost: BTreeMap<Arc<str>, u64>,
}

/// What the agent itself takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentCost {
    /// CPU time of its process since the start of the run.
    pub cpu_ns: u64,
    /// Wall time since then.
    pub wall_ns: u64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Batches waiting.
    pub queue_bytes: u64,
}

/// Batches that were given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Sequences, both included.
    pub from_sequence: u64,
    /// See `from_sequence`.
    pub to_sequence: u64,
    /// Why, as a key: `queue_full`.
    pub reason: Arc<str>,
    /// What they held.
    pub counts: Counts,
    /// The time they covered.
    pub from: u64,
    /// See `from`.
    pub to: u64,
}

/// One run of an agent, as it introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Run {
    /// Random; sequences count within it.
    pub id: RunId,
    /// Which kernel: one agent per kernel.
    pub boot_id: String,
    /// Host name.
    pub host: String,
    /// Version of the agent.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// When it started.
    pub started_unix_ns: u64,
}

// === impl Batch ===

impl Batch {
    /// Why a batch can never be stored, if so. Whoever takes batches from strangers asks before it hands
    /// them over: an append of several is refused whole.
    pub fn contradiction(&self) -> Option<&'static str> {
        let of_process = |index: u32| (index as usize) < self.processes.len();
        let of_span = |index: u32| (index as usize) < self.spans.len();
        if !self.spans.iter().all(|span| of_process(span.process)) {
            return Some("a span's process is not in its table");
        }
        for sample in &self.samples {
            if !of_process(sample.process)
                || !sample.span.is_none_or(of_span)
                || sample.stack.is_some_and(|stack| (stack as usize) >= self.stacks.len())
            {
                return Some("a sample's process, span or stack is not in its table");
            }
        }
        if !self.waits.iter().all(|wait| of_span(wait.span)) {
            return Some("a wait's span is not in its table");
        }
        if !self.totals.iter().all(|total| of_process(total.process) && total.from <= total.to) {
            return Some("a total's process is not in its table, or it ends before it begins");
        }
        let mut minutes: Vec<u64> = self.samples.iter().map(|row| row.at / MINUTE_NS).collect();
        minutes.extend(self.totals.iter().map(|row| row.from / MINUTE_NS));
        minutes.sort_unstable();
        minutes.dedup();
        (minutes.len() > MAX_MINUTES).then_some("its rows are spread over days")
    }
}

// === impl Counts ===

impl Counts {
    /// Per kind, with the kind's key.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("samples", self.samples),
            ("intervals", self.intervals),
            ("interval_ns", self.interval_ns),
            ("markers", self.markers),
            ("stacks", self.stacks),
            ("spans", self.spans),
        ]
        .into_iter()
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            samples: self.samples.saturating_sub(before.samples),
            intervals: self.intervals.saturating_sub(before.intervals),
            interval_ns: self.interval_ns.saturating_sub(before.interval_ns),
            markers: self.markers.saturating_sub(before.markers),
            stacks: self.stacks.saturating_sub(before.stacks),
            spans: self.spans.saturating_sub(before.spans),
        }
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.intervals += other.intervals;
        self.interval_ns += other.interval_ns;
        self.markers += other.markers;
        self.stacks += other.stacks;
        self.spans += other.spans;
    }
}
