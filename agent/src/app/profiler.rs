//! Profiles: rounds of the daemon, a flush every second, batches out. Runs until its supervisor ends
//! it, then delivers what is left. The service and a recording differ in whom they watch and where
//! batches go.
//!
//! Two threads: the caller's drains and joins and must never wait; the other names what a flush
//! holds. While that one is busy the join keeps adding to the next flush.

use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    time::{ClockId, clock_gettime},
};

use super::daemon::{self, Daemon, Outcome, Watched};
use crate::{
    budget::Over,
    kernel::{Config, ktime},
    link::{ThreadAccount, flush::Flush},
    model::{
        batch::{Account, AgentCost, Batch, KindAccount, OverBudget},
        clock::UnixNs,
    },
    naming::batcher::Batcher,
    symbols::Symbols,
};

/// How often what came is sent on.
const FLUSH: Duration = Duration::from_secs(1);
/// The same while no program has published spans since: nobody waits for a document then, and a commit of the
/// store costs more than all else on an idle host.
const FLUSH_WITHOUT_LANES: Duration = Duration::from_secs(5);

/// Where batches go.
pub(super) trait Output: Send + 'static {
    /// A batch is done. Must not wait.
    fn take(&mut self, batch: Batch);
    /// Bytes of batches that wait, for the accounting.
    fn queue_bytes(&self) -> u64;
}

/// Whoever decides how long it lasts. Called on the thread that drains: nothing here may wait.
pub(super) trait Supervisor {
    /// Every program is attached. `nice`: the priority this thread had before.
    ///
    /// # Errors
    ///
    /// End it: nothing is profiled.
    fn attached(&mut self, daemon: &mut Daemon, nice: i32) -> anyhow::Result<()>;
    /// Asked in every round.
    ///
    /// # Errors
    ///
    /// End it.
    fn goes_on(&mut self, daemon: &Daemon) -> anyhow::Result<bool>;
    /// Becomes readable when that should be asked at once.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct Work {
    flush: Flush,
    outcome: Outcome,
    closed: bool,
}

/// The naming thread as the draining one sees it.
struct Namer {
    queue: SyncSender<Work>,
    /// Flushes that it has not named yet.
    waiting: Arc<AtomicUsize>,
}

/// Profiles until its supervisor ends it. Gives back where batches went, with all of them, and the
/// accounts of threads where a tree is watched.
///
/// # Errors
///
/// When it cannot start, or a round failed: what came before that is delivered all the same, without
/// claiming to be all.
pub(super) fn run<O: Output>(
    config: &Config,
    watched: &Watched,
    output: O,
    supervisor: &mut impl Supervisor,
) -> anyhow::Result<(O, Vec<ThreadAccount>)> {
    let started = Instant::now();
    let symbols = Arc::new(Symbols::spawn().context("cannot start the symbol thread")?);
    let mut daemon = Daemon::start(config, watched).map_err(|error| {
        tracing::debug!(?error, "start failed");
        anyhow!("{error}. `hotspan doctor` says what this host allows")
    })?;
    let resend = Arc::new(AtomicBool::new(false));
    let batcher = match watched {
        Watched::Host => Batcher::new,
        Watched::Tree(..) => Batcher::for_recording,
    };
    let batcher = batcher(Arc::clone(&symbols), Arc::clone(&resend));
    let (queue, work) = sync_channel(2);
    let namer = Namer { queue, waiting: Arc::default() };
    let thread = thread::Builder::new().name("hotspan-names".into()).spawn({
        let waiting = Arc::clone(&namer.waiting);
        move || name(&work, batcher, output, &waiting, started)
    });
    let thread = thread.context("cannot start the naming thread")?;
    // Rings and lanes must be drained before they lap, above all when the host is overloaded.
    let nice = daemon::raise_priority();
    let watched = supervisor
        .attached(&mut daemon, nice)
        .and_then(|()| watch(&mut daemon, &symbols, supervisor, &resend, &namer));
    let closed = watched.and_then(|()| {
        let (flush, outcome) = daemon.last_flush().context("reading what is left")?;
        namer.send(Work { flush, outcome, closed: true });
        Ok(daemon.take_threads())
    });
    // Its programs go before names are waited for.
    drop(daemon);
    drop(namer);
    let output = thread.join().map_err(|_| anyhow!("the naming thread failed"))?;
    Ok((output, closed?))
}

fn watch(
    daemon: &mut Daemon,
    symbols: &Symbols,
    supervisor: &mut impl Supervisor,
    resend: &AtomicBool,
    namer: &Namer,
) -> anyhow::Result<()> {
    let mut pace = Pace::new(Instant::now());
    while supervisor.goes_on(daemon)? {
        wait(daemon, supervisor);
        daemon.round().context("a round of the agent failed")?;
        for map in daemon.processes.take_fresh_maps() {
            // A busy symbol thread opens them later, by name.
            symbols.open_files(map);
        }
        if resend.swap(false, Relaxed) {
            daemon.resend_stacks().context("a round of the agent failed")?;
        }
        if pace.is_due(Instant::now(), daemon.linker.has_lanes()) && !namer.is_busy() {
            pace.flushed(Instant::now(), daemon.linker.has_lanes());
            let (flush, outcome) = daemon.flush().context("a flush of the agent failed")?;
            namer.send(Work { flush, outcome, closed: false });
        }
    }
    Ok(())
}

/// Until somebody calls, or the next round is due.
fn wait(daemon: &Daemon, supervisor: &impl Supervisor) {
    let calls = daemon.wake_fds().chain(supervisor.wake_fd());
    let mut calls: Vec<_> = calls.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let period = Timespec::try_from(daemon.period()).ok();
    // A signal may end it early: then the round is early.
    let _ = poll(&mut calls, period.as_ref());
}

/// When to flush. While anything waits that lanes brought, the short period holds: also when no lane
/// is left by then, for a program's last spans are asked for like the others.
struct Pace {
    flushed: Instant,
    /// Since the last flush there was a lane.
    hasty: bool,
}

// === impl Pace ===

impl Pace {
    /// The first batch is waited for too.
    fn new(now: Instant) -> Self {
        Self { flushed: now, hasty: true }
    }

    /// Whether it is time, after a round.
    fn is_due(&mut self, now: Instant, has_lanes: bool) -> bool {
        self.hasty |= has_lanes;
        let every = if self.hasty { FLUSH } else { FLUSH_WITHOUT_LANES };
        now.duration_since(self.flushed) >= every
    }

    /// What waited is taken. The round in which the last lane goes brings what is to be reported of it:
    /// lanes there are now make the next flush hasty.
    fn flushed(&mut self, now: Instant, has_lanes: bool) {
        *self = Self { flushed: now, hasty: has_lanes };
    }
}

// === impl Namer ===

impl Namer {
    fn is_busy(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// There is always room: nothing is sent while something waits, but for the last flush.
    fn send(&self, work: Work) {
        self.waiting.fetch_add(1, Relaxed);
        // The naming thread is gone only when it failed; that is reported when it is joined.
        let _ = self.queue.send(work);
    }
}

/// The life of the naming thread.
fn name<O: Output>(
    queue: &Receiver<Work>,
    mut batcher: Batcher,
    mut output: O,
    waiting: &AtomicUsize,
    started: Instant,
) -> O {
    for work in queue {
        let offset = i64::try_from(ktime::unix_offset()).unwrap_or(0);
        let account = account(work.outcome, work.closed, output.queue_bytes(), started, offset);
        output.take(batcher.batch(work.flush, account, offset));
        waiting.fetch_sub(1, Relaxed);
    }
    output
}

fn account(
    outcome: Outcome,
    closed: bool,
    queue_bytes: u64,
    started: Instant,
    offset: i64,
) -> Account {
    let by_name = |(reason, n): (String, u64)| (reason.as_str().into(), n);
    let kinds = outcome.conservation.into_iter().map(|(kind, kept)| {
        let lost = kept.lost.into_iter().map(by_name).collect();
        (kind.into(), KindAccount { captured: kept.captured, linked: kept.delivered, lost })
    });
    Account {
        kinds: kinds.collect(),
        loss: outcome.loss.into_iter().chain(outcome.information).map(by_name).collect(),
        cost: AgentCost {
            cpu_ns: cpu_ns(),
            wall_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            rss_bytes: rss_bytes(),
            queue_bytes,
        },
        closed,
        over: outcome
            .over
            .into_iter()
            .map(|(over, comm)| over_budget(&over, &comm, offset))
            .collect(),
    }
}

fn over_budget(over: &Over, comm: &str, unix_offset: i64) -> OverBudget {
    OverBudget {
        resource: over.resource.key().into(),
        pid: over.owner.pid.0,
        uid: over.owner.uid.0,
        comm: comm.into(),
        since_unix_ns: UnixNs::of_monotonic(over.since, unix_offset).0,
        shed: over.shed,
    }
}

/// CPU time of this process so far.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Resident memory of this process, from /proc/self/statm.
fn rss_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_spans_are_as_fast_as_the_others() {
        let mut pace = Pace::new(Instant::now());
        let mut now = Instant::now();
        let mut flushes = |lanes: &[bool]| -> Vec<usize> {
            let rounds = lanes.iter().enumerate().filter(|&(_, &has_lanes)| {
                now += FLUSH / 10;
                let due = pace.is_due(now, has_lanes);
                if due {
                    pace.flushed(now, has_lanes);
                }
                due
            });
            rounds.map(|(round, _)| round).collect()
        };
        let none = [false; 60];
        assert_eq!(flushes(&none[..10]), [9], "the first batch");
        assert_eq!(flushes(&none[..40]), [0; 0], "nobody waits");
        // They come and go between two flushes: 2 s after the last one there was.
        let mut brief = [false; 30];
        brief[..3].fill(true);
        assert_eq!(flushes(&brief), [0, 10], "what came is reported, then what came with its end");
        // The last lane goes in the round after a flush.
        let mut last = [false; 40];
        last[..30].fill(true);
        assert_eq!(flushes(&last), [0, 10, 20, 30], "each second, and once more");
    }
}
