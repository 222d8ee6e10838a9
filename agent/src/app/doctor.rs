//! What this host allows, what is missing, what that costs and what helps: `hotspan doctor` shows it,
//! and nothing is recorded where it says that nothing can be.
//!
//! ```text
//! Host::read ─► facts ─► checks ─► text | JSON | the reason to refuse a recording
//! ```
//! Facts are data, so every verdict is tested without a host that has the defect.

mod host;

use std::io;

use serde::Serialize;

use crate::contexts::lanes::survey::Survey;
use host::{Capability, Host};

/// Oldest kernel with everything the programs use.
const KERNEL_FLOOR: (u32, u32) = (6, 1);
/// Fewer descriptors are worth a word.
const FEW_DESCRIPTORS: u64 = 4096;
/// Inode of the initial pid namespace (`PROC_PID_INIT_INO` in the kernel's `proc_ns.h`).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Recording works, with less to see.
    Warn,
    /// Recording is not possible.
    Fail,
}

/// One verdict.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Which check.
    pub id: &'static str,
    /// How bad it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What it takes away, "" if nothing.
    pub cost: &'static str,
    /// What to do about it, "" if nothing.
    pub remedy: &'static str,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// Every check, fatal ones first.
    pub checks: Vec<Check>,
    /// Whether recording is possible.
    pub ok: bool,
}

/// The state of this host, and of what publishes spans on it.
pub fn verdict() -> Verdict {
    let mut checks = checks(&Host::read());
    checks.push(publishers(&Survey::of_host()));
    let ok = checks.iter().all(|check| check.status != Status::Fail);
    Verdict { checks, ok }
}

/// Why this host cannot be recorded, with the remedy, in one line; `None` if it can.
pub fn refuse_reason() -> Option<String> {
    refusal(&Host::read())
}

fn refusal(host: &Host) -> Option<String> {
    let check = checks(host).into_iter().find(|check| check.status == Status::Fail)?;
    Some(format!("{}: {}", check.found, check.remedy))
}

/// Every check, fatal ones first.
fn checks(host: &Host) -> Vec<Check> {
    vec![
        privileges(host),
        kernel(host),
        btf(host),
        pid_namespace(host),
        lockdown(host),
        other_processes(host),
        sched_exit(host),
        cycles(host),
        irq_time(host),
        clocksource(host),
        kallsyms(host),
        map_files(host),
        priority(host),
        descriptors(host),
        agent(host),
    ]
}

/// A check that found nothing to complain about.
fn fine(id: &'static str, found: impl Into<String>) -> Check {
    Check { id, status: Status::Ok, found: found.into(), cost: "", remedy: "" }
}

fn privileges(host: &Host) -> Check {
    let needed = [Capability::Bpf, Capability::Perfmon];
    let missing: Vec<_> = needed.into_iter().filter(|&needed| !host.may(needed)).collect();
    if missing.is_empty() {
        return fine("privileges", format!("user {}, CAP_BPF and CAP_PERFMON", host.user));
    }
    let names: Vec<_> = missing.iter().map(|missing| missing.name()).collect();
    Check {
        id: "privileges",
        status: Status::Fail,
        found: format!("user {} lacks {}", host.user, names.join(" and ")),
        cost: "no program can be loaded into the kernel",
        remedy: "run hotspan as root (sudo), or give it these capabilities",
    }
}

fn kernel(host: &Host) -> Check {
    let found = format!("Linux {}", host.kernel);
    match host.kernel_version() {
        Some(version) if version >= KERNEL_FLOOR => fine("kernel", found),
        _ => Check {
            id: "kernel",
            status: Status::Fail,
            found: format!("{found} is older than 6.1"),
            cost: "the kernel programs need helpers it does not have",
            remedy: "upgrade to Linux 6.1 or later",
        },
    }
}

fn btf(host: &Host) -> Check {
    match host.btf {
        Some(_) => fine("btf", "/sys/kernel/btf/vmlinux"),
        None => Check {
            id: "btf",
            status: Status::Fail,
            found: "no BTF at /sys/kernel/btf/vmlinux".into(),
            cost: "the layout of kernel structures is unknown",
            remedy: "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (every large distribution's is)",
        },
    }
}

fn pid_namespace(host: &Host) -> Check {
    match host.pid_namespace {
        Some(INITIAL_PID_NAMESPACE) => fine("pid-namespace", "the initial one"),
        _ => Check {
            id: "pid-namespace",
            status: Status::Fail,
            found: "not in the initial pid namespace".into(),
            cost: "the kernel's thread ids mean nothing in here",
            remedy: "start the container with the host's pid namespace (docker run --pid=host, \
                     Kubernetes hostPID: true)",
        },
    }
}

fn lockdown(host: &Host) -> Check {
    match host.lockdown.as_deref() {
        Some("confidentiality") => Check {
            id: "lockdown",
            status: Status::Fail,
            found: "kernel lockdown is in confidentiality mode".into(),
            cost: "programs must not read kernel memory",
            remedy: "boot with lockdown=integrity or without lockdown",
        },
        Some(mode) => fine("lockdown", mode),
        None => fine("lockdown", "none"),
    }
}

fn other_processes(host: &Host) -> Check {
    let needed = [
        Capability::SysPtrace,
        Capability::DacReadSearch,
        Capability::CheckpointRestore,
        Capability::Syslog,
    ];
    let missing: Vec<_> = needed.into_iter().filter(|&needed| !host.may(needed)).collect();
    if missing.is_empty() {
        return fine("processes", "memory and files of every process can be read");
    }
    let names: Vec<_> = missing.iter().map(|missing| missing.name()).collect();
    Check {
        id: "processes",
        status: Status::Warn,
        found: format!("no {}", names.join(", no ")),
        cost: "spans and symbols of other users' processes, or the kernel's, are out of reach",
        remedy: "give hotspan these capabilities too",
    }
}

fn sched_exit(host: &Host) -> Check {
    match &host.btf {
        Some(btf) if btf.sched_exit => fine("sched-exit", "stacks are taken when a wait ends"),
        _ => Check {
            id: "sched-exit",
            status: Status::Warn,
            found: "this kernel has no sched_exit_tp tracepoint".into(),
            cost: "stacks are taken as a wait begins: short waits cost as much as long ones",
            remedy: "Linux 6.15 or later has it",
        },
    }
}

fn cycles(host: &Host) -> Check {
    match &host.cycles {
        Ok(()) => fine("cycles", "samples by hardware cycles"),
        Err(error) => Check {
            id: "cycles",
            status: Status::Warn,
            found: format!("no hardware cycle counter ({}): samples by CPU clock", reason(error)),
            cost: "no samples inside sections with interrupts off; they land just after",
            remedy: "virtual machines: choose a type with a virtual PMU",
        },
    }
}

/// Why a counter could not be opened, in words.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::Unsupported => "this machine offers none".into(),
        io::ErrorKind::PermissionDenied => "not permitted".into(),
        _ => error.to_string(),
    }
}

fn irq_time(host: &Host) -> Check {
    let found = match host.irq_time {
        Some(true) => return fine("irq-time", "interrupts are accounted apart"),
        Some(false) => "the kernel does not account interrupt time apart",
        None => "whether interrupt time is accounted apart is unknown (no kernel configuration)",
    };
    Check {
        id: "irq-time",
        status: Status::Warn,
        found: found.into(),
        cost: "interrupt and softirq time stays in `running` of the thread they interrupt",
        remedy: "a kernel with CONFIG_IRQ_TIME_ACCOUNTING=y",
    }
}

fn clocksource(host: &Host) -> Check {
    match host.clocksource.as_deref() {
        Some(clock @ ("tsc" | "arch_sys_counter")) => fine("clocksource", clock),
        other => Check {
            id: "clocksource",
            status: Status::Warn,
            found: format!("the clock is {}, not the CPU's counter", other.unwrap_or("unknown")),
            cost: "marker times are less exact: bounds of short spans are uncertain",
            remedy: "boot with tsc=reliable if this CPU's counter is; else nothing",
        },
    }
}

fn kallsyms(host: &Host) -> Check {
    if host.kallsyms {
        return fine("kallsyms", "kernel functions have names");
    }
    Check {
        id: "kallsyms",
        status: Status::Warn,
        found: "addresses in /proc/kallsyms are hidden".into(),
        cost: "kernel frames are shown as [kernel]; waits in rare calls stay unresolved",
        remedy: "give hotspan CAP_SYSLOG, and set sysctl kernel.kptr_restrict to 0 or 1",
    }
}

fn map_files(host: &Host) -> Check {
    if host.map_files {
        return fine("map-files", "programs are found even when deleted or in a container");
    }
    Check {
        id: "map-files",
        status: Status::Warn,
        found: "/proc/PID/map_files is denied".into(),
        cost: "spans are read as current only; deleted and containers' programs have no symbols",
        remedy: "give hotspan CAP_CHECKPOINT_RESTORE and allow it in SELinux or AppArmor",
    }
}

fn priority(host: &Host) -> Check {
    if host.may(Capability::SysNice) {
        return fine("priority", "the drain thread may run first");
    }
    Check {
        id: "priority",
        status: Status::Warn,
        found: "no CAP_SYS_NICE".into(),
        cost: "on an overloaded host more markers may be lost",
        remedy: "give hotspan CAP_SYS_NICE (optional)",
    }
}

fn descriptors(host: &Host) -> Check {
    let found = format!("{} files may be open", host.descriptors);
    if host.descriptors >= FEW_DESCRIPTORS {
        return fine("descriptors", found);
    }
    Check {
        id: "descriptors",
        status: Status::Warn,
        found,
        cost: "each program that publishes spans takes one: those beyond are not looked at",
        remedy: "raise the hard limit (ulimit -Hn, LimitNOFILE= of the unit)",
    }
}

/// Whether an agent that runs here has given up what it does not need.
fn agent(host: &Host) -> Check {
    let Some((pid, rights)) = host.agent else {
        return fine("agent", "none is seen to run here");
    };
    let mut lacks = Vec::new();
    let needless = rights.needless().bits();
    if needless != 0 {
        lacks.push(format!("has capabilities it does not need ({needless:#x})"));
    }
    if !rights.no_new_privs {
        lacks.push("may gain rights (no_new_privs is not set)".into());
    }
    if !rights.is_filtered {
        lacks.push("may make any system call (no seccomp filter)".into());
    }
    if lacks.is_empty() {
        let found = format!("pid {pid}: seven capabilities at most, no new ones, calls filtered");
        return fine("agent", found);
    }
    Check {
        id: "agent",
        status: Status::Warn,
        found: format!("pid {pid} {}", lacks.join(", ")),
        cost: "should somebody take it over, they could do more",
        remedy: "restart it with this hotspan, without --no-seccomp",
    }
}

/// Who publishes spans here, and whether they can be read.
fn publishers(survey: &Survey) -> Check {
    const NAMED: usize = 5;
    let Survey { publishers, unread } = survey;
    let plural = if *publishers == 1 { "" } else { "s" };
    if unread.is_empty() {
        return fine("publishers", format!("{publishers} program{plural} with spans"));
    }
    let named = unread.iter().take(NAMED).map(|(pid, why)| format!("pid {pid} ({why})"));
    let mut named: Vec<_> = named.collect();
    if unread.len() > NAMED {
        named.push(format!("{} more", unread.len() - NAMED));
    }
    Check {
        id: "publishers",
        status: Status::Warn,
        found: format!(
            "{} of {publishers} program{plural} with spans cannot be read: {}",
            unread.len(),
            named.join(", ")
        ),
        cost: "their spans are missing, and counted as lost",
        remedy: "see what is wrong with them: proto/lanes/SPEC.md says what a segment must be",
    }
}

#[cfg(test)]
mod tests;
