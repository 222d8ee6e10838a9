//! Which host this is, and which boot of it: how an agent introduces itself.

use std::fs;

use anyhow::Context as _;

use crate::model::{batch::Run, clock::unix_now_ns, id::RunId};

/// A run of an agent that begins now.
pub fn new_run() -> anyhow::Result<Run> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read the boot id: is /proc mounted?")?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(Run {
        id: RunId(random().context("the kernel gives no random bytes")?),
        boot_id: boot_id.trim().to_owned(),
        host: host.trim().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_unix_ns: unix_now_ns(),
    })
}

/// Bytes nobody can guess.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
