//! `cargo xtask test`: every test there is, in the order of their cost.
//!
//! A failing group does not stop the following ones; the summary at the end lists each group.

use std::{
    env,
    ffi::{OsStr, OsString},
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    cargo::{WHOLE_PATH, cargo},
    dist, process,
    setup::Setup,
};

/// Builds everything and runs every test.
///
/// Unit tests need no privileges. Whole-path tests load programs into the kernel: they run one at
/// a time, as root only, and are skipped with a reason otherwise.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// What became of a group of tests.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(&'static str),
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        Setup {}.run()?;
        // Whole-path tests are of what users get, unless another build is named.
        let hotspan = match env::var_os("HOTSPAN_BIN") {
            Some(hotspan) => hotspan,
            None if process::is_root() => dist::make()?.join("hotspan").into(),
            None => OsString::new(),
        };
        // Whole-path tests start the built programs, so these are built first.
        process::run(&mut cargo(["build", "--workspace", "--exclude", "agent-ebpf"]))?;

        let units = ["--workspace", "--exclude", "agent-ebpf", "--exclude", WHOLE_PATH];
        let mut groups = vec![
            ("unit tests", self.group(&units, &[], None)),
            ("kernel account, on the host", self.group(&["-p", "agent-ebpf", "--lib"], &[], None)),
        ];
        let whole_path = if process::is_root() {
            self.group(&["-p", WHOLE_PATH], &["--test-threads=1"], Some(&hotspan))
        } else {
            Outcome::Skipped("loading programs into the kernel needs root: run this as root")
        };
        groups.push(("whole-path tests", whole_path));
        summary(&groups)
    }

    /// Runs `cargo test PACKAGES` with the filter; `options` go to the test programs, which start
    /// `hotspan`.
    fn group(&self, packages: &[&str], options: &[&str], hotspan: Option<&OsStr>) -> Outcome {
        let mut command = cargo(["test", "--no-fail-fast"]);
        if let Some(hotspan) = hotspan {
            command.env("HOTSPAN_BIN", hotspan);
        }
        command.args(packages).args(&self.filter);
        if !options.is_empty() {
            command.arg("--").args(options);
        }
        match process::run(&mut command) {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

/// Prints a line per group; an error if one of them failed.
fn summary(groups: &[(&str, Outcome)]) -> Result<()> {
    println!();
    let mut failed = 0;
    for (name, outcome) in groups {
        match outcome {
            Outcome::Passed => println!("passed   {name}"),
            Outcome::Skipped(reason) => println!("SKIPPED  {name}: {reason}"),
            Outcome::Failed(error) => {
                failed += 1;
                println!("FAILED   {name}: {error}");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} groups of tests failed", groups.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_group_fails_the_run() {
        let skipped = || ("b", Outcome::Skipped("why"));
        assert!(summary(&[("a", Outcome::Passed), skipped()]).is_ok());
        let groups = [("a", Outcome::Passed), skipped(), ("c", Outcome::Failed("x".into()))];
        assert_eq!(summary(&groups).unwrap_err().to_string(), "1 of 3 groups of tests failed");
    }
}
