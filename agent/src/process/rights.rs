//! What this process may do: it keeps what a profiler needs and gives up the rest for good.
//!
//! Capabilities belong to threads, and a thread takes over those of the one that makes it. So they are
//! dropped on the main thread before there is any other; whoever needs more (`record`, to start a command
//! with its caller's rights) makes a thread for that before.

use std::fs;

use rustix::{
    io,
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
        capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
        set_no_new_privs,
    },
};

use crate::model::id::Pid;

/// What is kept, of what there is: the six, and that of draining first on an overloaded host.
pub const KEPT: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::CHECKPOINT_RESTORE)
    .union(CapabilitySet::SYS_NICE);

/// What a process may do, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Of all of its sets together, one bit each.
    pub capabilities: CapabilitySet,
    /// Programs that it starts get no more than it has.
    pub no_new_privs: bool,
    /// Its system calls are filtered.
    pub is_filtered: bool,
}

/// From now on this thread, and those it makes, have no capability but `kept`, and programs they start get
/// none by belonging to root.
///
/// # Errors
///
/// When one could not be dropped: nothing should be done with strangers' input then.
pub fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    // They take CAP_SETPCAP, so they are first. Without it there is nothing in the bounding set that is
    // not ours by exec, which no_new_privs prevents.
    if capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            // The kernel knows fewer than there are bits.
            let is_there = capability_is_in_bounding_set(capability).unwrap_or(false);
            if is_there && !kept.contains(capability) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
        let no_root = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        set_capabilities_secure_bits(no_root)?;
    }
    clear_ambient_capability_set()?;
    let kept = capabilities(None)?.permitted & kept;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
    set_no_new_privs(true)
}

// === impl Rights ===

impl Rights {
    /// Of a process's main thread; `None` if there is no such process.
    pub fn of(pid: Pid) -> Option<Self> {
        Self::read(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    /// From the text of a `status` file.
    fn read(status: &str) -> Option<Self> {
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let set = |name| {
            let set = u64::from_str_radix(field(name)?, 16).ok()?;
            Some(CapabilitySet::from_bits_retain(set))
        };
        let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].map(set);
        let mut capabilities = CapabilitySet::empty();
        for set in sets {
            capabilities |= set?;
        }
        Some(Self {
            capabilities,
            no_new_privs: field("NoNewPrivs:")? == "1",
            is_filtered: field("Seccomp:")? == "2",
        })
    }

    /// Capabilities beyond what is kept.
    pub fn needless(&self) -> CapabilitySet {
        self.capabilities - KEPT
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use rustix::process::geteuid;

    use super::*;

    fn of_this_thread() -> (Rights, String) {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        (Rights::read(&status).unwrap(), status)
    }

    #[test]
    fn the_kernels_words_are_understood() {
        let (rights, status) = of_this_thread();
        assert_eq!(Rights::of(Pid(std::process::id())).unwrap(), rights);
        let all = status
            .lines()
            .map(|line| match line.split_once(':').unwrap() {
                (name @ ("CapInh" | "CapEff" | "CapAmb"), _) => format!("{name}:\t0\n"),
                ("CapPrm", _) => "CapPrm:\t0000000000a00004\n".to_owned(),
                ("NoNewPrivs", _) => "NoNewPrivs:\t1\n".to_owned(),
                ("Seccomp", _) => "Seccomp:\t2\n".to_owned(),
                _ => format!("{line}\n"),
            })
            .collect::<String>();
        let read = Rights::read(&all).unwrap();
        assert!(read.no_new_privs && read.is_filtered);
        // Bit 21 is SYS_ADMIN; 2 and 23 are kept.
        assert_eq!(read.needless(), CapabilitySet::SYS_ADMIN);
    }

    #[test]
    fn what_is_dropped_stays_dropped_in_every_thread_made_after() {
        if !geteuid().is_root() {
            println!("skipped: only root has something to drop");
            return;
        }
        let (before, _) = of_this_thread();
        // A thread made before keeps all: that is why this is done first.
        let (go, wait) = mpsc::channel::<()>();
        let earlier = thread::spawn(move || {
            wait.recv().unwrap();
            of_this_thread().0
        });
        let dropped = thread::spawn(|| {
            keep_only(KEPT).unwrap();
            let (rights, status) = thread::spawn(of_this_thread).join().unwrap();
            // Nor does a program get any for being root's.
            let child = std::process::Command::new("cat").arg("/proc/self/status").output();
            (rights, status, String::from_utf8(child.unwrap().stdout).unwrap())
        });
        let (rights, status, child) = dropped.join().unwrap();
        go.send(()).unwrap();
        assert_eq!(earlier.join().unwrap(), before);
        assert_eq!(rights.needless(), CapabilitySet::empty());
        assert_eq!(rights.capabilities, before.capabilities & KEPT);
        assert!(rights.no_new_privs);
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        let bounding = u64::from_str_radix(bounding.trim(), 16).unwrap();
        assert_eq!(CapabilitySet::from_bits_retain(bounding) - KEPT, CapabilitySet::empty());
        let child = Rights::read(&child).unwrap();
        assert_eq!(child.capabilities, CapabilitySet::empty());
    }
}
