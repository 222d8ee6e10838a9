//! Clocks and counters of the calling thread, and the work and waits that are measured by them.

use std::time::Duration;

pub(crate) const MS: u64 = 1_000_000;

/// What is read beside a marker; also differences of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clocks {
    pub(crate) at: u64,
    pub(crate) cpu: u64,
    /// Time around the read of the CPU clock.
    pub(crate) slack: u64,
    pub(crate) switches: u64,
}

// === impl Clocks ===

impl Clocks {
    pub(crate) fn before() -> Self {
        let switches = thread_switches();
        let before = now_ns();
        let cpu = thread_cpu_ns();
        let at = now_ns();
        Self { at, cpu, slack: at - before, switches }
    }

    pub(crate) fn after() -> Self {
        let at = now_ns();
        let cpu = thread_cpu_ns();
        let slack = now_ns() - at;
        Self { at, cpu, slack, switches: thread_switches() }
    }
}

/// The kernel's own account of this thread: CPU and run-queue time.
pub(crate) fn schedstat() -> (u64, u64) {
    let file = std::fs::File::open("/proc/thread-self/schedstat");
    // Brings the account up to date.
    thread_cpu_ns();
    let text = file.and_then(std::io::read_to_string).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; both clocks used here always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub(crate) fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

pub(crate) fn thread_switches() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the structure, which is plain numbers and zeroed before.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nvcsw as u64 + usage.ru_nivcsw as u64
}

pub(crate) fn sleep_ns(ns: u64) {
    std::thread::sleep(Duration::from_nanos(ns));
}

/// Burns CPU time, not wall time: so the truth does not depend on neighbours.
pub(crate) fn burn_ns(ns: u64) {
    let until = thread_cpu_ns() + ns;
    while thread_cpu_ns() < until {
        spin();
    }
}

/// The same by the wall clock, which is no system call: nothing enters the kernel meanwhile.
pub(crate) fn burn_wall_ns(ns: u64) {
    let until = now_ns() + ns;
    while now_ns() < until {
        spin();
    }
}

fn spin() {
    for round in 0..2000 {
        std::hint::black_box(round);
    }
}

/// 3 to 8 ms.
pub(crate) fn length_of_wait(turn: u64) -> u64 {
    (3 + turn % 6) * MS
}
