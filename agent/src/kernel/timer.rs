//! The timers: on each CPU one perf event that samples whoever runs there.
//!
//! A CPU that goes offline takes its events with it: their descriptors stay open, but they never
//! count again, also when the CPU is back (kernel/events/core.c, `perf_event_exit_cpu`). Nobody
//! reports it: a suspend takes CPUs away without a uevent, and a CPU may be back before anybody
//! has read the list of those online. So every look asks the event itself whether it still counts,
//! and opens a new one where it does not. CPUs that were not there before get theirs the same way.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use aya_obj::generated as sys;

/// How the timer samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Hardware cycles.
    Cycles,
    /// The kernel's CPU clock: blind where interrupts are off.
    CpuClock,
}

/// Why no timer could be started.
#[derive(Debug, thiserror::Error)]
pub enum TimerError {
    /// More than the kernel takes; it lowers this by itself where samples took too long.
    #[error(
        "this kernel allows {most} samples a second, not {hz}: ask for fewer (hz), or raise \
         kernel.perf_event_max_sample_rate"
    )]
    Rate {
        /// Asked for.
        hz: u64,
        /// Allowed.
        most: u64,
    },
    /// Anything else.
    #[error("cannot start the sampling timer of CPU {cpu}: {source}")]
    Open {
        /// Where.
        cpu: u32,
        /// Why.
        source: io::Error,
    },
    /// The program's descriptor.
    #[error("cannot keep the timer's program: {0}")]
    Program(io::Error),
}

/// The timers of all CPUs. Dropping it stops them.
#[derive(Debug)]
pub struct Timers {
    program: OwnedFd,
    clock: Clock,
    hz: u64,
    by_cpu: BTreeMap<u32, Timer>,
    /// CPUs whose lack of a timer was reported.
    reported: Vec<u32>,
    /// Times a CPU was online without a timer that counts.
    pub stopped: u64,
}

#[derive(Debug)]
struct Timer {
    event: File,
    /// Times it called the program, at the last look.
    calls: u64,
}

// === impl Timers ===

impl Timers {
    /// Starts the timer on these CPUs: hardware cycles where the machine has them, else the CPU
    /// clock.
    pub fn start(program: BorrowedFd<'_>, hz: u64, cpus: &[u32]) -> Result<Self, TimerError> {
        let program = program.try_clone_to_owned().map_err(TimerError::Program)?;
        let mut timers = Self {
            program,
            clock: Clock::Cycles,
            hz,
            by_cpu: BTreeMap::new(),
            reported: Vec::new(),
            stopped: 0,
        };
        if timers.open_all(cpus).is_err() {
            timers.by_cpu.clear();
            timers.clock = Clock::CpuClock;
            timers.open_all(cpus)?;
        }
        Ok(timers)
    }

    fn open_all(&mut self, cpus: &[u32]) -> Result<(), TimerError> {
        for &cpu in cpus {
            match self.open(cpu) {
                Ok(timer) => {
                    self.by_cpu.insert(cpu, timer);
                }
                // It went offline since the list was read.
                Err(source) if source.raw_os_error() == Some(libc::ENODEV) => {}
                Err(source) => return Err(self.explained(cpu, source)),
            }
        }
        Ok(())
    }

    fn explained(&self, cpu: u32, source: io::Error) -> TimerError {
        let most = std::fs::read_to_string("/proc/sys/kernel/perf_event_max_sample_rate");
        let most = most.ok().and_then(|most| most.trim().parse::<u64>().ok());
        match most.filter(|&most| most < self.hz) {
            Some(most) => TimerError::Rate { hz: self.hz, most },
            None => TimerError::Open { cpu, source },
        }
    }

    /// How they sample.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Looks whether each CPU that is online has a timer that counts, and gives it one where not.
    /// `calls` says how often the program was called on each CPU so far: where that has grown the
    /// timer counts, and the CPU need not be interrupted to ask. It must not be called again before
    /// the timer had the time to count.
    pub fn look(&mut self, online: &[u32], calls: &[u64]) {
        // What is offline runs nothing, and its event is dead.
        self.by_cpu.retain(|cpu, _| online.binary_search(cpu).is_ok());
        for &cpu in online {
            let calls = calls.get(cpu as usize).copied().unwrap_or(0);
            if self.by_cpu.get_mut(&cpu).is_some_and(|timer| timer.counts(calls)) {
                continue;
            }
            // Closed first: there may be no room for two.
            self.by_cpu.remove(&cpu);
            match self.open(cpu) {
                Ok(timer) => {
                    self.by_cpu.insert(cpu, Timer { calls, ..timer });
                    self.reported.retain(|&reported| reported != cpu);
                    tracing::info!(cpu, "had no sampling timer that counts: started a new one");
                }
                // Gone again.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(error) => {
                    if !self.reported.contains(&cpu) {
                        self.reported.push(cpu);
                        let error = self.explained(cpu, error);
                        tracing::warn!(cpu, %error, "running time on this CPU has no stacks");
                    }
                }
            }
            self.stopped += 1;
        }
    }

    fn open(&self, cpu: u32) -> io::Result<Timer> {
        let event = open(self.clock, self.hz, cpu)?;
        request(&event, sys::PERF_EVENT_IOC_SET_BPF, self.program.as_raw_fd())?;
        request(&event, sys::PERF_EVENT_IOC_ENABLE, 0)?;
        Ok(Timer { event: event.into(), calls: 0 })
    }
}

// === impl Timer ===

impl Timer {
    /// Whether it counts: it called since the last look, or its clock runs.
    fn counts(&mut self, calls: u64) -> bool {
        let called = std::mem::replace(&mut self.calls, calls) != calls;
        called || matches!((self.enabled(), self.enabled()), (Some(a), Some(b)) if a != b)
    }

    /// How long it has been enabled, also while others have its counter. Stands still once its CPU
    /// has gone.
    fn enabled(&mut self) -> Option<u64> {
        let mut read = [0; 16];
        // An event in its error state reads as nothing.
        if !matches!(self.event.read(&mut read), Ok(16)) {
            return None;
        }
        read.as_chunks::<8>().0.get(1).copied().map(u64::from_ne_bytes)
    }
}

/// include/uapi/linux/perf_event.h; aya's bindings lack it.
const PERF_FORMAT_TOTAL_TIME_ENABLED: u64 = 1;

/// Opens a disabled event for all threads on a CPU (perf_event_open(2)).
fn open(clock: Clock, hz: u64, cpu: u32) -> io::Result<OwnedFd> {
    // SAFETY: a C struct of integers, for which zero is a valid value everywhere.
    let mut attributes = unsafe { std::mem::zeroed::<sys::perf_event_attr>() };
    attributes.size = size_of::<sys::perf_event_attr>() as u32;
    (attributes.type_, attributes.config) = match clock {
        Clock::Cycles => (
            sys::perf_type_id::PERF_TYPE_HARDWARE as u32,
            sys::perf_hw_id::PERF_COUNT_HW_CPU_CYCLES as u64,
        ),
        Clock::CpuClock => (
            sys::perf_type_id::PERF_TYPE_SOFTWARE as u32,
            sys::perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK as u64,
        ),
    };
    attributes.set_disabled(1);
    attributes.set_freq(1);
    attributes.__bindgen_anon_1.sample_freq = hz;
    // What a read gives: the count, then this.
    attributes.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED;
    attributes.sample_type = sys::perf_event_sample_format::PERF_SAMPLE_RAW as u64;
    let cpu = i32::try_from(cpu).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let (all, no_group) = (-1, -1);
    // SAFETY: the kernel reads `size` bytes of a live struct; the others are plain integers.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            all,
            cpu,
            no_group,
            libc::c_ulong::from(sys::PERF_FLAG_FD_CLOEXEC),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn request(event: &OwnedFd, request: u32, argument: RawFd) -> io::Result<()> {
    let fd = event.as_fd().as_raw_fd();
    // SAFETY: both requests take an integer and no memory.
    match unsafe { libc::ioctl(fd, libc::Ioctl::from(request), argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
