//! The kernel side's named counters: one slot each in a per-CPU array, only ever added to.
//!
//! `*Captured` counts before the ring is asked for room; `*RingFull` counts refusals. So
//! `captured - ring full` is what the daemon must find in the rings. What each of them says about the
//! account, and its meaning, is in the daemon's ledger.

/// Declares the counters once: the enum, the list and the key each one has in reports.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident => $key:literal,)+) => {
        /// A slot of the `COUNTERS` map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $name,)+
        }

        impl Counter {
            /// Every counter, in slot order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The key used in reports.
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $key,)+
                }
            }
        }
    };
}

counters! {
    /// Timer samples taken.
    SamplesCaptured => "samples_captured",
    /// Samples the ring had no room for.
    SamplesRingFull => "samples_ring_full",
    /// Off-CPU intervals of threads with a lane, and cuts of their long slices.
    IntervalsCaptured => "intervals_captured",
    /// Intervals the ring had no room for (their time is recovered from the totals).
    IntervalsRingFull => "intervals_ring_full",
    /// Nanoseconds of the captured intervals.
    IntervalNsCaptured => "interval_ns_captured",
    /// Nanoseconds of the intervals the ring had no room for.
    IntervalNsRingFull => "interval_ns_ring_full",
    /// Stack definitions (first sight of a hash in a generation).
    StacksCaptured => "stacks_captured",
    /// Stack definitions the ring had no room for (sent again at the next sight).
    StacksRingFull => "stacks_ring_full",
    /// Waits that were due a stack and did not get one because the CPU's budget was spent.
    StacksOverBudget => "stacks_over_budget",
    /// User stacks walked to their outermost frame. This and the following are in the order of
    /// `unwind::Stop`: how walks ended.
    StacksWhole => "stacks_whole",
    /// Deeper than MAX_FRAMES.
    StacksCut => "stacks_cut",
    /// Stack memory could not be read.
    StacksMemory => "stacks_memory_unread",
    /// A caller's frame would lie below its callee's.
    StacksProgress => "stacks_no_progress",
    /// Neither table nor frame pointer.
    StacksFrame => "stacks_no_frame",
    /// The caller was in a register that was not known any more.
    StacksRegister => "stacks_register_unknown",
    /// The table said what cannot be followed.
    StacksRule => "stacks_rule_unsupported",
    /// The tables were not there yet.
    StacksUnloaded => "stacks_tables_missing",
    /// What should have been code was not.
    StacksCode => "stacks_no_code",
    /// 32-bit programs.
    StacksCompat => "stacks_32_bit",
    /// Copies of stacks whose tables were not there yet.
    StackCopiesCaptured => "stack_copies_captured",
    /// Such copies the ring had no room for.
    StackCopiesRingFull => "stack_copies_ring_full",
    /// fork, exec, exit, lane and mapping records.
    LifecycleCaptured => "lifecycle_captured",
    /// Records of fork, exec and mappings the ring had no room for.
    LifecycleRingFull => "lifecycle_ring_full",
    /// Exit records parked in the fallback map because the ring was full.
    ExitsParked => "exits_parked",
    /// Announcements of lanes parked in their fallback map because the ring was full.
    LanesParked => "lanes_parked",
    /// Exit records neither the ring nor the fallback map had room for.
    ExitsLost => "exits_lost",
    /// Nanoseconds of accounted time in those.
    ExitNsLost => "exit_ns_lost",
    /// Task storage could not be created or found.
    StorageMissing => "storage_missing",
    /// A thread reached its own context with its out-stamp still set.
    SwitchInMissed => "switch_in_missed",
    /// A thread was switched in while its slice was still open.
    SwitchOutMissed => "switch_out_missed",
    /// A thread was switched out while already off the CPU.
    DoubleSwitchOut => "double_switch_out",
    /// A blocked wait ended without an accepted wakeup.
    WakeupMissing => "wakeup_missing",
    /// A wakeup of a thread that was not off the CPU.
    WakeupIgnored => "wakeup_ignored",
    /// A time difference was negative and was clamped to zero.
    NegativeClamped => "negative_clamped",
    /// The lane's head could not be read, neither at switch-out nor at resumption.
    LaneUnreadable => "lane_unreadable",
    /// The lane read back with another magic, generation or owner.
    LaneMismatch => "lane_mismatch",
    /// The kernel stack helper failed.
    KernelStackFailed => "kernel_stack_failed",
    /// Lanes a thread named more often than once in a round of the daemon.
    LanesRefused => "lanes_refused",
    /// Undrained markers copied at the death of a process the daemon had not attached yet.
    TailMarkersCaptured => "tail_markers_captured",
    /// Such markers that could not be read or sent, of a lane whose announcement was not sent either:
    /// of all others the daemon knows how many there were.
    TailMarkersLost => "tail_markers_lost",
    /// Samples taken while the idle task ran, not reported.
    SamplesIdle => "samples_idle",
    /// Announcements of lanes neither the ring nor the fallback map had room for.
    LanesLost => "lanes_lost",
    /// Of the markers in `TailMarkersCaptured`: the ring had no room for them.
    TailMarkersRingFull => "tail_markers_ring_full",
    /// Names of saved markers the ring had no room for.
    NamesRingFull => "names_ring_full",
}
