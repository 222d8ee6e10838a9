//! Names for stacks: what every report does with the definitions it has, whole or late.

use std::time::{Duration, Instant};

use agent_ebpf::unwind::Stop;

use crate::{
    link::stacks::SeenStack,
    model::{
        frame::{Frame, FrameKind},
        id::Pid,
    },
    symbols::{Request, Resolved, Space, Symbols},
};

/// How long a batch waits for what is reported late: mappings being read, tables being made, names.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a recording waits for names: nobody waits for its batches.
pub const RECORDING: Duration = Duration::from_secs(20);

/// A stack by name.
pub struct Named {
    /// Its frames, the mark of its end among them.
    pub frames: Vec<Frame>,
    /// The stack itself, when some of its names may come later.
    pub late: Option<SeenStack>,
}

/// Names stacks, each with the mark of its end where that is not the outermost frame. Blocks, until
/// `deadline` for what is reported late and `named_by` for names.
pub fn name(
    symbols: &Symbols,
    stacks: Vec<(u64, SeenStack)>,
    deadline: Instant,
    named_by: Instant,
) -> Vec<(u64, Named)> {
    let mut asked = Vec::with_capacity(stacks.len());
    let mut requests = Vec::with_capacity(stacks.len());
    for (hash, mut stack) in stacks {
        stack.settle(deadline);
        let is_user = stack.definition.tgid != 0;
        requests.push(Request {
            pid: Pid(stack.definition.tgid),
            frames: stack.definition.frames.clone(),
            space: if is_user { Space::User } else { Space::Kernel },
            map: stack.map.clone(),
        });
        asked.push((hash, stack));
    }
    if requests.is_empty() {
        return Vec::new();
    }
    let named = asked.into_iter().zip(symbols.resolve_until(requests, named_by));
    named
        .map(|((hash, stack), Resolved { mut frames, is_late })| {
            frames.extend(end(stack.definition.stop));
            (hash, Named { frames, late: is_late.then_some(stack) })
        })
        .collect()
}

/// A line that stands for frames.
pub fn mark(name: &str) -> Frame {
    Frame::named(name, FrameKind::Mark)
}

/// What stands below the last frame of a stack that does not end at its outermost one.
fn end(stop: Stop) -> Option<Frame> {
    let why = match stop {
        Stop::Bottom => return None,
        Stop::Depth => "deeper than is kept",
        Stop::Memory => "stack not readable",
        Stop::Progress => "frames out of order",
        Stop::Frame => "no unwind table, no frame pointer",
        Stop::Register => "caller in an unknown register",
        Stop::Rule => "unwind rule not supported",
        Stop::Unloaded => "unwind tables not loaded yet",
        Stop::Code => "not an address of code",
        Stop::Compat => "32-bit program",
    };
    Some(mark(&format!("[cut here: {why}]")))
}

/// A stack without our own hook and the scheduler's door, its innermost kernel frames in a wait.
pub fn without_hooks(frames: &[Frame]) -> &[Frame] {
    let hooks = frames
        .iter()
        .take_while(|frame| frame.kind == FrameKind::Kernel && is_hook(&frame.name))
        .count();
    &frames[hooks..]
}

/// Frames between the function that waits and our program.
fn is_hook(name: &str) -> bool {
    const SCHEDULER: [&str; 8] = [
        "__schedule",
        "schedule",
        "schedule_timeout",
        "schedule_hrtimeout_range",
        "schedule_hrtimeout_range_clock",
        "schedule_preempt_disabled",
        "io_schedule",
        "preempt_schedule_irq",
    ];
    SCHEDULER.contains(&name)
        || [
            "bpf_prog_",
            "bpf_trace_run",
            "__bpf_trace_",
            "__traceiter_",
            "bpf_trampoline_",
            "[kernel]",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_but_the_outermost_frame_is_marked() {
        let marks: Vec<_> = Stop::ALL.into_iter().filter_map(end).collect();
        assert_eq!(marks.len(), Stop::ALL.len() - 1);
        assert!(marks.iter().all(|mark| mark.kind == FrameKind::Mark));
    }
}
