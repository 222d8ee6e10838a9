//! Every resource that strangers spend, with its bounds and the reason for each.

use crate::ledger::DaemonCounter;

/// What one process, one user and all together may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// One process.
    pub process: u64,
    /// All processes of one user.
    pub user: u64,
    /// Everybody.
    pub total: u64,
}

/// Declares the resources once: the enum, the list, and the table.
macro_rules! resources {
    ($($(#[$doc:meta])* $name:ident = $key:literal, [$process:expr, $user:expr, $total:expr], $counter:expr;)+) => {
        /// Something that others make us spend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Resource {
            $($(#[$doc])* $name,)+
        }

        impl Resource {
            /// Every one, in the order of the enum.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its key in reports.
            pub const fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $key,)+
                }
            }

            /// How much of it there is.
            pub const fn bound(self) -> Bound {
                match self {
                    $(Self::$name => Bound { process: $process, user: $user, total: $total },)+
                }
            }

            /// What is shed of it is counted as this.
            pub const fn counter(self) -> DaemonCounter {
                match self {
                    $(Self::$name => $counter,)+
                }
            }
        }
    };
}

const MIB: u64 = 1 << 20;

resources! {
    /// Segments kept open, one descriptor and some 300 bytes each. A process may have 256 (SPEC 6); a
    /// user's are those of 4,096 small programs. All are an eighth of the unit's descriptors.
    Segments = "segments", [256, 4096, 8192], DaemonCounter::SegmentsOverBudget;
    /// Lanes whose owner was seen, with the timeline of that thread about 1 KB each. A process may have
    /// as many as its segments hold (SPEC 6); more threads than all of these no host has in use.
    Lanes = "lanes", [16_384, 24_576, 49_152], DaemonCounter::LanesOverBudget;
    /// Markers drained and not linked yet, 88 bytes each. A thread that publishes 40,000 a second and is
    /// waited for a second needs 40,000.
    Markers = "queued_markers", [131_072, 262_144, 524_288], DaemonCounter::MarkersOverBudget;
    /// Work of one round of draining: a marker read is one, a look at a lane four (some 0.1 us each).
    /// Fifty rounds a second: a process gets 800,000 markers a second, which cost us a third of a core.
    Draining = "draining", [16_384, 24_576, 32_768], DaemonCounter::MarkersOverBudget;
    /// Records of the kernel side that wait for their markers, 400 bytes each. Who has more is linked
    /// without waiting.
    Records = "waiting_records", [16_384, 32_768, 65_536], DaemonCounter::RecordsOverBudget;
    /// Bytes of spans that may still change. A span takes some 500 bytes, and is kept for 10 s (1 s if
    /// its owner has little left), so that a process may have 10,000 new ones a second for ever.
    SpanBytes = "span_bytes", [48 * MIB, 64 * MIB, 128 * MIB], DaemonCounter::SpansOverBudget;
    /// Spans that changed since the last flush, a second at least: each is named, sent and stored, some
    /// 2 KB on the way. A thread with a new one each 50 us has 20,000 a second.
    ChangedSpans = "changed_spans", [20_480, 28_672, 49_152], DaemonCounter::SpansOverBudget;
    /// Stacks seen since the last flush, 72 bytes each. The timers of 64 CPUs bring 6,400 a second.
    Samples = "samples", [131_072, 262_144, 524_288], DaemonCounter::WaitStacksOverBudget;
    /// Words of stacks that were defined since the last flush: a whole one has up to 256.
    StackWords = "stack_words", [2 * MIB, 4 * MIB, 8 * MIB], DaemonCounter::StacksTableFull;
    /// Stacks whose mappings are being read; with copies up to 32 KB each.
    UnmappedStacks = "unmapped_stacks", [128, 512, 1024], DaemonCounter::UnmappedStacksOverBudget;
    /// Operation names of living programs, some 200 bytes each. A process may have 4,096 (SPEC).
    Names = "operation_names", [4096, 16_384, 65_536], DaemonCounter::NamesOverBudget;
    /// Units of 256 words of the unwind tables in the kernel: half of the 64 MiB for a user. The largest
    /// programs there are need 20 MiB.
    UnwindUnits = "unwind_units", [24_576, 32_768, 65_536], DaemonCounter::UnwindTablesOverBudget;
    /// Files with a number in the unwind tables: 16,384 numbers there are.
    UnwindFiles = "unwind_files", [4096, 8192, 16_384], DaemonCounter::UnwindTablesOverBudget;
    /// Stacks that wait for unwind tables; more would be stale when their turn comes.
    UnwindStacks = "unwind_stacks", [128, 192, 288], DaemonCounter::UnwindUnanswered;
    /// Threads that read processes, those that hang included: they sleep. A process that hangs keeps one
    /// or two, and of 1,024 tasks of the unit all get few.
    Readers = "readers", [2, 8, 65], DaemonCounter::ReadsOverBudget;
    /// CPU time of these threads in a second, us: a process with 65,530 mappings takes 60 ms at each
    /// look, a host of 2,000 programs 400 ms when all are looked at.
    Reading = "reading_us", [100_000, 500_000, 1_000_000], DaemonCounter::ReadsOverBudget;
}

// === impl Resource ===

impl Resource {
    /// The one with this key.
    pub fn of_key(key: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|resource| resource.key() == key)
    }

    /// How many things were shed when `n` of it were refused: some are measured by size.
    pub(super) fn events(self, n: u64) -> u64 {
        match self {
            Self::SpanBytes | Self::StackWords | Self::UnwindUnits | Self::Reading => n.min(1),
            _ => n,
        }
    }
}
