//! The machine around a test: who we are, scratch folders, programs beside the test, waiting with a
//! deadline, and what hotspan left in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, geteuid, kill_process, pidfd_open},
};

/// How often a condition without an event of its own is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether whole-path tests can run here; prints why not.
pub fn can_record() -> bool {
    if !is_root() {
        eprintln!("skipped: loading programs into the kernel needs root");
    }
    is_root()
}

/// The folder of the programs built with this test: `target/debug` or `target/release`.
pub fn program_folder() -> Result<PathBuf> {
    let this = env::current_exe()?;
    let folder = this.parent().context("a program has a folder")?;
    let folder = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    Ok(folder.context("cargo's folder `deps` has a parent")?.to_owned())
}

/// A program of this crate.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = program_folder()?.join(name);
    ensure!(path.exists(), "{} is not built", path.display());
    Ok(path)
}

/// The C twin of `truth`.
pub fn truth_c() -> PathBuf {
    PathBuf::from(env!("WORKLOAD_TRUTH_C"))
}

/// Publishers that are easily overlooked: `tests/workloads/publishers`.
pub fn publishers() -> PathBuf {
    PathBuf::from(env!("WORKLOAD_PUBLISHERS"))
}

/// A process that cannot be read: `tests/workloads/stall`.
pub fn stall() -> PathBuf {
    PathBuf::from(env!("WORKLOAD_STALL"))
}

/// A program that spends what it can of hotspan: `tests/workloads/strangers`.
pub fn strangers() -> PathBuf {
    PathBuf::from(env!("WORKLOAD_STRANGERS"))
}

/// The hotspan under test: `HOTSPAN_BIN`, else the one beside this test, built when absent.
pub fn hotspan() -> Result<PathBuf> {
    if let Some(path) = env::var_os("HOTSPAN_BIN") {
        return Ok(PathBuf::from(path));
    }
    let folder = program_folder()?;
    let path = folder.join("hotspan");
    if !path.exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
        let target = folder.parent().context("a target folder")?;
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root).args(["build", "--package", "hotspan", "--target-dir"]).arg(target);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        ensure!(cargo.status()?.success(), "hotspan does not build");
    }
    Ok(path)
}

/// A fresh folder below the target directory (a disk, where `/tmp` may be memory), removed at the
/// end.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Result<Self> {
        let folder = program_folder()?.parent().context("a target folder")?.join("tmp");
        fs::create_dir_all(&folder)?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..1000 {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("hotspan-{}-{count}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no free scratch folder in {}", folder.display())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failed test says more by itself than by what stays behind.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Looks at a condition until it holds or the time is over.
pub fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Waits for a child's end, `None` when it outlives the limit.
pub fn wait_for_child(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    // The child is ours and not yet reaped, so the pid is its own.
    let fd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("pidfd_open")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left.try_into()?));
    }
}

/// Sends a signal to a child that has not been reaped.
pub fn signal(child: &Child, signal: i32) -> Result<()> {
    let signal = Signal::from_named_raw(signal).context("no signal")?;
    kill_process(Pid::from_child(child), signal).context("kill")
}

/// Whether a process has started a child of this name.
pub fn has_child(pid: u32, name: &str) -> bool {
    // Each thread has those it started.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut of_threads = threads.map(|thread| read_text(thread.path().join("children")));
    let is_it = |child: &str| read_text(format!("/proc/{child}/comm")).trim() == name;
    of_threads.any(|children| children.split_whitespace().any(is_it))
}

/// A program, link or map in the kernel, as `prog 12`.
pub type KernelObject = String;

/// What is in the kernel, by bpftool.
pub fn kernel_objects() -> Result<BTreeSet<KernelObject>> {
    let mut found = BTreeSet::new();
    for kind in ["prog", "link", "map"] {
        found.extend(listed(kind)?.iter().map(|object| format!("{kind} {}", object["id"])));
    }
    Ok(found)
}

/// `bpftool KIND list`. A field bpftool leaves out is zero: it does so with statistics of programs
/// that never ran.
pub fn listed(kind: &str) -> Result<Vec<serde_json::Value>> {
    let output = Command::new("bpftool").args(["-j", kind, "list"]).output();
    let output = output.context("bpftool is needed")?;
    ensure!(output.status.success(), "bpftool {kind} list failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What a process holds by its descriptors. Nobody else's, so that neighbours may load theirs.
pub fn held_objects(pid: u32) -> Result<BTreeSet<KernelObject>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        for line in read_text(entry?.path()).lines() {
            for kind in ["prog", "link", "map"] {
                if let Some(id) = line.strip_prefix(kind).and_then(|l| l.strip_prefix("_id:")) {
                    found.insert(format!("{kind} {}", id.trim()));
                }
            }
        }
    }
    Ok(found)
}

/// A program in the kernel, and how many instructions the verifier looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// As bpftool knows it: perhaps its first 15 characters.
    pub name: String,
    pub instructions: u64,
}

/// Every program a process holds.
pub fn verified_programs(pid: u32) -> Result<Vec<Verified>> {
    let list = listed("prog")?;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = read_text(entry?.path());
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
        };
        // Links have the first field too, only programs have both.
        let (Some(id), Some(instructions)) = (field("prog_id:"), field("verified_insns:")) else {
            continue;
        };
        let program = list.iter().find(|program| program["id"] == id);
        let name = program.and_then(|program| program["name"].as_str()).unwrap_or("");
        found.insert(id, Verified { name: name.to_owned(), instructions });
    }
    Ok(found.into_values().collect())
}

/// Reads a file of /proc or /sys, "" when it is not there.
pub fn read_text(path: impl AsRef<Path>) -> String {
    let mut text = String::new();
    if let Ok(mut file) = fs::File::open(path) {
        let _ = file.read_to_string(&mut text);
    }
    text
}
