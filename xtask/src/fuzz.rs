//! `cargo xtask fuzz`: mutated input for every parser of what other people write.
//!
//! `tests/fuzz` is a workspace of its own with a target for each parser. A target fails when it panics,
//! hangs or takes more memory than it may; the input is kept and its path printed.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    cargo::{cargo, install_directory, root},
    process,
    setup::Setup,
};

/// The release that is installed.
const CARGO_FUZZ: &str = "0.13.2";
/// Targets, and the most bytes of an input: what the seeds need and some more.
const TARGETS: [(&str, u32); 9] = [
    ("cfi", 8192),
    ("elf", 8192),
    ("jitdump", 4096),
    ("gopclntab", 2048),
    ("perf_map", 4096),
    ("cache", 2048),
    ("debug", 8192),
    ("wire", 8192),
    ("wire_order", 4096),
];

/// Runs the fuzz targets of hostile input, one after the other.
///
/// Starts from the seeds in tests/fuzz/seeds, and from what earlier runs on this machine found.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Run only this target
    target: Option<String>,
    /// Seconds of each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

impl Fuzz {
    pub(crate) fn run(self) -> Result<()> {
        let chosen = chosen(self.target.as_deref())?;
        Setup {}.run()?;
        cargo_fuzz()?;
        let mut failed = Vec::new();
        for &(target, most) in chosen {
            if let Err(error) = run(target, most, self.seconds) {
                failed.push(format!("{target}: {error:#}"));
            }
        }
        if !failed.is_empty() {
            bail!("{} of {} targets failed\n{}", failed.len(), chosen.len(), failed.join("\n"));
        }
        Ok(())
    }
}

/// One target, or all.
fn chosen(target: Option<&str>) -> Result<&'static [(&'static str, u32)]> {
    let Some(target) = target else { return Ok(&TARGETS) };
    let names = || TARGETS.map(|(name, _)| name).join(", ");
    let index = TARGETS.iter().position(|&(name, _)| name == target);
    let index = index.with_context(|| format!("no target {target}: there are {}", names()))?;
    Ok(&TARGETS[index..=index])
}

/// Installs cargo-fuzz if it is not there.
fn cargo_fuzz() -> Result<()> {
    let directories: Vec<PathBuf> = install_directory().into_iter().collect();
    if process::find("cargo-fuzz", &directories).is_some() {
        return Ok(());
    }
    let mut command = cargo(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked"]);
    // Outside the workspace: its lock file and configuration are none of cargo-fuzz's.
    process::run(command.current_dir("/"))
}

fn run(target: &str, most: u32, seconds: u32) -> Result<()> {
    let fuzz = root().join("tests/fuzz");
    let corpus = fuzz.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    process::run(
        command(target)
            .arg(corpus)
            .arg(fuzz.join("seeds").join(target))
            .arg("--")
            .args([format!("-max_len={most}"), format!("-max_total_time={seconds}")])
            // By the clock: on a busy host an input may wait. What took a second is kept to be looked at.
            .args(["-report_slow_units=1", "-timeout=5", "-rss_limit_mb=1024"])
            .arg("-print_final_stats=1"),
    )
}

/// `cargo fuzz run TARGET`. Without a sanitizer: the code is safe, and many times faster so; what wraps
/// around or is out of bounds panics.
fn command(target: &str) -> Command {
    let mut command = cargo(["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--sanitizer", "none"]);
    // Instrumentation is unstable; the compiler that builds everything else has it.
    command.arg(target).env("RUSTC_BOOTSTRAP", "1");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_file_and_seeds() {
        let fuzz = root().join("tests/fuzz");
        for (target, _) in chosen(None).unwrap() {
            assert!(fuzz.join(format!("targets/{target}.rs")).is_file(), "{target}");
            assert!(fs::read_dir(fuzz.join("seeds").join(target)).unwrap().count() > 0, "{target}");
        }
        let files = fs::read_dir(fuzz.join("targets")).unwrap().count();
        assert_eq!(files, TARGETS.len());
    }

    #[test]
    fn an_unknown_target_names_those_there_are() {
        assert_eq!(chosen(Some("cfi")).unwrap()[0].0, "cfi");
        let error = chosen(Some("cif")).unwrap_err().to_string();
        assert!(error.contains("cfi, elf"), "{error}");
    }
}
