//! The facts about this host that decide what can be recorded.
//!
//! Reading never fails: what cannot be read is absent, and a check says what that means.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    process::{self, Command},
};

use crate::{
    app::agent::{ALONE, RUN},
    model::id::Pid,
    process::{descriptors, rights::Rights},
};

/// A capability by its number in the kernel's `capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    DacReadSearch = 2,
    SysPtrace = 19,
    SysAdmin = 21,
    SysNice = 23,
    Syslog = 34,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

/// What the kernel's own type information offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Btf {
    /// The tracepoint in the resumed thread's own context.
    pub(super) sched_exit: bool,
}

/// The facts.
#[derive(Debug)]
pub(super) struct Host {
    /// Effective user.
    pub(super) user: u32,
    /// Effective capabilities, one bit each.
    pub(super) capabilities: u64,
    /// `uname -r`.
    pub(super) kernel: String,
    /// Kernel type information, if there is any.
    pub(super) btf: Option<Btf>,
    /// Inode of our pid namespace.
    pub(super) pid_namespace: Option<u64>,
    /// Lockdown mode, if the kernel has it.
    pub(super) lockdown: Option<String>,
    /// Whether a hardware cycle counter could be opened.
    pub(super) cycles: io::Result<()>,
    /// Whether interrupt time is accounted apart, if that can be known.
    pub(super) irq_time: Option<bool>,
    /// The kernel's clock.
    pub(super) clocksource: Option<String>,
    /// Whether kernel addresses are shown to us.
    pub(super) kallsyms: bool,
    /// Whether mapped files of other processes can be opened.
    pub(super) map_files: bool,
    /// Files that hotspan can open: the hard limit.
    pub(super) descriptors: u64,
    /// The agent that runs here, if one does and we may see it, and what it may do.
    pub(super) agent: Option<(u32, Rights)>,
}

// === impl Capability ===

impl Capability {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysNice => "CAP_SYS_NICE",
            Self::Syslog => "CAP_SYSLOG",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
            Self::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
        }
    }

    /// The bit in a set of capabilities.
    pub(super) fn bit(self) -> u64 {
        1 << (self as u32)
    }
}

// === impl Host ===

impl Host {
    /// Asks this host.
    pub(super) fn read() -> Self {
        let status = read("/proc/self/status").unwrap_or_default();
        let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            user: field(&status, "Uid:", 1).and_then(|id| id.parse().ok()).unwrap_or(u32::MAX),
            capabilities: field(&status, "CapEff:", 0)
                .and_then(|set| u64::from_str_radix(set, 16).ok())
                .unwrap_or(0),
            btf: read_btf(),
            pid_namespace: fs::metadata("/proc/self/ns/pid").ok().map(|meta| meta.ino()),
            lockdown: read("/sys/kernel/security/lockdown").and_then(|text| selected(&text)),
            cycles: open_cycles(),
            irq_time: read_configuration(&kernel).map(|text| has_irq_time(&text)),
            clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            kallsyms: read_kallsyms().unwrap_or(false),
            map_files: read_map_files().unwrap_or(false),
            descriptors: descriptors::highest_limit(),
            agent: read_agent(),
            kernel,
        }
    }

    /// Whether we hold a capability, or the one that older kernels had in its place.
    pub(super) fn may(&self, capability: Capability) -> bool {
        let general = match capability {
            Capability::Bpf | Capability::Perfmon | Capability::Syslog => {
                Capability::SysAdmin.bit()
            }
            Capability::CheckpointRestore => Capability::SysAdmin.bit(),
            _ => 0,
        };
        self.capabilities & (capability.bit() | general) != 0
    }

    /// Major and minor version.
    pub(super) fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// The process whose number is in the lock, if it is a hotspan: a number may be left behind.
fn read_agent() -> Option<(u32, Rights)> {
    let pid = read(&format!("{RUN}/{ALONE}"))?.parse().ok()?;
    let comm = read(&format!("/proc/{pid}/comm"))?;
    (comm == "hotspan").then(|| Rights::of(Pid(pid)))?.map(|rights| (pid, rights))
}

/// A small text file, trimmed.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A column of the line of `/proc/PID/status` that starts with `name`.
fn field<'a>(status: &'a str, name: &str, column: usize) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(column)
}

/// The word in brackets: `none [integrity] confidentiality`.
fn selected(modes: &str) -> Option<String> {
    let (_, rest) = modes.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

fn read_btf() -> Option<Btf> {
    let mut blob = Vec::new();
    File::open("/sys/kernel/btf/vmlinux").ok()?.take(64 << 20).read_to_end(&mut blob).ok()?;
    // Names are NUL-terminated strings in one section; nothing else spells this.
    const SCHED_EXIT: &[u8] = b"\0btf_trace_sched_exit_tp\0";
    let sched_exit = blob.windows(SCHED_EXIT.len()).any(|window| window == SCHED_EXIT);
    (blob.len() > 24).then_some(Btf { sched_exit })
}

/// The text of this kernel's build configuration, where it is kept.
fn read_configuration(kernel: &str) -> Option<String> {
    let config = read(&format!("/boot/config-{kernel}"))
        .or_else(|| read(&format!("/lib/modules/{kernel}/config")));
    config.or_else(|| {
        let output = Command::new("zcat").arg("/proc/config.gz").output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

fn has_irq_time(configuration: &str) -> bool {
    configuration.lines().any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y")
}

/// Kernel addresses are all zero for who may not know them.
fn read_kallsyms() -> Option<bool> {
    let mut lines = BufReader::new(File::open("/proc/kallsyms").ok()?).lines().take(64);
    Some(lines.any(|line| {
        line.is_ok_and(|line| {
            line.split(' ').next().is_some_and(|word| !word.trim_matches('0').is_empty())
        })
    }))
}

/// Whether the files that processes have mapped can be reached. Kernel threads map none, and single
/// processes may be shielded: one that can be reached settles it.
fn read_map_files() -> Option<bool> {
    let reachable = |process: &Path| {
        let entries = fs::read_dir(process.join("map_files")).into_iter().flatten().flatten();
        entries.take(1).any(|entry| fs::metadata(entry.path()).is_ok())
    };
    let own = format!("/proc/{}", process::id());
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let mut others = processes.filter(|path| path.as_os_str() != own.as_str()).take(4096);
    Some(others.any(|process| reachable(&process)) || reachable(Path::new(&own)))
}

/// Opens, and closes again, a counter of our own cycles.
fn open_cycles() -> io::Result<()> {
    // struct perf_event_attr in its first published size, as 64-bit words: type and size, config,
    // and zeros. Type 0 is hardware, config 0 is cycles.
    let attributes: [u64; 8] = [64 << 32, 0, 0, 0, 0, 0, 0, 0];
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    const THIS_THREAD: libc::pid_t = 0;
    const ANY_CPU: libc::c_int = -1;
    const NO_GROUP: libc::c_int = -1;
    // SAFETY:
    // - `attributes` holds the 64 bytes its own size field announces, and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            THIS_THREAD,
            ANY_CPU,
            NO_GROUP,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY:
            // - the kernel just returned this descriptor to us, nobody else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_read() {
        let host = Host::read();
        assert!(host.kernel_version().is_some(), "{host:?}");
        assert!(host.pid_namespace.is_some());
        assert_ne!(host.user, u32::MAX);
    }

    #[test]
    fn texts_of_the_kernel_are_understood() {
        assert_eq!(selected("none [integrity] confidentiality").as_deref(), Some("integrity"));
        assert_eq!(selected("none"), None);
        let status = "Name:\tx\nUid:\t1000\t7\t1000\t1000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(field(status, "Uid:", 1), Some("7"));
        assert_eq!(field(status, "CapEff:", 0), Some("000001ffffffffff"));
        assert!(has_irq_time("A=y\nCONFIG_IRQ_TIME_ACCOUNTING=y\n"));
        assert!(!has_irq_time("# CONFIG_IRQ_TIME_ACCOUNTING is not set\n"));
    }
}
