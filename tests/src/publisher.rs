//! Programs with known behaviour, one after another beside a service, for as long as a test wants:
//! what they published must be found afterwards, whatever went wrong meanwhile.

use std::{
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    check::{Checks, Verdict},
    fixture::{Language, Recorder},
    host,
    service::Place,
    truth::Truth,
};

/// Short, with waits and time on the CPU, in nested spans and in several threads.
pub const MIXED: &[&str] = &["nested", "mutex", "sleep", "two_threads", "pipe"];
/// Longest a scenario takes on a loaded host.
const LIMIT: Duration = Duration::from_secs(60);

/// Publishes until told to finish.
#[derive(Debug)]
pub struct Publisher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Truth>>>>,
}

// === impl Publisher ===

impl Publisher {
    /// Scenarios over and over, in both languages.
    pub fn start(scenarios: &'static [&'static str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut truths = Vec::new();
            let both = scenarios.iter().flat_map(|name| Language::BOTH.map(|it| (it, *name)));
            for (language, scenario) in both.cycle() {
                truths.extend(publish(language, scenario)?);
                if stopped.load(Relaxed) {
                    break;
                }
            }
            Ok(truths)
        });
        Self { stop, thread: Some(thread) }
    }

    /// The truth about all of it, once the scenario at hand has ended.
    pub fn finish(mut self) -> Result<Vec<Truth>> {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().context("finished once")?;
        thread.join().map_err(|_| anyhow!("the publishing thread failed"))?
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // The test failed; its programs must not stay.
            let _ = thread.join();
        }
    }
}

/// One scenario, to its end.
pub fn publish(language: Language, scenario: &str) -> Result<Vec<Truth>> {
    let recorder = Recorder::new()?;
    let command = recorder.scenario_command(language, scenario)?;
    let mut workload = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let status = host::wait_for_child(&mut workload, LIMIT)?;
    if status.is_none() {
        workload.kill()?;
        workload.wait()?;
    }
    let status = status.with_context(|| format!("{scenario} does not end"))?;
    ensure!(status.success(), "{scenario}: {status}");
    Truth::load_all(&recorder.file("truth.json"))
}

/// Every span of these truths is served, once, with exact sums and the time it was active.
pub fn all_found(place: &Place, name: &str, truths: Vec<Truth>) -> Result<()> {
    let report = place.report(&pids(&truths), false)?;
    let recording = Recorder::new()?.finished(ExitStatus::default(), report, truths);
    let mut checks = Checks::new(name, &recording)?;
    match checks.found().no_strangers().exact_sums().active_time().finish() {
        Verdict::Holds => Ok(()),
        Verdict::ClocksDisagree(text) => Err(anyhow!("no CPU clock was asked: {text}")),
    }
}

/// The processes of truths, each once.
pub fn pids(truths: &[Truth]) -> Vec<u32> {
    let mut pids: Vec<u32> = truths.iter().map(|truth| truth.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}
