//! What runs: who forked whom, under which name, with which mappings. Learned from fork, exec and
//! exit records; `/proc` is asked while a process still lives.

pub mod debug_file;
pub mod descriptors;
pub mod elf;
pub mod family;
pub mod file;
#[cfg(test)]
pub(crate) mod fixture;
pub mod gopclntab;
pub mod host;
pub mod maps;
mod moved;
pub mod packed;
pub mod procfs;
pub mod reader;
pub mod vdso;

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::Arc,
};

use crate::model::{batch::ProcessIdentity, id::Pid};
use maps::{Address, ProcessMap};

/// One process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Name of its main thread.
    pub comm: String,
    /// Name of its executable, without directory.
    pub executable: String,
    /// Its mappings when a stack of it was last looked at.
    pub map: Option<Arc<ProcessMap>>,
    /// When this image began, ktime; 0 when it is older than the agent.
    since: u64,
    /// Times the map was read again because an address was not in it.
    rereads: u32,
    /// When code was mapped last, ktime, as far as it was told.
    remapped_at: u64,
}

/// Every process seen.
#[derive(Debug, Default)]
pub struct Processes {
    known: HashMap<Pid, Process>,
    /// Roots of the recorded tree and all their descendants, and since when, ktime: what is told of
    /// a number before that was another's.
    tree: HashMap<Pid, u64>,
    /// Members whose children are none.
    alone: HashSet<Pid>,
    /// Every process of the host is watched.
    host: bool,
    /// We ourselves.
    own: Option<Pid>,
    dead: Vec<(Pid, u64)>,
    /// Dead ones still known, and when they died.
    remembered: Vec<(Pid, u64)>,
    /// Maps read since they were last asked for.
    fresh_maps: Vec<Arc<ProcessMap>>,
}

/// A process that keeps mapping new code is not asked for ever.
const MAX_REREADS: u32 = 64;

// === impl Processes ===

impl Processes {
    /// Watches every process of the host.
    pub fn host() -> Self {
        Self { host: true, ..Self::tree() }
    }

    /// Watches the members of a tree, of which there is none yet.
    pub fn tree() -> Self {
        Self { own: Some(Pid(std::process::id())), ..Self::default() }
    }

    /// Whether every process of the host is watched.
    pub fn is_host(&self) -> bool {
        self.host
    }

    /// A process that was seen to belong at `at`, with all it forks.
    pub fn add_member(&mut self, pid: Pid, at: u64) {
        self.tree.insert(pid, at);
    }

    /// A member's children do not belong because of it.
    pub fn set_alone(&mut self, member: Pid) {
        self.alone.insert(member);
    }

    /// Whether a process is reported. We ourselves never are, though we may be a tree's root.
    pub fn is_watched(&self, pid: Pid) -> bool {
        Some(pid) != self.own && (self.host || self.tree.contains_key(&pid))
    }

    /// `parent` forked `child` at `at`.
    pub fn forked(&mut self, parent: Pid, child: Pid, at: u64) {
        if self.tree.contains_key(&parent) && !self.alone.contains(&parent) {
            self.tree.insert(child, at);
            self.alone.remove(&child);
        } else if self.tree.get(&child).is_some_and(|&since| since <= at) {
            // A reused pid is not a member because its predecessor was.
            self.tree.remove(&child);
            self.alone.remove(&child);
        }
        // Its exec may have been told first.
        if self.known.get(&child).is_some_and(|process| process.since > at) {
            return;
        }
        let parent = self.known.get(&parent);
        let comm = parent.map_or_else(String::new, |parent| parent.comm.clone());
        let executable = parent.map_or_else(String::new, |parent| parent.executable.clone());
        self.known.insert(child, Process { comm, executable, since: at, ..Process::default() });
    }

    /// `pid` replaced its image at `at`. Its executable is asked for while it surely lives only where
    /// it will be needed: a host that builds software execs all the time.
    pub fn execed(&mut self, pid: Pid, comm: &[u8; 16], at: u64) {
        // The main thread that died for an exec by another thread did not end the process.
        self.dead.retain(|(dead, _)| *dead != pid);
        let executable = if self.is_watched(pid) { executable(pid) } else { String::new() };
        let process =
            Process { comm: comm_text(comm), executable, since: at, ..Process::default() };
        self.known.insert(pid, process);
    }

    /// The main thread of `pid` ended at `at`.
    pub fn exited(&mut self, pid: Pid, comm: &[u8; 16], at: u64) {
        self.known.entry(pid).or_default().comm = comm_text(comm);
        self.dead.push((pid, at));
    }

    /// Processes that died since the last call, and when. A main thread that ends before the others
    /// leaves its process alive: that one is asked about again. So is one whose main thread gave way to
    /// an exec by another thread, or whose number was given out again.
    pub fn take_dead(&mut self) -> Vec<(Pid, u64)> {
        let dead = std::mem::take(&mut self.dead);
        let (alive, dead) = dead.into_iter().partition(|(pid, _)| procfs::is_alive(*pid));
        self.dead = alive;
        self.remembered.extend(&dead);
        dead
    }

    /// Forgets processes that died before `before`.
    pub fn forget_dead(&mut self, before: u64) {
        let known = &mut self.known;
        self.remembered.retain(|&(pid, at)| {
            if at >= before {
                return true;
            }
            // Its number may be another's by now.
            if known.get(&pid).is_some_and(|process| process.since <= at) {
                known.remove(&pid);
            }
            false
        });
    }

    /// Who a process is, for those that were not here.
    pub fn identity(&mut self, pid: Pid) -> ProcessIdentity {
        let process = self.get(pid);
        ProcessIdentity {
            pid: pid.0,
            since: process.since,
            comm: process.comm.as_str().into(),
            service: process.executable.as_str().into(),
        }
    }

    /// A stack of `pid` was seen: its mappings must be known while it lives. Returns them. A stack
    /// taken `after` a moment, ktime, is not read by mappings that are older.
    pub fn saw_stack(
        &mut self,
        pid: Pid,
        frames: &[u64],
        after: Option<u64>,
    ) -> Option<Arc<ProcessMap>> {
        let process = self.known.entry(pid).or_default();
        let stale = match &process.map {
            None => true,
            Some(map) => {
                map.read_at() < process.remapped_at
                    || after.is_some_and(|after| map.read_at() < after)
                    || process.rereads < MAX_REREADS
                        && frames.iter().any(|&frame| map.lookup(Address(frame)).is_none())
            }
        };
        if stale {
            process.rereads += 1;
            if let Ok(map) = ProcessMap::read(pid)
                && !map.mappings().is_empty()
            {
                if map.is_truncated() || map.skipped() > 0 {
                    let skipped = map.skipped();
                    tracing::debug!(%pid, skipped, "mappings not understood");
                }
                let map = Arc::new(map);
                self.fresh_maps.push(map.clone());
                process.map = Some(map);
            }
        }
        process.map.clone()
    }

    /// The mappings of `pid` changed at `at`: what was read before is not used for new stacks.
    pub fn remapped(&mut self, pid: Pid, at: u64) {
        if let Some(process) = self.known.get_mut(&pid) {
            process.remapped_at = process.remapped_at.max(at);
        }
    }

    /// Maps read since the last call: their files can be opened while the process lives.
    pub fn take_fresh_maps(&mut self) -> Vec<Arc<ProcessMap>> {
        std::mem::take(&mut self.fresh_maps)
    }

    /// What is known of a process; looked up in `/proc` when nothing is.
    pub fn get(&mut self, pid: Pid) -> &Process {
        let process = self.known.entry(pid).or_default();
        if process.comm.is_empty() {
            process.comm = fs::read_to_string(format!("/proc/{pid}/comm"))
                .map_or_else(|_| format!("pid {pid}"), |comm| comm.trim_end().to_owned());
        }
        if process.executable.is_empty() {
            process.executable = executable(pid);
        }
        if process.executable.is_empty() {
            process.executable.clone_from(&process.comm);
        }
        process
    }
}

fn executable(pid: Pid) -> String {
    let Ok(path) = procfs::ask(pid, |folder| fs::read_link(folder.join("exe"))) else {
        return String::new();
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.map_or_else(String::new, |name| name.trim_end_matches(" (deleted)").to_owned())
}

/// A task's name as the kernel keeps it: up to 15 bytes, then zeros.
pub fn comm_text(comm: &[u8; 16]) -> String {
    let len = comm.iter().position(|&b| b == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..len]).into_owned()
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
