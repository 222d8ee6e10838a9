//! Publishes which tracing span is active on which thread, through shared memory.
//!
//! A profiler outside the process (hotspan) reads what is written here; `SPEC.md` beside this
//! crate describes it byte by byte. Publishing costs a few nanoseconds and never harms the
//! program: no lock, no signal, no blocking, no allocation, and a limit in the way only means
//! that nothing is published.
//!
//! ```
//! use hotspan_lanes::{Span, name, span_clear, span_set};
//!
//! let checkout = name("GET /checkout");
//! let span = Span { trace_id: [1; 16], span_id: [2; 8], name: checkout, ..Span::default() };
//! let _published = span_set(&span); // this thread now works for that span
//! span_clear(); // and now for none
//! ```
//!
//! # Symbols
//! A profiler that follows OTEP 4947 finds the current span by the dynamic symbol
//! `otel_thread_ctx_v1`, and two copies of a publisher find each other by `hotspan_lanes_v1`.
//! The C header exports both by itself; a Rust program or `cdylib` exports what its link line
//! names, see `SPEC.md`. hotspan itself needs neither.

mod config;
mod event;
mod joint;
mod kernel;
mod lane;
mod names;
mod otel;
mod process;
mod publish;
mod ring;
mod segment;
mod thread;

pub mod abi;
#[cfg(feature = "tracing")]
pub mod layer;

use core::fmt;
use core::sync::atomic::Ordering;

/// The span a thread works for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub parent_span_id: Option<[u8; 8]>,
    /// The first span of this trace in this process.
    pub local_root_span_id: Option<[u8; 8]>,
    pub name: NameId,
    pub trace_flags: u8,
}

/// An interned operation name; 0 is "unnamed".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NameId(pub u32);

/// Publishing is off in this process; [`stats`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disabled;

/// What this process could not publish, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub threads_without_lane: u64,
    pub names_refused: u64,
    pub publishes_refused: u64,
    pub disabled: Option<Reason>,
}

/// Why publishing is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// `HOTSPAN_DISABLE` is set.
    SwitchedOff = 1,
    /// `RLIMIT_FSIZE` is smaller than a segment.
    FileSizeLimit = 2,
    /// `RLIMIT_AS` leaves too little room.
    AddressSpaceLimit = 3,
    /// `memfd_create` was refused.
    MemfdDenied = 4,
    /// The segment could not be sealed, or not be kept out of fork children.
    SealFailed = 5,
    /// The segment could not be sized or mapped.
    MapFailed = 6,
    /// No page that the kernel wipes on fork.
    NoWipeOnFork = 7,
    /// With `vm.overcommit_memory=2`, touching shared memory may end in SIGBUS.
    CommitLimit = 8,
}

/// [`Stats`] between copies of the publisher.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawStats {
    threads_without_lane: u64,
    names_refused: u64,
    publishes_refused: u64,
    disabled: u32,
    reserved: u32,
}

/// Interns the name of an operation. Idempotent, cheap to repeat, but best kept.
///
/// A name of more than 127 bytes, or one beyond the 4,096th, is refused: `NameId(0)`, counted.
pub fn name(operation: &str) -> NameId {
    match joint::elsewhere() {
        Some(other) => other.forward_name(operation.as_bytes()),
        None => NameId(names::intern(operation.as_bytes())),
    }
}

/// From now on this thread works for `span`. Setting the present span again costs nothing more.
///
/// # Errors
/// [`Disabled`] if this process does not publish.
#[inline]
pub fn span_set(span: &Span) -> Result<(), Disabled> {
    publish::set(span, 0)
}

/// The same with the time of the change, in nanoseconds of `CLOCK_MONOTONIC`, which is used
/// under `HOTSPAN_TS=caller`.
///
/// # Errors
/// [`Disabled`] if this process does not publish.
#[inline]
pub fn span_set_at(span: &Span, monotonic_ns: u64) -> Result<(), Disabled> {
    publish::set(span, monotonic_ns)
}

/// From now on this thread works for no span.
#[inline]
pub fn span_clear() {
    publish::clear();
}

/// What this process could not publish, and why.
pub fn stats() -> Stats {
    joint::elsewhere().map_or_else(RawStats::of_this_copy, joint::Publisher::forward_stats).into()
}

// === impl Disabled ===

impl fmt::Display for Disabled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("span publishing is off in this process")
    }
}

impl std::error::Error for Disabled {}

// === impl Reason ===

impl Reason {
    fn from_code(code: u8) -> Option<Self> {
        [
            Self::SwitchedOff,
            Self::FileSizeLimit,
            Self::AddressSpaceLimit,
            Self::MemfdDenied,
            Self::SealFailed,
            Self::MapFailed,
            Self::NoWipeOnFork,
            Self::CommitLimit,
        ]
        .into_iter()
        .find(|reason| *reason as u8 == code)
    }
}

// === impl RawStats ===

impl RawStats {
    fn of_this_copy() -> Self {
        let counters = &process::COUNTERS;
        Self {
            threads_without_lane: counters.threads_without_lane.load(Ordering::Relaxed),
            names_refused: counters.names_refused.load(Ordering::Relaxed),
            publishes_refused: counters.publishes_refused.load(Ordering::Relaxed),
            disabled: process::disabled().map_or(0, |reason| reason as u32),
            reserved: 0,
        }
    }
}

impl From<RawStats> for Stats {
    fn from(raw: RawStats) -> Self {
        Self {
            threads_without_lane: raw.threads_without_lane,
            names_refused: raw.names_refused,
            publishes_refused: raw.publishes_refused,
            disabled: u8::try_from(raw.disabled).ok().and_then(Reason::from_code),
        }
    }
}
