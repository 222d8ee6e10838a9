//! `cargo xtask demo`: hotspan at work on a sample service.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{cargo, dist, process, setup::Setup};

/// The API of the demo's hotspan: not the default, so that one that runs for real is left alone.
const API: &str = "127.0.0.1:7790";
const INGEST: &str = "127.0.0.1:7791";
/// Attaching takes well below a second; a loaded host gets some more.
const SOON: Duration = Duration::from_secs(20);
/// A span is stored within this after its end.
const STORED: Duration = Duration::from_secs(3);

/// Shows where the time of a sample service's requests goes.
///
/// Builds hotspan as users get it (`cargo xtask dist`) and `shop`, a small service whose requests compute, contend for a lock, wait for
/// a socket, the disk and each other, and publish their spans. Then profiles this host with `hotspan
/// run` while it serves, and asks for its slowest spans. Needs root; as another user it calls sudo
/// for `hotspan run` only.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How long the sample service runs
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

impl Demo {
    pub(crate) fn run(self) -> Result<()> {
        Setup {}.run()?;
        let folder = dist::make()?;
        let hotspan = folder.join("hotspan");
        process::run(&mut cargo::cargo([
            "build",
            "--release",
            "--package",
            cargo::WHOLE_PATH,
            "--bin",
            "shop",
        ]))?;
        let release = cargo::target_directory()?.join("release");
        let data = release.join("demo-data");
        println!(
            "\n`hotspan run` profiles this host; `shop` serves requests for {} s.",
            self.seconds
        );
        let mut service = Service::start(&hotspan, &data, self.seconds)?;
        service.wait_until_it_answers(&hotspan)?;
        let seconds = self.seconds.to_string();
        let mut shop = Command::new(release.join("shop"));
        process::run(shop.args(["--seconds", &seconds]).stdout(Stdio::null()))?;
        // What was published last is stored by then: nothing to wait for but time itself.
        thread::sleep(STORED);

        println!(
            "
Its slowest requests. Read a row from left to right: how long the span took, then a bar of the
states it was in itself; what is missing from the bar, its child spans have.
"
        );
        ask(&hotspan, &["spans", "--sort", "slowest", "--service", "shop", "-n", "8"])?;
        let slowest = answer(
            &hotspan,
            &["spans", "--sort", "slowest", "--name", "GET /checkout", "-n", "1", "--json"],
        )?;
        let slowest: serde_json::Value = serde_json::from_str(&slowest).context("not JSON")?;
        let span = &slowest["spans"][0];
        let id = match (span["trace_id"].as_str(), span["span_id"].as_str()) {
            (Some(trace), Some(span)) => format!("{trace}/{span}"),
            _ => bail!("no request was stored: is another hotspan profiling this host?"),
        };
        println!(
            "
The slowest checkout with its child spans: every nanosecond of it, and who made it wait. Times and
causes are exact, functions and stacks are sampled.
"
        );
        ask(&hotspan, &["span", &id, "--scope", "children", "--top", "6"])?;
        service.stop()?;
        let hotspan = hotspan.display();
        println!(
            "
Your own host:     sudo {hotspan} run          then, elsewhere: {hotspan} spans --sort slowest
One command:       sudo {hotspan} record -- COMMAND...
What is possible:  {hotspan} doctor"
        );
        Ok(())
    }
}

/// The demo's `hotspan run`. Told to end when this value goes.
struct Service(Child);

// === impl Service ===

impl Service {
    fn start(hotspan: &Path, data: &Path, seconds: u64) -> Result<Self> {
        let mut command = if process::is_root() {
            Command::new(hotspan)
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg(hotspan);
            sudo
        };
        // Ends by itself even if nobody can tell it to.
        let longest = format!("{}s", seconds + 60);
        command.args(["run", "--web", API, "--ingest", INGEST, "--duration", &longest]);
        command.arg("--data-dir").arg(data);
        Ok(Self(command.spawn().context("hotspan does not start")?))
    }

    fn wait_until_it_answers(&mut self, hotspan: &Path) -> Result<()> {
        let started = Instant::now();
        while answer(hotspan, &["spans", "--json"]).is_err() {
            if let Some(status) = self.0.try_wait()? {
                bail!("`hotspan run` ended at once: {status}");
            }
            if started.elapsed() > SOON {
                bail!("`hotspan run` does not answer at {API}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        process::terminate(&self.0)?;
        let status = self.0.wait()?;
        if !status.success() {
            bail!("`hotspan run` ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ended already, or the demo failed: either way it must not stay.
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = process::terminate(&self.0);
            let _ = self.0.wait();
        }
    }
}

fn asking(hotspan: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(hotspan);
    command.args(arguments).args(["--api", &format!("http://{API}")]);
    command
}

fn ask(hotspan: &Path, arguments: &[&str]) -> Result<()> {
    process::run(&mut asking(hotspan, arguments))
}

fn answer(hotspan: &Path, arguments: &[&str]) -> Result<String> {
    process::output(asking(hotspan, arguments).stderr(Stdio::null()))
        .context("hotspan does not answer")
}
