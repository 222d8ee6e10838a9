//! `hotspan record -- CMD`: its arguments, and its report on a terminal or as JSON.

use std::{
    ffi::OsString,
    io::{self, BufWriter, IsTerminal as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;

use super::render;
use crate::{
    app::record::{Options, Recorded, Recording},
    process::own::output::output,
};

/// Arguments of `record`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print every span and thread as JSON instead of the summary.
    #[arg(long)]
    pub json: bool,
    /// Write the report to FILE instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Timer samples per second and CPU: how fine methods are reported. Times are exact at any rate.
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
    /// Do not filter hotspan's own system calls: should a library need one that is not known. CMD's are
    /// never filtered.
    #[arg(long, env = "HOTSPAN_NO_SECCOMP", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_seccomp: bool,
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
    let recording = Recording::prepare(Options {
        command: &arguments.command,
        pids: &arguments.pids,
        alone: arguments.no_children,
        hz: arguments.hz,
        ring_bytes: arguments.ring_bytes,
        progress: !arguments.quiet && io::stderr().is_terminal(),
        no_seccomp: arguments.no_seccomp,
        requests: !arguments.json,
    })?;
    for note in recording.notes() {
        eprintln!("hotspan: {note}");
    }
    // Opened first: a report that cannot be written should fail before the command runs.
    let mut report_to: Box<dyn io::Write> = match &arguments.output {
        Some(path) => {
            Box::new(output(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => Box::new(io::stdout()),
    };
    let Recorded { report, status } = recording.run()?;
    if arguments.json && arguments.output.is_none() && io::stdout().is_terminal() {
        let mut json = serde_json::to_vec(&report).context("cannot write the report")?;
        json.push(b'\n');
        super::write_json(&json).context("cannot write the report")?;
    } else if arguments.json {
        let mut writer = BufWriter::new(&mut report_to);
        serde_json::to_writer(&mut writer, &report).context("cannot write the report")?;
        writer.write_all(b"\n").and_then(|()| writer.flush()).context("cannot write the report")?;
    } else {
        let mut style = render::Style::for_stdout(arguments.top);
        style.colour &= arguments.output.is_none();
        render::report(&report, &mut report_to, &style).context("cannot write the report")?;
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(code as u8))
}
