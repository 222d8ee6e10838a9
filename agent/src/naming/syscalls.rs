//! System calls by name, for waits of which nothing else is known.

/// Names of the system calls people meet waits in (x86-64); the number for others.
pub fn syscall_name(number: i32) -> String {
    let name = match number {
        0 => "read",
        1 => "write",
        7 => "poll",
        17 => "pread64",
        18 => "pwrite64",
        19 => "readv",
        20 => "writev",
        23 => "select",
        35 => "nanosleep",
        42 => "connect",
        43 | 288 => "accept",
        44 => "sendto",
        45 => "recvfrom",
        46 => "sendmsg",
        47 => "recvmsg",
        61 => "wait4",
        74 => "fsync",
        75 => "fdatasync",
        202 => "futex",
        230 => "clock_nanosleep",
        232 => "epoll_wait",
        247 => "waitid",
        257 => "openat",
        270 => "pselect6",
        271 => "ppoll",
        281 => "epoll_pwait",
        426 => "io_uring_enter",
        435 => "clone3",
        -1 => "none (page fault)",
        _ => return format!("system call {number}"),
    };
    name.to_owned()
}
