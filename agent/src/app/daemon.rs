//! The daemon: one round at a time (design 2). Take ktime W; drain all rings, then the lanes; link
//! what is older than W, the rest waits a round.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use agent_ebpf::{
    unwind::Stop,
    wire::{Counter, Snapshot},
};

use rustix::process::{getpriority_process, setpriority_process};

use super::reading::{self, Asked};
use crate::{
    budget::{Budgets, Over},
    contexts::lanes::Lanes,
    kernel::{Config, KernelError, KernelSide, Record, StartError, ktime},
    ledger::{self, Conservation, DaemonCounter, Sums, Tally},
    link::{Linker, Parts, ThreadAccount, flush::Flush, stacks::stop_counter},
    model::id::Pid,
    process::{Processes, reader::Reader},
    unwind::Unwinder,
};

pub use crate::{link::stacks::SeenStack, process::family::Root};

/// How often lanes are drained.
const ROUND: Duration = Duration::from_millis(20);
/// How often rings are, when there is no lane: they call when half full.
const ROUND_WITHOUT_LANES: Duration = Duration::from_millis(200);
/// A record is in its ring this long after the time it bears.
const SENT_WITHIN_NS: u64 = 2_000_000;
/// How often open waits are looked at, so that a thread that does not come back is still shown.
const TOTALS_EVERY: Duration = Duration::from_millis(500);
/// Rounds of draining at the end: what owners' shares of one do not reach.
const LAST_DRAINS: usize = 8;
/// How often CPUs are looked at: some may be new, or back.
const CPUS_EVERY: Duration = Duration::from_secs(1);

/// Whose time is reported.
#[derive(Clone, Debug)]
pub enum Watched {
    /// These processes and what they fork; each of their threads has an account of its own.
    Tree(Vec<Root>),
    /// Every process but ourselves.
    Host,
}

/// Records that took the long way so far.
#[derive(Debug, Default)]
struct Parked {
    exits: u64,
    lanes: u64,
}

/// Kernel side and join.
pub struct Daemon {
    pub(super) kernel: KernelSide,
    /// The join, with all it has found.
    pub linker: Linker,
    /// What the processes publish.
    pub lanes: Lanes,
    /// Who is who.
    pub processes: Processes,
    /// Who may spend how much of us.
    pub(super) budgets: Budgets,
    /// Who makes unwind tables.
    pub unwinder: Unwinder,
    /// Who asks processes.
    pub(super) reader: Reader<Asked>,
    totals_at: Instant,
    /// When the last sweep began, and the next is to.
    pub(super) swept_at: Instant,
    pub(super) sweep_at: Instant,
    parked: Parked,
    counts: Tally,
    cpus_at: Instant,
    /// Processes there were below each root when we attached, in their order.
    pub below: Vec<usize>,
}

// === impl Daemon ===

impl Daemon {
    /// Loads and attaches everything and finds what is already there.
    pub fn start(config: &Config, watched: &Watched) -> Result<Self, StartError> {
        let roots = match watched {
            Watched::Tree(roots) => &roots[..],
            Watched::Host => &[],
        };
        // Looked at before and after: a child whose parent ends in between is an orphan by then.
        let budgets = Budgets::default();
        let mut reader = reading::start(budgets.clone()).map_err(StartError::Worker)?;
        let (before, unread) = reading::family(&mut reader, roots);
        let mut kernel = KernelSide::start(config)?;
        let unwinder =
            Unwinder::spawn(kernel.take_tables()?, config.table_cache.clone(), budgets.clone());
        let unwinder = unwinder.map_err(StartError::Worker)?;
        let processes = match watched {
            Watched::Tree(_) => Processes::tree(),
            Watched::Host => Processes::host(),
        };
        let linker = Linker::new(config.hz, budgets.clone());
        let now = Instant::now();
        let mut daemon = Self {
            kernel,
            linker,
            lanes: Lanes::new(budgets.clone()),
            budgets,
            processes,
            unwinder,
            reader,
            totals_at: now,
            swept_at: now,
            sweep_at: now,
            cpus_at: now,
            parked: Parked::default(),
            counts: Tally::default(),
            below: Vec::new(),
        };
        // From here on forks are reported: who is not found now is the child of one that is.
        let at = ktime::now();
        let (now, more) = reading::family(&mut daemon.reader, roots);
        unread.into_iter().chain(more).for_each(|pid| daemon.count_unread(pid));
        for root in roots {
            let members = before.with(&now, root.pid);
            daemon.below.push(members.iter().filter(|&&member| now.has(member)).count());
            let processes = &mut daemon.processes;
            processes.add_member(root.pid, at);
            if root.alone {
                processes.set_alone(root.pid);
            } else {
                members.into_iter().for_each(|member| processes.add_member(member, at));
            }
        }
        daemon.first_sweep()?;
        Ok(daemon)
    }

    /// How long the next round can wait for when nobody calls: markers lap within tens of
    /// milliseconds, everything else can wait.
    pub fn period(&self) -> Duration {
        if self.linker.has_lanes() { ROUND } else { ROUND_WITHOUT_LANES }
    }

    /// Descriptors that become readable when the kernel side calls, or the reader.
    /// CPUs may come: others after each round.
    pub fn wake_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.kernel.wake_fds().chain([self.reader.as_fd()])
    }

    /// The join, and the parts it works with.
    pub(super) fn join(&mut self) -> (&mut Linker, Parts<'_>) {
        let Self { linker, lanes, processes, unwinder, .. } = self;
        (linker, Parts { lanes, processes, unwinder })
    }

    /// Every thread's account. It takes descriptors and memory that a crowded host may lack at this
    /// moment: then the next look has all of it, for totals only grow.
    pub(super) fn totals(&mut self) -> Option<Vec<Snapshot>> {
        match self.kernel.totals() {
            Ok(snapshots) => Some(snapshots),
            Err(error) => {
                if self.counts.get(DaemonCounter::TotalsUnread) == 0 {
                    tracing::warn!(%error, "totals of threads come late");
                }
                self.counts.add(None, DaemonCounter::TotalsUnread, 1);
                None
            }
        }
    }

    /// One round.
    pub fn round(&mut self) -> Result<(), KernelError> {
        if Instant::now() >= self.sweep_at && !self.lanes.is_sweeping() {
            self.sweep();
        }
        self.collect()?;
        // A switch-in is stamped a little before its record is sent: interrupts run in between.
        let watermark = ktime::now() - SENT_WITHIN_NS;
        self.kernel.begin_round()?;
        self.drain()?;
        if self.totals_at.elapsed() >= TOTALS_EVERY {
            self.totals_at = Instant::now();
            if let Some(snapshots) = self.totals() {
                self.linker.take_totals(&snapshots, false, &self.processes);
            }
        }
        let (linker, mut parts) = self.join();
        linker.round(watermark, &mut parts);
        self.processes.ask_who_is_over();
        self.send();
        if self.cpus_at.elapsed() >= CPUS_EVERY {
            self.cpus_at = Instant::now();
            self.kernel.look_after_cpus()?;
        }
        Ok(())
    }

    pub(super) fn drain(&mut self) -> Result<(), KernelError> {
        let mut records = Vec::new();
        self.kernel.drain(|record| records.push(record));
        // Looking through these maps costs more than a quiet round: only when there is something new.
        if is_new(&mut self.parked.lanes, self.kernel.counter(Counter::LanesParked)?) {
            records.extend(self.kernel.parked_lanes()?.into_iter().map(Record::LaneSeen));
        }
        // A process's fork, exec and lanes may sit in different rings: in order of time, or a fork
        // would undo what came after it.
        records.sort_by_key(Record::at);
        let mut publishers = BTreeSet::new();
        let Self { linker, lanes, processes, unwinder, reader, .. } = self;
        let mut parts = Parts { lanes, processes, unwinder };
        for record in records {
            match &record {
                Record::Fork(fork) => reader.renewed(Pid(fork.tgid)),
                Record::Exec(exec) => reader.renewed(Pid(exec.tgid)),
                _ => {}
            }
            publishers.extend(linker.take(record, &mut parts));
        }
        self.report_attached(publishers);
        self.send();
        if is_new(&mut self.parked.exits, self.kernel.counter(Counter::ExitsParked)?) {
            for exit in self.kernel.parked_exits()? {
                let (linker, mut parts) = self.join();
                linker.take(Record::Exit(exit), &mut parts);
            }
        }
        Ok(())
    }

    /// Everything that came since the last flush, and the accounting so far.
    pub fn flush(&mut self) -> Result<(Flush, Outcome), KernelError> {
        let counters = self.kernel.counters()?;
        let (linker, mut parts) = self.join();
        let flush = linker.flush(ktime::now(), false, &mut parts);
        self.send();
        Ok((flush, self.outcome(&counters)))
    }

    /// The last flush of a stream: takes the programs out first.
    pub fn last_flush(&mut self) -> Result<(Flush, Outcome), KernelError> {
        let counters = self.close()?;
        let (linker, mut parts) = self.join();
        let flush = linker.flush(ktime::now(), true, &mut parts);
        // The names it asks for are reported here or not at all.
        self.last_reads()?;
        Ok((flush, self.outcome(&counters)))
    }

    /// From now on every stack is sent again at its next sight.
    pub fn resend_stacks(&mut self) -> Result<(), KernelError> {
        self.kernel.resend_stacks()
    }

    /// A process that belongs to the tree from its first instant, with all it forks.
    pub fn add_root(&mut self, pid: Pid) {
        self.processes.add_member(pid, 0);
    }

    /// Spans of now and of the last seconds.
    pub fn spans_seen(&self) -> u64 {
        self.linker.spans.seen()
    }

    /// The accounts of every thread of a tree, once it is closed.
    pub fn take_threads(&mut self) -> Vec<ThreadAccount> {
        std::mem::take(&mut self.linker.threads)
    }

    fn close(&mut self) -> Result<BTreeMap<Counter, u64>, KernelError> {
        self.await_exits()?;
        self.kernel.detach()?;
        self.drain()?;
        self.last_reads()?;
        // Before the accounts are read: what is published later is after the end.
        for _ in 0..LAST_DRAINS {
            self.lanes.drain();
        }
        if let Some(snapshots) = self.totals() {
            self.linker.take_totals(&snapshots, true, &self.processes);
        }
        let (linker, mut parts) = self.join();
        linker.end(ktime::now(), &mut parts);
        self.kernel.counters()
    }

    fn outcome(&self, counters: &BTreeMap<Counter, u64>) -> Outcome {
        let linker = &self.linker;
        let mut sums = Sums::default();
        for (&counter, &n) in counters.iter().filter(|&(&counter, _)| !is_walk_end(counter)) {
            // Whose events they were is not known: a tree counts what its own threads lack.
            if ledger::Counter::from(counter).is_of_any_thread() && !self.processes.is_host() {
                sums.add_unreported(counter, n);
            } else {
                sums.add(counter, n);
            }
        }
        // The ends of walks are those of the whole host; of a tree only its own processes' tables are
        // asked for: it counts their stacks instead.
        if self.processes.is_host() {
            let in_kernel = |stop| counters.get(&stop_counter(stop)).copied().unwrap_or(0);
            for (stop, n) in self.unwinder.ends(in_kernel) {
                sums.add(stop_counter(stop), n);
            }
        }
        sums.add(DaemonCounter::SpansFlushed, linker.parts_reported);
        for (counter, n) in linker.delivered.counts().into_iter().chain(self.lanes.counts()) {
            sums.add(counter, n);
        }
        for (counter, n) in self.unwinder.counters().counts.iter() {
            sums.add(counter, n);
        }
        sums.add(DaemonCounter::TimersStopped, self.kernel.timers_stopped());
        let lanes = &self.lanes;
        let tallies = [&lanes.lost, &lanes.refused, &lanes.publishers_refusals(), &linker.counts];
        let own = [&self.budgets.counts(), &self.kernel.counts, &self.counts];
        for tally in tallies.into_iter().chain(own) {
            sums.add_tally(tally, |pid| self.processes.is_watched(pid));
        }
        let now = ktime::now();
        let over = self.budgets.over(now).into_iter();
        let over = over.map(|over| (over, self.processes.comm(over.owner.pid)));
        Outcome {
            over: over.collect(),
            conservation: sums.conservation(self.processes.is_host()),
            loss: sums.loss(),
            information: sums.information(),
        }
    }
}

/// Whether it counts how walks over user stacks end.
fn is_walk_end(counter: Counter) -> bool {
    Stop::ALL.into_iter().any(|stop| stop_counter(stop) == counter)
}

/// Whether a counter moved.
fn is_new(known: &mut u64, now: u64) -> bool {
    std::mem::replace(known, now) != now
}

/// What a run says of itself.
#[derive(Debug)]
pub struct Outcome {
    /// Per kind.
    pub conservation: BTreeMap<&'static str, Conservation>,
    /// What was lost, and what made part of the account unknown or less, by key.
    pub loss: BTreeMap<String, u64>,
    /// What was counted besides and is no loss, by key.
    pub information: BTreeMap<String, u64>,
    /// Who is over its share of what, and what it is called.
    pub(super) over: Vec<(Over, String)>,
}

/// Priority of the draining thread, where CAP_SYS_NICE allows it.
const DRAIN_NICE: i32 = -10;

/// Raises the calling thread's priority. Returns what it was before.
pub fn raise_priority() -> i32 {
    // No process, to the kernel, is the calling thread. That it has a priority cannot fail.
    let before = getpriority_process(None).unwrap_or(0);
    // Without the capability it stays as it was: a ring may then lap on an overloaded host.
    let _ = setpriority_process(None, DRAIN_NICE.min(before));
    before
}
