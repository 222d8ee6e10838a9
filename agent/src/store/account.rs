//! What the store gives back: spans with all their parts summed, and the rows behind them, by name.
//! `assemble` turns these into documents.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{
    batch::ProcessIdentity,
    cause::Cause,
    clock::UnixNs,
    frame::Stack,
    id::{SpanId, Tid, TraceId},
    state::{State, StateTimes},
};

/// A process of one boot of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Which kernel.
    pub boot_id: Arc<str>,
    /// The process.
    pub identity: ProcessIdentity,
}

/// A span, all its parts summed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanAccount {
    /// The process that published it.
    pub process: ProcessKey,
    /// W3C trace id.
    pub trace_id: TraceId,
    /// W3C span id.
    pub span_id: SpanId,
    /// Zero for none.
    pub parent: SpanId,
    /// Operation name, "" for none.
    pub name: Arc<str>,
    /// Unix time of `start`.
    pub start_unix_ns: UnixNs,
    /// First activation, CLOCK_MONOTONIC of its boot.
    pub start: u64,
    /// Last deactivation so far.
    pub end: u64,
    /// Active time over all threads.
    pub active_ns: u64,
    /// Sums to `active_ns`.
    pub states: StateTimes,
    /// Active intervals `[from, to]`.
    pub active: Vec<(u64, u64)>,
    /// Whether every state is exact.
    pub exact: bool,
    /// Still active when last reported.
    pub open: bool,
    /// What is missing, by reason.
    pub loss: BTreeMap<Arc<str>, u64>,
}

/// A stack seen in a span or process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: u64,
    /// Thread.
    pub tid: Tid,
    /// None when no frame could be read.
    pub stack: Option<Stack>,
    /// In which state.
    pub state: State,
    /// What it stands for.
    pub ns: u64,
}

/// Waits in one state for one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// In which state.
    pub state: State,
    /// Who or what for.
    pub cause: Cause,
    /// Exact.
    pub ns: u64,
    /// Waits.
    pub count: u64,
}

/// The rows behind spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Stacks.
    pub samples: Vec<Sample>,
    /// Waits.
    pub waits: Vec<Wait>,
}

/// A process over a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSlice {
    /// Time per state of all its threads; rows that overlap the edges count pro rata.
    pub states: StateTimes,
    /// Stacks, in spans or not.
    pub samples: Vec<Sample>,
}

// === impl ProcessKey ===

impl ProcessKey {
    /// Whether it is the same process, whatever it was called.
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |key: &Self| (key.identity.pid, key.identity.since);
        self.boot_id == other.boot_id && of(self) == of(other)
    }
}

// === impl SpanAccount ===

impl SpanAccount {
    /// Last deactivation minus first activation.
    pub fn wall_ns(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}
