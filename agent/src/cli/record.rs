//! `hotspan record -- CMD`: attach, run CMD until it exits, print its spans.

mod asked;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;

use super::{command::Running, render};
use crate::{
    app::{
        self,
        daemon::{self, Daemon, Reported, Root},
    },
    document::{report::Reporter, span::Report},
    kernel::{Config, ktime},
    model::id::Pid,
    process::descriptors,
    symbols::Symbols,
};
use asked::Asked;

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(500);

/// Arguments of `record`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print every span and thread as JSON instead of the summary.
    #[arg(long)]
    pub json: bool,
    /// Write the report to FILE instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Timer samples per second and CPU: how fine methods are told. Times are exact at any rate.
    #[arg(long, value_name = "N", default_value_t = 99, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub hz: u64,
    /// Spans listed in the summary.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Bytes of each per-CPU ring buffer, a power of two.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, env = "HOTSPAN_RING_BYTES", value_parser = ring_bytes)]
    pub ring_bytes: u32,
    /// Record a running process too, with all its descendants, until CMD ends (may be given
    /// again). The number of a thread stands for its process.
    #[arg(short, long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Of a running process, record only itself: neither the children it has, nor those it forks
    /// from now on. CMD is recorded with its children in any case.
    #[arg(long, requires = "pids")]
    pub no_children: bool,
    /// No progress line.
    #[arg(short, long)]
    pub quiet: bool,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(bytes) if bytes.is_power_of_two() && (4096..=1 << 28).contains(&bytes) => Ok(bytes),
        _ => Err("must be a power of two from 4096 to 268435456".to_owned()),
    }
}

/// Runs the command under the agent. The exit code is the command's.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(reason) = app::doctor::refuse_reason() {
        bail!(reason);
    }
    let asked: Result<Vec<Asked>, _> = arguments.pids.iter().copied().map(Asked::find).collect();
    let asked = asked?;
    for note in asked.iter().filter_map(Asked::note) {
        eprintln!("hotspan: {note}");
    }
    // Opened first: a report that cannot be written should fail before the command runs.
    let mut output: Box<dyn io::Write> = match &arguments.output {
        Some(path) => Box::new(
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
        ),
        None => Box::new(io::stdout()),
    };
    let files = descriptors::raise();
    let symbols = Symbols::spawn().context("cannot start the symbol thread")?;
    super::command::catch_signals();
    let config = Config { hz: arguments.hz, ring_bytes: arguments.ring_bytes, ..Config::default() };
    // The command is our child: with us as a root it belongs to the tree from its first instant.
    let own = Root::from(Pid(std::process::id()));
    let alone = arguments.no_children;
    let roots = asked.iter().map(|asked| asked.root(alone)).chain([own]).collect();
    let mut daemon = Daemon::start(&config, &Reported::Tree(roots)).map_err(|error| {
        tracing::debug!(?error, "start failed");
        anyhow!("{error}. `hotspan doctor` tells what this host allows")
    })?;

    for asked in &asked {
        asked.check()?;
    }
    let recorded = asked.into_iter().zip(&daemon.below);
    let recorded = recorded.map(|(asked, &below)| asked.document(alone, below)).collect();

    // Rings and lanes must be drained before they lap, above all when the host is overloaded.
    let nice = daemon::raise_priority();
    let started = Instant::now();
    let mut command = Running::start(&arguments.command, nice, files)?;
    daemon.processes.set_root(Pid(command.pid()));
    let status = match watch(&mut daemon, &mut command, &symbols, arguments, started) {
        Ok(status) => status,
        Err(error) => {
            // The programs go at once; what they watched is not ours to end.
            drop(daemon);
            eprintln!("hotspan: {error:#}; the command goes on without it");
            command.wait().context("waiting for the command")?;
            bail!("nothing was recorded");
        }
    };
    let outcome = daemon.finish().context("reading what was recorded")?;

    let report = {
        let mut reporter = Reporter::new(
            &mut daemon.linker,
            &mut daemon.processes,
            &symbols,
            ktime::unix_offset(),
        );
        let mut loss: BTreeMap<String, u64> = outcome.loss;
        for (reason, n) in symbols.counters().losses() {
            if n > 0 {
                *loss.entry(reason.to_owned()).or_default() += n;
            }
        }
        let (spans, nested) =
            if arguments.json { (reporter.spans(), 0) } else { reporter.requests() };
        Report {
            spans,
            nested,
            recorded,
            threads: reporter.threads(),
            loss,
            conservation: outcome.conservation,
        }
    };
    if arguments.json {
        let mut writer = BufWriter::new(&mut output);
        serde_json::to_writer(&mut writer, &report).context("cannot write the report")?;
        writer.write_all(b"\n").and_then(|()| writer.flush()).context("cannot write the report")?;
    } else {
        let mut style = render::Style::for_stdout(arguments.top);
        style.colour &= arguments.output.is_none();
        render::report(&report, &mut output, &style).context("cannot write the report")?;
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(code as u8))
}

/// Rounds until the command has ended.
fn watch(
    daemon: &mut Daemon,
    command: &mut Running,
    symbols: &Symbols,
    arguments: &Arguments,
    started: Instant,
) -> anyhow::Result<std::process::ExitStatus> {
    let progress = !arguments.quiet && io::stderr().is_terminal();
    let end = command.end_fd();
    let watched = |daemon: &Daemon| -> Vec<libc::pollfd> {
        let fds = daemon.wake_fds().into_iter().chain(end);
        fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect()
    };
    let mut fds = watched(daemon);
    let mut shown = started;
    let status = loop {
        if let Some(status) = command.poll().context("waiting for the command")? {
            break status;
        }
        let period = daemon.period().as_millis() as libc::c_int;
        // SAFETY: `fds` is a live array of that length.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, period) };
        daemon.round().context("a round of the agent failed")?;
        if daemon.has_new_wake_fds() {
            fds = watched(daemon);
        }
        for map in daemon.processes.take_fresh_maps() {
            // A busy symbol thread opens them later, by name.
            symbols.open_files(map);
        }
        if progress && shown.elapsed() >= PROGRESS {
            shown = Instant::now();
            let spans = daemon.linker.spans.len();
            eprint!("\r\x1b[Khotspan: {:.1} s, {spans} spans", started.elapsed().as_secs_f64());
        }
    };
    if progress {
        eprint!("\r\x1b[K");
    }
    Ok(status)
}
