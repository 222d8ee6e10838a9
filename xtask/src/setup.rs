//! `cargo xtask setup`: what a fresh machine needs to build hotspan, installed once.
//!
//! Idempotent. Each step prints one line; with nothing to do it costs a few process starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{cargo, process};

/// The release that links objects of rustc 1.95 (LLVM 22).
const BPF_LINKER: &str = "0.13";
const BPF_LINKER_EXACT: &str = "0.13.0";
/// What `.ci/run` checks licences and origins of dependencies with.
const CARGO_DENY: &str = "0.20.2";
/// LLVM of that rustc; bpf-linker must be built against the same major version.
const LLVM: &str = "22";

/// Rust components: directory or file below the sysroot that shows it is there, and its name.
const COMPONENTS: [(&str, &str); 3] = [
    ("lib/rustlib/src/rust/library/core/src/lib.rs", "rust-src"),
    ("bin/cargo-clippy", "clippy"),
    ("bin/rustfmt", "rustfmt"),
];

/// Programs that tests call: name, what for, Debian package.
const TEST_TOOLS: [(&str, &str, &str); 10] = [
    ("cc", "C workloads and fixtures", "gcc"),
    ("c++", "stacks under C++ exceptions", "g++"),
    ("musl-gcc", "stacks of programs with musl", "musl-tools"),
    ("nm", "finding functions of fixtures", "binutils"),
    ("gdb", "reading lanes and stacks from outside", "gdb"),
    ("perf", "comparing sampled stacks", "linux-perf"),
    ("bpftool", "seeing what is in the kernel", "bpftool"),
    ("faketime", "stepping the clock of one process", "faketime"),
    ("systemd-analyze", "checking the systemd unit", "systemd"),
    ("shellcheck", "checking scripts", "shellcheck"),
];

/// Installs what building and testing needs: Rust components and bpf-linker.
///
/// The kernel programs are Rust too: they need the sources of core (`rust-src`) and bpf-linker,
/// which needs LLVM 22 once, to be built. Run it as often as you like.
#[derive(Debug, Args)]
pub(crate) struct Setup {}

impl Setup {
    pub(crate) fn run(self) -> Result<()> {
        rust_components()?;
        bpf_linker()?;
        test_tools();
        Ok(())
    }
}

/// One line of the account of what was found or done.
fn say(what: &str, state: impl AsRef<str>) {
    println!("setup: {what:<12} {}", state.as_ref());
}

fn rust_components() -> Result<()> {
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))
        .map(PathBuf::from)
        .context("rustc is not on PATH: install Rust 1.95 or later from https://rustup.rs")?;
    let missing = missing_components(&sysroot);
    if missing.is_empty() {
        say("rust", format!("rust-src, clippy, rustfmt in {}", sysroot.display()));
        return Ok(());
    }
    say("rust", format!("adding {}", missing.join(", ")));
    if process::find("rustup", &[]).is_none() {
        bail!(
            "this Rust has no rustup; install {} for {} with the package manager it came from",
            missing.join(", "),
            sysroot.display(),
        );
    }
    process::run(Command::new("rustup").args(["component", "add"]).args(&missing))
}

fn missing_components(sysroot: &Path) -> Vec<&'static str> {
    COMPONENTS
        .iter()
        .filter(|(file, _)| !sysroot.join(file).exists())
        .map(|&(_, component)| component)
        .collect()
}

fn bpf_linker() -> Result<()> {
    let directories: Vec<PathBuf> = cargo::install_directory().into_iter().collect();
    if let Some(linker) = process::find("bpf-linker", &directories) {
        let version = process::output(Command::new(&linker).arg("--version")).unwrap_or_default();
        if is_wanted_linker(&version) {
            say("bpf-linker", format!("{version} at {}", linker.display()));
            return Ok(());
        }
        say("bpf-linker", format!("`{version}` at {}: {BPF_LINKER} is needed", linker.display()));
    }
    let prefix = llvm()?;
    say("bpf-linker", "building, which takes one to three minutes, once");
    process::run(
        cargo::cargo(["install", "bpf-linker", "--version", BPF_LINKER_EXACT])
            .args(["--no-default-features", "--features", "llvm-22", "--locked", "--force"])
            // Outside the workspace: its lock file and configuration are none of bpf-linker's.
            .current_dir("/")
            .env("LLVM_PREFIX", prefix),
    )
}

/// Installs what checks a change and builds nothing: cargo-deny. Only `cargo xtask setup` itself asks
/// for it.
pub(crate) fn checks() -> Result<()> {
    let directories: Vec<PathBuf> = cargo::install_directory().into_iter().collect();
    if let Some(deny) = process::find("cargo-deny", &directories) {
        let version = process::output(Command::new(&deny).arg("--version")).unwrap_or_default();
        if version == format!("cargo-deny {CARGO_DENY}") {
            say("cargo-deny", format!("{version} at {}", deny.display()));
            return Ok(());
        }
        say("cargo-deny", format!("`{version}` at {}: {CARGO_DENY} is needed", deny.display()));
    }
    say("cargo-deny", "building, which takes about a minute, once");
    process::run(
        cargo::cargo(["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--force"])
            // It runs for a second: optimising it takes longer than it ever saves.
            .arg("--debug")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .current_dir("/"),
    )
}

/// Whether `bpf-linker --version` printed the release we need.
fn is_wanted_linker(version: &str) -> bool {
    version
        .strip_prefix("bpf-linker ")
        .and_then(|number| number.strip_prefix(BPF_LINKER))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The prefix of an LLVM with its development files, installed from Debian if need be.
fn llvm() -> Result<PathBuf> {
    if let Some(prefix) = find_llvm() {
        say("llvm", format!("{LLVM} at {}", prefix.display()));
        return Ok(prefix);
    }
    let packages = [format!("llvm-{LLVM}-dev"), format!("libpolly-{LLVM}-dev")];
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let by_apt = format!("apt-get update && apt-get install -y {}", packages.join(" "));
    if !is_debian(&os_release) {
        bail!(
            "bpf-linker needs LLVM {LLVM} with headers to be built. Install it (Debian: `{by_apt}`; \
             Fedora: llvm-devel; Arch: llvm), with llvm-config-{LLVM} on PATH, and run this again"
        );
    }
    if !process::is_root() {
        bail!("bpf-linker needs LLVM {LLVM} to be built. As root run: {by_apt}");
    }
    say("llvm", format!("installing {}", packages.join(" ")));
    apt_install(&packages)?;
    find_llvm().with_context(|| format!("apt-get installed no LLVM {LLVM} development files"))
}

/// An LLVM of the right major version that has its headers.
fn find_llvm() -> Option<PathBuf> {
    let by_config = ["llvm-config-22", "llvm-config"].into_iter().filter_map(|name| {
        let version = process::output(Command::new(name).arg("--version"))?;
        let right = version.split('.').next() == Some(LLVM);
        right.then(|| process::output(Command::new(name).arg("--prefix")))?.map(PathBuf::from)
    });
    by_config
        .chain([PathBuf::from("/usr/lib/llvm-22")])
        .find(|prefix| prefix.join("include/llvm-c/Core.h").exists())
}

/// Whether packages come from apt (Debian and what derives from it).
fn is_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|ids| ids.trim_matches('"').split_whitespace())
        .any(|id| id == "debian")
}

/// Installs packages on Debian, as root.
fn apt_install(packages: &[String]) -> Result<()> {
    process::run(Command::new("apt-get").arg("update"))?;
    process::run(
        Command::new("apt-get")
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Tests that need one of these fail or skip with its name: installed where we may, else named.
fn test_tools() {
    let missing: Vec<_> =
        TEST_TOOLS.iter().filter(|(program, ..)| process::find(program, &[]).is_none()).collect();
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !missing.is_empty() && process::is_root() && is_debian(&os_release) {
        let packages: Vec<String> =
            missing.iter().map(|(.., package)| (*package).to_owned()).collect();
        say("test tools", format!("installing {}", packages.join(" ")));
        if let Err(error) = apt_install(&packages) {
            say("test tools", format!("{error:#}"));
        }
    }
    for (program, purpose, package) in TEST_TOOLS {
        match process::find(program, &[]) {
            Some(path) => say(program, path.display().to_string()),
            None => say(
                program,
                format!("missing (tests use it for {purpose}): apt-get install {package}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_linker_will_do() {
        assert!(is_wanted_linker("bpf-linker 0.13.0"));
        assert!(is_wanted_linker("bpf-linker 0.13"));
        assert!(!is_wanted_linker("bpf-linker 0.130.0"));
        assert!(!is_wanted_linker("bpf-linker 0.9.14"));
        assert!(!is_wanted_linker(""));
    }

    #[test]
    fn debian_and_its_derivatives_use_apt() {
        assert!(is_debian("NAME=x\nID=debian\n"));
        assert!(is_debian("ID=mint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nNAME=debian\n"));
        assert!(!is_debian(""));
    }

    #[test]
    fn an_empty_sysroot_misses_every_component() {
        let missing = missing_components(Path::new("/nonexistent"));
        assert_eq!(missing, ["rust-src", "clippy", "rustfmt"]);
    }
}
