//! The records in the per-CPU rings. Each begins with its [`RecordKind`] as `u32`; the ring gives
//! its length. Times are `bpf_ktime_get_ns`.

use super::{state::STATES, thread::REPORTED};

/// First word of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RecordKind {
    /// [`Sample`]
    Sample = 1,
    /// [`Interval`]
    Interval = 2,
    /// [`super::Stack`], used prefix only
    Stack = 3,
    /// [`Fork`]
    Fork = 4,
    /// [`Exec`]
    Exec = 5,
    /// [`Exit`]
    Exit = 6,
    /// [`LaneSeen`]
    LaneSeen = 7,
    /// [`Tail`]
    Tail = 8,
    /// [`Name`]
    Name = 9,
    /// [`Remapped`]
    Remapped = 10,
    /// [`super::StackCopy`], used prefix only
    StackCopy = 11,
}

/// Flag of an interval beside those of its account (`thread::REPORTED`): a cut of a long slice, not a
/// wait (`out == wake == in`).
pub const CUT: u32 = 1 << 5;
/// Flag of a sample beside those of its account: it hit user mode.
pub const USER_MODE: u32 = 1 << 6;
// In a record's byte, each with a bit of its own.
const _: () = assert!(REPORTED | CUT | USER_MODE <= u8::MAX as u32);
const _: () = assert!(REPORTED & CUT == 0 && (REPORTED | CUT) & USER_MODE == 0);

/// A timer sample of a running thread; also a checkpoint of its lane.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Sample {
    /// `RecordKind::Sample`
    pub kind: u32,
    /// Thread.
    pub tid: u32,
    /// Process.
    pub tgid: u32,
    /// CPU it ran on.
    pub cpu: u16,
    /// `HEAD_KNOWN`, `UNREADABLE`, `USER_MODE`
    pub flags: u8,
    /// 0
    pub pad: u8,
    /// Thread serial.
    pub serial: u64,
    /// When.
    pub at: u64,
    /// Intervals finished so far: orders the sample among them.
    pub seq: u64,
    /// Lane head.
    pub head: u64,
    /// Hash of the user stack, 0 for none.
    pub user_stack: u64,
    /// Hash of the kernel stack, 0 for none.
    pub kernel_stack: u64,
}
const _: () = assert!(size_of::<Sample>() == 64);

/// One off-CPU interval of a thread with a lane, sent at switch-in, or a cut of a long slice.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Interval {
    /// `RecordKind::Interval`
    pub kind: u32,
    /// Thread.
    pub tid: u32,
    /// Process.
    pub tgid: u32,
    /// State index of the blocked part.
    pub state: u8,
    /// State index of the ready part.
    pub ready: u8,
    /// `thread::REPORTED`, `CUT`
    pub flags: u8,
    /// 0
    pub pad: u8,
    /// Thread serial.
    pub serial: u64,
    /// Sequence number: the n-th interval of this thread, from 1, without holes.
    pub seq: u64,
    /// Switch-out.
    pub out_at: u64,
    /// Accepted wakeup; `in_at` when none, `out_at` when preempted.
    pub wake_at: u64,
    /// Switch-in.
    pub in_at: u64,
    /// Lane head at switch-out.
    pub head: u64,
    /// System call number, -1 for none.
    pub syscall: i32,
    /// File descriptor, -1 for none.
    pub fd: i32,
    /// Thread that held the CPU while this one was ready, 0 for none.
    pub preemptor_tid: u32,
    /// Its process.
    pub preemptor_tgid: u32,
    /// Thread that woke this one, 0 for none.
    pub waker_tid: u32,
    /// Its process.
    pub waker_tgid: u32,
    /// The waker's lane head plus one at that time, 0 when it had no lane.
    pub waker_head: u64,
    /// ns the stacks stand for, 0 when no stack was taken.
    pub weight: u64,
    /// Hash of the user stack, 0 for none.
    pub user_stack: u64,
    /// Hash of the kernel stack, 0 for none.
    pub kernel_stack: u64,
    /// Cumulative ns per state at `in_at`.
    pub total: [u64; STATES],
}
const _: () = assert!(size_of::<Interval>() == 16 + 6 * 8 + 24 + 32 + STATES * 8);

/// A new thread or process.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Fork {
    /// `RecordKind::Fork`
    pub kind: u32,
    /// New thread.
    pub tid: u32,
    /// Its process (equals `tid` for a new process).
    pub tgid: u32,
    /// Process of the parent.
    pub parent_tgid: u32,
    /// Serial of the new thread.
    pub serial: u64,
    /// When.
    pub at: u64,
}
const _: () = assert!(size_of::<Fork>() == 32);

/// A successful exec.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Exec {
    /// `RecordKind::Exec`
    pub kind: u32,
    /// Thread after exec (the leader's tid).
    pub tid: u32,
    /// Process.
    pub tgid: u32,
    /// Tid of the calling thread before exec.
    pub old_tid: u32,
    /// Thread serial.
    pub serial: u64,
    /// When.
    pub at: u64,
    /// Intervals finished so far.
    pub seq: u64,
    /// New name.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<Exec>() == 56);

/// The last switch-out of a thread: its whole account.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Exit {
    /// `RecordKind::Exit`
    pub kind: u32,
    /// Thread.
    pub tid: u32,
    /// Process.
    pub tgid: u32,
    /// `HEAD_KNOWN`
    pub flags: u8,
    /// 0
    pub pad: [u8; 3],
    /// Thread serial.
    pub serial: u64,
    /// First instant accounted.
    pub birth: u64,
    /// Last instant accounted.
    pub at: u64,
    /// `sched_process_exit`: the end of whatever span was still open.
    pub exiting_at: u64,
    /// Intervals finished.
    pub seq: u64,
    /// Lane head at exit.
    pub head: u64,
    /// Name.
    pub comm: [u8; 16],
    /// Cumulative ns per state.
    pub total: [u64; STATES],
}
const _: () = assert!(size_of::<Exit>() == 16 + 6 * 8 + 16 + STATES * 8);

/// A thread announced its lane (prctl breadcrumb).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LaneSeen {
    /// `RecordKind::LaneSeen`
    pub kind: u32,
    /// Thread.
    pub tid: u32,
    /// Process.
    pub tgid: u32,
    /// Lane generation.
    pub generation: u32,
    /// Thread serial.
    pub serial: u64,
    /// User address of the lane.
    pub va: u64,
    /// When.
    pub at: u64,
    /// `first_index` of the lane.
    pub first_index: u64,
    /// Intervals finished so far.
    pub seq: u64,
    /// Start of the present slice: up to here `total` holds.
    pub since: u64,
    /// Cumulative ns per state at `since`.
    pub total: [u64; STATES],
}
const _: () = assert!(size_of::<LaneSeen>() == 64 + STATES * 8);

/// Markers in one [`Tail`].
pub const TAIL_EVENTS: usize = 16;

/// Markers of a dying thread whose segment the daemon has not mapped.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tail {
    /// `RecordKind::Tail`
    pub kind: u32,
    /// Thread.
    pub tid: u32,
    /// Process.
    pub tgid: u32,
    /// Lane generation.
    pub generation: u32,
    /// Thread serial.
    pub serial: u64,
    /// User address of the lane.
    pub va: u64,
    /// Index of the first event.
    pub first: u64,
    /// Events that hold.
    pub count: u64,
    /// When.
    pub at: u64,
    /// The events as they stood in the ring.
    pub events: [[u8; 64]; TAIL_EVENTS],
}
const _: () = assert!(size_of::<Tail>() == 56 + TAIL_EVENTS * 64);

/// An operation name that markers of a [`Tail`] refer to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Name {
    /// `RecordKind::Name`
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// User address of the lane.
    pub va: u64,
    /// When.
    pub at: u64,
    /// Name id.
    pub id: u32,
    /// 0
    pub pad: u32,
    /// The entry of the segment's name table: length, then bytes.
    pub entry: [u8; 128],
}
const _: () = assert!(size_of::<Name>() == 160);

/// What the task iterator writes for each thread: its account up to `since`, and what it does now.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Snapshot {
    /// Thread.
    pub tid: u32,
    /// Process.
    pub tgid: u32,
    /// A `Phase`.
    pub phase: u32,
    /// `Thread::flags`
    pub flags: u32,
    /// Thread serial.
    pub serial: u64,
    /// First instant accounted.
    pub birth: u64,
    /// End of what `total` holds.
    pub since: u64,
    /// When the snapshot was taken.
    pub at: u64,
    /// Accepted wakeup of the present wait, 0 for none.
    pub wake: u64,
    /// Intervals finished.
    pub seq: u64,
    /// Lane head at the last switch-out.
    pub head: u64,
    /// Start of the thread, ns since boot.
    pub start_boottime: u64,
    /// State index of the present wait.
    pub state: u8,
    /// State index of its ready part.
    pub ready: u8,
    /// 0 when the copy is consistent, 1 when a writer was at work.
    pub torn: u8,
    /// 0
    pub pad: [u8; 5],
    /// The kernel's own run-queue account of the thread (`sched_info.run_delay`), ns.
    pub run_delay: u64,
    /// The kernel's own CPU account (`se.sum_exec_runtime`), ns; a running thread's lags a tick.
    pub sum_exec: u64,
    /// Name.
    pub comm: [u8; 16],
    /// Cumulative ns per state.
    pub total: [u64; STATES],
}
const _: () = assert!(size_of::<Snapshot>() == 16 + 8 * 8 + 8 + 16 + 16 + STATES * 8);

/// The code mappings of a process whose code was known have changed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Remapped {
    /// `RecordKind::Remapped`
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// When.
    pub at: u64,
}
const _: () = assert!(size_of::<Remapped>() == 16);
