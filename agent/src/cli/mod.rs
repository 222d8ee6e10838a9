//! The commands.

pub mod command;
pub mod doctor;
pub mod record;
pub mod render;

use clap::{Parser, Subcommand};

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
    /// Needs root or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and others: `hotspan doctor` tells. Under
    /// sudo CMD runs as you, not as root. CMD's standard output goes to standard error, so that the
    /// report alone is on standard output. The exit code is CMD's.
    Record(record::Arguments),
    /// Tell what this host allows, what is missing, and what that costs you.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
