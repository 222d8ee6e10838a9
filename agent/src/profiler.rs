//! Profiles this host: rounds of the daemon, a flush every second, batches out. Runs until told to
//! stop, then hands out what is left.
//!
//! Two threads: the caller's drains and joins and must never wait; the other names what a flush
//! holds. While that one is busy the join keeps adding to the next flush.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};

use crate::{
    daemon::{self, Daemon, Outcome, Reported},
    kernel::{Config, ktime},
    link::flush::Flush,
    profile::{
        batch::{Account, AgentCost, Batch, KindAccount},
        batcher::Batcher,
    },
    symbols::Symbols,
};

/// How often what came is sent on.
const FLUSH: Duration = Duration::from_secs(1);
/// The same while no program publishes spans: nobody waits for a document then, and a commit of the
/// store costs more than all else on an idle host.
const FLUSH_WITHOUT_LANES: Duration = Duration::from_secs(5);

/// What a profiler tells its surroundings.
pub trait Surroundings: Send + 'static {
    /// A batch is done. Must not wait.
    fn take(&mut self, batch: Batch);
    /// Bytes of batches that wait, for the account.
    fn queue_bytes(&self) -> u64;
}

struct Work {
    flush: Flush,
    outcome: Outcome,
    closed: bool,
}

/// Profiles until `stop` is set. Calls `ready` once programs are attached and `alive` in every
/// round.
pub fn run(
    config: &Config,
    surroundings: impl Surroundings,
    stop: &AtomicBool,
    ready: impl FnOnce(),
    alive: impl Fn(),
) -> anyhow::Result<()> {
    let started = Instant::now();
    let symbols = Arc::new(Symbols::spawn().context("cannot start the symbol thread")?);
    let mut daemon = Daemon::start(config, &Reported::Host).map_err(|error| {
        tracing::debug!(?error, "start failed");
        anyhow!("{error}. `hotspan doctor` tells what this host allows")
    })?;
    let resend = Arc::new(AtomicBool::new(false));
    let waiting = Arc::new(AtomicUsize::new(0));
    let batcher = Batcher::new(Arc::clone(&symbols), Arc::clone(&resend));
    let (sender, work) = sync_channel(2);
    let namer = thread::Builder::new().name("hotspan-names".into()).spawn({
        let waiting = Arc::clone(&waiting);
        move || name(&work, batcher, surroundings, &waiting, started)
    });
    let namer = namer.context("cannot start the naming thread")?;
    // Rings and lanes must be drained before they lap, above all when the host is overloaded.
    daemon::raise_priority();
    ready();
    let watched = watch(&mut daemon, &symbols, stop, alive, &resend, &waiting, &sender);
    // Also after an error: what came before it is told, without claiming to be all.
    if watched.is_ok() {
        let (flush, outcome) = daemon.last_flush().context("reading what is left")?;
        send(&sender, &waiting, Work { flush, outcome, closed: true });
    }
    drop(sender);
    namer.join().map_err(|_| anyhow!("the naming thread failed"))?;
    watched
}

fn watch(
    daemon: &mut Daemon,
    symbols: &Symbols,
    stop: &AtomicBool,
    alive: impl Fn(),
    resend: &AtomicBool,
    waiting: &AtomicUsize,
    sender: &SyncSender<Work>,
) -> anyhow::Result<()> {
    let fds = daemon.wake_fds().into_iter();
    let mut fds: Vec<libc::pollfd> =
        fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let mut flushed = Instant::now();
    let mut is_first = true;
    while !stop.load(Relaxed) {
        let period = daemon.period().as_millis() as libc::c_int;
        // SAFETY: `fds` is a live array of that length.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, period) };
        daemon.round().context("a round of the agent failed")?;
        for map in daemon.linker.processes.take_fresh_maps() {
            // A busy symbol thread opens them later, by name.
            symbols.open_files(map);
        }
        if resend.swap(false, Relaxed) {
            daemon.resend_stacks().context("a round of the agent failed")?;
        }
        let hasty = is_first || daemon.linker.has_lanes();
        let every = if hasty { FLUSH } else { FLUSH_WITHOUT_LANES };
        if flushed.elapsed() >= every && waiting.load(Relaxed) == 0 {
            flushed = Instant::now();
            is_first = false;
            let (flush, outcome) = daemon.flush().context("a flush of the agent failed")?;
            send(sender, waiting, Work { flush, outcome, closed: false });
        }
        alive();
    }
    Ok(())
}

/// There is always room: nothing is sent while something waits, but for the last flush.
fn send(sender: &SyncSender<Work>, waiting: &AtomicUsize, work: Work) {
    waiting.fetch_add(1, Relaxed);
    // The naming thread is gone only when it failed; that is told when it is joined.
    let _ = sender.send(work);
}

/// The life of the naming thread.
fn name(
    queue: &Receiver<Work>,
    mut batcher: Batcher,
    mut surroundings: impl Surroundings,
    waiting: &AtomicUsize,
    started: Instant,
) {
    for work in queue {
        let offset = i64::try_from(ktime::unix_offset()).unwrap_or(0);
        let account = account(work.outcome, work.closed, surroundings.queue_bytes(), started);
        surroundings.take(batcher.batch(work.flush, account, offset));
        waiting.fetch_sub(1, Relaxed);
    }
}

fn account(outcome: Outcome, closed: bool, queue_bytes: u64, started: Instant) -> Account {
    let by_name = |(reason, n): (String, u64)| (reason.as_str().into(), n);
    let kinds = outcome.conservation.into_iter().map(|(kind, kept)| {
        let lost = kept.lost.into_iter().map(by_name).collect();
        (kind.into(), KindAccount { captured: kept.captured, linked: kept.delivered, lost })
    });
    Account {
        kinds: kinds.collect(),
        loss: outcome.loss.into_iter().map(by_name).collect(),
        cost: AgentCost {
            cpu_ns: cpu_ns(),
            wall_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            rss_bytes: rss_bytes(),
            queue_bytes,
        },
        closed,
    }
}

/// CPU time of this process so far.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Resident memory of this process, from /proc/self/statm.
fn rss_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE
}
