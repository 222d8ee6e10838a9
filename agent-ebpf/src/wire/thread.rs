//! A thread's account as it lives in task storage: created at fork or at attach, freed by the
//! kernel with the task, so neither tid reuse nor a full hash can mix two threads.

use super::state::STATES;

/// What the thread is doing as far as its account knows. Stored as `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Storage is fresh: nothing known.
    Fresh = 0,
    /// Known to exist since `since`, first event not yet seen.
    BeforeAttach = 1,
    /// Forked, not yet made runnable: no time is charged.
    Unborn = 2,
    /// On a CPU since `since`.
    Running = 3,
    /// Off the CPU since `since`.
    Off = 4,
    /// Its last switch-out was seen.
    Dead = 5,
}

// Flags of an account, and the same bits in `flags` of a record that speaks of one: those in the low
// byte travel in records (`REPORTED`), beside what only a record has (`record::CUT`, `USER_MODE`).

/// `head` holds: of an account the lane's head at the last switch-out, of a record the one at its time.
pub const HEAD_KNOWN: u32 = 1 << 0;
/// The lane could not be read, neither at switch-out nor at resumption.
pub const UNREADABLE: u32 = 1 << 1;
/// The waker ran in interrupt context, so nobody is to be named.
pub const WAKER_IRQ: u32 = 1 << 2;
/// The blocked wait ended without an accepted wakeup.
pub const NO_WAKEUP: u32 = 1 << 3;
/// The wait was a preemption or yield (never blocked): its only part is the ready part.
pub const PREEMPTED: u32 = 1 << 4;
/// Those that an interval's record has of its account.
pub const REPORTED: u32 = HEAD_KNOWN | UNREADABLE | WAKER_IRQ | NO_WAKEUP | PREEMPTED;

/// An accepted wakeup stands in `wake`.
pub const WAKE_SET: u32 = 1 << 8;
/// A `sched_waking` stands in `waking_*`.
pub const WAKING_SET: u32 = 1 << 9;
/// As `WAKER_IRQ`, for the latest `sched_waking`.
pub const WAKING_IRQ: u32 = 1 << 10;
/// A finished interval waits to be sent.
pub const PENDING: u32 = 1 << 11;
/// The lane is known (`lane_va` and friends hold).
pub const LANE_KNOWN: u32 = 1 << 12;
/// The lane was announced to the daemon, which therefore counts what it cannot read of it.
pub const LANE_ANNOUNCED: u32 = 1 << 13;
/// The switch-in was found missing and closed late.
pub const IN_MISSED: u32 = 1 << 14;
/// A kernel thread (no user memory, never a lane).
pub const KERNEL_THREAD: u32 = 1 << 15;
/// The thread passed `sched_process_exit`.
pub const EXITING: u32 = 1 << 16;
/// `head` was read at `sched_process_exit` and is the last there will be.
pub const HEAD_FINAL: u32 = 1 << 17;

/// Whether the flags of an account or of a record have `flag`.
#[inline(always)]
pub fn has(flags: impl Into<u32>, flag: u32) -> bool {
    flags.into() & flag != 0
}

/// The account. Times are `bpf_ktime_get_ns` (CLOCK_MONOTONIC of the initial namespace), in ns.
///
/// Writers are ordered by the kernel: switch-out and switch-in of a thread never overlap, wakeups
/// hold its `pi_lock`. `guard` is odd while a writer is at work, for readers on other CPUs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Thread {
    /// Sequence lock: odd while being written.
    pub guard: u32,
    /// A [`Phase`].
    pub phase: u32,
    /// Identity of this thread on this host until reboot: never reused, survives exec.
    pub serial: u64,
    /// First instant accounted.
    pub birth: u64,
    /// Start of the present phase (or of the part of it not yet in `total`).
    pub since: u64,
    /// The last true switch-in.
    pub slice_start: u64,
    /// `se.sum_exec_runtime` at `slice_start`.
    pub exec_at_in: u64,
    /// Accepted wakeup of the present wait (valid with `WAKE_SET`).
    pub wake: u64,
    /// Number of intervals finished: the sequence number of the next record's predecessor.
    pub seq: u64,
    /// Lane head at the last switch-out (valid with `HEAD_KNOWN`).
    pub head: u64,
    /// The finished interval (valid with `PENDING`).
    pub out_at: u64,
    /// End of the finished interval.
    pub in_at: u64,
    /// Wakeup of the finished interval; equals `in_at` when none.
    pub wake_at: u64,
    /// Flags, see the constants of this module.
    pub flags: u32,
    /// State index of the blocked part of the present or finished wait.
    pub state: u8,
    /// State index of the ready part (`ready_wakeup`, `ready_preempted`, `throttled`).
    pub ready: u8,
    /// System call number at switch-out, -1 for none.
    pub syscall: i16,
    /// File descriptor the wait was on, -1 for none.
    pub fd: i32,
    /// Thread that held the CPU while this one was ready: who preempted it, else who it followed.
    pub preemptor_tid: u32,
    /// Its process.
    pub preemptor_tgid: u32,
    /// Thread that made the accepted wakeup, 0 for none.
    pub waker_tid: u32,
    /// Its process.
    pub waker_tgid: u32,
    /// The latest `sched_waking`, not yet accepted.
    pub waking_tid: u32,
    /// Its process.
    pub waking_tgid: u32,
    /// Lane generation.
    pub lane_gen: u32,
    /// Lane owner as it wrote itself (tid of its own pid namespace).
    pub lane_owner: u32,
    /// Value of the lane epoch at which the lane map was last asked.
    pub lane_epoch: u32,
    /// CPU of the last switch-in.
    pub cpu: u32,
    /// Number of execs seen: tells the addresses of one program from those of the next.
    pub execs: u32,
    /// The daemon's round in which `head_at_round` was read.
    pub round: u32,
    /// The daemon's round, plus one, in which the thread named a lane last.
    pub named_round: u32,
    /// Lane head first seen in that round: how far the lane has run since the daemon last drained.
    pub head_at_round: u64,
    /// Waker's lane head plus one at the wakeup, 0 when it had no lane.
    pub waker_head: u64,
    /// The same of the latest `sched_waking`.
    pub waking_head: u64,
    /// User address of the lane.
    pub lane_va: u64,
    /// User stack of the wait, where it is taken at switch-out.
    pub user_stack: u64,
    /// Kernel stack of the wait, where it is taken at switch-out.
    pub kernel_stack: u64,
    /// Address of the futex the present wait is on (valid with state `Lock` in a futex call).
    pub futex: u64,
    /// Address of the futex the thread last waited on with a value no contended lock has: a sequence
    /// number, whatever value it reaches later.
    pub sequence_futex: u64,
    /// Begin of the wait that the iterator has looked at on the kernel stack; its word alone.
    pub looked_at: u64,
    /// `sched_process_exit` (valid with `EXITING`).
    pub exiting_at: u64,
    /// Cumulative ns per state.
    pub total: [u64; STATES],
}
const _: () = assert!(size_of::<Thread>() == 8 + 11 * 8 + 16 * 4 + 10 * 8 + STATES * 8);

/// What the kernel side gets to know about a thread's lane: value of the `LANES` hash, keyed by tid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LaneRef {
    /// User address of the lane in its process.
    pub va: u64,
    /// Start time of the thread in clock ticks since boot (`/proc/TID/stat` field 22): guards
    /// against a reused tid.
    pub start_ticks: u64,
    /// Generation the lane had when it was attached.
    pub generation: u32,
    /// `owner_tid` as the lane states it.
    pub owner_tid: u32,
}
const _: () = assert!(size_of::<LaneRef>() == 24);

/// Offsets in a lane's control line that the kernel side reads. The daemon asserts that they equal
/// the lane ABI's (`proto/lanes/SPEC.md`).
pub mod lane_line {
    /// `prctl` option of the breadcrumb.
    pub const BREADCRUMB_OPTION: u32 = 0x4853_5031;
    /// Bytes read: one cache line.
    pub const LEN: usize = 64;
    /// `magic`, u32 little-endian `LANE`.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"LANE");
    /// Offset of `magic`.
    pub const MAGIC_AT: usize = 0x00;
    /// Offset of `gen`, u32.
    pub const GENERATION_AT: usize = 0x04;
    /// Offset of `owner_tid`, u32.
    pub const OWNER_AT: usize = 0x08;
    /// Offset of `ring_log2`, u16.
    pub const RING_LOG2_AT: usize = 0x0C;
    /// Offset of `head`, u64.
    pub const HEAD_AT: usize = 0x10;
    /// Offset of `ring_off`, u64: where the ring lies in the segment, which gives the segment.
    pub const RING_OFF_AT: usize = 0x18;
    /// Offset of the name table in the segment.
    pub const NAMES_AT: u64 = 4096;
    /// Bytes of an entry of it.
    pub const NAME_STRIDE: u64 = 128;
    /// Entries of it.
    pub const NAME_CAP: u32 = 4096;
    /// Offset of `op` in an event; a SET.
    pub const EVENT_OP_AT: usize = 48;
    /// The operation that names a span.
    pub const EVENT_SET: u8 = 1;
    /// Offset of the name id in an event, u32.
    pub const EVENT_NAME_AT: usize = 52;
    /// Offset of `first_index`, u64.
    pub const FIRST_INDEX_AT: usize = 0x28;
    /// Offset of `grown_at`, u64.
    pub const GROWN_AT: usize = 0x38;
    /// Offset of the ring from the lane.
    pub const RING_AT: u64 = 0x1000;
    /// Bytes of one event.
    pub const EVENT_LEN: usize = 64;
    /// log2 of the grown ring's slots.
    pub const GROWN_LOG2: u16 = 13;
}
