//! Frames of runtimes (interpreters), and who names them: the seam between the stack and what knows a
//! runtime. What finds a process's runtime goes to `process/runtime/`, what reads its names to
//! `symbols/runtime/`; this build has none.

use std::time::Instant;

use agent_ebpf::wire::RuntimeFrame;

use crate::model::{
    frame::{Frame, FrameKind},
    id::Pid,
};

/// Names frames of runtimes. It works on the symbol thread.
pub trait Runtimes: Send + 'static {
    /// The frame by name; `None` when its runtime is not known or cannot be read by `deadline`.
    fn name(&mut self, pid: Pid, frame: RuntimeFrame, deadline: Instant) -> Option<Frame>;
}

/// Knows no runtime.
pub(super) struct NoRuntimes;

// === impl NoRuntimes ===

impl Runtimes for NoRuntimes {
    fn name(&mut self, _: Pid, _: RuntimeFrame, _: Instant) -> Option<Frame> {
        None
    }
}

/// The frame that nobody names.
pub(super) fn placeholder(frame: RuntimeFrame) -> Frame {
    let number = frame.runtime.number();
    Frame::named(format!("[unknown runtime {number}]"), FrameKind::Interpreted)
}
