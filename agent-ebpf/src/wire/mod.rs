//! Layouts shared by kernel programs and daemon. All are `repr(C)`, native endian, without implicit
//! padding; sizes are asserted beside each type. They never leave the host, so they need no version.

pub mod counter;
pub mod record;
pub mod settings;
pub mod stack;
pub mod state;
pub mod thread;
pub mod waits;
pub mod word;

pub use counter::Counter;
pub use record::{
    Exec, Exit, Fork, Interval, LaneSeen, Name, RecordKind, Remapped, Sample, Snapshot, Tail,
};
pub use settings::{Offsets, Settings};
pub use stack::{Stack, StackCopy};
pub use state::State;
pub use thread::{LaneRef, Phase, Thread};
pub use waits::{WaitFunction, WaitFunctions};
pub use word::{FrameAddress, RawFrame, Runtime, RuntimeFrame, Word};

/// Words kept of one user stack: as many frames where all are native. Deeper stacks end in
/// `Stop::Depth`.
pub const MAX_FRAMES: usize = 255;

/// Frames kept of one kernel stack: what `kernel.perf_event_max_stack` allows by default.
pub const MAX_KERNEL_FRAMES: usize = 127;

/// Nanoseconds a slice may exceed the kernel's own CPU account before the excess counts as stolen
/// by the hypervisor: the largest jitter measured at a switch-in (8-32 us, up to 64). At 100 us,
/// slices of 5 ms were seen to hold 90 us of stolen time each, which is more than `running` may be off.
pub const STEAL_THRESHOLD_NS: u64 = 64_000;

/// A slice of a lane's thread that lasts longer than this is cut at the next timer sample, so that
/// a thread that never switches is still accounted.
pub const LONG_SLICE_NS: u64 = 500_000_000;
