//! What the daemon has read of strange processes: it sends the questions of its accounts to the reader
//! and hands out what comes back, round by round. Nothing here waits for a process but the start and the
//! end, and those no longer than a deadline.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use super::daemon::{Daemon, raise_priority};
use crate::{
    budget::Budgets,
    contexts::lanes,
    kernel::KernelError,
    ledger::DaemonCounter,
    model::id::Pid,
    process::{
        Change,
        ask::{self, Ask},
        family::{Family, Root},
        procfs,
        reader::{Fate, Outcome, Question, Reader},
    },
};

/// How often processes without a segment are looked at again.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The same where it could not be finished.
const SWEEP_AGAIN: Duration = Duration::from_secs(1);
/// The same where new lanes do not announce themselves.
const SWEEP_EVERY_BLIND: Duration = Duration::from_millis(200);
/// Owners of lanes that a sweep found do not wait longer for those it has yet to find.
const SWEEP_PATIENCE: Duration = Duration::from_millis(100);
/// Start and end look this often whether a process has hung for too long.
const LOOK: Duration = Duration::from_millis(5);
/// A process that takes longer to answer hangs: the batch with its stacks waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same when it is asked for lanes: only the records of its own threads wait. One that makes
/// thousands of threads at once takes seconds, for they all want the lock that is needed to look.
const LANE_PATIENCE: Duration = Duration::from_secs(5);
/// How long start and end wait for what is being read, at most,
const MOST: Duration = Duration::from_millis(2500);
/// and if all that is left seems to hang.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Who is whose child is not waited for longer than this if all that is left seems to hang.
const FAMILY_PATIENCE: Duration = Duration::from_millis(200);
/// How long the end waits for the last switch of threads that are gone.
const LAST_SWITCH: Duration = Duration::from_millis(200);

/// All that is asked of processes.
pub(super) enum Asked {
    Process(Ask),
    Lanes(lanes::Ask),
}

/// The answers.
pub(super) enum Answer {
    Process(ask::Answer),
    Lanes(lanes::Found),
}

// === impl Asked ===

impl Question for Asked {
    type Answer = Answer;

    fn pid(&self) -> Pid {
        match self {
            Self::Process(ask) => ask.pid(),
            Self::Lanes(ask) => ask.pid,
        }
    }

    fn is_urgent(&self) -> bool {
        match self {
            // Tables are made by it, which the process's next stacks need.
            Self::Process(ask) => matches!(ask, Ask::Map(_)),
            Self::Lanes(ask) => ask.is_urgent(),
        }
    }

    fn patience(&self) -> Duration {
        match self {
            Self::Process(_) => PATIENCE,
            Self::Lanes(_) => LANE_PATIENCE,
        }
    }

    fn read(&self) -> Answer {
        match self {
            Self::Process(ask) => Answer::Process(ask.read()),
            Self::Lanes(ask) => Answer::Lanes(ask.read()),
        }
    }
}

/// A reader as urgent as draining: markers are overwritten while a lane waits for it.
pub(super) fn start(budgets: Budgets) -> std::io::Result<Reader<Asked>> {
    let prepare = || {
        raise_priority();
    };
    Reader::start(prepare, budgets)
}

/// The descendants of some roots at this moment, and who could not be asked; for no roots nobody is.
/// Waits, but not for a process that hangs. Nothing else may be under way.
pub(super) fn family(reader: &mut Reader<Asked>, roots: &[Root]) -> (Family, Vec<Pid>) {
    let (mut stats, mut unread) = (HashMap::new(), Vec::new());
    if roots.is_empty() {
        return (Family::default(), unread);
    }
    for pid in procfs::all() {
        reader.ask(Asked::Process(Ask::Stat(pid)));
    }
    let began = Instant::now();
    while !(reader.is_idle() || reader.is_quiet() && began.elapsed() >= FAMILY_PATIENCE) {
        for Outcome { question, fate, is_newly_unread } in reader.collect() {
            unread.extend(is_newly_unread.then(|| question.pid()));
            if let Fate::Answered(Answer::Process(ask::Answer::Stat(Some(stat)))) = fate {
                stats.insert(question.pid(), stat);
            }
        }
        reader.wait(LOOK);
    }
    (Family::among(&stats, roots.iter().map(|root| root.pid)), unread)
}

// === impl Daemon ===

impl Daemon {
    /// Begins to look for lanes that are older than the programs, or were not announced.
    pub(super) fn sweep(&mut self) {
        let every = if self.kernel.has_breadcrumb() { SWEEP_EVERY } else { SWEEP_EVERY_BLIND };
        self.swept_at = Instant::now();
        self.sweep_at = self.swept_at + every;
        let own = Pid(std::process::id());
        self.lanes.sweep(procfs::all().filter(|&pid| pid != own));
        self.send();
    }

    /// Puts the questions that came up to the reader.
    pub(super) fn send(&mut self) {
        for ask in self.lanes.take_asks() {
            self.reader.ask(Asked::Lanes(ask));
        }
        for ask in self.processes.take_asks() {
            self.reader.ask(Asked::Process(ask));
        }
    }

    /// Takes over what was read since the last call. Returns the processes that were found to be over.
    pub(super) fn collect(&mut self) -> Result<HashSet<Pid>, KernelError> {
        let mut over = HashSet::new();
        let mut publishers = BTreeSet::new();
        for Outcome { question, fate, is_newly_unread } in self.reader.collect() {
            let pid = question.pid();
            if is_newly_unread {
                self.count_unread(pid);
            }
            match (&*question, fate) {
                (Asked::Lanes(ask), Fate::Answered(Answer::Lanes(found))) => {
                    self.lanes.answered(ask, found);
                    if self.lanes.is_attached(pid) {
                        publishers.insert(pid);
                    }
                }
                (Asked::Lanes(_), Fate::Hangs) => self.lanes.hangs(pid),
                (Asked::Lanes(_), _) => self.lanes.refused(pid),
                (Asked::Process(ask), Fate::Answered(Answer::Process(answer))) => {
                    if matches!(answer, ask::Answer::Life(false)) {
                        over.insert(pid);
                    }
                    self.answered(*ask, Some(answer));
                }
                (Asked::Process(ask), _) => self.answered(*ask, None),
            }
        }
        self.report_attached(publishers);
        self.adopt_found(false)?;
        self.send();
        Ok(over)
    }

    pub(super) fn count_unread(&mut self, pid: Pid) {
        tracing::debug!(%pid, "it does not let itself be read");
        self.linker.counts.add(pid, DaemonCounter::ProcessesUnread, 1);
    }

    fn answered(&mut self, ask: Ask, answer: Option<ask::Answer>) {
        match self.processes.answered(ask, answer) {
            Some(Change::Mapped { pid, map }) => {
                let (linker, mut parts) = self.join();
                linker.mapped(pid, map.as_ref(), &mut parts);
                if self.processes.is_over(pid) {
                    // Its last stacks had tables made for it.
                    self.unwinder.gone(pid);
                }
            }
            Some(Change::Over { pid, at }) => {
                self.lanes.forget_image(pid, at);
                self.unwinder.gone(pid);
            }
            None => {}
        }
    }

    /// Takes over the threads of lanes that a sweep found, `all` of them or once it has found enough.
    fn adopt_found(&mut self, all: bool) -> Result<(), KernelError> {
        if !all && self.lanes.is_sweeping() && self.swept_at.elapsed() < SWEEP_PATIENCE {
            return Ok(());
        }
        let owners = self.lanes.take_owners();
        if owners.is_empty() {
            return Ok(());
        }
        let Some(snapshots) = self.totals() else {
            // The lanes it found are nobody's until then.
            self.sweep_at = Instant::now() + SWEEP_AGAIN;
            return Ok(());
        };
        let (linker, mut parts) = self.join();
        let (lanes, pids) = linker.adopt(&owners, &snapshots, &mut parts);
        self.kernel.add_lanes(&lanes)?;
        self.report_attached(pids);
        Ok(())
    }

    /// Of a process with a lane that cannot be read here the kernel side saves what it can.
    pub(super) fn report_attached(&mut self, pids: impl IntoIterator<Item = Pid>) {
        for pid in pids {
            self.kernel.set_attached(pid.0, self.lanes.is_whole(pid));
        }
    }

    /// Looks for lanes that are older than the programs, at the start. What hangs is not waited for:
    /// rings fill meanwhile.
    pub(super) fn first_sweep(&mut self) -> Result<(), KernelError> {
        self.sweep();
        self.settle(MOST, Reader::is_quiet).map(drop)
    }

    /// Waits for what is still being read, at the end.
    pub(super) fn last_reads(&mut self) -> Result<(), KernelError> {
        let began = Instant::now();
        let enough = |reader: &Reader<Asked>| {
            reader.is_idle() || reader.is_quiet() && began.elapsed() >= LAST_PATIENCE
        };
        self.settle(MOST, enough).map(drop)
    }

    /// Collects until that is `enough`, but not for longer than `most`. Returns the processes that were
    /// found to be over.
    fn settle(
        &mut self,
        most: Duration,
        enough: impl Fn(&Reader<Asked>) -> bool,
    ) -> Result<HashSet<Pid>, KernelError> {
        let deadline = Instant::now() + most;
        self.send();
        let mut over = self.collect()?;
        while !enough(&self.reader)
            && let Some(left) = deadline.checked_duration_since(Instant::now())
        {
            self.reader.wait(LOOK.min(left));
            over.extend(self.collect()?);
        }
        self.adopt_found(true)?;
        Ok(over)
    }

    /// Drains on until every process that is over has reported its last switch: it is over when its last
    /// thread says so, which is before that.
    pub(super) fn await_exits(&mut self) -> Result<(), KernelError> {
        let deadline = Instant::now() + LAST_SWITCH;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let open = self.linker.open_processes();
            for &pid in &open {
                self.reader.ask(Asked::Process(Ask::Life(pid)));
            }
            if self.settle(left, Reader::is_idle)?.is_disjoint(&open) {
                break;
            }
            self.kernel.begin_round()?;
            self.drain()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
