//! The environment switches and the choice of clock, read once per process.
//!
//! `HOTSPAN_DISABLE=1`, `HOTSPAN_TS=tsc|mono|none|caller`, `HOTSPAN_RING_LOG2=4..=13`.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::abi::{RING_LOG2_DEFAULT, RING_LOG2_MAX, RING_LOG2_MIN, ts_kind};
use crate::kernel;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) ring_log2: u32,
    pub(crate) clock: Clock,
}

/// Where the timestamp of an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Clock {
    None,
    Counter,
    Monotonic,
    /// The tracer passes `CLOCK_MONOTONIC` nanoseconds it has already taken.
    Caller,
}

/// The configuration once read, as one word so that racing first readers agree. 0 = not read.
static PACKED: AtomicU32 = AtomicU32::new(0);

pub(crate) fn switched_off() -> bool {
    environment(c"HOTSPAN_DISABLE").is_some_and(|value| !value.is_empty() && value != b"0")
}

pub(crate) fn config() -> Config {
    let packed = PACKED.load(Ordering::Relaxed);
    if packed != 0 {
        return Config { ring_log2: packed >> 8, clock: Clock::from_code(packed as u8) };
    }
    let config = Config::from_environment();
    // Racing readers store the same value, unless the environment changes under them.
    PACKED.store(config.ring_log2 << 8 | config.clock as u32, Ordering::Relaxed);
    config
}

// === impl Config ===

impl Config {
    fn from_environment() -> Self {
        let ring_log2 = environment(c"HOTSPAN_RING_LOG2").and_then(decimal);
        let clock = match environment(c"HOTSPAN_TS") {
            Some(b"none") => Clock::None,
            Some(b"mono") => Clock::Monotonic,
            Some(b"caller") => Clock::Caller,
            _ if counter_is_trusted() => Clock::Counter,
            _ => Clock::Monotonic,
        };
        Self {
            ring_log2: ring_log2
                .filter(|log2| (RING_LOG2_MIN..=RING_LOG2_MAX).contains(log2))
                .unwrap_or(RING_LOG2_DEFAULT),
            clock,
        }
    }
}

// === impl Clock ===

impl Clock {
    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Counter,
            2 => Self::Monotonic,
            3 => Self::Caller,
            _ => Self::None,
        }
    }

    /// `ts_kind` of the header: what a timestamp is, where there is one.
    pub(crate) fn ts_kind(self) -> u8 {
        match self {
            Self::None => ts_kind::NONE,
            Self::Counter => COUNTER_KIND,
            Self::Monotonic | Self::Caller => ts_kind::MONOTONIC_NS,
        }
    }

    /// Whether [`Self::plain_now`] can tell the time.
    #[inline(always)]
    pub(crate) fn is_plain(self) -> bool {
        matches!(self, Self::None | Self::Counter)
    }

    /// The same as `now` for the clocks that cost one instruction or none.
    #[inline(always)]
    pub(crate) fn plain_now(self) -> (u64, u8) {
        match self {
            Self::Counter => (counter(), COUNTER_KIND),
            _ => (0, ts_kind::NONE),
        }
    }

    /// A timestamp and its kind; `caller` is what the tracer passed, 0 for nothing.
    pub(crate) fn now(self, caller: u64) -> (u64, u8) {
        match self {
            Self::Counter | Self::None => self.plain_now(),
            Self::Monotonic => (kernel::monotonic_ns(), ts_kind::MONOTONIC_NS),
            Self::Caller if caller == 0 => (0, ts_kind::NONE),
            Self::Caller => (caller, ts_kind::MONOTONIC_NS),
        }
    }
}

#[cfg(target_arch = "x86_64")]
const COUNTER_KIND: u8 = ts_kind::X86_TSC;
#[cfg(target_arch = "aarch64")]
const COUNTER_KIND: u8 = ts_kind::ARM_CNTVCT;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const COUNTER_KIND: u8 = ts_kind::NONE;

/// The CPU's own clock, or 0 where none is known.
#[inline(always)]
pub(crate) fn counter() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC exists on every x86-64; it is used only where user mode may run it,
        // which the kernel's own use of it in the vDSO (clocksource "tsc") shows.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: reads one register that Linux always opens to user mode.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        ticks
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        0
    }
}

/// Whether the kernel itself keeps time by the counter, so that all CPUs agree on it.
fn counter_is_trusted() -> bool {
    if cfg!(target_arch = "aarch64") {
        return true;
    }
    let mut name = [0; 16];
    let source = c"/sys/devices/system/clocksource/clocksource0/current_clocksource";
    cfg!(target_arch = "x86_64")
        && kernel::read_file(source, &mut name).trim_ascii() == b"tsc"
        && cpu_has([b"constant_tsc", b"nonstop_tsc"])
}

/// Looks for two flags in the first CPU's list. Small reads: a handler's stack may be tiny.
fn cpu_has(flags: [&[u8]; 2]) -> bool {
    const OVERLAP: usize = 32;
    let Some(file) = kernel::open_read(c"/proc/cpuinfo") else {
        return false;
    };
    let mut window = [0; 512 + OVERLAP];
    let mut found = [false; 2];
    // The flags of one CPU lie within its first few KiB.
    for _ in 0..16 {
        window.copy_within(512.., 0);
        let got = file.read(&mut window[OVERLAP..]);
        for (found, flag) in found.iter_mut().zip(flags) {
            *found |= window[..OVERLAP + got].windows(flag.len()).any(|text| text == flag);
        }
        if found == [true; 2] {
            return true;
        }
        if got < 512 {
            break;
        }
    }
    false
}

/// `getenv`, because it neither locks nor allocates. A program that changes its environment
/// while another thread reads it is at fault on its own.
fn environment(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: `name` is NUL-terminated.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: a non-null result is a NUL-terminated string of the environment.
    Some(unsafe { CStr::from_ptr(value) }.to_bytes())
}

fn decimal(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 4 {
        return None;
    }
    digits.iter().try_fold(0_u32, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_strict() {
        assert_eq!(decimal(b"12"), Some(12));
        assert_eq!(decimal(b""), None);
        assert_eq!(decimal(b"1x"), None);
        assert_eq!(decimal(b"12345"), None);
    }

    #[test]
    fn a_caller_without_time_stamps_nothing() {
        assert_eq!(Clock::Caller.now(0), (0, ts_kind::NONE));
        assert_eq!(Clock::Caller.now(7), (7, ts_kind::MONOTONIC_NS));
        assert_eq!(Clock::None.now(7), (0, ts_kind::NONE));
        assert_eq!(Clock::Monotonic.now(0).1, ts_kind::MONOTONIC_NS);
    }
}
