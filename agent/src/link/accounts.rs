//! Accounts of whole threads in: of those that are gone, those that had lanes before the agent came, and
//! what the iterator read of all.

use std::collections::{HashMap, HashSet};

use agent_ebpf::wire::{Exit, LaneRef, Phase, Snapshot, State as K};

use super::{
    Linker, Parts, ThreadAccount,
    item::{Item, Taken},
    records::open_part,
    timeline::Timeline,
};
use crate::{
    contexts::lanes::Owner,
    ledger::DaemonCounter,
    model::{
        id::{Pid, Tid},
        state::StateTimes,
    },
    process::{Processes, comm_text},
};

impl Linker {
    /// A thread is gone: its whole account.
    pub(super) fn exit(&mut self, exit: &Exit, processes: &mut Processes) {
        let pid = Pid(exit.tgid);
        if exit.tid == exit.tgid {
            processes.exited(pid, &exit.comm, exit.at);
        }
        let watched = processes.is_watched(pid);
        self.memory.exit(exit, watched);
        self.gone.push((Tid(exit.tid), exit.serial));
        if watched && !processes.is_host() {
            self.counts.add(pid, DaemonCounter::EventsLostNs, events_lost(&exit.total));
            self.threads.push(ThreadAccount {
                tid: Tid(exit.tid),
                pid,
                comm: comm_text(&exit.comm),
                birth: exit.birth,
                end: exit.at,
                states: totals(&exit.total),
            });
        }
        if let Some(timeline) = self.timelines.get_mut(&exit.serial) {
            timeline.push(Item::Exit(*exit));
        }
    }

    /// Takes over the threads of lanes that were found, by accounts read *after* that: every owner
    /// that still lives has one, and the lane was its own by the end of it. Returns what the kernel
    /// side must learn of lanes, and the processes now mapped.
    pub fn adopt(
        &mut self,
        owners: &[Owner],
        snapshots: &[Snapshot],
        parts: &mut Parts<'_>,
    ) -> (Vec<(u32, LaneRef)>, Vec<Pid>) {
        parts.lanes.drain();
        let by_tid: HashMap<u32, &Snapshot> = snapshots.iter().map(|s| (s.tid, s)).collect();
        let mut adopted = Vec::new();
        let mut pids = Vec::new();
        for owner in owners {
            let Some(snapshot) = by_tid.get(&owner.tid) else { continue };
            let pid = parts.lanes.pid(owner.lane);
            // A torn one is asked again at the next sweep; a new owner says so itself.
            if snapshot.tgid != pid.0 || snapshot.torn != 0 || !parts.lanes.is_owned(owner) {
                continue;
            }
            let first_index = parts.lanes.first_index(owner.lane);
            if let Some(timeline) = self.timelines.get_mut(&snapshot.serial) {
                if timeline.needs().any(|(lane, _)| lane == owner.lane) {
                    continue;
                }
                timeline.push(Item::Lane(Taken {
                    seq: snapshot.seq,
                    at: snapshot.since,
                    seen_at: owner.seen_at,
                    since: snapshot.since,
                    total: snapshot.total,
                    lane: owner.lane,
                    first_index,
                }));
            } else {
                let mut timeline = Timeline::new(pid);
                let floor = self.began.max(parts.processes.since(pid));
                let (timelines, mut feed) = self.split(parts);
                let context = &mut feed.context(pid);
                timeline.adopt(snapshot, owner.lane, owner.seen_at, floor, context);
                timelines.insert(snapshot.serial, timeline);
            }
            self.by_tid.insert(Tid(snapshot.tid), snapshot.serial);
            adopted.push((owner.tid, owner.reference));
            pids.push(pid);
        }
        (adopted, pids)
    }

    /// Takes the iterator's accounts: places what an open wait has closed; at the `end` of a
    /// recording closes every living thread.
    pub fn take_totals(&mut self, snapshots: &[Snapshot], end: bool, processes: &Processes) {
        self.memory.take_totals(snapshots, |pid| processes.is_watched(pid));
        let of_tree = !processes.is_host();
        if !end {
            self.miss(snapshots);
        }
        for snapshot in snapshots {
            if snapshot.phase == Phase::Dead as u32 {
                continue; // its exit record says all
            }
            self.by_tid.insert(Tid(snapshot.tid), snapshot.serial);
            if let Some(timeline) = self.timelines.get_mut(&snapshot.serial) {
                timeline.push(Item::Snapshot { snapshot: *snapshot, end });
            }
            if end && of_tree && processes.is_watched(Pid(snapshot.tgid)) {
                let (pid, lost) = (Pid(snapshot.tgid), events_lost(&snapshot.total));
                self.counts.add(pid, DaemonCounter::EventsLostNs, lost);
                let mut states = totals(&snapshot.total);
                for (state, ns) in open_part(snapshot, 0).iter() {
                    states.add(state, ns);
                }
                self.threads.push(ThreadAccount {
                    tid: Tid(snapshot.tid),
                    pid: Pid(snapshot.tgid),
                    comm: comm_text(&snapshot.comm),
                    birth: snapshot.birth,
                    end: snapshot.at.max(snapshot.since),
                    states,
                });
            }
        }
    }
}

impl Linker {
    /// Where even the record of a thread's end was lost, its account is not among the living's again
    /// and again: its timeline ends.
    fn miss(&mut self, snapshots: &[Snapshot]) {
        let living = snapshots.iter().filter(|it| it.phase != Phase::Dead as u32);
        let living: HashSet<u64> = living.map(|snapshot| snapshot.serial).collect();
        for (serial, timeline) in &mut self.timelines {
            timeline.missed = match living.contains(serial) {
                true => 0,
                false => timeline.missed.saturating_add(1),
            };
        }
    }
}

/// The part of a thread's account of which the kernel side missed events.
fn events_lost(total: &[u64]) -> u64 {
    total[K::UnknownEventsLost.index()]
}

pub(super) fn totals(total: &[u64]) -> StateTimes {
    let mut states = StateTimes::default();
    for state in K::ALL {
        states.add(state.into(), total[state.index()]);
    }
    states
}
