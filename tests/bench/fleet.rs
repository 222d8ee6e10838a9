//! Many agents at one collector: clients of this process, each with a run, a boot and a queue of
//! its own, against a real `hotspan collector`.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use hotspan::{
    model::batch::{Counts, KindAccount},
    stream::{
        client::{self, ClientError, ClientSettings, Farewell, Timing},
        queue::Queue,
        status::ClientStatus,
    },
};
use hotspan_tests::service::Place;
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};

use crate::{
    Line,
    sample::{apart, median, quantile, tails_apart},
    synthetic::{self, BUSY, Host, QUIET, SECOND, Shape},
    watched,
};

const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// For what is on its way when the last batch was pushed.
const DRAIN: Duration = Duration::from_secs(15);

/// One simulated agent.
struct Agent {
    queue: Arc<Queue>,
    pushed: Counts,
    client: JoinHandle<Result<Farewell, ClientError>>,
}

pub(crate) fn measure(lines: &mut Vec<Line>) -> Result<()> {
    lines.extend(fleet(100, QUIET, 20)?);
    lines.extend(fleet(20, BUSY, 10)?);
    Ok(())
}

fn fleet(agents: usize, shape: Shape, seconds: u64) -> Result<Vec<Line>> {
    let place = Place::new()?;
    let collector = place.collector(&[])?;
    let pid = collector.child.id();
    let token = std::fs::read_to_string(place.data_dir().join("ingest-token"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("a runtime")?;
    let (stop, until) = watch::channel(None);
    let mut fleet: Vec<Agent> = (0..agents)
        .map(|number| Agent::start(&runtime, &place, token.trim(), number as u64, &until))
        .collect();
    let unix = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let monotonic = 3_600 * SECOND;
    let mut host = Host::new(21, monotonic, (unix - monotonic).cast_signed());
    // One agent after the other, evenly over each second.
    let (begun, cpu) = (Instant::now(), watched::cpu_seconds(pid)?);
    let mut waiting: Vec<(usize, u64, Instant)> = Vec::new();
    let mut latencies = Vec::new();
    for turn in 0..agents as u64 * seconds {
        let due = Duration::from_nanos(SECOND / agents as u64 * turn);
        let number = turn as usize % agents;
        host.of_another(monotonic + turn / agents as u64 * SECOND);
        let mut batch = host.batch(shape);
        while begun.elapsed() < due {
            collect(&fleet, &mut waiting, &mut latencies);
            thread::sleep(LOOK_AGAIN.min(due.saturating_sub(begun.elapsed())));
        }
        let agent = &mut fleet[number];
        agent.pushed.merge(&batch.counts);
        // Its accounting balances.
        batch.account.kinds = (agent.pushed.iter())
            .map(|(kind, n)| {
                (kind.into(), KindAccount { captured: n, linked: n, ..KindAccount::default() })
            })
            .collect();
        agent.queue.push(batch);
        waiting.push((number, agent.queue.status().last_sequence, Instant::now()));
    }
    let cpu = watched::cpu_seconds(pid)? - cpu;
    let took = begun.elapsed().as_secs_f64();
    let in_time = latencies.len() as f64;
    let draining = Instant::now();
    while !waiting.is_empty() && draining.elapsed() < DRAIN {
        collect(&fleet, &mut waiting, &mut latencies);
        thread::sleep(LOOK_AGAIN);
    }
    let all = begun.elapsed().as_secs_f64();
    let acked = latencies.len() as f64;
    let rss = watched::megabytes(pid, "smaps_rollup", "Rss").unwrap_or(f64::NAN);
    let peak = watched::megabytes(pid, "status", "VmHWM").unwrap_or(f64::NAN);
    let threads = watched::cpu_by_thread(pid);
    stop.send_replace(Some(tokio::time::Instant::now() + DRAIN));
    let (mut lost, mut pushed) = (0, 0);
    for agent in fleet {
        let farewell = runtime.block_on(agent.client)??;
        let status = agent.queue.status();
        ensure!(status.dropped.is_empty(), "given up: {:?}", status.dropped);
        pushed += agent.pushed.samples;
        lost += agent.pushed.samples - status.delivered.samples;
        ensure!(farewell.all_durable || lost > 0, "not durable, and yet delivered");
    }
    let health = place.health()?;
    let known = health.agents.len();
    ensure!(known == agents, "{known} of {agents} agents are known");
    // Nothing is in flight any more, so what is missing is lost.
    let stored: u64 = (health.agents.iter())
        .filter_map(|agent| agent.conservation.get("samples"))
        .map(|kept| kept.delivered)
        .sum();
    lost += pushed - stored.min(pushed);
    collector.stop()?;
    let what = format!("fleet, {agents} agents of {} samples/s", shape.samples);
    let busiest = threads.iter().map(|(name, s)| format!("{name} {s:.1} s")).collect::<Vec<_>>();
    Ok(vec![
        Line::new(format!("{what}: batches durable in time"), in_time / took, "1/s")
            .note(format!("{agents} a second are pushed; all {acked} after {all:.1} s")),
        Line::new(format!("{what}: push to acknowledgement, p50"), median(&latencies), "ms")
            .noise(apart(&latencies)),
        Line::new(
            format!("{what}: push to acknowledgement, p95"),
            quantile(&latencies, 0.95),
            "ms",
        )
        .noise(tails_apart(&latencies)),
        Line::new(format!("{what}: CPU of the collector"), cpu / took * 100.0, "% of a core")
            .note(busiest.join(", ")),
        Line::new(format!("{what}: CPU of the collector, per batch"), cpu / in_time * 1e3, "ms"),
        Line::new(format!("{what}: RSS of the collector"), rss, "MB")
            .note(format!("peak {peak:.0} MB")),
        Line::new(format!("{what}: samples lost"), lost as f64, "")
            .target(0.0)
            .note(format!("of {pushed}")),
    ])
}

/// Milliseconds of what is durable now.
fn collect(fleet: &[Agent], waiting: &mut Vec<(usize, u64, Instant)>, latencies: &mut Vec<f64>) {
    waiting.retain(|(number, sequence, at)| {
        let durable = fleet[*number].queue.position().1 >= *sequence;
        if durable {
            latencies.push(at.elapsed().as_secs_f64() * 1e3);
        }
        !durable
    });
}

// === impl Agent ===

impl Agent {
    fn start(
        runtime: &Runtime,
        place: &Place,
        token: &str,
        number: u64,
        until: &watch::Receiver<Option<tokio::time::Instant>>,
    ) -> Self {
        let queue = Arc::new(Queue::new(64 << 20));
        let settings = ClientSettings {
            endpoint: format!("http://127.0.0.1:{}", place.ingest),
            token: token.to_owned(),
            token_owner: None,
            run: synthetic::run(number + 1),
            timing: Timing::default(),
        };
        let status = Arc::new(ClientStatus::default());
        let client = runtime.spawn(client::run(settings, queue.clone(), status, until.clone()));
        Self { queue, pushed: Counts::default(), client }
    }
}
