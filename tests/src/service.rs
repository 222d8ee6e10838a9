//! hotspan as a service, under test: `run`, `agent` or `collector` with folders and ports of its
//! own, and the questions a test asks its API.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    host,
    report::{Conservation, Report, Span},
};

/// A debug build on a loaded host: attach, first flush, store.
pub const SOON: Duration = Duration::from_secs(20);
/// A drain on request ends within this (the claim is 5 s; a loaded host gets some more).
const DRAIN: Duration = Duration::from_secs(15);
/// Neighbours may keep this host that long.
const NEIGHBOURS: Duration = Duration::from_secs(60);
/// Spans of one answer.
const PAGE: usize = 10_000;
/// What a round may still hold back when a flush is made.
const SLACK_NS: u64 = 500_000_000;

/// A folder and two ports: what a collector owns, whichever process serves it.
#[derive(Debug)]
pub struct Place {
    pub scratch: host::Scratch,
    pub web: u16,
    pub ingest: u16,
}

/// A hotspan process. Killed and reaped when this value goes.
#[derive(Debug)]
pub struct Service {
    pub child: Child,
    pub stderr: PathBuf,
    /// By others of this place.
    said_before: u64,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// `/api/health`, as far as tests look.
#[derive(Clone, Debug, Deserialize)]
pub struct Health {
    pub status: String,
    pub reasons: Vec<String>,
    pub agents: Vec<Agent>,
    pub store: Value,
    pub collector: Value,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Agent {
    pub run_id: String,
    pub pid: u32,
    pub connected: bool,
    pub closed: bool,
    pub last_batch_unix_ns: u64,
    pub sequence: u64,
    pub conservation: BTreeMap<String, Conservation>,
    pub loss: BTreeMap<String, u64>,
    /// Who is over its share of what.
    pub over_budget: Vec<OverBudget>,
    pub cost: Cost,
}

#[derive(Clone, Debug, Deserialize)]
pub struct OverBudget {
    pub resource: String,
    pub pid: u32,
    pub uid: u32,
    pub comm: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Cost {
    pub rss_bytes: u64,
}

// === impl Place ===

impl Place {
    pub fn new() -> Result<Self> {
        // Held together, so that they differ.
        let (web, ingest) =
            (TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?);
        let (web, ingest) = (web.local_addr()?.port(), ingest.local_addr()?.port());
        Ok(Self { scratch: host::Scratch::new()?, web, ingest })
    }

    pub fn data_dir(&self) -> PathBuf {
        self.scratch.file("data")
    }

    /// `hotspan run` that answers and has attached.
    pub fn run(&self, more: &[&str]) -> Result<Service> {
        let service = self.start("run", more)?;
        self.wait_for_agent(&service)?;
        Ok(service)
    }

    /// `hotspan collector` that answers.
    pub fn collector(&self, more: &[&str]) -> Result<Service> {
        let service = self.start("collector", more)?;
        self.wait_for_api(&service)?;
        Ok(service)
    }

    /// `hotspan agent` that streams to a port, by default that of this place.
    pub fn agent(&self, port: Option<u16>, more: &[&str]) -> Result<Service> {
        self.alone("agent", || self.agent_command(port, more))
    }

    /// The command line of that.
    pub fn agent_command(&self, port: Option<u16>, more: &[&str]) -> Result<Command> {
        let url = format!("http://127.0.0.1:{}", port.unwrap_or(self.ingest));
        let token = self.data_dir().join("ingest-token");
        let mut command = Command::new(host::hotspan()?);
        command.args(["agent", "--collector", &url, "--ingest-token-file"]).arg(token).args(more);
        Ok(command)
    }

    /// `hotspan COMMAND` with this folder and these ports, wherever it gets to.
    pub fn start(&self, command: &str, more: &[&str]) -> Result<Service> {
        match command {
            "run" => self.alone(command, || self.command(command, more)),
            _ => self.spawn(self.command(command, more)?, command),
        }
    }

    /// The command line of that.
    pub fn command(&self, command: &str, more: &[&str]) -> Result<Command> {
        let mut hotspan = Command::new(host::hotspan()?);
        hotspan.arg(command).arg("--data-dir").arg(self.data_dir());
        hotspan.args(["--web", &format!("127.0.0.1:{}", self.web)]);
        hotspan.args(["--ingest", &format!("127.0.0.1:{}", self.ingest)]).args(more);
        Ok(hotspan)
    }

    /// Starts what profiles this host, once it is the only one that does: one agent per host is a
    /// rule of hotspan's, and a neighbour (another checkout's tests) may have one for a while. Returns
    /// when this one has its place, or has ended for any other reason.
    pub fn alone(&self, name: &str, command: impl Fn() -> Result<Command>) -> Result<Service> {
        let deadline = Instant::now() + NEIGHBOURS;
        loop {
            let mut service = self.spawn(command()?, name)?;
            let mut ended = false;
            let decided = host::wait_until(SOON, || {
                ended = !matches!(service.child.try_wait(), Ok(None));
                ended || profiles(service.child.id())
            });
            ensure!(decided, "neither profiles nor ends: {}", service.log());
            let refused = ended && service.log().contains("already profiles this host");
            if !refused || Instant::now() >= deadline {
                return Ok(service);
            }
            // A neighbour's agent ends without a sign that could be waited for.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts a command whose messages [`Service::log`] has.
    pub fn spawn(&self, mut command: Command, name: &str) -> Result<Service> {
        let stderr = self.scratch.file(&format!("{name}.stderr"));
        let log = File::options().create(true).append(true).open(&stderr)?;
        let said_before = log.metadata()?.len();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().context("hotspan does not start")?;
        Ok(Service { child, stderr, said_before })
    }

    pub fn wait_for_api(&self, service: &Service) -> Result<()> {
        let answers = || self.get("/api/health").is_ok_and(|answer| answer.status == 200);
        ensure!(host::wait_until(SOON, answers), "no API: {}", service.log());
        Ok(())
    }

    /// Until an agent is connected and its first batch is stored.
    pub fn wait_for_agent(&self, service: &Service) -> Result<()> {
        let streams = || {
            self.health().is_ok_and(|health| {
                health.agents.iter().any(|agent| agent.connected && agent.last_batch_unix_ns > 0)
            })
        };
        ensure!(host::wait_until(SOON, streams), "no agent streams: {}", service.log());
        Ok(())
    }

    /// GET of a path.
    pub fn get(&self, path: &str) -> Result<Answer> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .build();
        let agent = ureq::Agent::new_with_config(config);
        let mut response = agent.get(format!("http://127.0.0.1:{}{path}", self.web)).call()?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(1 << 30).read_to_string()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body })
    }

    pub fn health(&self) -> Result<Health> {
        let answer = self.get("/api/health")?;
        ensure!(answer.status == 200, "{answer:?}");
        serde_json::from_value(answer.body).context("the health is not as documented")
    }

    /// Waits until everything that ended before now is stored.
    pub fn settle(&self) -> Result<()> {
        let now = unix_now()? + SLACK_NS;
        let settled = || {
            self.health().is_ok_and(|health| {
                health.agents.iter().any(|agent| agent.connected && agent.last_batch_unix_ns >= now)
            })
        };
        ensure!(host::wait_until(SOON, settled), "no newer batch comes: {:?}", self.health());
        Ok(())
    }

    /// Every span of a process. With `details`, one by one with causes and methods.
    pub fn spans_of(&self, pid: u32, details: bool) -> Result<Vec<Span>> {
        let answer = self.get(&format!("/api/spans?pid={pid}&limit={PAGE}"))?;
        ensure!(answer.status == 200, "{answer:?}");
        let spans: Vec<Span> = serde_json::from_value(answer.body["spans"].clone())?;
        let mut all = spans;
        // Newest first: what a full page leaves out is older than its last.
        let mut truncated = answer.body["truncated"] == Value::Bool(true);
        while truncated {
            let oldest = all.iter().map(|span| span.start_unix_ns).min().unwrap_or(0);
            let path = format!("/api/spans?pid={pid}&limit={PAGE}&to_unix_ns={oldest}");
            let answer = self.get(&path)?;
            let page: Vec<Span> = serde_json::from_value(answer.body["spans"].clone())?;
            let before = all.len();
            for span in page {
                let known = |other: &Span| {
                    (&other.trace_id, &other.span_id) == (&span.trace_id, &span.span_id)
                };
                if span.start_unix_ns < oldest || !all.iter().rev().take(PAGE).any(known) {
                    all.push(span);
                }
            }
            ensure!(all.len() > before, "paging does not advance");
            truncated = answer.body["truncated"] == Value::Bool(true);
        }
        if !details {
            return Ok(all);
        }
        all.iter()
            .map(|span| {
                let path = format!("/api/span/{}/{}", span.trace_id, span.span_id);
                let answer = self.get(&path)?;
                ensure!(answer.status == 200, "{answer:?}");
                serde_json::from_value(answer.body).context("a document is not as documented")
            })
            .collect()
    }

    /// What is stored of some processes, as a recording would report it; threads are not reported.
    pub fn report(&self, pids: &[u32], details: bool) -> Result<Report> {
        let mut spans = Vec::new();
        for &pid in pids {
            spans.extend(self.spans_of(pid, details)?);
        }
        Ok(Report {
            spans,
            recorded: Vec::new(),
            threads: Vec::new(),
            loss: BTreeMap::new(),
            conservation: BTreeMap::new(),
        })
    }
}

// === impl Service ===

impl Service {
    /// What it said so far.
    pub fn log(&self) -> String {
        let said = fs::read(&self.stderr).unwrap_or_default();
        let ours = usize::try_from(self.said_before).ok().and_then(|before| said.get(before..));
        String::from_utf8_lossy(ours.unwrap_or_default()).into_owned()
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; must drain and end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        host::signal(&self.child, libc::SIGTERM)?;
        self.end(DRAIN)
    }

    /// Waits for the end it comes to by itself.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        match host::wait_for_child(&mut self.child, limit)? {
            Some(status) => Ok(status),
            None => bail!("hotspan did not end within {limit:?}; it said:\n{}", self.log()),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ended already, or the test failed: either way it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process holds the lock of this host's agent.
fn profiles(pid: u32) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut locks = files.flatten().filter(|file| {
        fs::read_link(file.path()).is_ok_and(|target| target.ends_with("agent.lock"))
    });
    locks.any(|file| {
        let number = file.file_name().to_string_lossy().into_owned();
        host::read_text(format!("/proc/{pid}/fdinfo/{number}")).contains("FLOCK")
    })
}

fn unix_now() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}
