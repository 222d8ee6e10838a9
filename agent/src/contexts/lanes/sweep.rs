//! The sweep: lanes that are older than the agent, or whose announcement was missed.

use std::{collections::HashMap, fs};

use agent_ebpf::wire::LaneRef;

use super::{LaneId, Lanes};
use crate::{
    kernel::ktime,
    model::id::Pid,
    process::procfs::{self, Stat},
};

/// A living thread that owns a lane older than the agent.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Its id in the initial pid namespace.
    pub tid: u32,
    /// Its lane.
    pub lane: LaneId,
    /// What the kernel side is to know.
    pub reference: LaneRef,
    /// A moment before its process was looked at, ktime: what happened earlier is over.
    pub seen_at: u64,
}

impl Lanes {
    /// Attaches what every process on the host has. Returns the living owners of lanes.
    pub fn sweep(&mut self, own: Pid) -> Vec<Owner> {
        let mut owners = Vec::new();
        let Ok(entries) = fs::read_dir("/proc") else { return owners };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let pid = Pid(pid);
            let seen_at = ktime::now();
            if pid != own && (self.is_attached(pid) || self.attach(pid, false)) {
                self.owners_of(pid, seen_at, &mut owners);
            }
        }
        owners
    }

    /// Matches each owned lane to a living thread of its own process; a lane that names a thread of
    /// another process finds nobody.
    fn owners_of(&mut self, pid: Pid, seen_at: u64, owners: &mut Vec<Owner>) {
        self.extend_all(pid);
        let inner = inner_tids(pid);
        let Some(image) = self.images.get(&pid) else { return };
        for (&address, &id) in &image.lanes {
            let Some(control) = self.control(id) else { continue };
            if control.generation.is_multiple_of(2) || control.owner_tid == 0 {
                continue;
            }
            // Its owner may just have died: then somebody else takes the lane, and says so.
            let Some(&tid) = inner.get(&control.owner_tid) else { continue };
            let Some(stat) = Stat::of_thread(pid, tid) else { continue };
            owners.push(Owner {
                tid,
                lane: id,
                reference: LaneRef {
                    va: address.0,
                    start_ticks: stat.started,
                    generation: control.generation,
                    owner_tid: control.owner_tid,
                },
                seen_at,
            });
        }
    }
}

/// Threads of `pid`: id in the innermost pid namespace -> id in the initial one.
fn inner_tids(pid: Pid) -> HashMap<u32, u32> {
    let inner = |tid| procfs::inner_id(pid, tid).map(|inner| (inner, tid));
    procfs::threads(pid).filter_map(inner).collect()
}
