//! The sweep: lanes that are older than the agent, or whose announcement was missed.

use std::collections::HashMap;

use agent_ebpf::wire::LaneRef;

use super::{Attached, LaneId, Lanes, look::Thread};
use crate::model::id::Pid;

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
    /// Asks what these processes have, for their lanes' owners too.
    pub fn sweep(&mut self, pids: impl IntoIterator<Item = Pid>) {
        for pid in pids {
            self.ask(pid, false, true);
        }
    }

    /// Whether a sweep has not found all it asked for.
    pub fn is_sweeping(&self) -> bool {
        self.sweeping > 0
    }

    /// The owners of lanes that sweeps found since the last call.
    pub fn take_owners(&mut self) -> Vec<Owner> {
        std::mem::take(&mut self.owners)
    }

    /// Whether a lane is still that of the thread it was found with: it may have passed on.
    pub fn is_owned(&self, owner: &Owner) -> bool {
        let control = self.control(owner.lane);
        control.is_some_and(|control| control.generation == owner.reference.generation)
    }

    /// Matches each owned lane to a living thread of its own process; a lane that names a thread of
    /// another process finds nobody.
    pub(super) fn owners_of(&mut self, pid: Pid, threads: &HashMap<u32, Thread>, seen_at: u64) {
        let Some(image) = self.images.get(&pid) else { return };
        let mut owned = Vec::new();
        for index in &image.segments {
            let Some(Attached { segment, at, .. }) = self.segments.get(index) else { continue };
            for number in 0..segment.lanes_in_use() {
                let control = segment.control(number);
                if control.generation.is_multiple_of(2) || control.owner_tid == 0 {
                    continue;
                }
                // Its owner may just have died: then somebody else takes the lane, and says so.
                let Some(thread) = threads.get(&control.owner_tid) else { continue };
                owned.push((segment.lane_address(number), control, *thread, *at));
            }
        }
        for (address, control, thread, at) in owned {
            // What former owners published before anybody looked is not ours to deliver.
            let oldest = control.head.saturating_sub(control.slots() - 1);
            let tail = control.first_index.max(oldest);
            let Some(lane) = self.lane(pid, address, tail, at) else { return };
            self.owners.push(Owner {
                tid: thread.tid,
                lane,
                reference: LaneRef {
                    va: address.0,
                    start_ticks: thread.started,
                    generation: control.generation,
                    owner_tid: control.owner_tid,
                },
                seen_at,
            });
        }
    }
}
