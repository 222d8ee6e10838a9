//! What the daemon and the collector count, from the lanes to the page, with the entry of each.

use super::{
    Entry,
    Kind::{
        IntervalNs, Intervals, Lifecycle, Markers, Samples, Spans, StackCopies, Stacks, TailMarkers,
    },
    Role::{
        Batches, Captured, Delivered, Disturbance, Dropped, InFlight, Information, Lost, Unreadable,
    },
    entry,
};

/// Declares the counters once: the enum, the list, and the table.
macro_rules! counters {
    ($($name:ident = $key:literal, [$($role:expr),+], $meaning:literal;)+) => {
        /// A counter of the daemon or the collector; the table says what each means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DaemonCounter {
            $(#[doc = $meaning] $name,)+
        }

        impl DaemonCounter {
            /// Every counter, in the order of the enum.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its key in reports, on the wire and in stores.
            pub const fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $key,)+
                }
            }

            /// What the table says of it.
            pub fn entry(self) -> Entry {
                match self {
                    $(Self::$name => entry(&[$($role),+], $meaning),)+
                }
            }
        }
    };
}

counters! {
    // The lanes of programs.
    MarkersCaptured = "markers_captured", [Captured(Markers)],
        "markers that lanes were seen to have";
    MarkersDelivered = "markers_delivered", [Delivered(Markers)],
        "markers with the thread that published them";
    MarkersInFlight = "markers_in_flight", [InFlight(Markers)],
        "markers read, whose thread is not known yet";
    MarkersLapped = "markers_lapped", [Lost(Markers, "markers_lapped")],
        "spans cut short: unknown.markers_lost";
    MarkersUnread = "markers_unread", [Lost(Markers, "markers_unread")],
        "spans not read: their program ended or could not be looked at";
    MarkersUnclaimed = "markers_unclaimed", [Lost(Markers, "markers_unclaimed")],
        "spans of threads whose lane was not known in time";
    LaneHeadJumpedBack = "lane_head_jumped_back", [Disturbance],
        "lanes that do not tell the truth";
    LaneHeadJumpedAhead = "lane_head_jumped_ahead", [Disturbance],
        "lanes that do not tell the truth";
    ThreadsWithoutLane = "threads_without_lane", [Disturbance],
        "threads whose spans could not be published";
    PublishesRefused = "publishes_refused", [Disturbance],
        "markers a signal handler could not publish";
    SegmentTooMany = "segment_too_many", [Unreadable],
        "programs with more than 16,384 threads that publish at once";
    SegmentUnopened = "segment_unopened", [Unreadable],
        "programs whose spans hotspan may not look at";
    SegmentNotMemory = "segment_not_memory", [Unreadable], "a lane segment that cannot be trusted";
    SegmentUnsealed = "segment_unsealed", [Unreadable], "a lane segment that cannot be trusted";
    SegmentSize = "segment_size", [Unreadable], "a lane segment that cannot be trusted";
    SegmentHeader = "segment_header", [Unreadable], "a lane segment that cannot be trusted";
    SegmentGeometry = "segment_geometry", [Unreadable], "a lane segment that cannot be trusted";
    SegmentForeign = "segment_foreign", [Unreadable], "a lane segment that cannot be trusted";
    SegmentDescriptors = "segment_descriptors", [Unreadable],
        "programs not looked at: raise hotspan's limit of open files";
    SegmentsOverBudget = "segments_over_budget", [Unreadable],
        "segments of a program or user that has too many";
    LanesOverBudget = "lanes_over_budget", [Disturbance],
        "threads of a program or user that has too many with lanes";
    MarkersOverBudget = "markers_over_budget", [Disturbance],
        "markers, of those lost, of a program that publishes too many";
    NamesOverBudget = "names_over_budget", [Disturbance],
        "operations without a name: their program or user has too many";

    // The rings and the join.
    SamplesDelivered = "samples_delivered", [Delivered(Samples)], "CPU samples linked";
    IntervalsDelivered = "intervals_delivered", [Delivered(Intervals)], "waits linked";
    IntervalNsDelivered = "interval_ns_delivered", [Delivered(IntervalNs)], "time of those waits";
    StacksDelivered = "stacks_delivered", [Delivered(Stacks)], "stacks that came";
    StackCopiesDelivered = "stack_copies_delivered", [Delivered(StackCopies)],
        "copies of stacks that came";
    LifecycleDelivered = "lifecycle_delivered", [Delivered(Lifecycle)],
        "starts and ends of processes and threads, lanes and mappings that came";
    TailMarkersDelivered = "tail_markers_delivered", [Delivered(TailMarkers)],
        "saved markers that came";
    SpansFlushed = "spans_flushed", [Captured(Spans), Delivered(Spans)],
        "parts of spans that were sent on";
    RecordsOverBudget = "records_over_budget", [Disturbance],
        "waits linked before their spans were read: too many of one program";
    UnmappedStacksOverBudget = "unmapped_stacks_over_budget", [Disturbance],
        "stacks named by older mappings: too many new ones of one program";
    ReadsOverBudget = "reads_over_budget", [Disturbance],
        "looks at programs that hang or take too long, not taken";
    SamplesOverBudget = "samples_over_budget", [Dropped(Samples, "samples_over_budget")],
        "CPU samples dropped: more at once than are kept until they are named";
    WaitStacksOverBudget = "wait_stacks_over_budget", [Disturbance],
        "stacks of waits dropped: more at once than are kept until they are named";
    SpansOverBudget = "spans_over_budget", [Disturbance],
        "spans of a program that has too many, or too many at once";
    StampsClamped = "stamps_clamped", [Information],
        "spans said to be older than hotspan or their program: cut there";
    StacksTableFull = "stacks_table_full", [Disturbance],
        "more different stacks than are kept in memory";
    LaneReplaced = "lane_replaced", [Disturbance],
        "threads with two lanes: two publishers in one program?";
    MarkersSkipped = "markers_skipped", [Disturbance], "spans cut short: unknown.markers_lost";
    // Of one span.
    MarkersLost = "markers_lost", [Disturbance], "spans cut short: unknown.markers_lost";
    IntervalsBridged = "intervals_bridged", [Disturbance],
        "waits known by their totals alone, without cause or stack";
    IntervalsUnbound = "intervals_unbound", [Disturbance],
        "waits of a thread whose lane was not known yet";
    // A recording's; a stream shows it as time of processes, and the events that were not seen.
    EventsLostNs = "events_lost_ns", [Disturbance],
        "time in unknown.events_lost: scheduler events not seen";
    TimeUnexplainedNs = "time_unexplained_ns", [Disturbance],
        "time charged to unknown.events_lost";
    TimeOverlappingNs = "time_overlapping_ns", [Disturbance],
        "time two records claimed, counted once";
    ProcessesUnread = "processes_unread", [Disturbance], "processes that did not let hotspan look at them in time";
    TotalsUnread = "totals_unread", [Disturbance],
        "totals of threads reported late: out of descriptors or memory";
    RecordsUndecoded = "records_undecoded", [Disturbance],
        "records of another build: rebuild hotspan";
    TimersStopped = "timers_stopped", [Disturbance],
        "seconds in which a CPU had no timer: no stacks of running time there";

    // Stacks and names.
    UnwindFilesRefused = "unwind_files_refused", [Disturbance],
        "programs whose unwind tables could not be read";
    UnwindTablesOverBudget = "unwind_tables_over_budget", [Disturbance],
        "unwind tables that did not fit 64 MiB";
    UnwindTablesEvicted = "unwind_tables_evicted", [Information],
        "unwind tables dropped to make room, made again when they are needed";
    UnwindEntriesRefused = "unwind_entries_refused", [Disturbance],
        "functions whose unwind entry was not understood";
    UnwindUnanswered = "unwind_unanswered", [Disturbance],
        "first stacks of new processes, cut short: too many at once";
    SymbolsUnresolved = "symbols_unresolved", [Disturbance],
        "frames without a name; install debug symbols";
    SymbolsLate = "symbols_late", [Disturbance], "frames without a name: symbols took too long";
    SymbolsUnanswered = "symbols_unanswered", [Disturbance],
        "stacks without names: reading a file hangs";
    SymbolFilesAbsent = "symbol_files_absent", [Disturbance],
        "programs deleted, replaced or out of reach";
    SymbolFilesRefused = "symbol_files_refused", [Disturbance], "programs too large or not ELF";
    SymbolFilesEvicted = "symbol_files_evicted", [Information],
        "symbol tables dropped and read again, costs time only";
    SymbolFilesHanging = "symbol_files_hanging", [Disturbance],
        "programs not opened in time: their file system hangs";
    SymbolParsersLost = "symbol_parsers_lost", [Disturbance],
        "programs whose symbols ended who reads them: not read again";
    SymbolFilesShed = "symbol_files_shed", [Disturbance],
        "programs not read now: those of their user took too much";
    SymbolJitsCut = "symbol_jits_cut", [Disturbance],
        "processes with more just-in-time code than names are kept";
    StacksMissing = "stacks_missing", [Disturbance],
        "stacks seen and not reported; methods are a little less certain";
    // Of one document.
    IdentityBrokenNs = "identity_broken_ns", [Disturbance],
        "states and active time differ: a bug in hotspan";

    TraceCut = "trace_cut", [Disturbance],
        "only 10,000 spans of its trace were summed: it has more";
    RowsCut = "rows_cut", [Disturbance], "the least stacks and causes: left out of a long answer";

    // The stream, the collector and the store.
    QueueFull = "queue_full", [Batches],
        "batches given up: the collector was away longer than the queue holds";
    FrameTooLarge = "frame_too_large", [Batches], "batches too large to be sent";
    CollectorRefused = "collector_refused", [Batches], "batches the collector did not accept";
    AgentForgot = "agent_forgot", [Batches],
        "stored batches that went with a damaged part of the store";
    AgentDied = "agent_died", [Batches], "what an agent had not delivered when it was killed";
    // Of one span.
    PartsMissing = "parts_missing", [Disturbance], "parts of a span that did not arrive";
}
