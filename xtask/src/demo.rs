//! `cargo xtask demo`: hotspan at work on a sample service.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{cargo, process, setup::Setup};

/// Shows where the time of a sample service's requests goes.
///
/// Builds hotspan and `shop`, a small service whose requests compute, contend for a lock, wait for
/// a socket, the disk and each other, and publish their spans. Then records it and prints the
/// slowest spans. Needs root; as another user it calls sudo for the recording only.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How long the sample service runs
    #[arg(long, default_value_t = 5)]
    seconds: u32,
}

impl Demo {
    pub(crate) fn run(self) -> Result<()> {
        Setup {}.run()?;
        let programs = cargo::build_release()?;
        println!(
            "
`shop` now serves requests for {} s; hotspan accounts every nanosecond of each of its spans.
Read each row from left to right: how long the span took, then a bar of the states it was in.
Lengths and causes are exact; methods and stacks below them are sampled.
",
            self.seconds
        );
        let hotspan = programs.join("hotspan");
        let mut command = if process::is_root() {
            Command::new(hotspan)
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg(hotspan);
            sudo
        };
        command.args(["record", "--"]).arg(programs.join("shop"));
        command.args(["--seconds", &self.seconds.to_string()]);
        process::run(&mut command)?;
        println!(
            "
Your own service: {} record -- COMMAND...   (`--json` for the whole document of every span)
What this host allows: {0} doctor",
            programs.join("hotspan").display()
        );
        Ok(())
    }
}
