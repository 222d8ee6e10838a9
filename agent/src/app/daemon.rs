//! The daemon: one round at a time (design 2). Take ktime W; drain all rings, then the lanes; link
//! what is older than W, the rest waits a round.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::RawFd,
    time::{Duration, Instant},
};

use agent_ebpf::{
    unwind::Stop,
    wire::{Counter, Snapshot},
};

use crate::{
    contexts::lanes::Lanes,
    document::span::Conservation,
    kernel::{Config, KernelError, KernelSide, Record, StartError, ktime},
    link::{
        Linker, Parts, ThreadAccount,
        flush::Flush,
        stacks::{stop_counter, stop_key},
    },
    model::id::Pid,
    process::{Processes, family::Family, procfs},
    unwind::Unwinder,
};

pub use crate::{link::stacks::SeenStack, process::family::Root};

/// How often lanes are drained.
const ROUND: Duration = Duration::from_millis(20);
/// How often rings are, when there is no lane: they call when half full.
const ROUND_WITHOUT_LANES: Duration = Duration::from_millis(200);
/// A record is in its ring this long after the time it bears.
const SENT_WITHIN_NS: u64 = 2_000_000;
/// How long the end waits for the last switch of threads that are gone.
const LAST_SWITCH: Duration = Duration::from_millis(200);
/// How often open waits are looked at, so that a thread that does not come back is still shown.
const TOTALS_EVERY: Duration = Duration::from_millis(500);
/// How often CPUs are looked at: some may be new, or back.
const CPUS_EVERY: Duration = Duration::from_secs(1);
/// How often processes without a segment are looked at again.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The same where it could not be finished.
const SWEEP_AGAIN: Duration = Duration::from_secs(1);
/// The same where new lanes do not announce themselves.
const SWEEP_EVERY_BLIND: Duration = Duration::from_millis(200);

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
    kernel: KernelSide,
    /// The join, with all it has found.
    pub linker: Linker,
    /// What the processes publish.
    pub lanes: Lanes,
    /// Who is who.
    pub processes: Processes,
    /// Who makes unwind tables.
    pub unwinder: Unwinder,
    totals_at: Instant,
    sweep_at: Instant,
    parked: Parked,
    /// Times the threads' totals could not be read.
    totals_unread: u64,
    cpus_at: Instant,
    /// Descriptors came since that was last asked.
    new_fds: bool,
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
        let before = Family::of_roots(roots);
        let mut kernel = KernelSide::start(config)?;
        let unwinder = Unwinder::spawn(kernel.take_tables()?, config.table_cache.clone());
        let unwinder = unwinder.map_err(StartError::Worker)?;
        let processes = match watched {
            Watched::Tree(_) => Processes::tree(),
            Watched::Host => Processes::host(),
        };
        let linker = Linker::new(config.hz);
        let now = Instant::now();
        let mut daemon = Self {
            kernel,
            linker,
            lanes: Lanes::default(),
            processes,
            unwinder,
            totals_at: now,
            sweep_at: now,
            cpus_at: now,
            new_fds: false,
            parked: Parked::default(),
            totals_unread: 0,
            below: Vec::new(),
        };
        // From here on forks are told: who is not found now is the child of one that is.
        let at = ktime::now();
        let now = Family::of_roots(roots);
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
        daemon.sweep()?;
        Ok(daemon)
    }

    /// How long the next round can wait for when nobody calls: markers lap within tens of
    /// milliseconds, everything else can wait.
    pub fn period(&self) -> Duration {
        if self.linker.has_lanes() { ROUND } else { ROUND_WITHOUT_LANES }
    }

    /// Descriptors that become readable when the kernel side calls.
    pub fn wake_fds(&self) -> Vec<RawFd> {
        self.kernel.wake_fds()
    }

    /// Whether those are others than at the last call: CPUs may come.
    pub fn has_new_wake_fds(&mut self) -> bool {
        std::mem::take(&mut self.new_fds)
    }

    /// The join, and the parts it works with.
    fn join(&mut self) -> (&mut Linker, Parts<'_>) {
        let Self { linker, lanes, processes, unwinder, .. } = self;
        (linker, Parts { lanes, processes, unwinder })
    }

    fn sweep(&mut self) -> Result<(), KernelError> {
        let every = if self.kernel.has_breadcrumb() { SWEEP_EVERY } else { SWEEP_EVERY_BLIND };
        self.sweep_at = Instant::now() + every;
        let owners = self.lanes.sweep(Pid(std::process::id()));
        let Some(snapshots) = self.totals() else {
            // The lanes it found are nobody's until then.
            self.sweep_at = Instant::now() + SWEEP_AGAIN;
            return Ok(());
        };
        let (linker, mut parts) = self.join();
        let (lanes, pids) = linker.adopt(&owners, &snapshots, &mut parts);
        self.kernel.add_lanes(&lanes)?;
        self.tell_attached(pids);
        Ok(())
    }

    /// Of a process with a lane that cannot be read here the kernel side saves what it can.
    fn tell_attached(&mut self, pids: impl IntoIterator<Item = Pid>) {
        for pid in pids {
            self.kernel.set_attached(pid.0, self.lanes.is_whole(pid));
        }
    }

    /// Every thread's account. It takes descriptors and memory that a crowded host may lack at this
    /// moment: then the next look has all of it, for totals only grow.
    fn totals(&mut self) -> Option<Vec<Snapshot>> {
        match self.kernel.totals() {
            Ok(snapshots) => Some(snapshots),
            Err(error) => {
                if self.totals_unread == 0 {
                    tracing::warn!(%error, "totals of threads come late");
                }
                self.totals_unread += 1;
                None
            }
        }
    }

    /// One round.
    pub fn round(&mut self) -> Result<(), KernelError> {
        if Instant::now() >= self.sweep_at {
            self.sweep()?;
        }
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
        if self.cpus_at.elapsed() >= CPUS_EVERY {
            self.cpus_at = Instant::now();
            self.new_fds |= self.kernel.look_after_cpus()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), KernelError> {
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
        let (linker, mut parts) = self.join();
        for record in records {
            publishers.extend(linker.take(record, &mut parts));
        }
        self.tell_attached(publishers);
        if is_new(&mut self.parked.exits, self.kernel.counter(Counter::ExitsParked)?) {
            for exit in self.kernel.parked_exits()? {
                let (linker, mut parts) = self.join();
                linker.take(Record::Exit(exit), &mut parts);
            }
        }
        Ok(())
    }

    /// Everything that came since the last flush, and the books so far.
    pub fn flush(&mut self) -> Result<(Flush, Outcome), KernelError> {
        let counters = self.kernel.counters()?;
        let (linker, mut parts) = self.join();
        let flush = linker.flush(ktime::now(), false, &mut parts);
        Ok((flush, self.outcome(&counters)))
    }

    /// The last flush of a stream: takes the programs out first.
    pub fn last_flush(&mut self) -> Result<(Flush, Outcome), KernelError> {
        let counters = self.close()?;
        let (linker, mut parts) = self.join();
        let flush = linker.flush(ktime::now(), true, &mut parts);
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
        // A process is over when its last thread says so, which is before that thread's last switch.
        let deadline = Instant::now() + LAST_SWITCH;
        while self.awaits_exits() && Instant::now() < deadline {
            self.kernel.begin_round()?;
            self.drain()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        self.kernel.detach()?;
        self.drain()?;
        // Before the accounts are read: what is published later is after the end.
        self.lanes.drain();
        if let Some(snapshots) = self.totals() {
            self.linker.take_totals(&snapshots, true, &self.processes);
        }
        let (linker, mut parts) = self.join();
        linker.end(ktime::now(), &mut parts);
        self.kernel.counters()
    }

    /// Whether the last switch of a thread that is gone is still to be told: its process was seen to be
    /// over a moment before it.
    fn awaits_exits(&self) -> bool {
        self.linker.open_processes().into_iter().any(|pid| !procfs::is_alive(pid))
    }

    fn outcome(&self, counters: &BTreeMap<Counter, u64>) -> Outcome {
        let linker = &self.linker;
        let get = |counter: Counter| counters.get(&counter).copied().unwrap_or(0);
        let delivered = linker.delivered;
        let rings = [
            ("samples", Counter::SamplesCaptured, delivered.samples, Counter::SamplesRingFull),
            (
                "intervals",
                Counter::IntervalsCaptured,
                delivered.intervals,
                Counter::IntervalsRingFull,
            ),
            (
                "interval_ns",
                Counter::IntervalNsCaptured,
                delivered.interval_ns,
                Counter::IntervalNsRingFull,
            ),
            ("stacks", Counter::StacksCaptured, delivered.stacks, Counter::StacksRingFull),
            (
                "stack_copies",
                Counter::StackCopiesCaptured,
                delivered.stack_copies,
                Counter::StackCopiesRingFull,
            ),
        ];
        let mut conservation: BTreeMap<&'static str, Conservation> = rings
            .into_iter()
            .map(|(kind, captured, delivered, full)| {
                let lost = BTreeMap::from([("ring_full", get(full))]);
                (kind, balance(get(captured), delivered, 0, lost))
            })
            .collect();
        // Every walk over user frames: whole, or cut for a reason. Of a tree only its own processes'
        // tables are asked for, so most others' walks are cut.
        if self.processes.is_host() {
            let ends = self.ends(&get);
            let lost = ends.into_iter().filter(|(stop, _)| *stop != Stop::Bottom);
            let lost = lost.map(|(stop, n)| (stop_key(stop), n)).collect();
            let walks = ends.iter().map(|(_, n)| n).sum();
            conservation.insert("walks", balance(walks, ends[Stop::Bottom as usize].1, 0, lost));
        }
        let (unseen_samples, _) = linker.spans.unseen();
        if let Some(samples) = conservation.get_mut("samples")
            && unseen_samples > 0
        {
            samples.delivered -= unseen_samples;
            samples.lost.insert("samples_over_budget".to_owned(), unseen_samples);
        }
        // The lanes count what they know of; the kernel side what died with a lane it could not announce.
        let unsaved = get(Counter::TailMarkersLost);
        let mut lost = BTreeMap::from([("tail_markers_lost", unsaved)]);
        for ((_, reason), n) in &self.lanes.lost {
            *lost.entry(reason).or_default() += n;
        }
        let lanes = &self.lanes;
        conservation.insert(
            "markers",
            balance(lanes.captured + unsaved, lanes.delivered, lanes.in_flight, lost),
        );
        if linker.parts_told > 0 {
            let parts = linker.parts_told;
            conservation.insert("spans", balance(parts, parts, 0, BTreeMap::new()));
        }
        Outcome { conservation, loss: self.loss(&get) }
    }

    /// How walks ended.
    fn ends(&self, get: &dyn Fn(Counter) -> u64) -> [(Stop, u64); Stop::ALL.len()] {
        self.unwinder.ends(|stop| get(stop_counter(stop)))
    }

    /// Everything that was lost, and everything that made part of the account unknown.
    fn loss(&self, get: &dyn Fn(Counter) -> u64) -> BTreeMap<String, u64> {
        const LOSSES: [Counter; 17] = [
            Counter::SamplesRingFull,
            Counter::IntervalsRingFull,
            Counter::StacksRingFull,
            Counter::StackCopiesRingFull,
            Counter::StacksOverBudget,
            Counter::LifecycleRingFull,
            Counter::ExitsParked,
            Counter::LanesParked,
            Counter::ExitsLost,
            Counter::ExitNsLost,
            Counter::StorageMissing,
            Counter::LaneUnreadable,
            Counter::LaneMismatch,
            Counter::LanesRefused,
            Counter::KernelStackFailed,
            Counter::TailMarkersLost,
            Counter::NegativeClamped,
        ];
        let mut loss = BTreeMap::new();
        let mut add = |key: &str, n: u64| {
            if n > 0 {
                *loss.entry(key.to_owned()).or_default() += n;
            }
        };
        for counter in LOSSES {
            add(counter.key(), get(counter));
        }
        let linker = &self.linker;
        if self.processes.is_host() {
            for (stop, n) in self.ends(get).into_iter().filter(|(stop, _)| *stop != Stop::Bottom) {
                add(stop_key(stop), n);
            }
        }
        for (key, n) in self.unwinder.counters().losses() {
            add(key, n);
        }
        // Where a loss has a process, only the recorded ones' are this report's.
        let tallies = self.lanes.lost.iter().chain(&self.lanes.refused).chain(&linker.counts);
        for ((pid, reason), n) in tallies {
            if self.processes.is_watched(*pid) {
                add(reason, *n);
            }
        }
        add("spans_table_full", self.linker.spans.refused);
        let (unseen_samples, unseen_waits) = linker.spans.unseen();
        add("samples_over_budget", unseen_samples);
        add("wait_stacks_over_budget", unseen_waits);
        for (pid, reason, n) in self.lanes.publishers_refusals() {
            if self.processes.is_watched(pid) {
                add(reason, n);
            }
        }
        add("totals_unread", self.totals_unread);
        add("records_undecoded", self.kernel.undecoded);
        add("timers_stopped", self.kernel.timers_stopped());
        loss
    }
}

/// Whether a counter moved.
fn is_new(known: &mut u64, now: u64) -> bool {
    std::mem::replace(known, now) != now
}

/// One kind's balance.
fn balance(
    captured: u64,
    delivered: u64,
    in_flight: u64,
    lost: BTreeMap<&'static str, u64>,
) -> Conservation {
    let lost = lost.into_iter().filter(|(_, n)| *n > 0);
    Conservation {
        captured,
        delivered,
        in_flight: in_flight as i64,
        spooled: 0,
        lost: lost.map(|(reason, n)| (reason.to_owned(), n)).collect(),
    }
}

/// What a finished recording says about itself.
#[derive(Debug)]
pub struct Outcome {
    /// Per kind.
    pub conservation: BTreeMap<&'static str, Conservation>,
    /// By reason.
    pub loss: BTreeMap<String, u64>,
}

/// Priority of the draining thread, where CAP_SYS_NICE allows it.
const DRAIN_NICE: i32 = -10;

/// Raises the calling thread's priority. Returns what it was before.
pub fn raise_priority() -> i32 {
    // SAFETY: no memory is passed; 0 means the calling thread.
    unsafe {
        let before = libc::getpriority(libc::PRIO_PROCESS, 0);
        // Without the capability it stays as it was: a ring may then lap on an overloaded host.
        libc::setpriority(libc::PRIO_PROCESS, 0, DRAIN_NICE.min(before));
        before
    }
}
