//! What a thread that leaves the CPU waits for, without a stack: from the task's own marks, the
//! system call it is in, and the kind of the file that call names (design 4).

use agent_ebpf::wire::State;

use crate::kernel::{Regs, Task, injected, read_kernel};

/// Why a thread left.
#[derive(Clone, Copy)]
pub struct Wait {
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
    pub const NONE: Self = Self { state: State::Running, syscall: -1, fd: -1, futex: 0 };
}

/// `futex` of x86-64.
const FUTEX: i16 = 202;
const FUTEX_WAIT: u64 = 0;
const FUTEX_WAIT_BITSET: u64 = 9;

// Bits of `task_struct.__state` (include/linux/sched.h, 6.1 to 6.18).
const TASK_STOPPED: u32 = 0x0004;
const TASK_TRACED: u32 = 0x0008;
const TASK_FROZEN: u32 = 0x8000;
/// The thread never comes back.
pub const TASK_DEAD: u32 = 0x0080;

/// What a system call's blocking means.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Meaning {
    Unknown = 0,
    Notify,
    Sleep,
    Poll,
    /// poll and select without a descriptor are sleeps; number of descriptors in argument 1.
    PollCount1,
    /// The same, in argument 0.
    PollCount0,
    Child,
    Disk,
    Lock,
    Socket,
    Futex,
    /// Whatever the file in argument 0 is.
    Fd,
}

/// Meanings by x86-64 system call number (arch/x86/entry/syscalls/syscall_64.tbl).
static MEANINGS: [Meaning; 512] = {
    let mut m = [Meaning::Unknown; 512];
    macro_rules! set {
        ($meaning:ident: $($nr:literal)+) => { $( m[$nr] = Meaning::$meaning; )+ };
    }
    // read write pread64 pwrite64 readv writev sendfile splice tee vmsplice preadv(2) pwritev(2)
    // ioctl close getdents(64) ftruncate
    set!(Fd: 0 1 17 18 19 20 40 275 276 278 295 296 327 328 16 3 78 217 77);
    // connect accept sendto recvfrom sendmsg recvmsg shutdown accept4 recvmmsg sendmmsg
    set!(Socket: 42 43 44 45 46 47 48 288 299 307);
    // epoll_wait epoll_pwait epoll_pwait2 io_uring_enter io_getevents io_pgetevents
    set!(Poll: 232 281 441 426 208 333);
    set!(PollCount1: 7 271); // poll ppoll
    set!(PollCount0: 23 270); // select pselect6
    set!(Sleep: 35 230); // nanosleep clock_nanosleep
    set!(Child: 61 247 56 57 58 435); // wait4 waitid clone fork vfork clone3
    // fsync fdatasync sync syncfs msync sync_file_range fallocate truncate open openat openat2 creat
    // stat lstat newfstatat statx access faccessat(2) unlink unlinkat rename(at,at2) mkdir(at) rmdir
    // link linkat symlink(at) readlink(at) chmod fchmod chown readahead fadvise execve execveat mount
    // umount copy_file_range fsetxattr getxattr
    set!(Disk: 74 75 162 306 26 277 285 76 2 257 437 85 4 6 262 332 21 269 439 87 263 82 264 316);
    set!(Disk: 83 258 84 86 265 88 266 89 267 90 91 92 187 221 59 322 165 166 326 190 191);
    set!(Lock: 73); // flock
    set!(Futex: 202);
    // futex_waitv futex_wait pause rt_sigsuspend rt_sigtimedwait msgsnd msgrcv semop semtimedop
    // mq_timedsend mq_timedreceive
    set!(Notify: 449 455 34 130 128 69 70 65 220 242 243);
    m
};

const FCNTL: i64 = 72;
const F_OFD_SETLKW: u64 = 38;
const F_SETLKW: u64 = 7;
/// 32-bit code segment: other system call numbers.
const USER32_CS: u64 = 0x23;

/// Kind of a blocked wait of `task`, which is still on its CPU.
#[inline(always)]
pub fn blocked(task: Task, prev_state: u32) -> Wait {
    let mut wait = Wait { state: State::UnknownUnresolvedWait, ..Wait::NONE };
    if prev_state & (TASK_STOPPED | TASK_TRACED | TASK_FROZEN) != 0 {
        wait.state = State::Stopped;
        return wait;
    }
    let in_iowait = task.in_iowait();
    let in_memstall = task.in_memstall();
    if task.is_kernel_thread() || !task.has_mm() {
        if in_memstall {
            wait.state = State::Memory;
        } else if in_iowait {
            wait.state = State::Disk;
        }
        return wait;
    }
    let regs = task.user_regs();
    let syscall = regs.syscall();
    if in_memstall || syscall == -1 {
        // Not in a system call: a page fault is what blocks a thread there.
        wait.state = State::Memory;
        return wait;
    }
    if regs.cs() == USER32_CS {
        wait.state = State::UnknownKernelFeature;
        return wait;
    }
    wait.syscall = syscall as i16;
    wait.state = in_syscall(task, regs, syscall, in_iowait, &mut wait.fd);
    // Not the priority-inheriting kinds: their word holds an owner.
    if wait.syscall == FUTEX && matches!(regs.arg1() & 0x7f, FUTEX_WAIT | FUTEX_WAIT_BITSET) {
        wait.futex = regs.arg0();
    }
    wait
}

#[inline(always)]
fn in_syscall(task: Task, regs: Regs, syscall: i64, in_iowait: bool, fd: &mut i32) -> State {
    let meaning = if syscall == FCNTL {
        if regs.arg1() == F_SETLKW || regs.arg1() == F_OFD_SETLKW {
            Meaning::Lock
        } else {
            Meaning::Disk
        }
    } else if (syscall as u64) < MEANINGS.len() as u64 {
        MEANINGS[syscall as usize & (MEANINGS.len() - 1)]
    } else {
        Meaning::Unknown
    };
    // io_uring and epoll waits may carry the iowait mark; they are still waits for an event.
    if meaning == Meaning::Poll {
        return State::Poll;
    }
    if in_iowait {
        if meaning == Meaning::Fd {
            *fd = regs.arg0() as i32;
        }
        return State::Disk;
    }
    if task.has_blocker() {
        return State::Lock;
    }
    match meaning {
        Meaning::Notify => State::Notify,
        Meaning::Sleep => State::Sleep,
        Meaning::PollCount1 if regs.arg1() == 0 => State::Sleep,
        Meaning::PollCount0 if regs.arg0() == 0 => State::Sleep,
        Meaning::Poll | Meaning::PollCount1 | Meaning::PollCount0 => State::Poll,
        Meaning::Child => State::Child,
        Meaning::Disk => State::Disk,
        Meaning::Lock => State::Lock,
        Meaning::Futex => futex(regs),
        Meaning::Socket => {
            *fd = regs.arg0() as i32;
            State::Socket
        }
        Meaning::Fd => {
            *fd = regs.arg0() as i32;
            file(task, regs.arg0() as u32)
        }
        Meaning::Unknown => State::UnknownUnresolvedWait,
    }
}

/// A lock when it is a PI futex or the waiter expects 2, the value every common mutex gives its
/// contended state; else a notification (design 4).
#[inline(always)]
fn futex(regs: Regs) -> State {
    const LOCK_PI: u64 = 6;
    const WAIT_REQUEUE_PI: u64 = 11;
    const LOCK_PI2: u64 = 13;
    let command = regs.arg1() & 0x7f;
    if command == LOCK_PI || command == LOCK_PI2 || command == WAIT_REQUEUE_PI {
        return State::Lock;
    }
    if (command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET) && regs.arg2() & 0xffff_ffff == 2 {
        return State::Lock;
    }
    State::Notify
}

/// The kind of the file behind a descriptor, read from the thread's own table.
#[inline(always)]
fn file(task: Task, fd: u32) -> State {
    match inode_mode(task, fd).map(|mode| mode & 0o170_000) {
        Some(0o140_000) => State::Socket,
        Some(0o100_000 | 0o040_000 | 0o060_000) => State::Disk,
        // Pipes, eventfd and other anonymous files, terminals: somebody has to act.
        Some(_) => State::Notify,
        None => State::UnknownUnresolvedWait,
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
