//! Hostile neighbours: an agent within the limits of its unit, programs that attack it as nobody, an honest
//! publisher of another user beside them, and what must hold afterwards.
//!
//! ```text
//! Arena::start ─► honest() ─► attack(..) ─► wait ─► finish(honest) ─► Outcome ─► holds()
//! ```
//! Memory is that of a cgroup (v1) with the unit's `MemoryMax`: what the kernel charges to the agent, its
//! maps included, without files' pages, which the kernel takes back. Where there is no such controller it is
//! the resident memory, and the outcome says so.

mod limits;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, Permissions},
    io::Read as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;

pub use limits::unit_limit;

use crate::{
    host,
    service::{Place, SOON, Service},
};
use limits::{Limits, Watch, cpu, memory};

/// Who attacks.
pub const NOBODY: u32 = 65_534;
/// Who is honest: another user, so that a budget per user tells them apart.
pub const HONEST: u32 = 65_533;
/// Of the honest program's spans that must be kept.
const KEPT: f64 = 0.99;
/// What each of its spans runs, less what its clock and ours may differ.
const HONEST_NS: u64 = 4_900_000;
/// How long the honest program takes to end.
const LIMIT: Duration = Duration::from_secs(60);

/// A service under attack.
#[derive(Debug)]
pub struct Arena {
    pub place: Place,
    pub service: Service,
    limits: Limits,
    public: Public,
    watch: Watch,
}

/// A program of a neighbour; it ends, with all it has started, when this value goes.
#[derive(Debug)]
pub struct Neighbour {
    pub child: Child,
}

/// The honest program at work.
#[derive(Debug)]
pub struct Honest {
    neighbour: Neighbour,
    go_on: Option<ChildStdin>,
}

/// What an attack came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub attack: String,
    /// Why the agent ended, if it did.
    pub ended: Option<String>,
    /// Spans of the honest program: published, found afterwards with all of their time, and how long after
    /// its end that took.
    pub published: usize,
    pub kept: usize,
    pub found_after_ms: u64,
    /// Bytes: before the attack, at most, and at the end.
    pub memory_before: u64,
    pub memory_peak: u64,
    pub memory_after: u64,
    pub memory_max: u64,
    /// Whether a cgroup of the unit's limit held it; else these are resident bytes.
    pub in_cgroup: bool,
    /// Of one CPU, over the whole attack.
    pub cpu_percent: f64,
    /// What the agent lost, by reason.
    pub losses: BTreeMap<String, u64>,
}

/// A folder that everybody may read, for programs that others run: a checkout may be its owner's alone.
#[derive(Debug)]
pub struct Public(PathBuf);

/// A program of `tests/workloads/attacks`, by the name of its file.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("WORKLOAD_ATTACKS")).join(name)
}

// === impl Arena ===

impl Arena {
    /// `hotspan run` within the unit's limits, attached.
    pub fn start(more: &[&str]) -> Result<Self> {
        Self::start_at(Place::new()?, more)
    }

    /// The same at a place that is prepared.
    pub fn start_at(place: Place, more: &[&str]) -> Result<Self> {
        let limits = Limits::make()?;
        let service = place.alone("run", || limits.hold(&place.command("run", more)?))?;
        place.wait_for_agent(&service)?;
        let watch = Watch::start(service.child.id(), limits.memory.clone());
        Ok(Self { place, service, limits, public: Public::make()?, watch })
    }

    /// Starts a program as nobody.
    pub fn attack<S: AsRef<OsStr>>(&self, program: &Path, arguments: &[S]) -> Result<Neighbour> {
        let mut command = self.command_as(NOBODY, program)?;
        command.args(arguments).stdin(Stdio::null());
        Neighbour::start(&mut command)
    }

    /// A command that a user without rights runs: a copy of the program where that user finds it.
    pub fn command_as(&self, user: u32, program: &Path) -> Result<Command> {
        let mut command = Command::new(self.public.copy(program)?);
        command.uid(user).gid(user).current_dir(&self.public.0);
        Ok(command)
    }

    /// Starts the honest program.
    pub fn honest(&self) -> Result<Honest> {
        let mut command = self.command_as(HONEST, &program("honest"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut neighbour = Neighbour::start(&mut command)?;
        let go_on = neighbour.child.stdin.take();
        Ok(Honest { neighbour, go_on })
    }

    /// Bytes the agent has now.
    pub fn memory(&self) -> u64 {
        memory(self.service.child.id(), self.limits.memory.as_deref())
    }

    /// Waits until the memory is back at what it was before the attack, and some more.
    pub fn memory_returns(&self, more: u64, within: Duration) -> Result<()> {
        let back = || self.memory() <= self.watch.before + more;
        ensure!(
            host::wait_until(within, back),
            "{} MiB before, still {} MiB",
            self.watch.before >> 20,
            self.memory() >> 20
        );
        Ok(())
    }

    /// Ends the honest program and looks at what is left of everything. The agent goes on.
    pub fn finish(&mut self, attack: &str, honest: Honest) -> Result<Outcome> {
        let (pid, published) = honest.finish()?;
        let ended = Instant::now();
        let mut kept = 0;
        let all = host::wait_until(SOON, || {
            kept = self.kept(pid, published).unwrap_or(kept);
            kept >= published || self.ended().is_some()
        });
        let found_after = if all { ended.elapsed() } else { SOON };
        let health = self.place.health();
        let agents = health.iter().flat_map(|health| &health.agents);
        let mut losses = BTreeMap::new();
        for (reason, count) in agents.flat_map(|agent| &agent.loss) {
            *losses.entry(reason.clone()).or_insert(0) += count;
        }
        let wall = self.watch.began.elapsed();
        let cpu = cpu(self.service.child.id()).saturating_sub(self.watch.cpu_before);
        Ok(Outcome {
            attack: attack.to_owned(),
            ended: self.ended(),
            published,
            kept,
            found_after_ms: u64::try_from(found_after.as_millis())?,
            memory_before: self.watch.before,
            memory_peak: self.watch.peak.load(Relaxed),
            memory_after: self.memory(),
            memory_max: unit_limit("MemoryMax")?,
            in_cgroup: self.limits.memory.is_some(),
            cpu_percent: 100.0 * cpu.as_secs_f64() / wall.as_secs_f64(),
            losses,
        })
    }

    /// Spans of the honest program that are there with all of their time.
    fn kept(&self, pid: u32, published: usize) -> Result<usize> {
        let known: BTreeSet<String> = (1..=published).map(|n| format!("ab000000{n:08x}")).collect();
        let spans = self.place.spans_of(pid, false)?;
        let whole = spans.iter().filter(|span| span.active_ns >= HONEST_NS);
        let found: BTreeSet<&str> = whole.map(|span| span.span_id.as_str()).collect();
        Ok(found.into_iter().filter(|id| known.contains(*id)).count())
    }

    /// How the agent ended, if it did.
    fn ended(&mut self) -> Option<String> {
        let status = self.service.child.try_wait().ok().flatten()?;
        Some(format!("{status}, {}{}", self.limits.killed(), self.service.log()))
    }
}

// === impl Outcome ===

impl Outcome {
    /// The agent lives in its memory, and the honest program kept its spans.
    pub fn holds(&self) -> Result<()> {
        println!("{}", self.line());
        if let Some(ended) = &self.ended {
            bail!("{}: the agent ended: {ended}", self.attack);
        }
        ensure!(self.published > 0, "{}: nothing was published", self.attack);
        ensure!(
            self.kept as f64 >= KEPT * self.published as f64,
            "{}: {} of {} honest spans are left; {:?}",
            self.attack,
            self.kept,
            self.published,
            self.losses
        );
        ensure!(
            self.memory_peak <= self.memory_max,
            "{}: {} MiB of memory",
            self.attack,
            self.memory_peak >> 20
        );
        Ok(())
    }

    /// As a row of a table: attack, memory in MiB before, at most, after, CPU, spans, losses.
    pub fn line(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let losses: Vec<String> =
            self.losses.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        format!(
            "{:<18} {:>4} {:>4} {:>4} MiB{} {:>5.1} % {:>5}/{:<5} {:>6} ms  {}",
            self.attack,
            mib(self.memory_before),
            mib(self.memory_peak),
            mib(self.memory_after),
            if self.in_cgroup { "" } else { " resident" },
            self.cpu_percent,
            self.kept,
            self.published,
            self.found_after_ms,
            self.ended.as_deref().map_or(losses.join(", "), |ended| format!("DEAD: {ended}")),
        )
    }
}

// === impl Neighbour ===

impl Neighbour {
    fn start(command: &mut Command) -> Result<Self> {
        // A group of its own: it ends whole.
        let child = command.process_group(0).spawn().context("a neighbour does not start")?;
        Ok(Self { child })
    }

    /// Waits for the end it comes to by itself.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = host::wait_for_child(&mut self.child, limit)?;
        ended.with_context(|| format!("the neighbour did not end within {limit:?}"))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // The leader is not reaped yet, so the group is still its own; it may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

// === impl Honest ===

impl Honest {
    pub fn pid(&self) -> u32 {
        self.neighbour.child.id()
    }

    /// Its process and how many spans it published.
    fn finish(mut self) -> Result<(u32, usize)> {
        drop(self.go_on.take());
        let status = self.neighbour.end(LIMIT)?;
        ensure!(status.success(), "the honest program failed: {status}");
        let mut said = String::new();
        let stdout = self.neighbour.child.stdout.take().context("it has a standard output")?;
        stdout.take(64).read_to_string(&mut said)?;
        Ok((self.pid(), said.trim().parse().context("it says how many")?))
    }
}

// === impl Public ===

impl Public {
    /// A fresh one, which goes with this value.
    pub fn make() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("hotspan-attack-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder)?;
        // Where attackers may leave files, as in /tmp.
        fs::set_permissions(&folder, Permissions::from_mode(0o1777))?;
        Ok(Self(folder))
    }

    /// Where a copy of a program is that everybody may run.
    pub fn copy(&self, program: &Path) -> Result<PathBuf> {
        let copy = self.0.join(program.file_name().context("a program has a name")?);
        if !copy.exists() {
            fs::copy(program, &copy).with_context(|| format!("{}", program.display()))?;
            fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        }
        Ok(copy)
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
