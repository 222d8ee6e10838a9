//! The life of a hotspan process: read the command line, log quietly to standard error, run the
//! command, turn its outcome into an exit code.

mod cli;
mod daemon;
mod kernel;
mod lanes;
mod link;
mod process;
mod profile;
mod symbols;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // Wrong usage is an error like others: 1. clap's own choice is 2.
        let _ = error.print();
        std::process::exit(i32::from(error.use_stderr()));
    });
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("HOTSPAN_LOG").unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
    let outcome = match &cli.command {
        Command::Record(arguments) => cli::record::run(arguments),
        Command::Doctor { json } => Ok(cli::doctor::run(*json)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("hotspan: {error:#}");
        ExitCode::FAILURE
    })
}
