//! What an agent may use under attack, the limits of its unit as cgroups (v1), and what it does use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::host;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Where the kernel has controllers of version 1.
const CONTROLLERS: &str = "/sys/fs/cgroup";
/// Ticks a second of the times in `/proc/PID/stat` (`USER_HZ`, on every architecture we build for).
const USER_HZ: u64 = 100;

/// Cgroups with the limits of the unit.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) memory: Option<PathBuf>,
    tasks: Option<PathBuf>,
}

/// Looks at the agent's memory until it goes.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    pub(super) peak: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    pub(super) before: u64,
    pub(super) began: Instant,
    pub(super) cpu_before: Duration,
}

/// A limit of the unit: `MemoryMax=512M` is 512 MiB.
pub fn unit_limit(name: &str) -> Result<u64> {
    let unit = include_str!("../../../deploy/systemd/hotspan.service");
    let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = value.with_context(|| format!("the unit has no {name}"))?;
    let (number, shift) = match value.strip_suffix('M') {
        Some(number) => (number, 20),
        None => (value, 0),
    };
    Ok(number.parse::<u64>().with_context(|| format!("{name}={value}"))? << shift)
}

// === impl Limits ===

impl Limits {
    pub(super) fn make() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("hotspan-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let group = |controller: &str, limit: &str, value: u64| -> Result<Option<PathBuf>> {
            let root = Path::new(CONTROLLERS).join(controller);
            // The file of a limit is of version 1, and only where the controller is.
            if !root.join("cgroup.clone_children").exists() {
                eprintln!("no cgroup (v1) of {controller} here: the agent runs without that limit");
                return Ok(None);
            }
            let group = root.join(&name);
            fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
            fs::write(group.join(limit), value.to_string())?;
            Ok(Some(group))
        };
        Ok(Self {
            memory: group("memory", "memory.limit_in_bytes", unit_limit("MemoryMax")?)?,
            tasks: group("pids", "pids.max", unit_limit("TasksMax")?)?,
        })
    }

    /// The command, within the limits from its first instruction.
    pub(super) fn hold(&self, command: &Command) -> Result<Command> {
        let mut held = Command::new("sh");
        let mut script = format!("ulimit -n {}; ", unit_limit("LimitNOFILE")?);
        for group in [&self.memory, &self.tasks].into_iter().flatten() {
            script += &format!("echo $$ > {}/cgroup.procs && ", group.display());
        }
        script += "exec \"$@\"";
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => held.env(name, value),
                None => held.env_remove(name),
            };
        }
        held.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
        Ok(held)
    }

    /// What the kernel says if it ended a process for its memory.
    pub(super) fn killed(&self) -> String {
        let Some(memory) = &self.memory else { return String::new() };
        let said = host::read_text(memory.join("memory.oom_control"));
        let kills = said.lines().find_map(|line| line.strip_prefix("oom_kill "));
        let kills = kills.filter(|&kills| kills.trim() != "0");
        kills.map_or(String::new(), |kills| format!("out of memory ({kills} kills), "))
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for group in [&self.memory, &self.tasks].into_iter().flatten() {
            // The kernel takes a moment to let go of a process that was just reaped.
            host::wait_until(Duration::from_secs(2), || fs::remove_dir(group).is_ok());
        }
    }
}

// === impl Watch ===

impl Watch {
    pub(super) fn start(pid: u32, group: Option<PathBuf>) -> Self {
        let before = memory(pid, group.as_deref());
        let (stop, peak) = (Arc::<AtomicBool>::default(), Arc::new(AtomicU64::new(before)));
        let thread = std::thread::spawn({
            let (stop, peak) = (Arc::clone(&stop), Arc::clone(&peak));
            move || {
                while !stop.load(Relaxed) {
                    peak.fetch_max(memory(pid, group.as_deref()), Relaxed);
                    std::thread::sleep(LOOK);
                }
            }
        });
        let thread = Some(thread);
        Self { stop, peak, thread, before, began: Instant::now(), cpu_before: cpu(pid) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only reads; that it failed would show as a peak of nothing.
            let _ = thread.join();
        }
    }
}

/// Bytes charged to a cgroup without files' pages; without one, resident bytes of a process.
pub(super) fn memory(pid: u32, group: Option<&Path>) -> u64 {
    let Some(group) = group else { return resident(pid) };
    let usage = host::read_text(group.join("memory.usage_in_bytes")).trim().parse().unwrap_or(0);
    let statistics = host::read_text(group.join("memory.stat"));
    let files = statistics.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        let is_file = matches!(name, "total_inactive_file" | "total_active_file");
        is_file.then(|| bytes.parse::<u64>().ok())?
    });
    u64::saturating_sub(usage, files.sum::<u64>())
}

fn resident(pid: u32) -> u64 {
    let status = host::read_text(format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// CPU time of a process so far; nothing when it is gone.
pub(super) fn cpu(pid: u32) -> Duration {
    let schedule = host::read_text(format!("/proc/{pid}/stat"));
    let fields = schedule.rsplit(") ").next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * (1000 / USER_HZ))
}
