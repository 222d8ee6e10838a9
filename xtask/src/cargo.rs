//! cargo as the other commands call it: in the workspace root, with bpf-linker on its PATH.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process;

/// Package of the whole-path tests, their workloads and the bench.
pub(crate) const WHOLE_PATH: &str = "hotspan-tests";

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    // This crate is the folder `xtask` of the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo installs programs.
pub(crate) fn install_directory() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))?;
    Some(home.join("bin"))
}

/// `cargo ARGUMENTS` in the workspace root. The compiler looks bpf-linker up in PATH, so the directory
/// cargo installs to is added at its end.
pub(crate) fn cargo<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(install_directory());
    if let Ok(path) = env::join_paths(directories) {
        command.env("PATH", path);
    }
    command
}

/// Builds everything in release and returns the directory of the built programs.
pub(crate) fn build_release() -> Result<PathBuf> {
    process::run(&mut cargo(["build", "--release", "--workspace", "--exclude", "agent-ebpf"]))?;
    Ok(target_directory()?.join("release"))
}

/// cargo's target directory, wherever configuration or environment put it.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let text = process::output(&mut cargo(["metadata", "--no-deps", "--format-version", "1"]))
        .context("`cargo metadata` failed")?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("`cargo metadata` did not print JSON")?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .context("`cargo metadata` names no target directory")
}
