//! The span document and the report of `hotspan record --json` (design 5): stable interfaces.
//! Times are integer nanoseconds, ids lower-case hex.

use std::collections::BTreeMap;

use serde::Serialize;

use super::state::{State, StateTimes};

/// Everything a recording found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every span, in order of start.
    pub spans: Vec<SpanDocument>,
    /// Spans that are told as part of others (summary only).
    #[serde(skip)]
    pub nested: usize,
    /// Every thread of the recorded processes.
    pub threads: Vec<ThreadDocument>,
    /// What was captured and not delivered, and what disturbed the account, by reason. Only
    /// reasons that occurred.
    pub loss: BTreeMap<String, u64>,
    /// The conservation check of design 3.8, per kind.
    pub conservation: BTreeMap<&'static str, Conservation>,
}

/// `captured = delivered + in_flight + spooled + lost(by reason)` of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Conservation {
    /// Counted at the source, before any buffer was asked for room.
    pub captured: u64,
    /// Reached the link.
    pub delivered: u64,
    /// Still in a buffer when the recording ended.
    pub in_flight: u64,
    /// On disk, waiting for a collector.
    pub spooled: u64,
    /// Lost, by reason.
    pub lost: BTreeMap<String, u64>,
}

/// Where one span's time went.
#[derive(Debug, Serialize)]
pub struct SpanDocument {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, or empty for none.
    pub parent_span_id: String,
    /// Operation name, "" when the publisher gave none.
    pub name: String,
    /// Service name; without an identity the executable's name.
    pub service: String,
    /// The process that published it.
    pub process: ProcessDocument,
    /// First activation, Unix time.
    pub start_unix_ns: u64,
    /// Last deactivation on any thread minus start.
    pub wall_ns: u64,
    /// Sum of the time it was active over all threads; may exceed `wall_ns`.
    pub active_ns: u64,
    /// Wall time in which neither it nor a descendant was active anywhere.
    pub off_thread_ns: u64,
    /// What is summed: `span`, `children`.
    pub scope: &'static str,
    /// Sums exactly to `active_ns`.
    pub states: StateTimes,
    /// Who or what the waits were for.
    pub causes: Vec<CauseDocument>,
    /// Functions by time (sampled).
    pub methods: Vec<MethodDocument>,
    /// Stacks by time (sampled).
    pub stacks: Vec<StackDocument>,
    /// Which of the above are exact.
    pub exact: Exact,
    /// What is missing from this span, by reason.
    pub loss: BTreeMap<String, u64>,
}

/// A process as reports name it.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessDocument {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Name of its main thread.
    pub comm: String,
}

/// One cause of waits of a span.
#[derive(Clone, Debug, Serialize)]
pub struct CauseDocument {
    /// The state it caused.
    pub state: State,
    /// Nanoseconds.
    pub ns: u64,
    /// Waits.
    pub count: u64,
    /// `waker`, `rival`, `interrupt`, `syscall`
    pub kind: &'static str,
    /// Name of the thread or system call, "" for an interrupt.
    pub name: String,
    /// Its process, 0 for none.
    pub pid: u32,
    /// Its thread, 0 for none.
    pub tid: u32,
    /// Trace of the span it was in, "" for none.
    pub trace_id: String,
    /// The span it was in, "" for none.
    pub span_id: String,
    /// That span's operation name, "" for none.
    pub span_name: String,
}

/// One function's share of a span.
#[derive(Clone, Debug, Serialize)]
pub struct MethodDocument {
    /// Demangled name, or `module+0xoffset`.
    pub name: String,
    /// Source file, "" when not known.
    pub file: String,
    /// Line of the function's first sampled frame, 0 when not known.
    pub line: u32,
    /// With it on top of the stack.
    pub self_ns: u64,
    /// With it anywhere on the stack.
    pub total_ns: u64,
    /// `total_ns` by state.
    pub by_state: StateTimes,
}

/// One stack's share of a span.
#[derive(Clone, Debug, Serialize)]
pub struct StackDocument {
    /// Innermost first.
    pub frames: Vec<FrameDocument>,
    /// In which state.
    pub state: State,
    /// Nanoseconds it stands for.
    pub ns: u64,
    /// Times it was seen.
    pub count: u64,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct FrameDocument {
    /// Demangled name, or `module+0xoffset`, or `[unresolved 0x..]`.
    pub name: String,
    /// Source file, "" when not known.
    pub file: String,
    /// Line, 0 when not known.
    pub line: u32,
    /// `native`, `inlined`, `kernel`, `mark`
    pub kind: &'static str,
}

/// Which numbers are exact.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Exact {
    /// `states`: false when part of it is bounded or unknown.
    pub states: bool,
    /// `methods` are always sampled.
    pub methods: bool,
}

/// A thread's whole account.
#[derive(Clone, Debug, Serialize)]
pub struct ThreadDocument {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Name.
    pub comm: String,
    /// From its first to its last accounted instant.
    pub wall_ns: u64,
    /// Sums to `wall_ns`.
    pub states: StateTimes,
}
