//! Records in: each goes to the timeline of its thread, or to who keeps what it says.

use agent_ebpf::wire::{
    Counter,
    thread::{self, NO_WAKEUP},
};

use super::{
    Linker, Parts,
    item::{Item, Taken},
    slice,
    timeline::Timeline,
};
use crate::{
    budget::Resource,
    kernel::Record,
    ledger::DaemonCounter,
    model::id::{Pid, Tid},
    process::maps::Address,
};

impl Linker {
    /// Takes one record. Returns a process that named a lane: the kernel side must know whether all it
    /// publishes is read here.
    pub fn take(&mut self, record: Record, parts: &mut Parts<'_>) -> Option<Pid> {
        match record {
            Record::Sample(sample) => {
                self.delivered.samples += 1;
                if let Some(timeline) = self.timelines.get_mut(&sample.serial) {
                    timeline.push(Item::Sample(sample));
                } else if parts.processes.is_watched(Pid(sample.tgid)) {
                    slice::see(&sample, None, self.sample_ns, &mut self.spans);
                } else {
                    self.samples_of_others += 1;
                }
            }
            Record::Interval(interval) => {
                self.delivered.intervals += 1;
                self.delivered.interval_ns += interval.in_at - interval.out_at;
                self.by_tid.insert(Tid(interval.tid), interval.serial);
                if !parts.processes.is_host() && thread::has(interval.flags, NO_WAKEUP) {
                    self.counts.add(Pid(interval.tgid), Counter::WakeupMissing, 1);
                }
                if let Some(timeline) = self.timelines.get_mut(&interval.serial) {
                    timeline.push(Item::Interval(interval));
                } else {
                    let pid = Pid(interval.tgid);
                    self.counts.add(pid, DaemonCounter::IntervalsUnbound, 1);
                }
            }
            Record::Stack(stack) => {
                self.delivered.stacks += 1;
                let pid = Pid(stack.tgid);
                // Only recorded processes' stacks are ever named.
                if stack.tgid != 0 && !parts.processes.is_watched(pid) {
                    return None;
                }
                let seen = self.see(pid, stack, parts);
                let words = seen.definition.frames.len() as u64 + 8;
                if self.budgets.take(Resource::StackWords, self.budgets.owner(pid), words) {
                    self.stacks.insert(seen.definition.hash, seen);
                }
            }
            Record::StackCopy(copy) => {
                self.delivered.stack_copies += 1;
                if parts.processes.is_watched(Pid(copy.tgid)) {
                    self.copies.keep(copy);
                } else {
                    parts.unwinder.unreported(Pid(copy.tgid));
                }
            }
            Record::Remapped(remapped) => {
                self.delivered.lifecycle += 1;
                let pid = Pid(remapped.tgid);
                parts.processes.remapped(pid, remapped.at);
                parts.unwinder.remapped(pid, remapped.at);
            }
            Record::Fork(fork) => {
                self.delivered.lifecycle += 1;
                // A new process: whoever had this pid before is gone.
                parts.lanes.forget_image(Pid(fork.tgid), fork.at);
                self.budgets.forked(Pid(fork.parent_tgid), Pid(fork.tgid));
                parts.processes.forked(Pid(fork.parent_tgid), Pid(fork.tgid), fork.at);
            }
            Record::Exec(exec) => {
                self.delivered.lifecycle += 1;
                let pid = Pid(exec.tgid);
                if exec.old_tid != exec.tid {
                    self.by_tid.remove(&Tid(exec.old_tid));
                }
                self.by_tid.insert(Tid(exec.tid), exec.serial);
                self.budgets.execed(pid);
                parts.lanes.forget_image(pid, exec.at);
                parts.processes.execed(pid, &exec.comm, exec.at);
                parts.unwinder.remapped(pid, exec.at);
                if let Some(timeline) = self.timelines.get_mut(&exec.serial) {
                    timeline.push(Item::Exec(exec));
                }
            }
            Record::Exit(exit) => {
                self.delivered.lifecycle += 1;
                self.exit(&exit, parts.processes);
            }
            Record::LaneSeen(seen) => {
                self.delivered.lifecycle += 1;
                let pid = Pid(seen.tgid);
                // A thread whose lane is refused leaves no trace here.
                let lane = parts.lanes.lane_or_virtual(
                    pid,
                    Address(seen.va),
                    seen.first_index,
                    seen.at,
                )?;
                let timeline =
                    self.timelines.entry(seen.serial).or_insert_with(|| Timeline::new(pid));
                self.by_tid.insert(Tid(seen.tid), seen.serial);
                timeline.push(Item::Lane(Taken {
                    seq: seen.seq,
                    at: seen.at,
                    seen_at: seen.at,
                    since: seen.since,
                    total: seen.total,
                    lane,
                    first_index: seen.first_index,
                }));
                return Some(pid);
            }
            Record::Tail(tail) => {
                self.delivered.tails += tail.count;
                parts.lanes.add_tail(&tail);
            }
            Record::Name(name) => parts.lanes.add_name(&name),
        }
        None
    }
}
