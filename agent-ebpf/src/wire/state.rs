//! The closed list of states a thread-instant can be in (design 4), as far as the kernel side
//! tells them apart. The daemon adds what only it can know (lost markers, runtime pauses).

/// Number of states the kernel accounts.
pub const STATES: usize = 18;

/// A state the kernel programs charge time to. The value indexes `Thread::total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// On a CPU, user or kernel mode.
    Running = 0,
    /// On a CPU by the kernel's view, but the CPU itself did not run (hypervisor).
    Steal = 1,
    /// Runnable, held back by a cgroup CPU quota.
    Throttled = 2,
    /// Runnable after a wakeup (or creation), waiting for a CPU.
    ReadyWakeup = 3,
    /// Runnable, the CPU was taken or given up.
    ReadyPreempted = 4,
    /// Page fault or reclaim.
    Memory = 5,
    /// Futex used as a lock, kernel lock, file lock.
    Lock = 6,
    /// Condvar, park, channel, eventfd, pipe, signal wait.
    Notify = 7,
    /// Socket read, write, accept, connect.
    Socket = 8,
    /// epoll, poll, select, io_uring.
    Poll = 9,
    /// File and block device I/O.
    Disk = 10,
    /// nanosleep and timers.
    Sleep = 11,
    /// wait4, waitid, vfork.
    Child = 12,
    /// Stopped by a signal, a tracer or the freezer.
    Stopped = 13,
    /// Before the first event seen of this thread.
    UnknownBeforeAttach = 14,
    /// A scheduler event is missing.
    UnknownEventsLost = 15,
    /// A blocked wait whose kind could not be found out.
    UnknownUnresolvedWait = 16,
    /// A kernel field needed to tell the kind is not offered by this kernel.
    UnknownKernelFeature = 17,
}

impl State {
    /// Every kernel state, in index order.
    pub const ALL: [Self; STATES] = [
        Self::Running,
        Self::Steal,
        Self::Throttled,
        Self::ReadyWakeup,
        Self::ReadyPreempted,
        Self::Memory,
        Self::Lock,
        Self::Notify,
        Self::Socket,
        Self::Poll,
        Self::Disk,
        Self::Sleep,
        Self::Child,
        Self::Stopped,
        Self::UnknownBeforeAttach,
        Self::UnknownEventsLost,
        Self::UnknownUnresolvedWait,
        Self::UnknownKernelFeature,
    ];

    /// The state with this index, if there is one.
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }

    /// Its index in [`Self::ALL`] and in `Thread::total`.
    pub const fn index(self) -> usize {
        self as usize
    }
}
