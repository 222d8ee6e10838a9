//! `cargo xtask bench`: the budgets of the product, measured.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    cargo::{WHOLE_PATH, build_release},
    process,
    setup::Setup,
};

/// Measures the budgets: each line has the value, the target and the noise floor.
///
/// Runs the release program `bench` on this host; wants root and an otherwise idle machine.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Passed on to `bench`: names of the measurements to run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        Setup {}.run()?;
        let bench = build_release()?.join("bench");
        if !process::is_root() {
            println!("not root: measurements that load programs into the kernel are left out");
        }
        println!("measuring with `bench` of {WHOLE_PATH}; close what else uses the processors");
        process::run(Command::new(bench).args(self.arguments))
    }
}
