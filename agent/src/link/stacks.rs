//! Stacks as they were defined, and what it takes to name them: the mappings of that moment, and the
//! frames that are told late where the kernel side had no tables.

use std::{collections::HashMap, sync::Arc, time::Instant};

use agent_ebpf::{
    unwind::{Stop, table::MAX_CODE},
    wire::Counter,
};

use super::{Linker, Parts};
use crate::{
    kernel::{StackCopy, StackDefinition},
    model::id::Pid,
    process::maps::{Address, ProcessMap},
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
    pub(super) fn see(
        &mut self,
        pid: Pid,
        mut definition: StackDefinition,
        parts: &mut Parts<'_>,
    ) -> SeenStack {
        if definition.tgid == 0 {
            return SeenStack { definition, map: None, late: None };
        }
        let wanted = definition.stop == Stop::Unloaded;
        let copy = self.copies.take(definition.hash);
        let after = copy.as_ref().map(|copy| copy.at);
        let map = parts.processes.saw_stack(pid, &definition.frames, after);
        if let Some(map) = &map {
            cut_at_data(&mut definition, map);
        }
        let asked = map.clone().filter(|_| wanted);
        let late = asked.and_then(|map| parts.unwinder.wanted(map, &definition.frames, copy));
        // Of the host the kernel side counts every walk; of a recording, its own processes' stacks.
        if !parts.processes.is_host() && definition.stop != Stop::Bottom && late.is_none() {
            self.counts.add(pid, stop_counter(definition.stop), 1);
        }
        SeenStack { definition, map, late }
    }
}

/// Cuts a stack before the first caller that is no code, where the kernel side could not tell: it did
/// not know the process yet, or only a part of its code.
fn cut_at_data(definition: &mut StackDefinition, map: &ProcessMap) {
    let is_unsure = definition.stop == Stop::Unloaded || map.codes().nth(MAX_CODE).is_some();
    if map.is_truncated() || !is_unsure {
        return;
    }
    let is_data = |(depth, &frame): (usize, &u64)| {
        let inside = frame.saturating_sub(u64::from(!definition.exact.contains(&depth)));
        map.lookup(Address(inside)).is_none_or(|mapping| !mapping.executable)
    };
    // The thread itself is where it is.
    let Some(depth) = (1..).zip(definition.frames.iter().skip(1)).position(is_data) else { return };
    definition.frames.truncate(depth + 1);
    definition.exact.retain(|&exact| exact <= depth);
    if definition.stop != Stop::Unloaded {
        definition.stop = Stop::Code;
    }
}

/// The kernel side's counter of walks that end so: they are in the order of the ends.
pub fn stop_counter(stop: Stop) -> Counter {
    Counter::ALL[Counter::StacksWhole as usize + stop as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_walks_are_counted_in_their_order() {
        let keys = Stop::ALL.map(|stop| stop_counter(stop).key());
        assert_eq!(keys[0], "stacks_whole");
        assert_eq!(keys[Stop::Compat as usize], "stacks_32_bit");
        assert_eq!(keys[Stop::Unloaded as usize], "stacks_tables_missing");
    }

    #[test]
    fn a_caller_is_code_or_the_stack_is_cut_before_it() {
        let maps =
            b"1000-2000 r-xp 00000000 fe:00 7 /bin/a\n2000-3000 rw-p 00001000 fe:00 7 /bin/a\n";
        let map = ProcessMap::parse(Pid(1), maps);
        let cut = |stop, frames: &[u64], exact: &[usize]| {
            let (frames, exact) = (frames.to_vec(), exact.to_vec());
            let mut stack =
                StackDefinition { tgid: 1, hash: 1, at: 1, stop, frames, exact, copied: false };
            cut_at_data(&mut stack, &map);
            (stack.frames, stack.exact, stack.stop)
        };
        let unsure = Stop::Unloaded;
        let whole = vec![0x1100, 0x1200, 0x2000];
        assert_eq!(
            cut(unsure, &whole, &[0]),
            (whole.clone(), vec![0], unsure),
            "returns to the end"
        );
        assert_eq!(cut(unsure, &whole, &[2]).0, [0x1100, 0x1200], "but is not at it");
        let found = cut(unsure, &[0x1100, 0x1200, 0x2100, 0x1300], &[0, 3]);
        assert_eq!(found, (vec![0x1100, 0x1200], vec![0], unsure));
        assert_eq!(
            cut(unsure, &[0x9000, 0x1200, 7], &[0]).0,
            [0x9000, 0x1200],
            "where it is, is true"
        );
        // Where the kernel side knew all code it has looked itself.
        assert_eq!(cut(Stop::Frame, &[0x1100, 0x2100], &[0]).0, [0x1100, 0x2100]);
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
