//! What runs: who forked whom, under which name, with which mappings. Learned from fork, exec and
//! exit records; what only the processes themselves can tell is asked of them through [`reader`], while
//! they live: the accounts here make the questions ([`ask`]) and take what comes of them.

pub mod ask;
mod asking;
pub mod bytes;
pub mod calls;
pub mod debug_file;
pub mod descriptors;
pub mod elf;
pub mod family;
pub mod file;
#[cfg(test)]
pub(crate) mod fixture;
pub mod gopclntab;
pub mod host;
mod image;
pub mod late;
pub mod maps;
mod moved;
pub mod names;
pub mod own;
pub mod packed;
pub mod procfs;
pub mod reader;
pub mod rights;
pub mod vdso;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::model::{batch::ProcessIdentity, id::Pid};
use ask::Ask;
pub use image::Process;
use late::Late;
use maps::ProcessMap;
use names::{Identity, Names};

/// Every process seen.
#[derive(Debug, Default)]
pub struct Processes {
    known: HashMap<Pid, Process>,
    /// Roots of the recorded tree and all their descendants, and since when, ktime: what is reported of
    /// a number before that was another's.
    tree: HashMap<Pid, u64>,
    /// Members whose children are none.
    alone: HashSet<Pid>,
    /// Every process of the host is watched.
    host: bool,
    /// We ourselves.
    own: Option<Pid>,
    /// Processes whose main thread ended.
    dead: Vec<Ended>,
    /// Dead ones still known, and when they died.
    remembered: Vec<(Pid, u64)>,
    /// Maps read since they were last asked for.
    fresh_maps: Vec<Arc<ProcessMap>>,
    /// Questions nobody has taken yet.
    asks: Vec<Ask>,
    /// Images whose names are asked for, and where they are reported.
    named: HashMap<(Pid, u64), Arc<Late<Names>>>,
}

/// A main thread ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    pid: Pid,
    at: u64,
    /// Whether the process lives on is being asked.
    is_asked: bool,
}

/// The mappings for a stack.
#[derive(Clone, Debug)]
pub enum Mapped {
    /// These; none of a process that is gone.
    Known(Option<Arc<ProcessMap>>),
    /// They are being read: [`Processes::answered`] has them.
    Awaited,
}

/// What an answer changed.
#[derive(Debug)]
pub enum Change {
    /// The mappings of `pid` were read, or cannot be.
    Mapped { pid: Pid, map: Option<Arc<ProcessMap>> },
    /// `pid` is over; its main thread ended `at`, ktime.
    Over { pid: Pid, at: u64 },
}

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
        // Its exec may have been reported first.
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
        self.dead.retain(|ended| ended.pid != pid);
        let process = Process { comm: comm_text(comm), since: at, ..Process::default() };
        self.known.insert(pid, process);
        if self.is_watched(pid) {
            self.ask_names(pid, at);
        }
    }

    /// The main thread of `pid` ended at `at`.
    pub fn exited(&mut self, pid: Pid, comm: &[u8; 16], at: u64) {
        self.known.entry(pid).or_default().comm = comm_text(comm);
        self.dead.push(Ended { pid, at, is_asked: false });
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
    pub fn identity(&mut self, pid: Pid) -> Identity {
        let process = self.known.entry(pid).or_default();
        let known = ProcessIdentity {
            pid: pid.0,
            since: process.since,
            comm: process.comm.as_str().into(),
            service: process.executable.as_str().into(),
        };
        let is_named = !process.comm.is_empty() && !process.executable.is_empty();
        let since = process.since;
        let names = (!is_named).then(|| self.ask_names(pid, since));
        Identity::new(known, names)
    }

    /// The mappings as they were read last.
    pub fn last_map(&self, pid: Pid) -> Option<Arc<ProcessMap>> {
        self.known.get(&pid)?.map.clone()
    }

    /// Whether `pid` was found to be over.
    pub fn is_over(&self, pid: Pid) -> bool {
        self.known.get(&pid).is_some_and(|process| process.is_over)
    }

    /// When the present image of `pid` began, ktime; 0 when it is older than the agent.
    pub fn since(&self, pid: Pid) -> u64 {
        self.known.get(&pid).map_or(0, |process| process.since)
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

    /// The name of a process's main thread, as far as it is known.
    pub fn comm(&self, pid: Pid) -> String {
        let known = self.known.get(&pid).map(|process| process.comm.clone());
        known.filter(|comm| !comm.is_empty()).unwrap_or_else(|| format!("pid {pid}"))
    }
}

/// A task's name as the kernel keeps it: up to 15 bytes, then zeros.
pub fn comm_text(comm: &[u8; 16]) -> String {
    let len = comm.iter().position(|&b| b == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..len]).into_owned()
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
