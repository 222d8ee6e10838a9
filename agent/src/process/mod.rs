//! What runs: who forked whom, under which name, with which mappings. Learned from fork, exec and
//! exit records; `/proc` is asked while a process still lives.

pub mod id;
pub mod maps;

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::Arc,
};

use id::Pid;
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
    /// Times the map was read again because an address was not in it.
    rereads: u32,
}

/// Every process seen.
#[derive(Debug, Default)]
pub struct Processes {
    known: HashMap<Pid, Process>,
    /// Root of the recorded tree and all its descendants.
    tree: HashSet<Pid>,
    dead: Vec<Pid>,
    /// Maps read since they were last asked for.
    fresh_maps: Vec<Arc<ProcessMap>>,
}

/// A process that keeps mapping new code is not asked for ever.
const MAX_REREADS: u32 = 64;

// === impl Processes ===

impl Processes {
    /// Begins a tree: `root` and all it forks from now on.
    pub fn set_root(&mut self, root: Pid) {
        self.tree.insert(root);
    }

    /// Takes one process out of the tree; its descendants stay.
    pub fn leave(&mut self, pid: Pid) {
        self.tree.remove(&pid);
    }

    /// Whether a process belongs to the tree.
    pub fn in_tree(&self, pid: Pid) -> bool {
        self.tree.contains(&pid)
    }

    /// `parent` forked `child`.
    pub fn forked(&mut self, parent: Pid, child: Pid) {
        if self.tree.contains(&parent) {
            self.tree.insert(child);
        } else {
            // A reused pid is not a member because its predecessor was.
            self.tree.remove(&child);
        }
        self.known.remove(&child);
        if let Some(process) = self.known.get(&parent).cloned() {
            self.known.insert(child, Process { map: None, ..process });
        }
    }

    /// `pid` replaced its image. Its executable is asked for while it surely lives only where it
    /// will be needed: a host that builds software execs all the time.
    pub fn execed(&mut self, pid: Pid, comm: &[u8; 16]) {
        let executable = if self.in_tree(pid) { executable(pid) } else { String::new() };
        let process = Process { comm: text(comm), executable, ..Process::default() };
        self.known.insert(pid, process);
    }

    /// `pid` is gone.
    pub fn exited(&mut self, pid: Pid, comm: &[u8; 16]) {
        self.known.entry(pid).or_default().comm = text(comm);
        self.dead.push(pid);
    }

    /// Processes that died since the last call. A main thread that ends before the others leaves
    /// its process alive: that one is asked about again.
    pub fn take_dead(&mut self) -> Vec<Pid> {
        let (alive, dead) = std::mem::take(&mut self.dead).into_iter().partition(|pid| {
            fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1)
        });
        self.dead = alive;
        dead
    }

    /// A stack of `pid` was seen: its mappings must be known while it lives.
    pub fn saw_stack(&mut self, pid: Pid, frames: &[u64]) {
        let process = self.known.entry(pid).or_default();
        let stale = match &process.map {
            None => true,
            Some(map) => {
                process.rereads < MAX_REREADS
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
    let Ok(path) = fs::read_link(format!("/proc/{pid}/exe")) else {
        return String::new();
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.map_or_else(String::new, |name| name.trim_end_matches(" (deleted)").to_owned())
}

fn text(comm: &[u8; 16]) -> String {
    let len = comm.iter().position(|&b| b == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..len]).into_owned()
}
