//! The kernel border: the only user of aya. [`KernelSide`] is what the rest of the daemon sees.

pub mod btf;
#[cfg(test)]
pub(crate) mod fixture;
pub mod kallsyms;
pub mod ktime;
pub mod load;
pub mod offsets;
pub mod programs;
pub mod records;
pub mod tables;
pub mod timer;
pub mod waits;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd},
};

use agent_ebpf::wire::{Counter, Exit, LaneRef, LaneSeen, Snapshot, settings::Live};
use aya::{
    maps::{Array, HashMap as BpfHashMap, MapError, PerCpuArray},
    programs::{Iter, Program, ProgramError},
    util::online_cpus,
};

use crate::ledger::{DaemonCounter, Tally};

pub use load::{Config, LoadError, see_tracefs};
pub use records::{Record, StackCopy, StackDefinition};

/// Why the running kernel side could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A map operation failed.
    #[error("map {0}: {1}")]
    Map(&'static str, MapError),
    /// A program operation failed.
    #[error("program {0}: {1}")]
    Program(&'static str, ProgramError),
    /// The iterator's file failed.
    #[error("reading the threads' totals: {0}")]
    Totals(io::Error),
    /// The object lacks something: a bug.
    #[error("the built-in object lacks {0}")]
    Missing(&'static str),
}

/// The loaded and attached programs. Dropping it takes everything out of the kernel.
pub struct KernelSide {
    loaded: load::Loaded,
    /// None once detached.
    timers: Option<timer::Timers>,
    /// What they counted until then.
    timers_stopped: u64,
    /// CPUs there can be no ring for.
    refused_cpus: BTreeSet<u32>,
    ring_bytes: u32,
    live: Live,
    /// Accounts that could not be made at once at the start.
    storage_baseline: u64,
    /// Records that could not be decoded: none unless this build is broken.
    pub counts: Tally,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodLive(Live);
// SAFETY: repr(C) struct of u32 without padding.
unsafe impl aya::Pod for PodLive {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodLaneRef(LaneRef);
// SAFETY: repr(C) struct of integers without padding.
unsafe impl aya::Pod for PodLaneRef {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodExit(Exit);
// SAFETY: repr(C) struct of integers without padding.
unsafe impl aya::Pod for PodExit {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodLaneSeen(LaneSeen);
// SAFETY: repr(C) struct of integers without padding.
unsafe impl aya::Pod for PodLaneSeen {}

// === impl KernelSide ===

impl KernelSide {
    /// Loads, attaches, gives every existing thread its account, starts the timer last.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let mut loaded = load::load(config)?;
        let timers = load::start_timers(&mut loaded.ebpf, config.hz)?;
        load::log_verified(&loaded.ebpf);
        tracing::debug!(clock = ?timers.clock(), exit_tp = loaded.has_exit_tp, "attached");
        let mut side = Self {
            loaded,
            timers: Some(timers),
            timers_stopped: 0,
            refused_cpus: BTreeSet::new(),
            ring_bytes: config.ring_bytes,
            live: Live::default(),
            counts: Tally::default(),
            storage_baseline: 0,
        };
        side.live.stack_generation = 1;
        side.publish_live()?;
        side.storage_baseline = side.account_existing()?;
        Ok(side)
    }

    /// Whether new lanes announce themselves.
    pub fn has_breadcrumb(&self) -> bool {
        self.loaded.has_breadcrumb
    }

    /// Gives every thread that is already there its account. The kernel hands out that memory from
    /// a small reserve it refills in between, so a crowded host takes more than one pass. Returns
    /// the failures so far: all made good, so not losses.
    fn account_existing(&mut self) -> Result<u64, KernelError> {
        const PASSES: usize = 50;
        let mut missing = self.counter(Counter::StorageMissing)?;
        for _ in 0..PASSES {
            self.totals()?;
            let now = self.counter(Counter::StorageMissing)?;
            if now == missing {
                break;
            }
            missing = now;
        }
        Ok(missing)
    }

    /// The maps that unwind tables are in, once.
    pub fn take_tables(&mut self) -> Result<tables::Tables, tables::TablesError> {
        tables::Tables::take(&mut self.loaded.ebpf)
    }

    /// Descriptors that become readable when the programs call for the daemon.
    pub fn wake_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.loaded.rings.values().map(|ring| ring.as_fd())
    }

    /// Looks after CPUs that came, or came back: each needs a timer, and its ring.
    pub fn look_after_cpus(&mut self) -> Result<(), KernelError> {
        // Without sysfs it stays as it is.
        let Ok(online) = online_cpus() else { return Ok(()) };
        let mut calls = self.by_cpu(Counter::SamplesCaptured)?;
        for (calls, idle) in calls.iter_mut().zip(self.by_cpu(Counter::SamplesIdle)?) {
            *calls += idle;
        }
        let Some(timers) = &mut self.timers else { return Ok(()) };
        for &cpu in &online {
            if self.loaded.rings.contains_key(&cpu) || self.refused_cpus.contains(&cpu) {
                continue;
            }
            match load::add_ring(&mut self.loaded.ebpf, cpu, self.ring_bytes) {
                Ok(ring) => {
                    self.loaded.rings.insert(cpu, ring);
                }
                Err(error) => {
                    self.refused_cpus.insert(cpu);
                    tracing::warn!(cpu, %error, "a new CPU has no ring: all it sends is lost");
                }
            }
        }
        timers.look(&online, &calls);
        Ok(())
    }

    /// Times a CPU was found without a timer that counts.
    pub fn timers_stopped(&self) -> u64 {
        self.timers_stopped + self.timers.as_ref().map_or(0, |timers| timers.stopped)
    }

    /// Begins a drain round: lanes that run ahead of it call for the daemon.
    pub fn begin_round(&mut self) -> Result<(), KernelError> {
        self.live.round = self.live.round.wrapping_add(1);
        self.publish_live()
    }

    /// From now on every stack is sent again at its next sight.
    pub fn resend_stacks(&mut self) -> Result<(), KernelError> {
        self.live.stack_generation = self.live.stack_generation.wrapping_add(1);
        self.publish_live()
    }

    fn publish_live(&mut self) -> Result<(), KernelError> {
        const NAME: &str = "LIVE";
        let failed = |error| KernelError::Map(NAME, error);
        let map = self.loaded.ebpf.map_mut(NAME).ok_or(KernelError::Missing(NAME))?;
        let mut map: Array<_, PodLive> = map.try_into().map_err(failed)?;
        map.set(0, PodLive(self.live), 0).map_err(failed)
    }

    /// Hands every record now in the rings to `take`.
    pub fn drain(&mut self, mut take: impl FnMut(Record)) {
        for ring in self.loaded.rings.values_mut() {
            while let Some(item) = ring.next() {
                match Record::decode(&item) {
                    Some(record) => take(record),
                    None => self.counts.add(None, DaemonCounter::RecordsUndecoded, 1),
                }
            }
        }
    }

    /// Exit records the rings had no room for.
    pub fn parked_exits(&mut self) -> Result<Vec<Exit>, KernelError> {
        Ok(self.take_parked::<PodExit>("PARKED_EXITS")?.into_iter().map(|exit| exit.0).collect())
    }

    /// Announcements of lanes the rings had no room for.
    pub fn parked_lanes(&mut self) -> Result<Vec<LaneSeen>, KernelError> {
        Ok(self
            .take_parked::<PodLaneSeen>("PARKED_LANES")?
            .into_iter()
            .map(|seen| seen.0)
            .collect())
    }

    fn take_parked<T: aya::Pod>(&mut self, name: &'static str) -> Result<Vec<T>, KernelError> {
        let failed = |error| KernelError::Map(name, error);
        let map = self.loaded.ebpf.map_mut(name).ok_or(KernelError::Missing(name))?;
        let mut map: BpfHashMap<_, u64, T> = map.try_into().map_err(failed)?;
        // One that is replaced while the map is walked moves within it, and others are seen twice.
        let parked: BTreeMap<u64, T> = map.iter().filter_map(Result::ok).collect();
        for serial in parked.keys() {
            // Without effect on one that is not there.
            let _ = map.remove(serial);
        }
        Ok(parked.into_values().collect())
    }

    /// Every thread's account, now.
    pub fn totals(&mut self) -> Result<Vec<Snapshot>, KernelError> {
        const NAME: &str = "thread_totals";
        let failed = |error| KernelError::Program(NAME, error);
        let program = self.loaded.ebpf.program_mut(NAME).ok_or(KernelError::Missing(NAME))?;
        let program: &mut Iter = program.try_into().map_err(failed)?;
        // An iterator's file can be read once; a fresh link gives a fresh file.
        let link = program.attach().map_err(failed)?;
        let link = program.take_link(link).map_err(failed)?;
        let mut file =
            link.into_file().map_err(|error| KernelError::Totals(io::Error::other(error)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(KernelError::Totals)?;
        Ok(records::snapshots(&bytes))
    }

    /// Reports to the programs the lanes that are older than they are, by host tid.
    pub fn add_lanes(&mut self, lanes: &[(u32, LaneRef)]) -> Result<(), KernelError> {
        const NAME: &str = "LANES";
        if lanes.is_empty() {
            return Ok(());
        }
        let failed = |error| KernelError::Map(NAME, error);
        let map = self.loaded.ebpf.map_mut(NAME).ok_or(KernelError::Missing(NAME))?;
        let mut map: BpfHashMap<_, u32, PodLaneRef> = map.try_into().map_err(failed)?;
        for (tid, lane) in lanes {
            // A full map costs these lanes, which the next sweep finds again, not the recording.
            if let Err(error) = map.insert(tid, PodLaneRef(*lane), 0) {
                tracing::warn!(%error, "lanes older than hotspan: no room for all");
                break;
            }
        }
        self.live.lane_epoch = self.live.lane_epoch.wrapping_add(1);
        self.publish_live()
    }

    /// Reports to the programs whether a process's segments are mapped: if not, they save the markers of
    /// its dying threads.
    pub fn set_attached(&mut self, tgid: u32, attached: bool) {
        if let Some(map) = self.loaded.ebpf.map_mut("ATTACHED")
            && let Ok(mut map) = BpfHashMap::<_, u32, u32>::try_from(map)
        {
            // A full map only means that tails are saved needlessly.
            let _ = if attached { map.insert(tgid, 1, 0) } else { map.remove(&tgid) };
        }
    }

    /// One counter, summed over CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64, KernelError> {
        Ok(self.by_cpu(counter)?.into_iter().sum())
    }

    /// One counter, by CPU.
    fn by_cpu(&self, counter: Counter) -> Result<Vec<u64>, KernelError> {
        const NAME: &str = "COUNTERS";
        let failed = |error| KernelError::Map(NAME, error);
        let map = self.loaded.ebpf.map(NAME).ok_or(KernelError::Missing(NAME))?;
        let map: PerCpuArray<_, u64> = map.try_into().map_err(failed)?;
        Ok(map.get(&(counter as u32), 0).map_err(failed)?.to_vec())
    }

    /// The programs' counters, summed over CPUs.
    pub fn counters(&self) -> Result<BTreeMap<Counter, u64>, KernelError> {
        let mut counters = BTreeMap::new();
        // Backwards: what was captured is read after what became of it, and is never less than that.
        for &counter in Counter::ALL.iter().rev() {
            counters.insert(counter, self.counter(counter)?);
        }
        if let Some(missing) = counters.get_mut(&Counter::StorageMissing) {
            *missing -= self.storage_baseline.min(*missing);
        }
        Ok(counters)
    }

    /// Takes every hook out; maps and the iterator stay, so that what was captured can be read.
    pub fn detach(&mut self) -> Result<(), KernelError> {
        self.timers_stopped = self.timers_stopped();
        self.timers = None;
        for (_, program) in self.loaded.ebpf.programs_mut() {
            let unloaded = match program {
                Program::BtfTracePoint(program) => program.unload(),
                Program::TracePoint(program) => program.unload(),
                Program::PerfEvent(program) => program.unload(),
                _ => Ok(()),
            };
            match unloaded {
                Ok(()) | Err(ProgramError::NotLoaded) => {}
                Err(error) => return Err(KernelError::Program("detach", error)),
            }
        }
        quiesce();
        Ok(())
    }
}

/// Waits until no program that was taken out still runs on any CPU: what it captured must be in the rings
/// before they are read for the last time. Programs run in RCU read-side sections, and this command is
/// `synchronize_rcu` (kernel/sched/membarrier.c). Refused where CPUs run without ticks: then a record of that
/// moment may be missing.
fn quiesce() {
    // SAFETY: no memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "membarrier");
    }
}

/// Why the kernel side did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Loading or attaching.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// First words to the programs.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The maps of unwind tables.
    #[error(transparent)]
    Tables(#[from] tables::TablesError),
    /// The thread that makes unwind tables.
    #[error("cannot start the unwind thread: {0}")]
    Worker(io::Error),
}
