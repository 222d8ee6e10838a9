//! The commands.

pub mod client;
pub mod doctor;
mod duration;
mod log;
pub mod record;
pub mod render;
pub mod service;
pub mod span;
pub mod spans;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::{config, heap, model::state::State, symbols::parser};

/// Says where each span's time went on this host, and who made it wait.
#[derive(Debug, Parser)]
#[command(name = "hotspan", version, about, long_about = None, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What hotspan can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command and print where the time of each of its spans went.
    ///
    /// hotspan attaches to the kernel, runs CMD until it exits and prints its slowest spans: how
    /// long each was active, running, or waiting, for what, and on whom. CMD publishes spans through
    /// a lane (see proto/lanes); without spans the report still holds the account of every thread.
    ///
    /// Needs root or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and others: `hotspan doctor` shows. Under
    /// sudo CMD runs as you, not as root. CMD's standard output goes to standard error, so that the
    /// report alone is on standard output. The exit code is CMD's.
    Record(record::Arguments),
    /// Profile this host day and night: agent, collector and API in one process.
    ///
    /// Every second what was found is stored; `hotspan spans` and `hotspan span` ask about it while
    /// this runs. Needs root, as `hotspan record`. Ends with SIGTERM or Ctrl-C, with nothing lost.
    Run(config::RunFlags),
    /// Stream this host to a collector.
    ///
    /// Needs root, as `hotspan record`, and the collector's ingest token. What the collector has not
    /// acknowledged waits in memory, so a collector that is away for a while costs nothing.
    Agent(config::AgentFlags),
    /// Receive what agents stream, store it, answer questions about it.
    Collector(config::CollectorFlags),
    /// List stored spans: newest, slowest, by service, name or state.
    ///
    /// Asks a running hotspan (`hotspan run` or `hotspan collector`) and shows, for each span, how
    /// long it took, where that time went, and the id that `hotspan span` takes.
    #[command(after_help = spans::EXAMPLES)]
    Spans(spans::Arguments),
    /// Tell where one span's time went, and who made it wait.
    ///
    /// Asks a running hotspan (`hotspan run` or `hotspan collector`). The times of states and causes
    /// are exact: every switch of every thread was accounted. Functions and stacks are sampled, and
    /// scaled to the exact time of their state.
    #[command(after_help = span::EXAMPLES)]
    Span(span::Arguments),
    /// Tell what this host allows, what is missing, and what that costs you.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A hotspan process from its command line to its exit code.
pub fn main() -> ExitCode {
    heap::keep_little();
    if let Some(code) = parser::main() {
        return code;
    }
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // Wrong usage is an error like others: 1. clap's own choice is 2.
        let _ = error.print();
        std::process::exit(i32::from(error.use_stderr()));
    });
    cli.command.run().unwrap_or_else(|error| {
        eprintln!("hotspan: {error:#}");
        ExitCode::FAILURE
    })
}

// === impl Command ===

impl Command {
    fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Record(arguments) => {
                log::start(std::env::var("HOTSPAN_LOG").as_deref().unwrap_or("warn"));
                record::run(arguments)
            }
            Self::Run(flags) => service::run(flags),
            Self::Agent(flags) => service::run(flags),
            Self::Collector(flags) => service::run(flags),
            Self::Spans(arguments) => spans::run(arguments),
            Self::Span(arguments) => span::run(arguments),
            Self::Doctor { json } => Ok(doctor::run(*json)),
        }
    }
}

/// A state by its key.
fn states() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::all().map(State::key))
        .try_map(|key| State::from_key(&key).ok_or("no such state"))
}

/// Writes JSON to standard output: as it is, unless that is a terminal, which names of other people's
/// programs must not move.
fn write_json(json: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.is_terminal() {
        true => out.write_all(render::plain_json(json).as_bytes()),
        false => out.write_all(json),
    }
}

/// The exit code after writing to standard output. Whoever reads it may stop early (`| head`).
fn written(outcome: io::Result<()>) -> anyhow::Result<ExitCode> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        outcome => outcome.map(|()| ExitCode::SUCCESS).context("cannot write the answer"),
    }
}
