//! `cargo xtask dist`: what users get.
//!
//! ```text
//! target/release/hotspan ──► target/dist/hotspan         the program with its symbol table
//!                        ──► target/dist/hotspan.debug   files and lines of its code
//!                            target/dist/SHA256SUMS      of both
//! ```
//! Invariant: whoever has the program beside its debug file, or the debug file where debuggers look for
//! its build id, sees what the release build shows.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use sha2::{Digest as _, Sha256};

use crate::{cargo, process, setup::Setup};

const PROGRAM: &str = "hotspan";
const DEBUG: &str = "hotspan.debug";
const SUMS: &str = "SHA256SUMS";

/// Makes the program that users get: stripped, with its debug file and checksums, in target/dist.
///
/// The debug information of a release build is most of its size and is only read by debuggers,
/// profilers and panics; it becomes a file of its own that they find by name or build id. The symbol
/// table stays, so that a panic names functions without it.
#[derive(Debug, Args)]
pub(crate) struct Dist {}

impl Dist {
    pub(crate) fn run(self) -> Result<()> {
        Setup {}.run()?;
        let folder = make()?;
        println!();
        let built = cargo::target_directory()?.join("release").join(PROGRAM);
        for file in [built, folder.join(PROGRAM), folder.join(DEBUG)] {
            println!("{:>8.1} MB  {}", fs::metadata(&file)?.len() as f64 / 1e6, file.display());
        }
        print!("\n{}", fs::read_to_string(folder.join(SUMS))?);
        println!("\nTo check them: cd {} && sha256sum --check {SUMS}", folder.display());
        Ok(())
    }
}

/// Builds hotspan as users get it; returns the folder. One that runs from there goes on as it is.
pub(crate) fn make() -> Result<PathBuf> {
    let objcopy = ["objcopy", "llvm-objcopy"].into_iter().find_map(|name| process::find(name, &[]));
    let objcopy = objcopy.context("objcopy is missing: apt-get install binutils")?;
    // Alone: another package of the workspace may ask its dependencies for more than it needs.
    process::run(&mut cargo::cargo(["build", "--release", "--package", PROGRAM]))?;
    let target = cargo::target_directory()?;
    let folder = target.join("dist");
    // Made beside it and moved in one step: a file that runs cannot be written.
    let fresh = target.join("dist.new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    separate(&objcopy, &target.join("release").join(PROGRAM), &fresh)?;
    let mut sums = String::new();
    for name in [PROGRAM, DEBUG] {
        writeln!(sums, "{}  {name}", sha256(&fresh.join(name))?)?;
    }
    fs::write(fresh.join(SUMS), sums)?;
    for name in [DEBUG, PROGRAM, SUMS] {
        fs::rename(fresh.join(name), folder.join(name))?;
    }
    fs::remove_dir(&fresh)?;
    Ok(folder)
}

/// Splits `built` into a program and its debug file, each of which knows the other.
fn separate(objcopy: &Path, built: &Path, folder: &Path) -> Result<()> {
    let objcopy = || {
        let mut command = Command::new(objcopy);
        // The link holds the debug file's name as it is given.
        command.current_dir(folder);
        command
    };
    process::run(
        objcopy()
            .args(["--only-keep-debug", "--compress-debug-sections=zlib"])
            .arg(built)
            .arg(DEBUG),
    )?;
    let link = format!("--add-gnu-debuglink={DEBUG}");
    process::run(objcopy().args(["--strip-debug", &link]).arg(built).arg(PROGRAM))?;
    let (program, debug) = (build_id(&folder.join(PROGRAM))?, build_id(&folder.join(DEBUG))?);
    if program.is_none() || program != debug {
        bail!("the linker gave no build id, or objcopy lost it: {program:?}, {debug:?}");
    }
    Ok(())
}

/// As readelf prints it.
fn build_id(file: &Path) -> Result<Option<String>> {
    let said = process::output(Command::new("readelf").arg("--notes").arg(file))
        .context("readelf is missing: apt-get install binutils")?;
    Ok(said.lines().find_map(|line| Some(line.trim().strip_prefix("Build ID: ")?.to_owned())))
}

fn sha256(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let sum = Sha256::digest(bytes);
    Ok(sum.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_as_sha256sum_prints_it() {
        let file = std::env::temp_dir().join(format!("xtask-sha256-{}", std::process::id()));
        fs::write(&file, "abc").unwrap();
        let sum = sha256(&file);
        fs::remove_file(&file).unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sum.unwrap(), expected);
    }
}
