//! The entries of the kernel side's counters. The compiler names a counter without one.

use agent_ebpf::wire::Counter as C;

use super::{
    Entry,
    Kind::{
        IntervalNs, Intervals, Lifecycle, Markers, Samples, StackCopies, Stacks, TailMarkers, Walks,
    },
    Role::{Captured, Delivered, Disturbance, Information, Lost, Unseen},
    entry,
};

/// What the table says of it.
pub(super) fn entry_of(counter: C) -> Entry {
    match counter {
        C::SamplesCaptured => entry(&[Captured(Samples)], "CPU samples taken"),
        C::SamplesRingFull => entry(
            &[Lost(Samples, "ring_full")],
            "CPU samples dropped; methods are a little less certain",
        ),
        C::SamplesIdle => entry(&[Information], "CPU samples of idle CPUs, not reported"),
        C::IntervalsCaptured => entry(&[Captured(Intervals)], "waits seen one by one"),
        C::IntervalsRingFull => entry(
            &[Lost(Intervals, "ring_full")],
            "waits recovered from totals, without cause or stack",
        ),
        C::IntervalNsCaptured => entry(&[Captured(IntervalNs)], "time of the waits seen"),
        C::IntervalNsRingFull => {
            entry(&[Lost(IntervalNs, "ring_full")], "time of those waits, recovered from totals")
        }
        C::StacksCaptured => entry(&[Captured(Stacks)], "stacks sent at their first sight"),
        C::StacksRingFull => {
            entry(&[Lost(Stacks, "ring_full")], "stacks sent again at their next sight")
        }
        C::StacksOverBudget => entry(&[Disturbance], "waits without a stack: too many at once"),
        // The ends of walks: each is one captured walk, and what became of it.
        C::StacksWhole => {
            entry(&[Captured(Walks), Delivered(Walks)], "stacks walked to their outermost frame")
        }
        C::StacksCut => entry(
            &[Captured(Walks), Lost(Walks, "stacks_cut")],
            "stacks deeper than 255 frames, cut at the bottom",
        ),
        C::StacksMemory => entry(
            &[Captured(Walks), Lost(Walks, "stacks_memory_unread")],
            "stacks cut where their memory was not there",
        ),
        C::StacksProgress => entry(
            &[Captured(Walks), Lost(Walks, "stacks_no_progress")],
            "stacks cut where frames were out of order",
        ),
        C::StacksFrame => entry(
            &[Captured(Walks), Lost(Walks, "stacks_no_frame")],
            "stacks cut: code without unwind table or frame pointer",
        ),
        C::StacksRegister => entry(
            &[Captured(Walks), Lost(Walks, "stacks_register_unknown")],
            "stacks cut: caller in a register that was not kept",
        ),
        C::StacksRule => entry(
            &[Captured(Walks), Lost(Walks, "stacks_rule_unsupported")],
            "stacks cut: unwind rule not supported",
        ),
        C::StacksUnloaded => entry(
            &[Captured(Walks), Lost(Walks, "stacks_tables_missing")],
            "stacks cut: unwind tables were not loaded yet",
        ),
        C::StacksCode => entry(
            &[Captured(Walks), Lost(Walks, "stacks_no_code")],
            "stacks cut where a return address was none",
        ),
        C::StacksCompat => entry(
            &[Captured(Walks), Lost(Walks, "stacks_32_bit")],
            "stacks of 32-bit programs, not followed",
        ),
        C::StackCopiesCaptured => {
            entry(&[Captured(StackCopies)], "first stacks of new processes, copied")
        }
        C::StackCopiesRingFull => {
            entry(&[Lost(StackCopies, "ring_full")], "first stacks of new processes, cut short")
        }
        C::LifecycleCaptured => entry(
            &[Captured(Lifecycle)],
            "starts and ends of processes and threads, new lanes and mappings",
        ),
        C::LifecycleRingFull => {
            entry(&[Lost(Lifecycle, "ring_full")], "the start or a mapping of a process was missed")
        }
        C::ExitsParked => entry(&[Information], "exits that took the long way, nothing lost"),
        C::LanesParked => entry(&[Information], "lanes that took the long way, nothing lost"),
        C::ExitsLost => {
            entry(&[Lost(Lifecycle, "exits_lost")], "threads whose last totals are missing")
        }
        C::ExitNsLost => entry(&[Disturbance], "time of those threads"),
        C::LanesLost => entry(
            &[Lost(Lifecycle, "lanes_lost")],
            "lanes that were not announced; found when hotspan looks again",
        ),
        C::StorageMissing => entry(
            &[Disturbance],
            "accounts the kernel could not make at once; they begin a moment later",
        ),
        // The wait is closed by the thread itself, less than a microsecond later, with its cause.
        C::SwitchInMissed => {
            entry(&[Information], "switches to a thread noticed a moment late, nothing lost")
        }
        C::SwitchOutMissed => {
            entry(&[Unseen], "switches from a thread not seen; that time is unknown.events_lost")
        }
        C::DoubleSwitchOut => {
            entry(&[Unseen], "switches to a thread not seen; that time is unknown.events_lost")
        }
        C::WakeupMissing => entry(&[Unseen], "waits that are all blocked time, none ready"),
        C::WakeupIgnored => entry(&[Information], "wakeups of threads that did not wait, normal"),
        C::NegativeClamped => {
            entry(&[Information], "clocks of two CPUs differed by under 1 us, normal")
        }
        C::LaneUnreadable => {
            entry(&[Disturbance], "span unknown at that moment: unknown.context_unreadable")
        }
        C::LaneMismatch => {
            entry(&[Disturbance], "a lane was no longer the thread's: unknown.context_unreadable")
        }
        C::KernelStackFailed => entry(&[Disturbance], "kernel frames missing"),
        C::LanesRefused => {
            entry(&[Disturbance], "lanes named over and over by one program, not looked at")
        }
        C::TailMarkersCaptured => entry(
            &[Captured(TailMarkers)],
            "markers saved from programs that ended before they were known",
        ),
        C::TailMarkersRingFull => entry(
            &[Lost(TailMarkers, "ring_full")],
            "saved markers there was no room for, among the markers lost",
        ),
        // Nobody else has seen them: what was lost is all that was captured of them.
        C::TailMarkersLost => entry(
            &[Captured(Markers), Lost(Markers, "tail_markers_lost")],
            "last spans of a process that ended before it was known",
        ),
        C::NamesRingFull => {
            entry(&[Disturbance], "names of the last spans of processes that ended")
        }
    }
}
