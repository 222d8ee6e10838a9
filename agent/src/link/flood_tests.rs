//! Threads that announce lanes and end, without end: nothing of them stays.

use agent_ebpf::wire::{Exit, LaneSeen, RecordKind, Snapshot, state::STATES};

use super::*;
use crate::{budget::Resource, kernel::Record, model::id::Uid};

const STORM: Pid = Pid(4_000_001);
const HONEST: Pid = Pid(4_000_002);

struct World {
    linker: Linker,
    lanes: Lanes,
    processes: Processes,
    budgets: Budgets,
}

impl World {
    fn new() -> Self {
        let budgets = Budgets::default();
        budgets.set_user(STORM, Uid(1000));
        budgets.set_user(HONEST, Uid(1001));
        Self {
            linker: Linker::new(99, budgets.clone()),
            lanes: Lanes::new(budgets.clone()),
            processes: Processes::host(),
            budgets,
        }
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Linker, &mut Parts<'_>) -> T) -> T {
        let Self { linker, lanes, processes, .. } = self;
        call(linker, &mut Parts { lanes, processes, unwinder: &Unwinder::default() })
    }

    fn announce(&mut self, pid: Pid, thread: u32, va: u64) {
        let seen = LaneSeen {
            kind: RecordKind::LaneSeen as u32,
            tid: thread,
            tgid: pid.0,
            generation: 1,
            serial: thread.into(),
            va,
            at: 1_000,
            first_index: 0,
            seq: 0,
            since: 1_000,
            total: [0; STATES],
        };
        self.with(|linker, parts| linker.take(Record::LaneSeen(seen), parts));
    }

    fn exit(&mut self, pid: Pid, thread: u32) {
        let exit = Exit {
            kind: RecordKind::Exit as u32,
            tid: thread,
            tgid: pid.0,
            flags: 0,
            pad: [0; 3],
            serial: thread.into(),
            birth: 1_000,
            at: 2_000,
            exiting_at: 2_000,
            seq: 0,
            head: 0,
            comm: [0; 16],
            total: [0; STATES],
        };
        self.with(|linker, parts| linker.take(Record::Exit(exit), parts));
    }

    fn round(&mut self) {
        // Nobody is there to answer.
        for ask in self.lanes.take_asks() {
            self.lanes.answered(&ask, ask.read());
        }
        self.with(|linker, parts| linker.round(1 << 60, parts));
    }

    /// What is kept of threads.
    fn kept(&self) -> [usize; 3] {
        [self.linker.timelines.len(), self.linker.by_tid.len(), self.linker.gone.len()]
    }
}

#[test]
fn threads_whose_lanes_are_refused_leave_no_trace() {
    let mut world = World::new();
    let share = Resource::Lanes.bound().process;
    for thread in 0..20_000 {
        world.announce(STORM, 10 + thread, 0x7000_0000 + 64 * u64::from(thread));
    }
    assert_eq!(world.kept()[0] as u64, share, "as many as it may have lanes");
    assert_eq!(world.budgets.counts().get(DaemonCounter::LanesOverBudget), 20_000 - share);
    world.announce(HONEST, 5, 0x7000_0000);
    assert_eq!(world.kept()[0] as u64, share + 1, "and others as ever");
    for thread in 0..20_000 {
        world.exit(STORM, 10 + thread);
    }
    (0..40).for_each(|_| world.round());
    assert_eq!(world.kept(), [1, 1, 0], "the honest one's is there, nothing of the others");
    world.exit(HONEST, 5);
    (0..40).for_each(|_| world.round());
    assert_eq!(world.kept(), [0, 0, 0]);
    assert!(!world.linker.has_lanes(), "rounds are slow again");
}

/// Even when the records of their ends are lost.
#[test]
fn threads_that_end_unseen_are_missed() {
    let mut world = World::new();
    world.announce(STORM, 10, 0x7000_0000);
    world.announce(HONEST, 5, 0x7000_0000);
    let lives = Snapshot {
        tid: 5,
        tgid: HONEST.0,
        phase: agent_ebpf::wire::Phase::Running as u32,
        flags: 0,
        serial: 5,
        birth: 1_000,
        since: 1_000,
        at: 2_000,
        wake: 0,
        seq: 0,
        head: 0,
        start_boottime: 0,
        state: 0,
        ready: 0,
        torn: 0,
        pad: [0; 5],
        run_delay: 0,
        sum_exec: 0,
        comm: [0; 16],
        total: [0; STATES],
    };
    for _ in 0..10 {
        let World { linker, processes, .. } = &mut world;
        linker.take_totals(&[lives], false, processes);
        world.round();
    }
    world.round();
    assert_eq!(world.linker.timelines.keys().copied().collect::<Vec<_>>(), [5]);
}
