//! Stacks as they were defined, and what it takes to name them: the mappings of that moment, which may
//! have to be read first, and the frames that are reported late where the kernel side had no tables.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use agent_ebpf::{
    unwind::{Stop, table::MAX_CODE},
    wire::Counter,
};

use super::{Linker, Parts};
use crate::{
    budget::{Owner, Resource},
    kernel::{StackCopy, StackDefinition, ktime},
    model::id::Pid,
    process::{
        Mapped,
        late::Late,
        maps::{Address, ProcessMap},
    },
    unwind,
};

/// Copies held until their stacks come: more than rings hold.
const MAX_COPIES: usize = 1024;

/// A stack that was defined, and what it takes to name it.
#[derive(Clone, Debug)]
pub struct SeenStack {
    /// As the kernel side sent it.
    pub definition: StackDefinition,
    /// The mappings its addresses lie in; none for the kernel's.
    pub map: Option<Arc<ProcessMap>>,
    /// Where its frames will be reported if the kernel side had no tables for it.
    pub late: Option<Arc<unwind::Late>>,
    /// Where all of it will be reported if the mappings are still being read.
    pub coming: Option<Arc<Late<SeenStack>>>,
}

/// A stack whose mappings are being read.
#[derive(Debug)]
pub(super) struct Unmapped {
    pid: Pid,
    owner: Owner,
    /// Since when, ktime.
    seen_at: u64,
    definition: StackDefinition,
    copy: Option<Box<StackCopy>>,
    place: Arc<Late<SeenStack>>,
}

/// Copies whose stacks are about to come, of this round and the one before.
#[derive(Debug, Default)]
pub struct Copies([HashMap<u64, Box<StackCopy>>; 2]);

// === impl Copies ===

impl Copies {
    /// Keeps a copy until its stack comes, this round or the next.
    pub fn keep(&mut self, copy: Box<StackCopy>) {
        if self.0[0].len() < MAX_COPIES {
            self.0[0].insert(copy.hash, copy);
        }
    }

    fn take(&mut self, hash: u64) -> Option<Box<StackCopy>> {
        self.0.iter_mut().find_map(|copies| copies.remove(&hash))
    }

    /// Lets go of what waited for a whole round.
    pub fn end_round(&mut self) {
        self.0.swap(0, 1);
        self.0[0].clear();
    }
}

// === impl SeenStack ===

impl SeenStack {
    /// Whether it is not known yet in which mappings its addresses lie.
    pub fn awaits_map(&self) -> bool {
        self.coming.as_ref().is_some_and(|coming| coming.is_awaited())
    }

    /// Waits until `deadline` for mappings and frames that are reported late.
    pub fn settle(&mut self, deadline: Instant) {
        if let Some(seen) = self.coming.take().and_then(|coming| coming.wait(deadline)) {
            *self = seen;
        }
        if let Some(walked) = self.late.take().and_then(|late| late.wait(deadline)) {
            self.definition.frames = walked.frames;
            self.definition.stop = walked.stop;
        }
    }
}

// === impl Linker ===

impl Linker {
    /// A stack as it will be named: with the mappings of now, because later the addresses may mean
    /// something else, and with its frames asked for where the kernel side had no tables. Where the
    /// mappings must be read first, naming waits for them.
    pub(super) fn see(
        &mut self,
        pid: Pid,
        definition: StackDefinition,
        parts: &mut Parts<'_>,
    ) -> SeenStack {
        if definition.tgid == 0 {
            return SeenStack { definition, map: None, late: None, coming: None };
        }
        let copy = self.copies.take(definition.hash);
        let after = copy.as_ref().map(|copy| copy.at);
        let owner = self.budgets.owner(pid);
        match parts.processes.saw_stack(pid, &definition.frames, after) {
            Mapped::Known(map) => self.finish(pid, definition, copy, map, parts),
            Mapped::Awaited if !self.budgets.take(Resource::UnmappedStacks, owner, 1) => {
                let map = parts.processes.last_map(pid);
                self.finish(pid, definition, copy, map, parts)
            }
            Mapped::Awaited => {
                let (place, kept) = (Arc::new(Late::default()), definition.clone());
                let coming = Some(Arc::clone(&place));
                let seen_at = ktime::now();
                self.unmapped.push(Unmapped { pid, owner, seen_at, definition, copy, place });
                SeenStack { definition: kept, map: None, late: None, coming }
            }
        }
    }

    fn finish(
        &mut self,
        pid: Pid,
        mut definition: StackDefinition,
        copy: Option<Box<StackCopy>>,
        map: Option<Arc<ProcessMap>>,
        parts: &mut Parts<'_>,
    ) -> SeenStack {
        let wanted = definition.stop == Stop::Unloaded;
        if let Some(map) = &map {
            cut_at_data(&mut definition, map);
        }
        let asked = map.clone().filter(|_| wanted);
        let late = asked.and_then(|map| parts.unwinder.wanted(map, &definition.frames, copy));
        // Of the host the kernel side counts every walk; of a recording, its own processes' stacks.
        if !parts.processes.is_host() && definition.stop != Stop::Bottom && late.is_none() {
            self.counts.add(pid, stop_counter(definition.stop), 1);
        }
        SeenStack { definition, map, late, coming: None }
    }

    /// The mappings of `pid` were read for the stacks that wait for them: these, or none if they could
    /// not be.
    pub fn mapped(&mut self, pid: Pid, map: Option<&Arc<ProcessMap>>, parts: &mut Parts<'_>) {
        let since = parts.processes.since(pid);
        let waiting: Vec<Unmapped> = self.unmapped.extract_if(.., |it| it.pid == pid).collect();
        for stack in waiting {
            let after = stack.copy.as_ref().map(|copy| copy.at);
            let Unmapped { definition: StackDefinition { at, frames, .. }, seen_at, .. } = &stack;
            let fitting = match map {
                None => parts.processes.last_map(pid).filter(|_| *at >= since),
                // An exec lies between them.
                Some(map) if (map.read_at() >= since) != (*at >= since) => {
                    if *at >= since {
                        parts.processes.ask_map(pid);
                        self.unmapped.push(stack);
                        continue;
                    }
                    None
                }
                Some(map) if parts.processes.suffices(pid, map, frames, after, *seen_at) => {
                    Some(Arc::clone(map))
                }
                Some(_) => {
                    parts.processes.ask_map(pid);
                    self.unmapped.push(stack);
                    continue;
                }
            };
            let Unmapped { owner, definition, copy, place, .. } = stack;
            self.budgets.give(Resource::UnmappedStacks, owner, 1);
            place.set(Some(self.finish(pid, definition, copy, fitting, parts)));
        }
    }

    /// The end: no more mappings are read.
    pub(super) fn give_up_unmapped(&mut self, parts: &mut Parts<'_>) {
        let pids: HashSet<Pid> = self.unmapped.iter().map(|stack| stack.pid).collect();
        for pid in pids {
            self.mapped(pid, None, parts);
        }
    }
}

/// Cuts a stack before the first caller that is no code, where the kernel side could not tell: it did
/// not know the process yet, or only a part of its code.
fn cut_at_data(definition: &mut StackDefinition, map: &ProcessMap) {
    let is_unsure = definition.stop == Stop::Unloaded || map.codes().nth(MAX_CODE).is_some();
    if map.is_truncated() || !is_unsure {
        return;
    }
    let is_data =
        |inside: u64| map.lookup(Address(inside)).is_none_or(|mapping| !mapping.executable);
    let natives = (0..).zip(&definition.frames);
    let mut natives = natives.filter_map(|(depth, frame)| Some((depth, frame.native()?.inside())));
    // The thread itself is where it is.
    natives.next();
    let Some((depth, _)) = natives.find(|&(_, inside)| is_data(inside)) else { return };
    definition.frames.truncate(depth);
    if definition.stop != Stop::Unloaded {
        definition.stop = Stop::Code;
    }
}

/// The kernel side's counter of walks that end so: they are in the order of the ends.
pub fn stop_counter(stop: Stop) -> Counter {
    Counter::ALL[Counter::StacksWhole as usize + stop as usize]
}

#[cfg(test)]
#[path = "stacks_tests.rs"]
mod tests;
