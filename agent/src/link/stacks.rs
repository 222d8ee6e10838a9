//! Stacks as they were defined, and what it takes to name them: the mappings of that moment, and the
//! frames that are told late where the kernel side had no tables.

use std::{collections::HashMap, sync::Arc, time::Instant};

use agent_ebpf::{unwind::Stop, wire::Counter};

use super::Linker;
use crate::{
    kernel::{StackCopy, StackDefinition},
    process::{id::Pid, maps::ProcessMap},
    unwind::Late,
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
    /// Where its frames will be told if the kernel side had no tables for it.
    pub late: Option<Arc<Late>>,
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
    /// Waits until `deadline` for frames that are told late.
    pub fn settle(&mut self, deadline: Instant) {
        if let Some(walked) = self.late.take().and_then(|late| late.wait(deadline)) {
            self.definition.frames = walked.frames;
            self.definition.exact = walked.exact;
            self.definition.stop = walked.stop;
        }
    }
}

// === impl Linker ===

impl Linker {
    /// A stack as it will be named: with the mappings of now, because later the addresses may mean
    /// something else, and with its frames asked for where the kernel side had no tables.
    pub(super) fn see(&mut self, pid: Pid, definition: StackDefinition) -> SeenStack {
        if definition.tgid == 0 {
            return SeenStack { definition, map: None, late: None };
        }
        let wanted = definition.stop == Stop::Unloaded;
        let copy = self.copies.take(definition.hash);
        let after = copy.as_ref().map(|copy| copy.at);
        let map = self.processes.saw_stack(pid, &definition.frames, after);
        let asked = map.clone().filter(|_| wanted);
        let late = asked.and_then(|map| self.unwinder.wanted(map, &definition.frames, copy));
        // Of the host the kernel side counts every walk; of a recording, its own processes' stacks.
        if self.memory.is_none() && definition.stop != Stop::Bottom && late.is_none() {
            *self.counts.entry((pid, stop_key(definition.stop))).or_default() += 1;
        }
        SeenStack { definition, map, late }
    }
}

/// The kernel side's counter of walks that end so: they are in the order of the ends.
pub fn stop_counter(stop: Stop) -> Counter {
    Counter::ALL[Counter::StacksWhole as usize + stop as usize]
}

/// The name under which stacks that end so are counted.
pub fn stop_key(stop: Stop) -> &'static str {
    stop_counter(stop).key()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_walks_are_counted_in_their_order() {
        let keys = Stop::ALL.map(stop_key);
        assert_eq!(keys[0], "stacks_whole");
        assert_eq!(keys[Stop::Compat as usize], "stacks_32_bit");
        assert_eq!(keys[Stop::Unloaded as usize], "stacks_tables_missing");
    }

    #[test]
    fn a_copy_waits_for_its_stack_for_one_more_round() {
        let copy = |hash| {
            Box::new(StackCopy {
                tgid: 1,
                hash,
                at: 0,
                exact: false,
                registers: [0; agent_ebpf::wire::record::COPY_REGISTERS],
                bytes: Vec::new(),
            })
        };
        let mut copies = Copies::default();
        copies.keep(copy(1));
        copies.keep(copy(2));
        copies.end_round();
        assert_eq!(copies.take(1).map(|copy| copy.hash), Some(1));
        copies.end_round();
        assert!(copies.take(2).is_none());
    }
}
