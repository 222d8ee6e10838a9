//! Unwind tables for the kernel side: which files' tables are needed, making them off the hot path,
//! and walking the stacks that came before them.
//!
//! ```text
//! stack whose tables were wanted ─► worker ─┬► slab of the process      ─► kernel::tables
//!      (with its copy and mappings)         ├► file ─► ELF ─► cfi ─► table ─► chunks
//!                                           └► walk of the copy ─► Late, which naming waits for
//! ```
//! One thread does it all, so nothing here is locked. Files are other people's: whatever they hold
//! costs their own stacks at worst. What a file's parser may not do is take the daemon down, so it
//! is bounded in memory and time, and a panic in it is an answer like another (`image`).

pub mod cache;
pub mod cfi;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod go;
pub mod image;
pub mod late;
mod rules;
mod space;
pub mod table;
mod tables;
mod walk;
mod worker;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Sender, channel},
    },
    thread,
};

use agent_ebpf::{
    unwind::Stop,
    wire::{FrameAddress, RawFrame},
};

use crate::{
    budget::{Budgets, Owner, Resource},
    kernel::{StackCopy, tables::Tables as Maps},
    ledger::{AtomicTally, DaemonCounter},
    model::id::Pid,
    process::maps::ProcessMap,
};
pub use late::Late;

/// Stacks waiting without a copy ([`Resource::UnwindStacks`] bounds all): nothing is reported late for them.
const MAX_WAITING_UNCOPIED: usize = 32;

/// What the worker is asked.
enum Job {
    /// A stack of a process lacked tables: make them, and walk its copy if there is one.
    Wanted {
        map: Arc<ProcessMap>,
        owner: Owner,
        addresses: Vec<FrameAddress>,
        copy: Option<(Box<StackCopy>, Arc<Late>)>,
    },
    /// The mappings of a process changed at this time.
    Remapped(Pid, u64),
    /// Nobody asks for a process's stacks.
    Unreported(Pid),
    /// A process is gone.
    Gone(Pid),
}

/// What became of files and stacks.
#[derive(Debug, Default)]
pub struct Counters {
    /// Files with tables.
    pub files: AtomicU64,
    /// Files without any: code is followed by frame pointer.
    pub files_bare: AtomicU64,
    /// Bytes of tables and slabs in the kernel.
    pub bytes: AtomicU64,
    /// Copies of stacks walked here, by how the walk ended.
    pub walked: [AtomicU64; Stop::ALL.len()],
    /// What goes into the accounts.
    pub counts: AtomicTally,
}

/// The worker, as its users see it. It ends when this is dropped.
#[derive(Clone, Debug, Default)]
pub struct Unwinder {
    jobs: Option<Sender<Job>>,
    counters: Arc<Counters>,
    /// Stacks whose turn has not come.
    waiting: Arc<AtomicUsize>,
    budgets: Budgets,
}

// === impl Unwinder ===

impl Unwinder {
    /// Starts the worker. `cache`: a folder for tables of large files, ours alone.
    pub fn spawn(maps: Maps, cache: Option<PathBuf>, budgets: Budgets) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        let unwinder = Self { jobs: Some(jobs), budgets: budgets.clone(), ..Self::default() };
        let (counters, waiting) = (Arc::clone(&unwinder.counters), Arc::clone(&unwinder.waiting));
        thread::Builder::new().name("hotspan-unwind".into()).spawn(move || {
            worker::Worker::new(maps, cache, counters, budgets).serve(&queue, &waiting);
        })?;
        Ok(unwinder)
    }

    /// A stack of `map`'s process lacked tables. With its copy, it will be reported in what is returned.
    pub fn wanted(
        &self,
        map: Arc<ProcessMap>,
        frames: &[RawFrame],
        copy: Option<Box<StackCopy>>,
    ) -> Option<Arc<Late>> {
        let owner = self.budgets.owner(map.pid());
        if copy.is_none() && self.waiting.load(Relaxed) >= MAX_WAITING_UNCOPIED {
            return None;
        }
        if !self.budgets.try_take(Resource::UnwindStacks, owner, 1) {
            // Too many at once is no greed: they are new when a program begins.
            self.counters.counts.add(DaemonCounter::UnwindUnanswered, u64::from(copy.is_some()));
            return None;
        }
        self.waiting.fetch_add(1, Relaxed);
        let late = copy.is_some().then(|| Arc::new(Late::default()));
        let copy = copy.zip(late.clone());
        let addresses = frames.iter().filter_map(|frame| frame.native()).collect();
        let sent = self.send(Job::Wanted { map, owner, addresses, copy });
        if !sent {
            self.budgets.give(Resource::UnwindStacks, owner, 1);
        }
        late.filter(|_| sent)
    }

    /// The mappings of a process changed at `at`, ktime.
    pub fn remapped(&self, pid: Pid, at: u64) {
        self.send(Job::Remapped(pid, at));
    }

    /// Nobody asks for a process's stacks: it is to send no copies of them.
    pub fn unreported(&self, pid: Pid) {
        self.send(Job::Unreported(pid));
    }

    /// A process is gone.
    pub fn gone(&self, pid: Pid) {
        self.send(Job::Gone(pid));
    }

    /// How the walks of the whole host ended, those that were taken here from copies included;
    /// `in_kernel` is how often one ended so there.
    pub fn ends(&self, in_kernel: impl Fn(Stop) -> u64) -> [(Stop, u64); Stop::ALL.len()] {
        let late = |stop: Stop| self.counters.walked[stop as usize].load(Relaxed);
        let again: u64 = Stop::ALL.into_iter().map(late).sum();
        Stop::ALL.map(|stop| {
            let ended = in_kernel(stop) + late(stop);
            // Whatever was walked here had ended there for want of tables.
            (stop, if stop == Stop::Unloaded { ended.saturating_sub(again) } else { ended })
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is small always has room: a process must not be forgotten because the worker is busy.
    fn send(&self, job: Job) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }
}

// === impl Counters ===

impl Counters {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }
}
