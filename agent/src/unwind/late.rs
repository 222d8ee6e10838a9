//! A stack that is reported later than it was taken: its process or a file of it was new.

use agent_ebpf::{unwind::Stop, wire::RawFrame};

use crate::process::late;

/// The frames of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Innermost first. All are native: a copy has no memory of a runtime.
    pub frames: Vec<RawFrame>,
    /// Why there are no more.
    pub stop: Stop,
}

/// The place such a stack will be reported in.
pub type Late = late::Late<Walked>;
