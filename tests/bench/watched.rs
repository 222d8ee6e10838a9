//! A process under watch: its CPU time and memory, and the one agent a host can have.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hotspan_tests::{host::read_text, service::Service};

/// Whoever else profiles this host may need so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service whose agent is the host's only one: tries again while another one is.
pub(crate) fn alone(
    start: impl Fn() -> Result<Service>,
    mut is_up: impl FnMut(&mut Service) -> Result<bool>,
) -> Result<Service> {
    let begun = Instant::now();
    loop {
        let mut service = start()?;
        if is_up(&mut service)? {
            return Ok(service);
        }
        let log = service.log();
        if !log.contains("already profiles this host") || begun.elapsed() > PATIENCE {
            // Attempts share the file.
            bail!("no batch comes: {}", log.lines().last().unwrap_or("it said nothing"));
        }
        // A neighbour's agent ends without a sign that could be waited for.
        thread::sleep(Duration::from_millis(500));
    }
}

/// CPU seconds of all threads of a process so far. Of those that ended, nothing.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = read_text(task?.path().join("schedstat"));
        ns += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(ns as f64 / 1e9)
}

/// A field of `/proc/PID/smaps_rollup` or `status`, in MB.
pub(crate) fn megabytes(pid: u32, file: &str, field: &str) -> Option<f64> {
    let text = read_text(format!("/proc/{pid}/{file}"));
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes = line.trim_start_matches(':').split_whitespace().next()?;
    Some(kilobytes.parse::<f64>().ok()? * 1024.0 / 1e6)
}

/// CPU seconds per thread name, for whoever looks for the cause of a figure.
pub(crate) fn cpu_by_thread(pid: u32) -> Vec<(String, f64)> {
    let mut threads = std::collections::BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let name = read_text(task.path().join("comm")).trim().to_owned();
        let text = read_text(task.path().join("schedstat"));
        let ns = text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        *threads.entry(name).or_insert(0.0) += ns as f64 / 1e9;
    }
    threads.into_iter().collect()
}

/// CPU time of this thread so far.
pub(crate) fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
