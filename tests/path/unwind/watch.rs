//! The daemon in this process, watching one fixture: the user stacks of its span, with the addresses
//! that no report shows.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::BorrowedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_ebpf::{
    unwind::Stop,
    wire::{FrameAddress, RawFrame},
};
use anyhow::{Context as _, Result, ensure};
use hotspan::{
    app::daemon::{Daemon, Outcome, SeenStack, Watched},
    kernel::{Config, StackDefinition},
    link::flush::Flush,
    model::id::Pid,
};
use hotspan_tests::{
    check::conservation_problems,
    report::{Conservation, Report},
};

use rustix::event::{PollFd, PollFlags, poll};

/// For a few waits of 20 ms or a few hundred samples on a loaded host.
const SOON: Duration = Duration::from_secs(30);

/// One recording at a time: two would only take each other's time.
static ALONE: Mutex<()> = Mutex::new(());

/// A user stack of the span in one state.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub stack: StackDefinition,
    /// As reports call it.
    pub state: &'static str,
    /// Times it was seen.
    pub count: u64,
}

/// A recording at work.
pub(crate) struct Watch {
    daemon: Daemon,
    pid: u32,
    /// Of the process's spans, by hash and state.
    counts: BTreeMap<(u64, &'static str), u64>,
    /// Every definition so far.
    stacks: HashMap<u64, SeenStack>,
    _alone: MutexGuard<'static, ()>,
}

/// Whether the walk found the bottom of the stack, and not merely an end.
pub(crate) fn is_whole(stack: &StackDefinition) -> bool {
    stack.stop == Stop::Bottom
}

/// The addresses of a stack, innermost first.
pub(crate) fn addresses(stack: &StackDefinition) -> Vec<u64> {
    stack.frames.iter().filter_map(|frame| Some(frame.native()?.get())).collect()
}

/// Whether its first address is an instruction that ran.
pub(crate) fn is_exact(stack: &StackDefinition) -> bool {
    matches!(stack.frames.first(), Some(RawFrame::Native(FrameAddress::Ip(_))))
}

// === impl Seen ===

impl Seen {
    /// On a CPU.
    pub(crate) fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Waiting because the program said so: not for a CPU, nor for a debugger.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, "sleep" | "child")
    }

    /// Its addresses, innermost first.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        addresses(&self.stack)
    }

    /// The first address is an instruction that ran.
    pub(crate) fn is_exact(&self) -> bool {
        is_exact(&self.stack)
    }

    /// It was deeper than what is kept.
    pub(crate) fn is_cut(&self) -> bool {
        self.stack.stop == Stop::Depth
    }
}

// === impl Watch ===

impl Watch {
    /// Attaches to the host and reports one process and its children.
    pub(crate) fn start(pid: u32, hz: u64) -> Result<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let config = Config { hz, ..Config::default() };
        let daemon = Daemon::start(&config, &Watched::Tree(vec![Pid(pid).into()]))?;
        let (counts, stacks) = (BTreeMap::new(), HashMap::new());
        Ok(Self { daemon, pid, counts, stacks, _alone: alone })
    }

    /// One round, when the kernel side calls or it is time, or when the other end of a pipe is closed.
    pub(crate) fn round(&mut self, pipe: Option<BorrowedFd<'_>>) -> Result<()> {
        let calls = self.daemon.wake_fds().map(|fd| (fd, PollFlags::IN));
        let mut fds: Vec<_> = calls
            .chain(pipe.map(|fd| (fd, PollFlags::empty())))
            .map(|(fd, events)| PollFd::from_borrowed_fd(fd, events))
            .collect();
        let period = self.daemon.period().try_into()?;
        let _ = poll(&mut fds, Some(&period));
        self.daemon.round().context("a round of the agent failed")
    }

    /// Rounds until what was seen is enough; fails when it takes too long.
    pub(crate) fn until(
        &mut self,
        what: &str,
        mut enough: impl FnMut(&[Seen]) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            self.round(None)?;
            let seen = self.seen()?;
            if enough(&seen) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no {what} within {SOON:?}: {seen:x?}");
        }
    }

    /// The stacks of the process's spans so far, the most frequent first.
    pub(crate) fn seen(&mut self) -> Result<Vec<Seen>> {
        let (flush, _) = self.daemon.flush().context("a flush of the agent failed")?;
        self.add(flush);
        Ok(self.summed())
    }

    fn add(&mut self, flush: Flush) {
        self.stacks.extend(flush.stacks);
        let seen = flush.seen.iter().filter(|seen| seen.pid.0 == self.pid && seen.span.is_some());
        for seen in seen {
            *self.counts.entry((seen.stack.user, seen.stack.state.key())).or_default() += 1;
        }
    }

    fn summed(&self) -> Vec<Seen> {
        let mut seen: Vec<_> = self
            .counts
            .iter()
            .filter_map(|(&(hash, state), &count)| {
                Some(Seen { stack: settled(self.stacks.get(&hash)?)?, state, count })
            })
            .collect();
        seen.sort_by_key(|seen| std::cmp::Reverse(seen.count));
        seen
    }

    /// Every user stack of any process of the tree, in a span or not.
    pub(crate) fn all_stacks(&self) -> impl Iterator<Item = StackDefinition> {
        self.stacks.values().filter_map(settled).filter(|stack| stack.tgid != 0)
    }

    /// Ends it. Nothing may be unaccounted for.
    pub(crate) fn finish(&mut self) -> Result<Vec<Seen>> {
        let (flush, outcome) = self.daemon.last_flush().context("reading what is left")?;
        self.add(flush);
        let problems = conservation_problems(&accounting(&outcome));
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(self.summed())
    }
}

/// A stack as it will be reported; none while its process's mappings are being read, which only the next
/// rounds take over.
fn settled(stack: &SeenStack) -> Option<StackDefinition> {
    if stack.awaits_map() {
        return None;
    }
    let mut stack = stack.clone();
    stack.settle(Instant::now() + SOON);
    Some(stack.definition)
}

/// The accounting as a report has it.
fn accounting(outcome: &Outcome) -> Report {
    let conservation = outcome.conservation.iter().map(|(kind, kept)| {
        let kept = Conservation {
            captured: kept.captured,
            delivered: kept.delivered,
            in_flight: u64::try_from(kept.in_flight).expect("more was delivered than captured"),
            spooled: kept.spooled,
            lost: kept.lost.clone(),
        };
        ((*kind).to_owned(), kept)
    });
    Report {
        spans: Vec::new(),
        recorded: Vec::new(),
        threads: Vec::new(),
        loss: outcome.loss.clone(),
        conservation: conservation.collect(),
    }
}
