//! Stacks: where they are cut, and how they wait for the mappings of their process.

use agent_ebpf::wire::{FrameAddress, RawFrame, Runtime, RuntimeFrame};

use super::*;
use crate::{
    budget::Budgets,
    contexts::lanes::Lanes,
    process::{Change, Processes, ask::Ask},
    unwind::Unwinder,
};

#[test]
fn ends_of_walks_are_counted_in_their_order() {
    let keys = Stop::ALL.map(|stop| stop_counter(stop).key());
    assert_eq!(keys[0], "stacks_whole");
    assert_eq!(keys[Stop::Compat as usize], "stacks_32_bit");
    assert_eq!(keys[Stop::Unloaded as usize], "stacks_tables_missing");
}

#[test]
fn a_caller_is_code_or_the_stack_is_cut_before_it() {
    let maps = b"1000-2000 r-xp 00000000 fe:00 7 /bin/a\n2000-3000 rw-p 00001000 fe:00 7 /bin/a\n";
    let map = ProcessMap::parse(Pid(1), maps);
    let cut = |stop, frames: &[RawFrame]| {
        let frames = frames.to_vec();
        let mut stack = StackDefinition { tgid: 1, hash: 1, at: 1, stop, frames, copied: false };
        cut_at_data(&mut stack, &map);
        (stack.frames, stack.stop)
    };
    let unsure = Stop::Unloaded;
    let at = |address| RawFrame::Native(FrameAddress::Ip(address));
    let back = |address| RawFrame::Native(FrameAddress::ReturnAddress(address));
    let whole = [at(0x1100), back(0x1200), back(0x2000)];
    assert_eq!(cut(unsure, &whole), (whole.to_vec(), unsure), "returns to the end");
    let past = [at(0x1100), back(0x1200), at(0x2000)];
    assert_eq!(cut(unsure, &past).0, past[..2], "but is not at it");
    let found = cut(unsure, &[at(0x1100), back(0x1200), back(0x2100), at(0x1300)]);
    assert_eq!(found, (vec![at(0x1100), back(0x1200)], unsure));
    let outside = [at(0x9000), back(0x1200), back(7)];
    assert_eq!(cut(unsure, &outside).0, outside[..2], "where it is, is true");
    // Where the kernel side knew all code it has looked itself.
    let known = [at(0x1100), back(0x2100)];
    assert_eq!(cut(Stop::Frame, &known).0, known);
    // What a runtime runs has no place in the map, and is no caller that one could doubt.
    let runtime = Runtime::new(1).unwrap();
    let script = RawFrame::Runtime(RuntimeFrame { runtime, check: 0, code: 7, position: 7 });
    let mixed = [script, at(0x9000), script, back(0x1200), script, back(0x2100), script];
    assert_eq!(cut(unsure, &mixed).0, mixed[..5]);
}

#[test]
fn a_copy_waits_for_its_stack_for_one_more_round() {
    let copy = |hash| {
        Box::new(StackCopy {
            tgid: 1,
            hash,
            at: 0,
            exact: false,
            registers: [0; agent_ebpf::wire::stack::COPY_REGISTERS],
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

/// A join, and a daemon around it that has its process read when the test says so.
struct World {
    linker: Linker,
    lanes: Lanes,
    processes: Processes,
    unwinder: Unwinder,
}

impl World {
    fn new() -> Self {
        Self {
            linker: Linker::new(99, Budgets::default()),
            lanes: Lanes::default(),
            processes: Processes::host(),
            unwinder: Unwinder::default(),
        }
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Linker, &mut Parts<'_>) -> T) -> T {
        let Self { linker, lanes, processes, unwinder } = self;
        call(linker, &mut Parts { lanes, processes, unwinder })
    }

    /// A stack of this process, in its code.
    fn see(&mut self) -> SeenStack {
        let definition = StackDefinition {
            tgid: own().0,
            hash: 1,
            at: ktime::now(),
            stop: Stop::Bottom,
            frames: vec![RawFrame::Native(FrameAddress::Ip(
                World::new as fn() -> Self as usize as u64,
            ))],
            copied: false,
        };
        self.with(|linker, parts| linker.see(own(), definition, parts))
    }

    /// What is asked of the process by now.
    fn asks(&mut self) -> Vec<Ask> {
        self.processes.take_asks()
    }

    fn answered(&mut self, ask: Ask, answer: Option<crate::process::ask::Answer>) {
        let Some(Change::Mapped { pid, map }) = self.processes.answered(ask, answer) else {
            panic!("{ask:?} is about mappings");
        };
        self.with(|linker, parts| linker.mapped(pid, map.as_ref(), parts));
    }
}

fn own() -> Pid {
    Pid(std::process::id())
}

/// The stack's code is found in the mappings it was given.
fn is_mapped(stack: &SeenStack) -> bool {
    let mut stack = stack.clone();
    assert!(!stack.awaits_map());
    stack.settle(Instant::now());
    let address = Address(stack.definition.frames[0].native().unwrap().get());
    stack.map.is_some_and(|map| map.lookup(address).is_some_and(|mapping| mapping.executable))
}

#[test]
fn a_stack_waits_for_the_mappings_of_its_process() {
    let mut world = World::new();
    let (first, second) = (world.see(), world.see());
    assert!(first.awaits_map() && second.awaits_map());
    assert_eq!(world.asks(), [Ask::Map(own())], "read once for both");
    world.answered(Ask::Map(own()), Some(Ask::Map(own()).read()));
    assert!(is_mapped(&first) && is_mapped(&second));
    assert!(is_mapped(&world.see()), "at once now");
    assert_eq!(world.asks(), []);
}

#[test]
fn a_process_that_does_not_answer_keeps_no_stack_waiting() {
    let mut world = World::new();
    let stack = world.see();
    world.answered(Ask::Map(own()), None);
    assert!(!is_mapped(&stack));
    let stack = world.see();
    world.with(|linker, parts| linker.give_up_unmapped(parts));
    assert!(!is_mapped(&stack), "nor does the end");
}

#[test]
fn a_stack_is_read_by_the_mappings_of_its_own_image() {
    let mut world = World::new();
    let before = world.see();
    let answer = Ask::Map(own()).read();
    // An exec while it is being read.
    world.processes.execed(own(), &[0; 16], ktime::now());
    let after = world.see();
    world.asks();
    world.answered(Ask::Map(own()), Some(answer));
    assert!(is_mapped(&before), "of the image that is gone");
    assert!(after.awaits_map());
    assert!(world.asks().contains(&Ask::Map(own())), "asked again for the new one");
    let late = world.see();
    world.answered(Ask::Map(own()), Some(Ask::Map(own()).read()));
    assert!(is_mapped(&after) && is_mapped(&late));

    // One of an image that is gone when it is read has none.
    let mut world = World::new();
    let before = world.see();
    world.processes.execed(own(), &[0; 16], ktime::now());
    world.answered(Ask::Map(own()), Some(Ask::Map(own()).read()));
    assert!(!is_mapped(&before));
}
