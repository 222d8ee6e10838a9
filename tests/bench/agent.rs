//! hotspan at work beside a load, and what it costs: its own CPU time, its memory, and the run time
//! of its kernel programs from `bpftool`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::host::{self, Scratch, listed, read_text, signal, wait_for_child, wait_until};

use crate::watched;

const SOON: Duration = Duration::from_secs(20);

/// What `bpf_stats` itself adds to each run: measured with empty programs on the reference machine
/// (64 ns); the body costs printed have it subtracted.
pub(crate) const EMPTY_PROGRAM_NS: f64 = 64.0;

/// Runs and run time of one program.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runs {
    pub(crate) count: u64,
    pub(crate) ns: u64,
}

/// A hotspan that records nothing but `sleep`, and so accounts the whole host.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    objects: BTreeSet<String>,
    _scratch: Scratch,
}

/// A process pinned to a CPU.
pub(crate) fn pinned(mut command: Command, cpu: usize) -> Command {
    // SAFETY: between fork and exec, a plain system call without locks or memory.
    unsafe {
        command.pre_exec(move || {
            pin_this_thread(cpu);
            Ok(())
        })
    };
    command
}

/// Best effort: a host with a single CPU has no second one.
pub(crate) fn pin_this_thread(cpu: usize) {
    pin(0, cpu);
}

/// Pins a thread to a CPU; 0 is this thread. Whether it could be. Plain system calls without memory.
pub(crate) fn pin(tid: libc::pid_t, cpu: usize) -> bool {
    // SAFETY: an all-zero set is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number of a CPU of this host, which a set has room for.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is valid for its size.
    unsafe { libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &raw const set) == 0 }
}

/// Counts the run time of kernel programs as long as it lives.
#[derive(Debug)]
pub(crate) struct Stats(String);

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Stats {
    pub(crate) fn enable() -> Result<Self> {
        let before = read_text(STATS);
        fs::write(STATS, "1").context(STATS)?;
        Ok(Self(before.trim().to_owned()))
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        let _ = fs::write(STATS, &self.0);
    }
}

// === impl Agent ===

impl Agent {
    /// Attached when this returns. On CPU 0 if asked.
    pub(crate) fn start(on_cpu_0: bool) -> Result<Self> {
        Self::start_with(&[], on_cpu_0.then_some(0))
    }

    /// The same with more arguments, on one CPU if asked.
    pub(crate) fn start_with(arguments: &[&str], cpu: Option<usize>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut command = Command::new(host::hotspan()?);
        command
            .args(["record", "--json", "-q", "-o"])
            .arg(scratch.file("report.json"))
            .args(arguments)
            .args(["--", "sleep", "300"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(scratch.file("stderr"))?);
        if let Some(cpu) = cpu {
            command = pinned(command, cpu);
        }
        let child = command.spawn()?;
        let mut agent = Self { child, objects: BTreeSet::new(), _scratch: scratch };
        let pid = agent.child.id();
        // Its command starts after the attach.
        let started = wait_until(SOON, || host::has_child(pid, "sleep"));
        ensure!(started, "hotspan does not attach: {}", read_text(agent._scratch.file("stderr")));
        agent.objects = host::held_objects(pid)?;
        Ok(agent)
    }

    /// Ends its command as Ctrl-C would, and waits for it.
    pub(crate) fn stop(mut self) -> Result<()> {
        signal(&self.child, libc::SIGINT)?;
        wait_for_child(&mut self.child, SOON)?.context("hotspan does not end")?;
        Ok(())
    }

    /// CPU seconds of all its threads so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        watched::cpu_seconds(self.child.id())
    }

    /// A field of `/proc/PID/smaps_rollup` or `status`, in MB.
    pub(crate) fn megabytes(&self, file: &str, field: &str) -> Option<f64> {
        watched::megabytes(self.child.id(), file, field)
    }

    /// Memory of its maps in the kernel, in MB.
    pub(crate) fn map_megabytes(&self) -> Result<f64> {
        map_megabytes(&self.objects)
    }

    /// What its programs did so far, by name.
    pub(crate) fn programs(&self) -> Result<BTreeMap<String, Runs>> {
        programs(&self.objects)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Without effect on one that has been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of these maps in the kernel, in MB.
pub(crate) fn map_megabytes(objects: &BTreeSet<String>) -> Result<f64> {
    let bytes = listed("map")?
        .iter()
        .filter(|map| objects.contains(&format!("map {}", map["id"])))
        .map(|map| number(&map["bytes_memlock"]))
        .sum::<u64>();
    Ok(bytes as f64 / 1e6)
}

/// Memory in the kernel of all maps of this name, in MB: a map within another has no descriptor.
pub(crate) fn named_map_megabytes(name: &str) -> Result<f64> {
    let maps = listed("map")?;
    let named = maps.iter().filter(|map| map["name"] == name);
    Ok(named.map(|map| number(&map["bytes_memlock"])).sum::<u64>() as f64 / 1e6)
}

/// What these programs did so far, by name.
pub(crate) fn programs(objects: &BTreeSet<String>) -> Result<BTreeMap<String, Runs>> {
    let mut programs: BTreeMap<String, Runs> = BTreeMap::new();
    for program in listed("prog")? {
        if objects.contains(&format!("prog {}", program["id"])) {
            let name = program["name"].as_str().unwrap_or("").to_owned();
            let runs = programs.entry(name).or_default();
            runs.count += number(&program["run_cnt"]);
            runs.ns += number(&program["run_time_ns"]);
        }
    }
    ensure!(!programs.is_empty(), "hotspan holds no programs");
    Ok(programs)
}

/// What the programs did between two looks.
pub(crate) fn difference(
    from: &BTreeMap<String, Runs>,
    to: &BTreeMap<String, Runs>,
) -> BTreeMap<String, Runs> {
    to.iter()
        .map(|(name, runs)| {
            let before = from.get(name).copied().unwrap_or_default();
            let (count, ns) = (runs.count - before.count, runs.ns - before.ns);
            (name.clone(), Runs { count, ns })
        })
        .collect()
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
