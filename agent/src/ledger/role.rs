//! What a counter's number is in the accounts, and the kinds of things that accounts are kept of.

use Kind::{
    IntervalNs, Intervals, Lifecycle, Markers, Samples, Spans, StackCopies, Stacks, TailMarkers,
    Walks,
};

/// Kinds of captured things. Of each, `captured = delivered + in flight + spooled + lost(by reason)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CPU samples.
    Samples,
    /// Off-CPU intervals of threads with a lane, and cuts of their long slices.
    Intervals,
    /// Their nanoseconds.
    IntervalNs,
    /// Definitions of stacks.
    Stacks,
    /// Copies of stacks whose tables were not there yet.
    StackCopies,
    /// Markers of all lanes since attach.
    Markers,
    /// Of those, markers that the kernel side saved from dying programs, as it saved them.
    TailMarkers,
    /// Walks over user stacks.
    Walks,
    /// Parts of spans.
    Spans,
    /// fork, exec, exit, new lanes and mappings.
    Lifecycle,
}

/// What a counter's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Of the kind so many were captured, counted before any buffer was asked for room.
    Captured(Kind),
    /// So many have reached the join.
    Delivered(Kind),
    /// So many are in a buffer of ours now.
    InFlight(Kind),
    /// So many were lost before the join, for this reason (the key in the kind's account).
    Lost(Kind, &'static str),
    /// So many have reached the join and were lost there, for this reason.
    Dropped(Kind, &'static str),
    /// The reason for which whole batches were lost, with so many of each kind as they held.
    Batches,
    /// So many segments of programs cannot be read: their spans are missing until somebody helps.
    Unreadable,
    /// Made part of an account unknown or less.
    Disturbance,
    /// So many events of any thread of the host were not seen: a disturbance of that thread's account,
    /// whose it is is not known. A recording goes by what its own threads' accounts say of it.
    Unseen,
    /// No loss: good to know.
    Information,
}

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Samples,
        Intervals,
        IntervalNs,
        Stacks,
        StackCopies,
        Markers,
        TailMarkers,
        Walks,
        Spans,
        Lifecycle,
    ];

    /// Its key in reports.
    pub fn key(self) -> &'static str {
        match self {
            Samples => "samples",
            Intervals => "intervals",
            IntervalNs => "interval_ns",
            Stacks => "stacks",
            StackCopies => "stack_copies",
            Markers => "markers",
            TailMarkers => "tail_markers",
            Walks => "walks",
            Spans => "spans",
            Lifecycle => "lifecycle",
        }
    }

    /// The one with this key.
    pub fn of_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key() == key)
    }

    /// Whether every run accounts for it. Walks are accounted for where the whole host is watched: of a
    /// tree only its own processes' tables are asked for.
    pub fn is_of_every_run(self) -> bool {
        self != Walks
    }

    /// Whether what is lost of it left its mark in the stack it belongs to: then nothing that was
    /// captured is missing.
    pub fn is_marked(self) -> bool {
        self == Walks
    }
}

// === impl Role ===

impl Role {
    /// Whether such a number says that something is missing or was disturbed.
    pub fn is_loss(self) -> bool {
        match self {
            Self::Lost(..)
            | Self::Dropped(..)
            | Self::Batches
            | Self::Unreadable
            | Self::Disturbance
            | Self::Unseen => true,
            Self::Captured(_) | Self::Delivered(_) | Self::InFlight(_) | Self::Information => false,
        }
    }
}
