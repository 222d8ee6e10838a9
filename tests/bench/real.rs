//! What a real agent of this host sends while the standard load and the sample service run: taken
//! in by the collector's own code, kept in memory.

use std::{
    net::TcpListener,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotspan::{
    collector::{self, Limits, Settings},
    model::{batch::Batch, id::RunId},
    store::{Body, Entry, Sink, SinkError},
};
use hotspan_tests::{
    host::{self, wait_until},
    service::Place,
};

use crate::{load::Load, watched};

const SOON: Duration = Duration::from_secs(20);
/// For the first batches, on a host that gives the agent no time.
const LATE: Duration = Duration::from_secs(60);
const TOKEN: &str = "nobody-else-has-to-know-this";
/// Requests a second to the sample service.
const RATE: &str = "100";

/// What was sent.
#[derive(Debug, Default)]
pub(crate) struct Real {
    pub(crate) warm: Vec<Batch>,
    pub(crate) measured: Vec<Batch>,
    /// Frames, those of the warm-up included.
    pub(crate) bytes: u64,
    pub(crate) samples: usize,
    pub(crate) parts: usize,
    pub(crate) seconds: f64,
}

/// Keeps everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Mutex<Vec<Entry>>>);

// === impl Memory ===

impl Memory {
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn batches(&self) -> Vec<Batch> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let batches = entries.iter().filter_map(|entry| match &entry.body {
            Body::Batch(batch) => Some(batch.clone()),
            Body::Gap(_) => None,
        });
        batches.collect()
    }
}

impl Sink for Memory {
    fn append(&mut self, entries: &[Entry]) -> Result<(), SinkError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(entries);
        Ok(())
    }

    fn durable(&self, run: RunId) -> u64 {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter()
            .filter(|entry| entry.run.id == run)
            .map(|entry| entry.sequence)
            .max()
            .unwrap_or(0)
    }

    fn maintain(&mut self) {}
}

/// Runs the load and records: first so many batches, then for this time.
pub(crate) fn record(warm: usize, measured: Duration) -> Result<Real> {
    ensure!(host::is_root(), "loading programs into the kernel needs root");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("a runtime")?;
    let memory = Memory::default();
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let settings = Settings {
        token: TOKEN.into(),
        token_hint: String::new(),
        version: env!("CARGO_PKG_VERSION"),
        limits: Limits::default(),
    };
    let collector = collector::serve(runtime.handle(), listener, settings, memory.clone())?;
    let place = Place::new()?;
    std::fs::create_dir(place.data_dir())?;
    std::fs::write(place.data_dir().join("ingest-token"), TOKEN)?;
    let load = Load::start()?;
    let mut shop = std::process::Command::new(host::program("shop")?)
        .args(["--rate", RATE, "--seconds"])
        .arg((LATE + measured + SOON).as_secs().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let port = collector.address().port();
    let recorded = watched::alone(
        || place.agent(Some(port), &[]),
        |_| Ok(wait_until(SOON, || !memory.batches().is_empty())),
    )
    .and_then(|agent| {
        let begun = Instant::now();
        ensure!(wait_until(LATE, || memory.len() >= warm), "{} batches came", memory.len());
        let at = memory.batches().len();
        // A length of time is what is measured.
        thread::sleep(measured);
        let mut batches = memory.batches();
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = collector.status().sessions.first().map_or(0, |session| session.bytes);
        agent.stop()?;
        ensure!(at < batches.len(), "nothing was recorded");
        let measured = batches.split_off(at);
        let all = || batches.iter().chain(&measured);
        let samples = all().map(|batch| batch.samples.len()).sum();
        let parts = all().map(|batch| batch.spans.len()).sum();
        Ok(Real {
            samples,
            parts,
            bytes,
            seconds,
            warm: batches.clone(),
            measured: measured.clone(),
        })
    });
    drop(load);
    shop.kill()?;
    shop.wait()?;
    runtime.block_on(collector.stop(Duration::from_secs(1)));
    recorded
}
