//! Why a stream is refused or ended, as the agent and its user read it: each says what to do.

use std::{ops::RangeInclusive, time::Duration};

use hotspan_ingest::MAX_FRAME;
use tonic::{Code, Status};

use crate::wire::violation::Violation;

/// The end of a stream by the collector.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No token or a wrong one.
    #[error("this collector wants its token: {hint}")]
    Token {
        /// Where it lies.
        hint: String,
    },
    /// A probe that nobody needs.
    #[error("a probe that {0}: send an empty one")]
    Probe(&'static str),
    /// A Hello that no agent sends.
    #[error("not an agent's hello: {0}")]
    Hello(&'static str),
    /// Versions that do not meet.
    #[error(
        "the agent ({agent}) speaks protocol {got}, the collector ({collector}) {} to {}: update \
         the {older}",
        understood.start(), understood.end()
    )]
    Protocol {
        /// The agent's version.
        agent: String,
        /// The collector's.
        collector: &'static str,
        /// What the agent speaks.
        got: u32,
        /// What the collector understands.
        understood: RangeInclusive<u32>,
        /// Which side to update.
        older: &'static str,
    },
    /// One agent per kernel.
    #[error(
        "an agent (pid {pid}, version {version}) of this host already streams since {since_s} s: \
         stop it, or stop this one"
    )]
    Rival {
        /// The other's process.
        pid: u32,
        /// The other's version.
        version: String,
        /// How long it streams.
        since_s: u64,
    },
    /// The same run opened another stream.
    #[error("superseded by a newer stream of the same agent")]
    Superseded,
    /// Too many streams.
    #[error("the collector already serves {0} streams: use another collector for this host")]
    Streams(usize),
    /// More sent than was granted.
    #[error("sent {got} bytes where {left} were granted: update the agent")]
    Credit {
        /// Size of the frame.
        got: u64,
        /// What was left.
        left: u64,
    },
    /// A frame above the largest.
    #[error("a frame of more than {0} bytes: update the agent")]
    Frame(usize),
    /// A frame the agent may not send now.
    #[error("{0}: update the agent")]
    Order(&'static str),
    /// Cannot be followed, again and again.
    #[error("cannot follow the agent after {attempts} attempts: {violation}")]
    Violations {
        /// How often in a row.
        attempts: u32,
        /// The last one.
        violation: Violation,
    },
    /// Nothing came.
    #[error("no hello within {} s", .0.as_secs())]
    Silent(Duration),
    /// The writer's thread is gone.
    #[error("the collector cannot write any more: restart it")]
    Writer,
    /// The collector ends.
    #[error("the collector is stopping")]
    Stopping,
    /// The transport or the agent ended it.
    #[error("{0}")]
    Transport(Status),
}

// === impl Refusal ===

impl Refusal {
    /// What a stream that cannot be read any more means. A frame that is too large is refused before
    /// it is read: its sender is still there to be answered.
    pub fn unread(status: Status) -> Self {
        match status.code() {
            Code::OutOfRange => Self::Frame(MAX_FRAME),
            // One that is small until it is unpacked.
            Code::ResourceExhausted if status.message().starts_with("Error decompressing") => {
                Self::Frame(MAX_FRAME)
            }
            _ => Self::Transport(status),
        }
    }

    /// The key it is counted under.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::Probe(_) => "probe",
            Self::Hello(_) => "hello",
            Self::Protocol { .. } => "protocol",
            Self::Rival { .. } => "rival",
            Self::Superseded => "superseded",
            Self::Streams(_) => "streams",
            Self::Credit { .. } => "credit",
            Self::Frame(_) => "frame",
            Self::Order(_) => "order",
            Self::Violations { .. } => "violations",
            Self::Silent(_) => "silent",
            Self::Writer => "writer",
            Self::Stopping => "stopping",
            Self::Transport(_) => "transport",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Token { .. } => Code::Unauthenticated,
            Refusal::Probe(_) => Code::InvalidArgument,
            Refusal::Protocol { .. } => Code::FailedPrecondition,
            Refusal::Rival { .. } => Code::AlreadyExists,
            Refusal::Superseded => Code::Aborted,
            Refusal::Streams(_) | Refusal::Credit { .. } => Code::ResourceExhausted,
            Refusal::Hello(_) | Refusal::Order(_) | Refusal::Violations { .. } => {
                Code::InvalidArgument
            }
            Refusal::Frame(_) => Code::OutOfRange,
            Refusal::Silent(_) => Code::DeadlineExceeded,
            Refusal::Writer | Refusal::Stopping => Code::Unavailable,
            Refusal::Transport(status) => status.code(),
        };
        Self::new(code, refusal.to_string())
    }
}
