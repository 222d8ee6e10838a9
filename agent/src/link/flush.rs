//! What is taken from the join again and again: what was added to spans, the stacks seen, and
//! the time of every process, since the last flush. Addresses and ids are still the kernel's:
//! naming them is `naming::batcher`'s business.

use std::{collections::HashMap, sync::Arc};

use agent_ebpf::wire::{Exit, Phase, Snapshot, state::STATES};

use super::{
    Linker, Parts,
    accounts::totals,
    records::difference,
    spans::{Cause, Seen, Span, SpanIndex, SpanKey},
    stacks::SeenStack,
};
use crate::{
    budget::Resource,
    contexts::lanes::Lanes,
    model::{
        batch::Counts,
        id::{Pid, Tid},
        state::StateTimes,
    },
    process::{comm_text, names::Identity},
};

/// A process whose threads only wait is reported this often.
const QUIET_NS: u64 = 10_000_000_000;
/// A span that nobody activated for this long is forgotten.
const FORGET_NS: u64 = 10_000_000_000;
/// The same where its process has little room left.
const FORGET_PRESSED_NS: u64 = 1_000_000_000;
/// How often forgotten spans are looked for.
const FORGET_EVERY_NS: u64 = 5_000_000_000;

/// What one flush takes.
#[derive(Debug, Default)]
pub struct Flush {
    /// The time it covers, ktime.
    pub from: u64,
    /// See `from`.
    pub to: u64,
    /// What was added to spans.
    pub spans: Vec<(SpanIndex, Span)>,
    /// Stacks seen, in no order.
    pub seen: Vec<Seen>,
    /// Definitions of stacks that came since the last flush.
    pub stacks: HashMap<u64, SeenStack>,
    /// Time of processes.
    pub totals: Vec<ProcessTime>,
    /// Every process that the above name.
    pub processes: HashMap<Pid, Identity>,
    /// Every thread that a cause names.
    pub threads: HashMap<Tid, Arc<str>>,
    /// Spans that causes name.
    pub others: HashMap<SpanIndex, (SpanKey, Arc<str>)>,
    /// Captured things it delivers.
    pub counts: Counts,
}

/// Time of all threads of a process.
#[derive(Clone, Debug)]
pub struct ProcessTime {
    /// The process.
    pub pid: Pid,
    /// Since when.
    pub from: u64,
    /// Until when.
    pub to: u64,
    /// Per state.
    pub states: StateTimes,
}

/// What one flush must know of the ones before.
#[derive(Debug, Default)]
pub struct Memory {
    /// Last totals of every thread, by serial.
    threads: HashMap<u64, [u64; STATES]>,
    processes: HashMap<Pid, ProcessTime>,
    /// Names of the living, as of the last two totals.
    names: [HashMap<Tid, [u8; 16]>; 2],
    flushed: Counts,
    flushed_at: u64,
    forgot_at: u64,
}

// === impl Memory ===

impl Memory {
    /// A join that begins now.
    pub fn new(at: u64) -> Self {
        Self { flushed_at: at, forgot_at: at, ..Self::default() }
    }

    /// The iterator's accounts of all threads.
    pub fn take_totals(&mut self, snapshots: &[Snapshot], watched: impl Fn(Pid) -> bool) {
        self.names.swap(0, 1);
        self.names[0].clear();
        let began = self.flushed_at;
        for snapshot in snapshots {
            self.names[0].insert(Tid(snapshot.tid), snapshot.comm);
            let pid = Pid(snapshot.tgid);
            if snapshot.torn == 0 && snapshot.phase != Phase::Dead as u32 && watched(pid) {
                self.add(snapshot.serial, pid, &snapshot.total, began);
            }
        }
    }

    /// A thread's last account.
    pub fn exit(&mut self, exit: &Exit, watched: bool) {
        self.names[0].insert(Tid(exit.tid), exit.comm);
        let pid = Pid(exit.tgid);
        if watched {
            self.add(exit.serial, pid, &exit.total, self.flushed_at);
        }
        self.threads.remove(&exit.serial);
    }

    fn add(&mut self, serial: u64, pid: Pid, total: &[u64; STATES], began: u64) {
        let before = self.threads.entry(serial).or_insert([0; STATES]);
        let added = difference(total, before);
        *before = *total;
        if added.iter().all(|&ns| ns == 0) {
            return;
        }
        let process = self.processes.entry(pid).or_insert_with(|| ProcessTime {
            pid,
            from: began,
            to: began,
            states: StateTimes::default(),
        });
        process.states.merge(&totals(&added));
    }

    /// Time of processes that ran, and of the others now and then.
    fn processes(&mut self, now: u64, all: bool) -> Vec<ProcessTime> {
        let mut reported = Vec::new();
        self.processes.retain(|_, process| {
            let ran = process.states.get(crate::model::state::State::Running) > 0;
            if !all && !ran && now < process.from.saturating_add(QUIET_NS) {
                return true;
            }
            reported.push(ProcessTime { to: now, ..process.clone() });
            false
        });
        reported.sort_by_key(|process| process.pid);
        reported
    }

    fn name(&self, tid: Tid) -> Option<Arc<str>> {
        let comm = self.names.iter().find_map(|names| names.get(&tid))?;
        Some(comm_text(comm).into())
    }
}

// === impl Linker ===

impl Linker {
    /// Takes all that came since the last flush. `end`: the last one.
    pub fn flush(&mut self, now: u64, end: bool, parts: &mut Parts<'_>) -> Flush {
        let counts = self.counts_so_far(parts.lanes);
        let memory = &mut self.memory;
        for timeline in self.timelines.values_mut() {
            timeline.book_active(&mut self.spans);
            if end {
                timeline.give_up_samples(self.sample_ns, &mut self.spans);
            }
        }
        let (changed, mut seen) = self.spans.take_changes();
        let spans: Vec<(SpanIndex, Span)> = changed
            .into_iter()
            .filter_map(|index| Some((index, self.spans.take_part(index)?)))
            // Those of others only name wakers.
            .filter(|(_, span)| span.recorded)
            .collect();
        let samples_of_all = seen.iter().filter(|seen| seen.is_sample).count() as u64;
        seen.retain(|seen| parts.processes.is_watched(seen.pid));
        let mut flush = Flush {
            from: memory.flushed_at,
            to: now,
            totals: memory.processes(now, end),
            stacks: std::mem::take(&mut self.stacks),
            ..Flush::default()
        };
        let samples = samples_of_all + std::mem::take(&mut self.samples_of_others);
        let so_far = Counts { samples: memory.flushed.samples + samples, ..counts };
        flush.counts = so_far.since(&memory.flushed);
        flush.counts.spans = spans.len() as u64;
        self.parts_reported += flush.counts.spans;
        memory.flushed = so_far;
        memory.flushed_at = now;

        let causes = spans.iter().flat_map(|(_, span)| span.causes.keys());
        for Cause { tid, pid, span, .. } in causes {
            if tid.0 != 0 && !flush.threads.contains_key(tid) {
                let name = memory.name(*tid);
                let name = name.or_else(|| memory.name(Tid(pid.0)));
                let name = name.unwrap_or_else(|| parts.processes.comm(*pid).into());
                flush.threads.insert(*tid, name);
            }
            if let Some(index) = span
                && !flush.others.contains_key(index)
                && self.spans.contains(*index)
            {
                let other = self.spans.get(*index);
                flush.others.insert(*index, (other.key, other.name.clone()));
            }
        }
        let pids = (spans.iter().map(|(_, span)| span.key.pid))
            .chain(seen.iter().map(|seen| seen.pid))
            .chain(flush.totals.iter().map(|process| process.pid));
        for pid in pids {
            flush.processes.entry(pid).or_insert_with(|| parts.processes.identity(pid));
        }
        flush.spans = spans;
        flush.seen = seen;
        if now >= memory.forgot_at + FORGET_EVERY_NS {
            memory.forgot_at = now;
            self.spans.forget(now.saturating_sub(FORGET_NS));
            parts.processes.forget_dead(now.saturating_sub(FORGET_NS));
        }
        self.spans.forget_pressed(now.saturating_sub(FORGET_PRESSED_NS));
        self.budgets.begin(Resource::StackWords);
        self.budgets.fold();
        self.counts.fold();
        parts.lanes.lost.fold();
        parts.lanes.refused.fold();
        flush
    }

    fn counts_so_far(&self, lanes: &Lanes) -> Counts {
        Counts {
            samples: 0,
            intervals: self.delivered.intervals,
            interval_ns: self.delivered.interval_ns,
            markers: lanes.delivered,
            stacks: self.delivered.stacks,
            spans: 0,
        }
    }
}
