//! Every map: who writes it, who reads it, how big it is.

use agent_ebpf::{
    sampling::Bucket,
    unwind::{
        Exe, ProcessCode,
        table::{CHUNKS as CHUNK_SLOTS, Chunk, EXES as EXE_SLOTS, PROCESSES, RULES as RULE_SLOTS},
    },
    wire::{self, Counter, LaneRef, Thread, settings::Live},
};
use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};

use crate::code::Walk;

/// Most CPUs the rings are made for.
pub(crate) const MAX_CPUS: usize = 1024;

/// One ring per CPU, made and put in by the daemon; written by every program on that CPU.
#[btf_map]
pub(crate) static RINGS: ArrayOfMaps<RingBuf<u8, 4096>, MAX_CPUS> = ArrayOfMaps::new();

/// Named counters, slot by `Counter`; only ever added to.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::ALL.len() }> = PerCpuArray::new();

/// Lanes of threads that had one before the programs were attached; written by the daemon.
#[btf_map]
pub(crate) static LANES: HashMap<u32, LaneRef, 65536, 1> = HashMap::new();

/// Processes whose segments the daemon has mapped (key: tgid); written by the daemon.
#[btf_map]
pub(crate) static ATTACHED: HashMap<u32, u32, 32768, 1> = HashMap::new();

/// What the daemon changes while running, see [`Live`].
#[btf_map]
pub(crate) static LIVE: Array<Live, 1> = Array::new();

/// Stacks sent by this CPU: hash and generation, in the slot its hash gives. An array, because an LRU
/// hash takes a spin lock that a sample in NMI context could find held on its own CPU. A collision
/// only sends a stack again.
#[btf_map]
pub(crate) static STACKS_SEEN: PerCpuArray<[u64; 2], STACK_SLOTS> = PerCpuArray::new();

/// Slots of `STACKS_SEEN`, a power of two.
pub(crate) const STACK_SLOTS: usize = 8192;

/// Exit records the ring had no room for, by thread serial; emptied by the daemon.
#[btf_map]
pub(crate) static PARKED_EXITS: HashMap<u64, wire::Exit, 16384, 1> = HashMap::new();

/// Announcements of lanes the ring had no room for, by thread serial; emptied by the daemon.
#[btf_map]
pub(crate) static PARKED_LANES: HashMap<u64, wire::LaneSeen, 16384, 1> = HashMap::new();

/// What a CPU keeps for itself.
#[btf_map]
pub(crate) static CPU: PerCpuArray<Cpu, 1> = PerCpuArray::new();

/// A stack under construction, one per kind of program: an NMI sample can interrupt a switch, and a
/// switch the iterator.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<wire::Stack, 3> = PerCpuArray::new();

/// A walk under way, one per kind of program.
#[btf_map]
pub(crate) static WALKS: PerCpuArray<Walk, 2> = PerCpuArray::new();

/// A copy of a stack under construction, one per kind of program.
#[btf_map]
pub(crate) static COPIES: PerCpuArray<wire::StackCopy, 2> = PerCpuArray::new();

/// `BPF_F_MMAPABLE`: the daemon fills these arrays without a call per element.
const MMAPABLE: usize = 1 << 10;

/// Rows, indexes and slabs; see `agent_ebpf::unwind::table`. Made and filled by the daemon.
#[btf_map]
pub(crate) static CHUNKS: ArrayOfMaps<Array<Chunk, 1, MMAPABLE>, CHUNK_SLOTS> = ArrayOfMaps::new();

/// Every rule that rows refer to; filled by the daemon.
#[btf_map]
pub(crate) static RULES: Array<u64, RULE_SLOTS, MMAPABLE> = Array::new();

/// Every file with code in a slab; filled by the daemon, `used` by the walks.
#[btf_map]
pub(crate) static EXES: Array<Exe, EXE_SLOTS, MMAPABLE> = Array::new();

/// Slabs by tgid. Preallocated: samples in NMI context add to it.
#[btf_map]
pub(crate) static PROCESS_CODE: HashMap<u32, ProcessCode, PROCESSES> = HashMap::new();

/// A marker tail under construction.
#[btf_map]
pub(crate) static TAIL: PerCpuArray<wire::Tail, 1> = PerCpuArray::new();

/// An exit record under construction.
#[btf_map]
pub(crate) static EXIT: PerCpuArray<wire::Exit, 1> = PerCpuArray::new();

/// A name under construction.
#[btf_map]
pub(crate) static NAME: PerCpuArray<wire::Name, 1> = PerCpuArray::new();

/// A lane announcement under construction.
#[btf_map]
pub(crate) static LANE_SEEN: PerCpuArray<wire::LaneSeen, 1> = PerCpuArray::new();

/// A snapshot under construction.
#[btf_map]
pub(crate) static SNAPSHOT: PerCpuArray<wire::Snapshot, 1> = PerCpuArray::new();

/// Scratch slot of the scheduler programs.
pub(crate) const SCRATCH_SWITCH: u32 = 0;
/// Scratch slot of the timer program.
pub(crate) const SCRATCH_SAMPLE: u32 = 1;
/// Scratch slot of the iterator.
pub(crate) const SCRATCH_TOTALS: u32 = 2;

/// A CPU's own words.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Cpu {
    /// Budget of wait stacks.
    pub bucket: Bucket,
    /// Last thread serial given out on this CPU.
    pub serial: u64,
    /// Last forced wakeup of the daemon, ns.
    pub woken_at: u64,
    /// Thread whose switch-in was seen here last and has nothing left to do in its own context;
    /// 0 for none. Spares most resumptions the look at their account.
    pub settled_tid: u32,
    /// 0
    pub pad: u32,
}

/// Task storage is not in aya: this is its BTF map definition (kernel uapi bpf.h,
/// `BPF_MAP_TYPE_TASK_STORAGE` = 29, `BPF_F_NO_PREALLOC` required, no `max_entries`).
#[repr(C)]
pub(crate) struct TaskStorage<V> {
    r#type: *const [i32; 29],
    key: *const i32,
    value: *const V,
    map_flags: *const [i32; 1],
}

// SAFETY: the fields are placeholders that the loader reads from BTF; nothing dereferences them.
unsafe impl<V> Sync for TaskStorage<V> {}

impl<V> TaskStorage<V> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

/// Each thread's account; freed by the kernel with the thread.
#[btf_map]
pub(crate) static THREADS: TaskStorage<Thread> = TaskStorage::new();

/// Adds `n` to a counter of this CPU.
#[inline(always)]
pub(crate) fn count_by(counter: Counter, n: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // The timer can interrupt another program on this CPU between load and store; conservation
        // is exact, so the add is one instruction (the compiler offers no atomics for this target).
        // SAFETY: per-CPU slot from the map, 8-aligned.
        unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) slot, in(reg) n) };
    }
}

/// Adds one to the counter `after` another: for counters in the order of something else.
#[inline(always)]
pub(crate) fn count_after(counter: Counter, after: u32) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32 + after) {
        // SAFETY: as in `count_by`.
        unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) slot, in(reg) 1u64) };
    }
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_by(counter, 1);
}

/// The daemon's words.
#[inline(always)]
pub(crate) fn live() -> Live {
    match LIVE.get(0) {
        Some(live) => *live,
        None => Live { lane_epoch: 0, stack_generation: 0, round: 0, pad: 0 },
    }
}
