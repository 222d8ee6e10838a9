//! The whole cost of a switch: `perf bench sched pipe`, pinned to CPU 1, with nothing, with hotspan
//! and with libbpf-tools `offcputime` on CPU 0, interleaved so that drift hits all alike.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use hotspan_tests::host::{kernel_objects, signal, wait_for_child, wait_until};

use crate::{
    Line,
    agent::{Agent, pinned},
    sample::{apart, median},
};

const LOOPS: &str = "100000";
const BLOCKS: usize = 6;
/// Runs while a tool is attached, and as many without any.
const RUNS: usize = 2;

pub(crate) fn measure() -> Result<Vec<Line>> {
    ensure!(std::thread::available_parallelism()?.get() > 1, "needs two CPUs");
    let peer = ["offcputime", "/usr/sbin/offcputime", "/usr/share/bcc/tools/offcputime"]
        .into_iter()
        .find(|path| Path::new(path).is_absolute() && Path::new(path).exists());
    let (mut bare, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for block in 0..BLOCKS {
        // ABBA: what comes first changes from block to block.
        let mut order = [0, 1, 2];
        if block % 2 == 1 {
            order.reverse();
        }
        for condition in order {
            match condition {
                0 => runs(&mut bare)?,
                1 => {
                    let agent = Agent::start(true)?;
                    runs(&mut ours)?;
                    agent.stop()?;
                }
                _ => {
                    if let Some(peer) = peer {
                        let mut peer = Peer::start(peer)?;
                        runs(&mut theirs)?;
                        peer.stop()?;
                    }
                }
            }
        }
    }
    let base = median(&bare);
    let noise = apart(&bare).map(|apart| 1.0 + apart / base);
    let count = bare.len();
    let mut lines = vec![
        Line::new("pinned sched pipe, nothing attached", base, "s").noise(apart(&bare)),
        Line::new("pinned sched pipe, with hotspan", median(&ours) / base, "x")
            .target(1.10)
            .noise(noise)
            .note(format!("medians of {count} runs each")),
    ];
    lines.push(match peer {
        Some(_) => Line::new("pinned sched pipe, with offcputime", median(&theirs) / base, "x")
            .noise(noise)
            .note("libbpf-tools, all threads"),
        None => Line::skipped("pinned sched pipe, with offcputime", "libbpf-tools not installed"),
    });
    Ok(lines)
}

fn runs(series: &mut Vec<f64>) -> Result<()> {
    for _ in 0..RUNS {
        series.push(pipe()?);
    }
    Ok(())
}

/// Seconds of one run.
fn pipe() -> Result<f64> {
    let mut command = Command::new("perf");
    command.args(["bench", "sched", "pipe", "-l", LOOPS]);
    let output = pinned(command, 1).output().context("perf is needed")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Total time:"))
        .and_then(|rest| rest.split_whitespace().next())
        .with_context(|| format!("perf bench said: {text}"))?;
    Ok(seconds.parse()?)
}

/// The peer at work.
struct Peer(Child);

impl Peer {
    fn start(path: &str) -> Result<Self> {
        let before = kernel_objects()?;
        let mut command = Command::new(path);
        command.arg("60").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut peer = Self(pinned(command, 0).spawn()?);
        let attached = wait_until(Duration::from_secs(10), || {
            let now = kernel_objects().unwrap_or_default();
            now.difference(&before).any(|object| object.starts_with("link"))
        });
        if !attached {
            peer.stop()?;
            bail!("{path} does not attach");
        }
        Ok(peer)
    }

    fn stop(&mut self) -> Result<()> {
        signal(&self.0, libc::SIGINT)?;
        if wait_for_child(&mut self.0, Duration::from_secs(10))?.is_none() {
            self.0.kill()?;
            self.0.wait()?;
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Without effect on one that has been reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
