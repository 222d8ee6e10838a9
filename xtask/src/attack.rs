//! `cargo xtask attack`: hostile neighbours against the program that users get.

use std::{env, ffi::OsString, process::Command};

use anyhow::Result;
use clap::Args;

use crate::{
    cargo::{build_release, target_directory},
    dist, process,
    setup::Setup,
};

/// Lets hostile programs loose on an agent, beside an honest one, and shows what came of it.
///
/// The agent runs within the limits of the systemd unit, the attackers as nobody. Needs root; one line per
/// attack: memory, CPU, spans that the honest program kept, what was lost and why. The same as JSON is
/// left in target/attack.json.
#[derive(Debug, Args)]
pub(crate) struct Attack {
    /// Run only this attack
    name: Option<String>,
    /// A few seconds of each
    #[arg(long)]
    short: bool,
}

impl Attack {
    pub(crate) fn run(self) -> Result<()> {
        Setup {}.run()?;
        if !process::is_root() {
            println!("SKIPPED  attacks: an agent and its limits need root: run this as root");
            return Ok(());
        }
        let hotspan: OsString = match env::var_os("HOTSPAN_BIN") {
            Some(hotspan) => hotspan,
            None => dist::make()?.join("hotspan").into(),
        };
        let json = target_directory()?.join("attack.json");
        let mut attack = Command::new(build_release()?.join("attack"));
        attack.env("HOTSPAN_BIN", hotspan).arg("--json").arg(json).args(&self.name);
        if self.short {
            attack.arg("--short");
        }
        process::run(&mut attack)
    }
}
