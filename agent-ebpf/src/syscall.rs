//! What blocking in a system call means, by its number: good for the way in which that call sleeps
//! as long as nothing is in its way (see [`crate::classify`]).

/// What a system call's blocking means.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Meaning {
    /// The number does not say: the kernel stack has to.
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
    /// futex: command in argument 1, value in argument 2.
    Futex,
    /// futex_wait: value in argument 1.
    FutexWait,
    /// fcntl: a lock by its command, else as `Disk`.
    Fcntl,
    /// Whatever the file in argument 0 is.
    Fd,
}

/// Meanings by x86-64 system call number (arch/x86/entry/syscalls/syscall_64.tbl).
static MEANINGS: [Meaning; 512] = {
    let mut m = [Meaning::Unknown; 512];
    macro_rules! set {
        ($meaning:ident: $($nr:literal)+) => { $( m[$nr] = Meaning::$meaning; )+ };
    }
    // read write pread64 pwrite64 readv writev preadv(2) pwritev(2) ioctl getdents(64) ftruncate. Not
    // sendfile and splice: they wait for either file; not close: its file has left the table.
    set!(Fd: 0 1 17 18 19 20 295 296 327 328 16 78 217 77);
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
    // link linkat symlink(at) readlink(at) chmod fchmod chown readahead fadvise mount umount
    // copy_file_range
    set!(Disk: 74 75 162 306 26 277 285 76 2 257 437 85 4 6 262 332 21 269 439 87 263 82 264 316);
    set!(Disk: 83 258 84 86 265 88 266 89 267 90 91 92 187 221 165 166 326);
    // fstat lseek getcwd chdir fchdir chroot fchown lchown fchownat fchmodat(2) mknod(at) utime
    // utimes futimesat utimensat uselib ustat statfs fstatfs sysfs pivot_root swapon swapoff acct
    // quotactl(_fd) inotify_add_watch fanotify_mark name_to_handle_at open_by_handle_at io_submit
    // open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    set!(Disk: 5 8 79 80 81 161 93 94 260 268 452 133 259 132 235 261 280 134 136 137 138 139 155);
    set!(Disk: 167 168 163 179 443 254 301 303 304 209 428 429 430 431 432 433 442);
    // the xattr calls, cachestat, statmount listmount, setxattrat to removexattrat, open_tree_attr,
    // file_getattr file_setattr
    set!(Disk: 188 189 190 191 192 193 194 195 196 197 198 199 451 457 458 463 464 465 466 467 468 469);
    set!(Lock: 73); // flock
    set!(Fcntl: 72);
    set!(Futex: 202);
    set!(FutexWait: 455);
    // futex_waitv pause rt_sigsuspend rt_sigtimedwait msgsnd msgrcv semop semtimedop mq_timedsend
    // mq_timedreceive tee vmsplice
    set!(Notify: 449 34 130 128 69 70 65 220 242 243 276 278);
    m
};

const F_SETLKW: u64 = 7;
const F_OFD_SETLKW: u64 = 38;

/// The meaning of a number, `Unknown` where there is none.
#[inline(always)]
pub(crate) fn meaning(number: i64) -> Meaning {
    if (number as u64) < MEANINGS.len() as u64 {
        MEANINGS[number as usize & (MEANINGS.len() - 1)]
    } else {
        Meaning::Unknown
    }
}

/// Whether a command of fcntl waits for a lock.
#[inline(always)]
pub(crate) fn is_file_lock(command: u64) -> bool {
    command == F_SETLKW || command == F_OFD_SETLKW
}
