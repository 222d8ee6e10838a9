//! What the child that parses may do: compute, within bounds, and read and write what it was handed.
//!
//! | kept out by | what |
//! |---|---|
//! | no capabilities, `no_new_privs` | other processes, files of others |
//! | the filter of system calls | files, sockets, programs, processes: all that was not handed in |
//! | `RLIMIT_DATA`, `RLIMIT_AS` | memory: a file that wants more ends the child |
//! | `RLIMIT_CPU` | time, anew for each question |
//! | `RLIMIT_FSIZE`, `RLIMIT_NOFILE`, `RLIMIT_CORE` | disk, descriptors |
//!
//! blazesym opens what it reads by path. There is no path it may open, so the filter has the kernel raise
//! SIGSYS instead, and the handler does for it what can be done with the descriptors at hand:
//! `/proc/self/fd/N` is a duplicate of N, and nothing else exists.

use std::{collections::BTreeMap, ffi::CStr, fs, io};

use rustix::{
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs},
    time::{ClockId, clock_gettime},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

use crate::process::file::MAX_FILE_BYTES;

/// Memory of its own: what it parsed.
const MAX_DATA: u64 = 192 << 20;
/// Addresses: files are mapped, several at once, and their pages are no memory of its own.
const MAX_ADDRESSES: u64 = 4 * MAX_FILE_BYTES;
/// Seconds of CPU for one question.
const MAX_CPU: u64 = 10;
const MAX_FILES: u64 = 256;

/// Gives up what a process has, and with it the threads that it starts from here on.
///
/// # Errors
///
/// When it cannot: then nothing may be parsed here.
pub(super) fn give_up() -> io::Result<()> {
    // The daemon goes, we go; whoever ends the daemon by its terminal or group leaves us to it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY:
        // - SIG_IGN is no function of ours that would have to be fit for a handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // If memory is short, this is what can be had again. Not everywhere may it be asked for.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let limits = [
        (Resource::Data, MAX_DATA),
        (Resource::As, MAX_ADDRESSES),
        (Resource::Fsize, 2 * MAX_FILE_BYTES),
        (Resource::Nofile, MAX_FILES),
        (Resource::Core, 0),
    ];
    for (resource, most) in limits {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_no_new_privs(true)?;
    set_capabilities(None, sets)?;
    Ok(())
}

/// Puts the filter up around all threads, for good.
///
/// # Errors
///
/// When it cannot be put up: then nothing may be parsed here.
pub(super) fn enclose() -> io::Result<()> {
    answer_refused_calls()?;
    let filter = filter().map_err(io::Error::other)?;
    apply_filter_all_threads(&filter).map_err(io::Error::other)
}

/// A new question may take so long again.
pub(super) fn renew_time() {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec.unsigned_abs();
    // Without it the daemon's own watch ends what takes too long.
    let _ = setrlimit(Resource::Cpu, Rlimit { current: Some(used + MAX_CPU), maximum: None });
}

/// Calls that are let through; the others are refused by [`refused`].
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let plain = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_fcntl,
        libc::SYS_dup,
        libc::SYS_ftruncate,
        libc::SYS_copy_file_range,
        libc::SYS_sendfile,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_ppoll,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        plain.into_iter().map(|call| (call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_poll, Vec::new());
    let rule = |argument, operator, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    // Memory, but no code.
    let exec = libc::PROT_EXEC.unsigned_abs().into();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(2, SeccompCmpOp::MaskedEq(exec), 0)?]);
    }
    // Its own limit of time: `pid, resource`.
    let cpu = SeccompCondition::new(
        1,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(libc::RLIMIT_CPU),
    )?;
    let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![own, cpu])?]);
    // abort()
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, own)?]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    filter.try_into()
}

fn answer_refused_calls() -> io::Result<()> {
    // SAFETY:
    // - all zeros are a `sigaction` without flags and with an empty mask;
    // - `refused` has the signature that SA_SIGINFO asks for, and does only what a handler may.
    let outcome = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = refused as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The handler of SIGSYS: the call was not made, and what is left in the register of results is what its
/// caller gets. Calls nothing that takes a lock or memory.
extern "C" fn refused(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY:
    // - the kernel passes the context of the interrupted thread, which is writable and nobody else's
    //   while the handler runs;
    // - the arguments of the call are in it; those that are pointers to text or to a `stat` came from
    //   the C library, which had the kernel follow them.
    unsafe {
        let (call, arguments) = registers(&*context);
        let answer = emulate(call, arguments);
        set_result(&mut *context, answer);
    }
}

/// What the call would have returned.
///
/// # Safety
///
/// The arguments are those of this call: pointers among them are valid for it.
unsafe fn emulate(call: i64, [first, second, third]: [u64; 3]) -> i64 {
    let not_there = -i64::from(libc::ENOENT);
    // SAFETY:
    // - as the caller says;
    // - fcntl and fstat are calls of the kernel and nothing else, and are let through.
    unsafe {
        match call {
            libc::SYS_openat => match descriptor(second) {
                Some(number) => outcome(libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0).into()),
                None => not_there,
            },
            libc::SYS_newfstatat => {
                let path = CStr::from_ptr(second as *const libc::c_char);
                let own = path.is_empty().then_some(first as i32);
                match own.or_else(|| descriptor(second)) {
                    Some(number) => outcome(libc::syscall(libc::SYS_fstat, number, third)),
                    None => not_there,
                }
            }
            // The standard library goes on with `fstat`.
            libc::SYS_statx => -i64::from(libc::ENOSYS),
            libc::SYS_readlinkat | libc::SYS_faccessat | libc::SYS_faccessat2 => not_there,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_readlink | libc::SYS_access | libc::SYS_open | libc::SYS_stat => not_there,
            _ => -i64::from(libc::EPERM),
        }
    }
}

fn outcome(returned: i64) -> i64 {
    let error = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    if returned >= 0 { returned } else { -i64::from(error()) }
}

/// N of `/proc/self/fd/N`.
///
/// # Safety
///
/// `path` is a pointer to text that ends in a zero.
unsafe fn descriptor(path: u64) -> Option<i32> {
    // SAFETY: as the caller says.
    let path = unsafe { CStr::from_ptr(path as *const libc::c_char) };
    let number = path.to_bytes().strip_prefix(b"/proc/self/fd/")?;
    str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (i64, [u64; 3]) {
    let register = |number: libc::c_int| context.uc_mcontext.gregs[number as usize];
    let argument = |number| register(number).cast_unsigned();
    let arguments = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(argument);
    (register(libc::REG_RAX), arguments)
}

#[cfg(target_arch = "x86_64")]
fn set_result(context: &mut libc::ucontext_t, result: i64) {
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = result;
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (i64, [u64; 3]) {
    let registers = &context.uc_mcontext.regs;
    (registers[8].cast_signed(), [registers[0], registers[1], registers[2]])
}

#[cfg(target_arch = "aarch64")]
fn set_result(context: &mut libc::ucontext_t, result: i64) {
    context.uc_mcontext.regs[0] = result.cast_unsigned();
}
