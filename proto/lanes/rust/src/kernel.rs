//! The system calls of the slow path, each usable inside a signal handler.
//!
//! Nothing here allocates, locks or caches. `Errno` is put back by whoever enters the slow path,
//! because a handler must leave it as it found it.

use core::ffi::{CStr, c_long};

const CURRENT_DIRECTORY: usize = libc::AT_FDCWD as isize as usize;

/// Puts `errno` back when it goes out of scope.
#[derive(Debug)]
pub(crate) struct ErrnoKept(i32);

/// A memfd or an open file, closed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Fd(i32);

/// One system call, with every argument as wide as a register: a narrower one passed through C's
/// variable arguments may carry garbage in its upper half.
///
/// # Safety
/// As the system call asks.
unsafe fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> c_long {
    let mut full = [0_usize; 6];
    full[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = full;
    // SAFETY: per the contract of this function.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

pub(crate) fn keep_errno() -> ErrnoKept {
    // SAFETY: the returned pointer is this thread's errno, valid as long as the thread.
    ErrnoKept(unsafe { *libc::__errno_location() })
}

pub(crate) fn getpid() -> u32 {
    // SAFETY: no arguments. The raw call, because libc may cache across a raw clone.
    (unsafe { call(libc::SYS_getpid, []) }) as u32
}

pub(crate) fn gettid() -> u32 {
    // SAFETY: no arguments.
    (unsafe { call(libc::SYS_gettid, []) }) as u32
}

/// Whether a thread of this process has this id. Anything but a clear "no" counts as alive.
pub(crate) fn thread_is_alive(tid: u32) -> bool {
    // SAFETY: signal 0 delivers nothing; the arguments are plain integers.
    let answer = unsafe { call(libc::SYS_tgkill, [getpid() as usize, tid as usize, 0]) };
    answer == 0 || errno() != libc::ESRCH
}

pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The soft limit of a resource, `None` if it is unlimited.
pub(crate) fn soft_limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid and writable; a null new limit changes nothing.
    let done = unsafe {
        call(libc::SYS_prlimit64, [0, resource as usize, 0, (&raw mut limit).expose_provenance()])
    };
    (done == 0 && limit.rlim_cur != libc::RLIM64_INFINITY).then_some(limit.rlim_cur)
}

pub(crate) fn memfd_create(name: &CStr, flags: u32) -> Option<Fd> {
    // SAFETY: `name` is NUL-terminated.
    let fd = unsafe { call(libc::SYS_memfd_create, [address(name), flags as usize]) };
    (fd >= 0).then_some(Fd(fd as i32))
}

pub(crate) fn open_read(path: &CStr) -> Option<Fd> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: `path` is NUL-terminated.
    let fd = unsafe { call(libc::SYS_openat, [CURRENT_DIRECTORY, address(path), flags as usize]) };
    (fd >= 0).then_some(Fd(fd as i32))
}

pub(crate) fn read_link<'a>(path: &CStr, buffer: &'a mut [u8]) -> &'a [u8] {
    // SAFETY: `path` is NUL-terminated and the kernel writes at most `buffer.len()` bytes.
    let len = unsafe {
        let text = buffer.as_mut_ptr().expose_provenance();
        call(libc::SYS_readlinkat, [CURRENT_DIRECTORY, address(path), text, buffer.len()])
    };
    &buffer[..usize::try_from(len).unwrap_or(0)]
}

/// Reads the start of a small file.
pub(crate) fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> &'a [u8] {
    let len = open_read(path).map_or(0, |file| file.read(buffer));
    &buffer[..len]
}

pub(crate) fn random(buffer: &mut [u8]) {
    // SAFETY: the kernel writes at most `buffer.len()` bytes; without entropy it writes none.
    unsafe {
        let bytes = buffer.as_mut_ptr().expose_provenance();
        call(libc::SYS_getrandom, [bytes, buffer.len(), libc::GRND_NONBLOCK as usize])
    };
}

/// Maps fresh memory: the file if there is one, else private anonymous pages.
pub(crate) fn map(len: usize, file: Option<&Fd>) -> Option<*mut u8> {
    let (flags, fd) = match file {
        Some(file) => (libc::MAP_SHARED, file.0),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a null address lets the kernel choose, so no existing mapping is touched.
    let address =
        unsafe { call(libc::SYS_mmap, [0, len, access as usize, flags as usize, fd as usize]) };
    (address != -1).then_some(core::ptr::with_exposed_provenance_mut(address as usize))
}

/// # Safety
/// The range was returned by [`map`] and nothing uses it any more.
pub(crate) unsafe fn unmap(address: *mut u8, len: usize) {
    // SAFETY: per the contract of this function.
    unsafe { call(libc::SYS_munmap, [address.expose_provenance(), len]) };
}

/// # Safety
/// The advice must not take away memory somebody still uses.
pub(crate) unsafe fn advise(address: *mut u8, len: usize, advice: i32) -> bool {
    // SAFETY: per the contract of this function.
    (unsafe { call(libc::SYS_madvise, [address.expose_provenance(), len, advice as usize]) }) == 0
}

/// Tells whoever watches `prctl` where this thread's lane is. No kernel knows the option, so the call
/// does nothing; kernels from 6.14 have a tracepoint for just such calls, which costs others nothing.
pub(crate) fn leave_breadcrumb(lane: *const u8, name: &CStr) {
    // SAFETY: the kernel only reads `name`; a zero length touches no mapping.
    unsafe {
        call(
            libc::SYS_prctl,
            [crate::abi::BREADCRUMB_OPTION as usize, lane.expose_provenance(), 0, 0, address(name)],
        )
    };
}

pub(crate) fn thread_name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe {
        let bytes = name.as_mut_ptr().expose_provenance();
        call(libc::SYS_prctl, [libc::PR_GET_NAME as usize, bytes])
    };
    name
}

fn address(text: &CStr) -> usize {
    text.as_ptr().expose_provenance()
}

fn errno() -> i32 {
    // SAFETY: the returned pointer is this thread's errno.
    unsafe { *libc::__errno_location() }
}

// === impl ErrnoKept ===

impl Drop for ErrnoKept {
    fn drop(&mut self) {
        // SAFETY: the returned pointer is this thread's errno, valid as long as the thread.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

// === impl Fd ===

impl Fd {
    fn number(&self) -> usize {
        self.0 as usize
    }

    /// Gives a fresh file its length.
    pub(crate) fn set_len(&self, len: usize) -> bool {
        // SAFETY: plain integers; the descriptor is open.
        (unsafe { call(libc::SYS_ftruncate, [self.number(), len]) }) == 0
    }

    pub(crate) fn add_seals(&self, seals: i32) -> bool {
        // SAFETY: plain integers; the descriptor is open.
        (unsafe {
            call(libc::SYS_fcntl, [self.number(), libc::F_ADD_SEALS as usize, seals as usize])
        }) == 0
    }

    /// Reads until the buffer is full or the file ends.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            // SAFETY: the kernel writes at most `rest.len()` bytes into `rest`.
            let got = unsafe {
                let place = rest.as_mut_ptr().expose_provenance();
                call(libc::SYS_read, [self.number(), place, rest.len()])
            };
            match usize::try_from(got) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(_) if errno() == libc::EINTR => {}
                Err(_) => break,
            }
        }
        filled
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open and owned by this value.
        unsafe { call(libc::SYS_close, [self.number()]) };
    }
}
