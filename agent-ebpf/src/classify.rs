//! What a thread that leaves the CPU waits for: from how it sleeps, the task's own marks, the system
//! call it is in and the kind of the file that call names (design 4).
//!
//! ```text
//!                        what the call is for?             anything else
//!   interruptible        yes: its meaning says             the kernel stack says
//!   uninterruptible      marks say: I/O, memory, lock      the kernel stack says
//! ```
//!
//! A call waits for what it is for (a peer, a notification, time) so that a signal can end it. What is
//! in its way - a page it copies from, the lock of an address space, a file system's journal - is
//! waited for without, or at most killably.

use core::ffi::c_void;

use agent_ebpf::wire::{
    Phase, State, Thread,
    state::STATES,
    thread::{PREEMPTED, WAKE_SET},
    waits,
};

use crate::{
    blocked_in,
    kernel::{Regs, Task, injected, read_kernel},
    syscall::{self, Meaning},
};

/// Why a thread left.
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    /// Kind of the blocked part.
    pub state: State,
    /// System call number, -1 for none.
    pub syscall: i16,
    /// File descriptor, -1 for none.
    pub fd: i32,
    /// Address of a futex that looks like a lock, 0 for none.
    pub futex: u64,
}

impl Wait {
    /// No wait.
    pub(crate) const NONE: Self = Self { state: State::Running, syscall: -1, fd: -1, futex: 0 };
}

const FUTEX_WAIT: u64 = 0;
const FUTEX_WAIT_BITSET: u64 = 9;

// Bits of `task_struct.__state` (include/linux/sched.h, 6.1 to 6.18).
const TASK_INTERRUPTIBLE: u32 = 0x0001;
const TASK_STOPPED: u32 = 0x0004;
const TASK_TRACED: u32 = 0x0008;
const TASK_NOLOAD: u32 = 0x0400;
const TASK_FREEZABLE: u32 = 0x2000;
const TASK_FROZEN: u32 = 0x8000;
/// The thread never comes back.
pub(crate) const TASK_DEAD: u32 = 0x0080;

// Bits of `task_struct.flags` (there too).
const PF_EXITING: u32 = 0x0004;
const PF_IO_WORKER: u32 = 0x0010;
const PF_DUMPCORE: u32 = 0x0200;
const PF_SIGNALED: u32 = 0x0400;
const PF_USER_WORKER: u32 = 0x4000;
const PF_KTHREAD: u32 = 0x0020_0000;
/// Works for the kernel: what stands in its user registers, if any, is its creator's.
const PF_WORKER: u32 = PF_IO_WORKER | PF_USER_WORKER | PF_KTHREAD;
/// On its way out: the system call it was in, if any, is not what it waits for.
const PF_DYING: u32 = PF_EXITING | PF_DUMPCORE | PF_SIGNALED;

/// 32-bit code segment: other system call numbers.
const USER32_CS: u64 = 0x23;
/// `restart_syscall`: goes on with a wait that had a time limit and was interrupted by a stop.
const RESTART: i64 = 219;

/// What a first look found.
enum Found {
    /// This it is.
    State(State),
    /// The kernel stack decides; this, where it knows nothing better.
    Look(State),
}

/// Kind of a blocked wait of `task`, which is still on its CPU.
#[inline(always)]
pub(crate) fn blocked(ctx: *mut c_void, task: Task, prev_state: u32) -> Wait {
    let mut wait = Wait { state: State::Stopped, ..Wait::NONE };
    let interruptible = prev_state & TASK_INTERRUPTIBLE != 0;
    // The freezer of cgroup v2 has no task state of its own (do_freezer_trap in kernel/signal.c), and
    // lets the thread keep the registers of what it froze in.
    if prev_state & (TASK_STOPPED | TASK_TRACED | TASK_FROZEN) != 0
        || interruptible && task.is_frozen()
    {
        return wait;
    }
    let flags = task.flags();
    let regs = task.user_regs();
    let number = regs.syscall();
    let found = if flags & PF_WORKER != 0 {
        if interruptible || prev_state & TASK_NOLOAD != 0 {
            // Waits for work.
            Found::State(State::Notify)
        } else {
            held_up(task, Found::Look(State::Disk), State::UnknownUnresolvedWait)
        }
    } else if flags & PF_DYING != 0 || !task.has_mm() {
        held_up(task, Found::Look(State::Disk), State::UnknownUnresolvedWait)
    } else if number == -1 {
        // Not in a system call: what is read from storage there is a page. But not every wait there
        // is a page fault's.
        held_up(task, Found::State(State::Memory), State::UnknownUnresolvedWait)
    } else if regs.cs() == USER32_CS {
        held_up(task, Found::Look(State::Disk), State::UnknownKernelFeature)
    } else {
        wait.syscall = number as i16;
        in_syscall(task, regs, number, prev_state, &mut wait)
    };
    wait.state = match found {
        Found::State(state) => state,
        Found::Look(otherwise) => look(ctx, regs, number, &mut wait, otherwise),
    };
    wait
}

/// A wait for something in the way of what the thread is about, as far as marks tell; `storage` is
/// what a wait for I/O is.
#[inline(always)]
fn held_up(task: Task, storage: Found, otherwise: State) -> Found {
    if task.in_memstall() {
        Found::State(State::Memory)
    } else if task.in_iowait() {
        storage
    } else if task.has_blocker() {
        Found::State(State::Lock)
    } else {
        Found::Look(otherwise)
    }
}

#[inline(always)]
fn in_syscall(task: Task, regs: Regs, number: i64, prev_state: u32, wait: &mut Wait) -> Found {
    let mut meaning = syscall::meaning(number);
    if meaning == Meaning::Fcntl {
        let is_lock = syscall::is_file_lock(regs.arg1());
        meaning = if is_lock { Meaning::Lock } else { Meaning::Disk };
    }
    if meaning == Meaning::Fd || meaning == Meaning::Socket {
        wait.fd = regs.arg0() as i32;
    }
    if prev_state & TASK_INTERRUPTIBLE == 0 {
        let is_disk = meaning == Meaning::Disk
            || meaning == Meaning::Fd && file(task, regs.arg0() as u32) == File::Stored;
        return if is_disk {
            held_up(task, Found::State(State::Disk), State::Disk)
        } else if meaning == Meaning::Child {
            // vfork.
            held_up(task, Found::Look(State::Disk), State::Child)
        } else {
            held_up(task, Found::Look(State::Disk), State::UnknownUnresolvedWait)
        };
    }
    // io_uring and epoll waits may carry the iowait mark; they are still waits for an event.
    if meaning == Meaning::Poll {
        return Found::State(State::Poll);
    }
    if task.has_blocker() {
        return Found::State(State::Lock);
    }
    let state = match meaning {
        Meaning::Notify => State::Notify,
        Meaning::Sleep => State::Sleep,
        Meaning::PollCount1 if regs.arg1() == 0 => State::Sleep,
        Meaning::PollCount0 if regs.arg0() == 0 => State::Sleep,
        Meaning::Poll | Meaning::PollCount1 | Meaning::PollCount0 => State::Poll,
        Meaning::Child => State::Child,
        Meaning::Lock => State::Lock,
        Meaning::Socket => State::Socket,
        Meaning::Futex => futex(regs.arg1(), regs, wait),
        Meaning::FutexWait => {
            wait.futex = regs.arg0();
            if regs.arg1() & 0xffff_ffff == 2 { State::Lock } else { State::Notify }
        }
        Meaning::Fd => {
            return match file(task, regs.arg0() as u32) {
                File::Socket => Found::State(State::Socket),
                File::Other => Found::State(State::Notify),
                // An event file of some kind: somebody has to act, but for a timer it is a sleep and
                // for a file system in user space it is storage.
                File::Stored | File::Anonymous => Found::Look(State::Notify),
                File::Gone => Found::Look(State::UnknownUnresolvedWait),
            };
        }
        Meaning::Disk | Meaning::Fcntl | Meaning::Unknown => {
            return Found::Look(State::UnknownUnresolvedWait);
        }
    };
    // A page that its own process or a file system in user space has to fill is waited for
    // interruptibly, too; but a sleep and a wait for a futex may be frozen where they are.
    let may_be_frozen = matches!(meaning, Meaning::Sleep | Meaning::Futex | Meaning::FutexWait);
    if may_be_frozen && prev_state & TASK_FREEZABLE == 0 {
        Found::Look(state)
    } else {
        Found::State(state)
    }
}

/// Asks the kernel stack.
#[inline(always)]
fn look(ctx: *mut c_void, regs: Regs, number: i64, wait: &mut Wait, otherwise: State) -> State {
    let found = blocked_in::by_current(ctx);
    let is_strong = found & waits::WEIGHT == waits::STRONG;
    if found == 0 || !is_strong && matches!(otherwise, State::Disk | State::Child) {
        return otherwise;
    }
    match found & 0xff {
        // A restart keeps the arguments of the call that was interrupted (arch/x86/kernel/signal.c).
        waits::FUTEX => {
            let is_compat = regs.cs() == USER32_CS;
            futex(if is_compat { regs.compat_arg1() } else { regs.arg1() }, regs, wait)
        }
        waits::POLL if number == RESTART && regs.arg1() == 0 => State::Sleep,
        waits::POLL => State::Poll,
        index => State::from_index(index as u8).unwrap_or(State::UnknownUnresolvedWait),
    }
}

/// A wait at least this long that is known by its call only is looked at when it is over, ns.
const LONG_WAIT_NS: u64 = 10_000_000;

/// What the thread's kernel stack says of its finished wait against the state that was given, if it
/// does. The call of a pipe or of a socket waits interruptibly for a page that it copies, too, where
/// another process has to fill the page: there is no mark of that, and such waits are long. `taken`:
/// the stack has just been taken anyway.
#[inline(always)]
pub(crate) fn after_all(ctx: *mut c_void, thread: &Thread, taken: bool) -> Option<u8> {
    let found = if thread.state == State::Stopped as u8 {
        // It stopped on the way out of whatever is on its stack.
        0
    } else if taken {
        blocked_in::by_taken()
    } else if is_of_file(thread) && thread.in_at - thread.out_at >= LONG_WAIT_NS {
        blocked_in::by_current(ctx)
    } else {
        0
    };
    against(found, thread.state)
}

/// The same of a wait that goes on, for the iterator: once for each wait.
#[inline(always)]
pub(crate) fn meanwhile(task: Task, thread: &mut Thread) {
    let since = thread.since;
    let is_open = thread.phase == Phase::Off as u32 && thread.flags & (PREEMPTED | WAKE_SET) == 0;
    if !is_open || thread.looked_at == since || !is_of_file(thread) {
        return;
    }
    thread.looked_at = since;
    let Some(state) = against(blocked_in::by_sleeping(task), thread.state) else {
        return;
    };
    // SAFETY: a word of the account; another CPU may have written it since.
    let same = unsafe { core::ptr::read_volatile(&raw const thread.since) } == since;
    if same && thread.phase == Phase::Off as u32 {
        thread.state = state;
    }
}

/// Whether the state is known by the call and its file only.
#[inline(always)]
fn is_of_file(thread: &Thread) -> bool {
    thread.fd >= 0 && (thread.state == State::Notify as u8 || thread.state == State::Socket as u8)
}

/// Index of the state a stack shows for certain, if it is another.
#[inline(always)]
fn against(found: u32, state: u8) -> Option<u8> {
    let meaning = found & 0xff;
    (found & waits::WEIGHT == waits::STRONG
        && meaning < STATES as u32
        && meaning != u32::from(state))
    .then_some(meaning as u8)
}

/// A lock when it is a PI futex or the waiter expects 2, the value every common mutex gives its
/// contended state; else a notification (design 4).
#[inline(always)]
fn futex(command: u64, regs: Regs, wait: &mut Wait) -> State {
    const LOCK_PI: u64 = 6;
    const WAIT_REQUEUE_PI: u64 = 11;
    const LOCK_PI2: u64 = 13;
    let command = command & 0x7f;
    if command == LOCK_PI || command == LOCK_PI2 || command == WAIT_REQUEUE_PI {
        return State::Lock;
    }
    // Not the priority-inheriting kinds: their word holds an owner.
    if command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET {
        if regs.cs() != USER32_CS {
            wait.futex = regs.arg0();
        }
        if regs.arg2() & 0xffff_ffff == 2 {
            return State::Lock;
        }
    }
    State::Notify
}

/// The kind of the file behind a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum File {
    Socket,
    /// Regular file, folder, block device; the kernel's event files call themselves regular, too.
    Stored,
    /// The kernel's event files where they have no type.
    Anonymous,
    /// Pipe, terminal, another device.
    Other,
    /// Not in the table.
    Gone,
}

/// Read from the thread's own table.
#[inline(always)]
fn file(task: Task, fd: u32) -> File {
    match inode_mode(task, fd).map(|mode| mode & 0o170_000) {
        Some(0o140_000) => File::Socket,
        Some(0o100_000 | 0o040_000 | 0o060_000) => File::Stored,
        Some(0) => File::Anonymous,
        Some(_) => File::Other,
        None => File::Gone,
    }
}

#[inline(always)]
fn inode_mode(task: Task, fd: u32) -> Option<u16> {
    let (slots, array) = task.file_table()?;
    if fd >= slots {
        return None;
    }
    let file: u64 = read_kernel(array + u64::from(fd) * 8)?;
    if file == 0 {
        return None;
    }
    let inode: u64 = read_kernel(file + u64::from(injected!(OFFSETS.file_inode)))?;
    read_kernel(inode + u64::from(injected!(OFFSETS.inode_mode)))
}
