//! The daemon in this process, streaming: every sample with its stack, as no report has them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hotspan::{
    app::daemon::{Daemon, Outcome, SeenStack, Watched, raise_priority},
    kernel::Config,
    unwind::Counters,
};
use hotspan_tests::host;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::setpriority_process,
};

use crate::agent::{Runs, programs};

/// How often samples are taken over.
pub(super) const FLUSH: Duration = Duration::from_millis(500);
/// How long a round waits for calls.
const ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A sample of a thread in user code or in a system call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When, ktime.
    pub(super) at: u64,
    /// Its process.
    pub(super) pid: u32,
    /// Its user stack.
    pub(super) stack: u64,
}

/// A recording of the whole host.
pub(super) struct Recording {
    daemon: Daemon,
    /// Samples so far.
    pub(super) samples: Vec<Sample>,
    /// Definitions of their stacks.
    pub(super) stacks: HashMap<u64, SeenStack>,
    objects: BTreeSet<String>,
    flushed: Instant,
    /// Of this thread, before.
    nice: i32,
}

// === impl Recording ===

impl Recording {
    /// Attached when this returns. As in the product, the thread that drains is preferred.
    pub(super) fn start(hz: u64) -> Result<Self> {
        let config = Config { hz, ..Config::default() };
        let daemon = Daemon::start(&config, &Watched::Host)?;
        let objects = host::held_objects(std::process::id())?;
        let nice = raise_priority();
        Ok(Self {
            daemon,
            nice,
            samples: Vec::new(),
            stacks: HashMap::new(),
            objects,
            flushed: Instant::now(),
        })
    }

    /// One round, when the kernel side calls or it is time.
    pub(super) fn round(&mut self) -> Result<()> {
        let mut fds: Vec<_> =
            self.daemon.wake_fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let _ = poll(&mut fds, Some(&ROUND));
        self.daemon.round().context("a round of the agent failed")?;
        if self.flushed.elapsed() >= FLUSH {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        let (flush, _) = self.daemon.flush().context("a flush of the agent failed")?;
        self.stacks.extend(flush.stacks);
        let samples = flush.seen.iter().filter(|seen| seen.is_sample && seen.stack.user != 0);
        self.samples.extend(samples.map(|seen| Sample {
            at: seen.at,
            pid: seen.pid.0,
            stack: seen.stack.user,
        }));
        Ok(())
    }

    /// Rounds for a while.
    pub(super) fn run(&mut self, time: Duration) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.round()?;
        }
        Ok(())
    }

    /// What a program that is started meanwhile is to have as its nice value.
    pub(super) fn nice(&self) -> i32 {
        self.nice
    }

    /// What its programs did so far.
    pub(super) fn programs(&self) -> Result<BTreeMap<String, Runs>> {
        programs(&self.objects)
    }

    /// The kernel's name for its programs and maps.
    pub(super) fn objects(&self) -> &BTreeSet<String> {
        &self.objects
    }

    /// The accounting of the unwinder.
    pub(super) fn unwound(&self) -> &Counters {
        self.daemon.unwinder.counters()
    }

    /// Takes what is left; stacks that are reported late are reported now.
    pub(super) fn finish(mut self) -> Result<(Vec<Sample>, HashMap<u64, SeenStack>, Outcome)> {
        self.flush()?;
        let (flush, outcome) = self.daemon.last_flush().context("the last flush")?;
        self.stacks.extend(flush.stacks);
        set_nice(self.nice);
        Ok((self.samples, self.stacks, outcome))
    }
}

/// Of the calling thread.
pub(super) fn set_nice(nice: i32) {
    // Where it is refused the figures say so.
    let _ = setpriority_process(None, nice);
}
