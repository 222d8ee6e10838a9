//! A stack that is told later than it was taken: its process or a file of it was new.

use agent_ebpf::unwind::Stop;

use crate::process::late;

/// The frames of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Addresses, innermost first.
    pub frames: Vec<u64>,
    /// Positions of those that are instructions themselves.
    pub exact: Vec<usize>,
    /// Why there are no more.
    pub stop: Stop,
}

/// The place such a stack will be told in.
pub type Late = late::Late<Walked>;
