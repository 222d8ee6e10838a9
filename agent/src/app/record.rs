//! `hotspan record`: the profiler, watching one tree of processes, delivering to a store in memory.
//!
//! ```text
//! attach ─► start the command ─► rounds, a batch a second ─► it ends ─► last batch ─► report
//!                                        └─► MemoryStore ───────────────────────────────┘
//! ```
//! It differs from the service in whom it watches and where batches go, and in nothing else.

mod asked;
mod command;

use std::{
    ffi::OsString,
    io,
    os::fd::BorrowedFd,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::Rlimit;

use super::{
    daemon::{Daemon, Watched},
    doctor,
    profiler::{self, Output, Supervisor},
    service::filter_calls,
};
use crate::{
    document::{
        report::{self, Accounting},
        span::{RecordedDocument, Report},
    },
    kernel,
    link::ThreadAccount,
    model::{
        batch::{Batch, Run},
        id::Pid,
    },
    process::{descriptors, family::Root, host, rights},
    store::{Body, Entry, Sink as _, memory::MemoryStore},
};
use asked::Asked;
use command::{Running, Starter};

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(500);

/// What to record, and how.
#[derive(Debug)]
pub struct Options<'a> {
    /// The command and its arguments.
    pub command: &'a [OsString],
    /// Running processes that are recorded too, by the number of any of their threads.
    pub pids: &'a [u32],
    /// Of those, none of the processes below them.
    pub alone: bool,
    /// Timer samples per second and CPU.
    pub hz: u64,
    /// Of each per-CPU ring buffer, a power of two.
    pub ring_bytes: u32,
    /// Show progress on standard error.
    pub progress: bool,
    /// Do not filter hotspan's own system calls.
    pub no_seccomp: bool,
    /// One document per request, with all below it, instead of one per span.
    pub requests: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Recorded {
    /// Every span and thread.
    pub report: Report,
    /// Of the command.
    pub status: ExitStatus,
}

/// Processes given by their number, which exist and can be recorded.
#[derive(Debug)]
pub struct Recording<'a> {
    options: Options<'a>,
    asked: Vec<Asked>,
}

/// Batches of the recording.
struct Kept {
    run: Arc<Run>,
    store: MemoryStore,
    sequence: u64,
}

/// Starts the command once everything is attached, and ends the recording when it ends.
struct Command<'a> {
    options: &'a Options<'a>,
    starter: Starter,
    files: Rlimit,
    asked: Vec<Asked>,
    recorded: Vec<RecordedDocument>,
    running: Option<Running>,
    status: Option<ExitStatus>,
    started: Instant,
    shown: Instant,
}

// === impl Recording ===

impl<'a> Recording<'a> {
    /// Whether this can be recorded at all.
    ///
    /// # Errors
    ///
    /// When this host cannot be recorded, or a number is of no process that can be.
    pub fn prepare(options: Options<'a>) -> anyhow::Result<Self> {
        if let Some(reason) = doctor::refuse_reason() {
            bail!(reason);
        }
        let asked: Result<Vec<Asked>, _> = options.pids.iter().copied().map(Asked::find).collect();
        Ok(Self { asked: asked?, options })
    }

    /// What is to be said before it begins.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.asked.iter().filter_map(Asked::note)
    }

    /// Runs the command under the profiler until it ends.
    ///
    /// # Errors
    ///
    /// When nothing was recorded. A command that runs goes on without the profiler then.
    pub fn run(self) -> anyhow::Result<Recorded> {
        let Self { options, asked } = self;
        let files = descriptors::raise();
        // It keeps the caller's rights, which the command is to have.
        let starter = Starter::new()?;
        kernel::see_tracefs();
        rights::keep_only(rights::KEPT).context("cannot give up the rights that are not needed")?;
        command::catch_signals();
        let config = kernel::Config {
            hz: options.hz,
            ring_bytes: options.ring_bytes,
            ..kernel::Config::default()
        };
        // The command is our child: with us as a root it belongs to the tree from its first instant.
        let own = Root::from(Pid(std::process::id()));
        let roots = asked.iter().map(|asked| asked.root(options.alone)).chain([own]).collect();
        let run = Arc::new(host::new_run()?);
        let kept = Kept { run, store: MemoryStore::default(), sequence: 0 };
        let now = Instant::now();
        let mut command = Command {
            options: &options,
            starter,
            files,
            asked,
            recorded: Vec::new(),
            running: None,
            status: None,
            started: now,
            shown: now,
        };
        let profiled = profiler::run(&config, &Watched::Tree(roots), kept, &mut command);
        command.clear_progress();
        let (kept, threads) = match profiled {
            Ok(profiled) => profiled,
            Err(error) => return Err(command.left_alone(error)),
        };
        let status = command.status.context("the command did not end")?;
        Ok(Recorded { report: report(&kept.store, threads, command.recorded, &options)?, status })
    }
}

/// Everything a recording found, as one document.
fn report(
    store: &MemoryStore,
    threads: Vec<ThreadAccount>,
    recorded: Vec<RecordedDocument>,
    options: &Options<'_>,
) -> anyhow::Result<Report> {
    let view = store.view();
    let spans: Vec<_> = view.all().collect();
    let (spans, nested) = match options.requests {
        true => report::requests(&spans, &view)?,
        false => (report::spans(&spans, &view)?, 0),
    };
    let Accounting { loss, conservation } = Accounting::of(&view)?;
    let threads = report::threads(threads);
    Ok(Report { spans, nested, recorded, threads, loss, conservation })
}

// === impl Kept ===

impl Output for Kept {
    fn take(&mut self, batch: Batch) {
        self.sequence += 1;
        let run = Arc::clone(&self.run);
        let entry = Entry { run, sequence: self.sequence, body: Body::Batch(batch) };
        if let Err(error) = self.store.append(&[entry]) {
            // Its sequence is missing then, and the accounting says so.
            tracing::error!(%error, "a batch of the recording is not kept");
        }
    }

    fn queue_bytes(&self) -> u64 {
        0
    }
}

// === impl Command ===

impl Command<'_> {
    fn clear_progress(&self) {
        if self.options.progress {
            eprint!("\r\x1b[K");
        }
    }

    /// After an error of the profiler: what it watched is not ours to end.
    fn left_alone(&mut self, error: anyhow::Error) -> anyhow::Error {
        let Some(running) = &mut self.running else { return error };
        eprintln!("hotspan: {error:#}; the command goes on without it");
        match running.wait().context("waiting for the command") {
            Ok(_) => anyhow::anyhow!("nothing was recorded"),
            Err(error) => error,
        }
    }
}

impl Supervisor for Command<'_> {
    fn attached(&mut self, daemon: &mut Daemon, nice: i32) -> anyhow::Result<()> {
        for asked in &self.asked {
            asked.check()?;
        }
        let alone = self.options.alone;
        let asked = std::mem::take(&mut self.asked).into_iter().zip(&daemon.below);
        self.recorded = asked.map(|(asked, &below)| asked.document(alone, below)).collect();
        self.started = Instant::now();
        let running = Running::start(&self.starter, self.options.command, nice, self.files)?;
        daemon.add_root(Pid(running.pid()));
        self.running = Some(running);
        // Not before: the command would take it over.
        filter_calls(self.options.no_seccomp);
        Ok(())
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().and_then(Running::end_fd)
    }

    fn goes_on(&mut self, daemon: &Daemon) -> anyhow::Result<bool> {
        if let Some(running) = &mut self.running {
            self.status = running.poll().context("waiting for the command")?;
        }
        if self.options.progress && self.shown.elapsed() >= PROGRESS {
            self.shown = Instant::now();
            let (seconds, spans) = (self.started.elapsed().as_secs_f64(), daemon.spans_seen());
            eprint!("\r\x1b[Khotspan: {seconds:.1} s, {spans} spans");
            let _ = io::Write::flush(&mut io::stderr());
        }
        Ok(self.status.is_none())
    }
}
