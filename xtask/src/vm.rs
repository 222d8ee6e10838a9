//! `cargo xtask vm`: hotspan in Debian's kernels, under an emulated machine.
//!
//! ```text
//! kernel: apt package ─► vmlinuz ─┐
//! guest:  programs + tests/vm ────┴► initramfs ─► qemu ─► results ─► verdict: table, problems
//! ```
//! Emulation (TCG) works everywhere, also where nested virtualisation does not, and distorts every
//! length of time. So the verdict asks for identities and for the right state, never for accuracy.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{cargo, setup::Setup};

mod guest;
mod kernel;
mod stacks;
mod verdict;

/// Boots Debian's kernels in an emulated machine and checks hotspan in them.
///
/// For each kernel: are the kernel programs accepted and gone afterwards, and does `hotspan record`
/// tell the truth about workloads that know it? Every span found, its states summing exactly to its
/// active time, most of its waiting in the intended state, nothing unaccounted for. Both default
/// kernels lack what newer ones have (sched_exit_tp, task_prctl_unknown), so their fallbacks are what
/// is tested.
///
/// Needs Debian or a derivative that offers these kernels; installs qemu-system-x86 and busybox-static
/// by apt if they are missing (root). Kernels are downloaded, not installed. Takes about two minutes a
/// kernel. What came of it stays in `vm/PACKAGE` of the target folder: console.log, and in `out` every
/// report with its truth and what hotspan said.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask vm                                  both kernels, every scenario
  cargo xtask vm --kernel 6.1                     the floor only
  cargo xtask vm --kernel 6.1 --scenario sleep    one workload, see tests/workloads/truth")]
pub(crate) struct Vm {
    /// Series of Debian's cloud kernels; the newest package of each. May be repeated
    #[arg(long, value_name = "X.Y", default_values = ["6.1", "6.12"], value_parser = series)]
    kernel: Vec<String>,
    /// Scenarios of the workload `truth` to record. May be repeated
    #[arg(long, value_name = "NAME", default_values = SCENARIOS, value_parser = scenario)]
    scenario: Vec<String>,
    /// How long one machine may run before it is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 420)]
    deadline: u64,
}

/// One per kind of wait, and the shapes of spans that make the kernel programs work hardest. Not
/// `exit_in_span`: before Linux 6.16 the last markers of a process that ends at once may be lost.
const SCENARIOS: [&str; 19] = [
    "sleep",
    "mutex",
    "condvar",
    "pipe",
    "unix_socket",
    "tcp_socket",
    "poll",
    "fsync",
    "waitpid",
    "producers",
    "burn",
    "contention",
    "many",
    "storm",
    "nested",
    "two_threads",
    "migrate",
    "exec",
    "fork",
];

fn series(text: &str) -> Result<String, String> {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((major, minor)) if number(major) && number(minor) => Ok(text.to_owned()),
        _ => Err("must be a kernel series such as 6.1".to_owned()),
    }
}

/// The name becomes a word of the guest's shell and a folder.
fn scenario(text: &str) -> Result<String, String> {
    let plain =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if plain { Ok(text.to_owned()) } else { Err("must be a name such as tcp_socket".to_owned()) }
}

impl Vm {
    pub(crate) fn run(self) -> Result<()> {
        Setup {}.run()?;
        kernel::tools()?;
        let programs = cargo::build_release()?;
        let folder = programs.parent().context("cargo's folder has a parent")?.join("vm");

        let mut problems = 0;
        for series in &self.kernel {
            let found = self.one(series, &programs, &folder).unwrap_or_else(|error| {
                println!("Linux {series}: {error:#}");
                1
            });
            problems += found;
        }
        if problems > 0 {
            bail!("{problems} problems; consoles, reports and truths are in {}", folder.display());
        }
        Ok(())
    }

    /// Tests one kernel and prints its table; the number of problems found.
    fn one(&self, series: &str, programs: &Path, folder: &Path) -> Result<usize> {
        let package = kernel::newest(series)?;
        let folder = folder.join(&package);
        let kernel = kernel::extracted(&package, &folder)?;
        let guest = guest::Guest::new(&folder, &kernel, programs, &self.scenario)?;
        let started = Instant::now();
        let results = guest.run(Duration::from_secs(self.deadline))?;
        let took = started.elapsed().as_secs();
        println!("\n{package}, {took} s in the emulated machine");
        let problems = verdict::print(&results, &self.scenario)?;
        println!("  {} problems; everything is in {}", problems, folder.display());
        Ok(problems)
    }
}

/// A folder that is there and empty.
fn fresh(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}: remove it by hand", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_reach_apt_and_the_guest() {
        assert!(series("6.12").is_ok());
        assert!(series("6").is_err());
        assert!(series("6.1.*").is_err());
        assert!(scenario("tcp_socket").is_ok());
        assert!(scenario("sleep; reboot").is_err());
        assert!(scenario("../x").is_err());
    }
}
