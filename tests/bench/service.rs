//! hotspan as a service: what it costs at rest and at the standard load, how soon it works, how
//! soon a span that ended can be read, and a fleet of agents at one collector.

use std::{
    collections::{BTreeSet, HashMap},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotspan::model::id::{SpanId, TraceId};
use hotspan_lanes::{Span, span_clear, span_set};
use hotspan_tests::{
    host::{self, wait_until},
    service::{Place, SOON, Service},
};

use crate::{
    Line,
    agent::{Stats, difference, map_megabytes, programs},
    fleet,
    load::{Load, context_switches},
    names::Random,
    sample::{apart, median, quantile, tails_apart},
    watched::{self, alone, cpu_seconds},
};

const STARTS: usize = 3;
const SLICE: Duration = Duration::from_secs(2);
const IDLE_SLICES: usize = 10;
const BUSY_SLICES: usize = 5;
/// Batches of the load until tables and caches are what they will be: one a second.
const STEADY: u64 = 30;
/// On a host that gives the agent no time.
const LATE: Duration = Duration::from_secs(120);
/// Less than this of a CPU is what it takes at rest, with room.
const REST: f64 = 0.01;
const SPANS: u64 = 60;
const SPAN: Duration = Duration::from_millis(2);
/// Not a divisor of the flush.
const BETWEEN: Duration = Duration::from_millis(137);

pub(crate) fn measure() -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    type Stage = fn(&mut Vec<Line>) -> Result<()>;
    let stages: [(&str, Stage); 3] = [
        ("run", alone_on_the_host),
        ("agent, collector", apart_at_load),
        ("fleet", fleet::measure),
    ];
    for (name, stage) in stages {
        if name != "fleet" && !host::is_root() {
            lines.push(Line::skipped(name, "loading programs into the kernel needs root"));
        } else if let Err(error) = stage(&mut lines) {
            // What one found stands without the others.
            lines.push(Line::skipped(name, &format!("{error:#}")));
        }
    }
    Ok(lines)
}

/// `hotspan run`, at rest.
fn alone_on_the_host(lines: &mut Vec<Line>) -> Result<()> {
    let (mut to_answer, mut to_batch) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let place = Place::new()?;
        let mut times = (0.0, 0.0);
        let service = alone(
            || place.start("run", &[]),
            |service| {
                let begun = Instant::now();
                let answers = || place.health().is_ok();
                let up = first_of(service, answers) && {
                    times.0 = begun.elapsed().as_secs_f64() * 1e3;
                    first_of(service, || streams(&place))
                };
                times.1 = begun.elapsed().as_secs_f64() * 1e3;
                Ok(up)
            },
        )?;
        to_answer.push(times.0);
        to_batch.push(times.1);
        service.stop()?;
    }
    lines.push(
        Line::new("run: from exec to the API's first answer", median(&to_answer), "ms")
            .noise(apart(&to_answer)),
    );
    lines.push(
        Line::new("run: from exec to the first stored batch", median(&to_batch), "ms")
            .noise(apart(&to_batch))
            .target(3_000.0)
            .note("of them 1,000 until the first flush"),
    );
    let _stats = Stats::enable()?;
    let place = Place::new()?;
    let service =
        alone(|| place.start("run", &[]), |service| Ok(first_of(service, || streams(&place))))?;
    settles(service.child.id())?;
    let cost = Cost::measure(&service, IDLE_SLICES)?;
    lines.push(
        cost.line("run: CPU at rest, kernel programs included").target(0.1).note(format!(
            "{:.0} switches/s; at rest only if nothing else runs here",
            cost.switches
        )),
    );
    lines.push(Line::new("  of it, the daemon", median(&cost.daemon), "% host").note(cost.threads));
    lines.push(Line::new("  of it, kernel programs", median(&cost.kernel), "% host"));
    latency(&place, lines)?;
    service.stop()?;
    Ok(())
}

/// From a span's end to its document.
fn latency(place: &Place, lines: &mut Vec<Line>) -> Result<()> {
    let publisher = thread::spawn(move || -> Result<Vec<(String, String, Instant)>> {
        let mut random = Random::new(Instant::now().elapsed().as_nanos() as u64 + 5);
        let mut ended = Vec::new();
        for _ in 0..SPANS {
            let span =
                Span { trace_id: random.bytes(), span_id: random.bytes(), ..Span::default() };
            ensure!(span_set(&span).is_ok(), "publishing is off here");
            thread::sleep(SPAN);
            span_clear();
            ended.push((
                TraceId(span.trace_id).to_string(),
                SpanId(span.span_id).to_string(),
                Instant::now(),
            ));
            thread::sleep(BETWEEN);
        }
        Ok(ended)
    });
    let path = format!("/api/spans?pid={}&limit=1000", std::process::id());
    let mut seen: HashMap<String, Instant> = HashMap::new();
    let complete = wait_until(SOON + (SPAN + BETWEEN) * SPANS as u32, || {
        let Ok(answer) = place.get(&path) else { return false };
        let now = Instant::now();
        for span in answer.body["spans"].as_array().into_iter().flatten() {
            let is_whole = span["wall_ns"].as_u64().unwrap_or(0) >= SPAN.as_nanos() as u64;
            if let Some(id) = span["span_id"].as_str().filter(|_| is_whole) {
                seen.entry(id.to_owned()).or_insert(now);
            }
        }
        seen.len() as u64 >= SPANS
    });
    let ended = publisher.join().ok().context("the publisher failed")??;
    ensure!(complete, "{} of {SPANS} spans can be read", seen.len());
    let mut times = Vec::new();
    for (trace, span, at) in &ended {
        let first = seen.get(span).context("a span that was published is not there")?;
        times.push(first.saturating_duration_since(*at).as_secs_f64() * 1e3);
        let document = place.get(&format!("/api/span/{trace}/{span}"))?;
        ensure!(document.status == 200, "{document:?}");
    }
    lines.push(
        Line::new("run: from a span's end to its document, median", median(&times), "ms")
            .noise(apart(&times)),
    );
    lines.push(
        Line::new("run: from a span's end to its document, p95", quantile(&times, 0.95), "ms")
            .noise(tails_apart(&times))
            .target(3_000.0)
            .note(format!("{SPANS} spans")),
    );
    Ok(())
}

/// Agent and collector as two services, at the standard load.
fn apart_at_load(lines: &mut Vec<Line>) -> Result<()> {
    let _stats = Stats::enable()?;
    let place = Place::new()?;
    let collector = place.collector(&[])?;
    let agent =
        alone(|| place.agent(None, &[]), |service| Ok(first_of(service, || streams(&place))))?;
    let load = Load::start()?;
    let stored = || place.health().ok()?.agents.iter().map(|agent| agent.sequence).max();
    let steady = stored().context("the agent's batches")? + STEADY;
    let is_steady = wait_until(LATE, || stored().is_some_and(|stored| stored >= steady));
    ensure!(is_steady, "the agent does not keep up with the load");
    let pid = agent.child.id();
    let (both, of_agent) = thread::scope(|scope| {
        let of_agent = scope.spawn(|| Cost::measure(&agent, BUSY_SLICES));
        let of_collector = Cost::daemon_only(&collector, BUSY_SLICES);
        (of_collector, of_agent.join())
    });
    let of_agent = of_agent.ok().context("a thread failed")??;
    let of_collector = both?;
    drop(load);
    let switches = format!("{:.0} switches/s", of_agent.switches);
    lines.push(
        of_agent.line("agent: CPU at the standard load, kernel programs included").note(switches),
    );
    lines.push(
        Line::new("  of it, the daemon", median(&of_agent.daemon), "% host").note(of_agent.threads),
    );
    let maps = map_megabytes(&host::held_objects(pid)?)?;
    let rss = watched::megabytes(pid, "smaps_rollup", "Rss").context("smaps_rollup")?;
    let peak = watched::megabytes(pid, "status", "VmHWM").unwrap_or(rss);
    let own = watched::megabytes(pid, "smaps_rollup", "Anonymous").unwrap_or(rss);
    lines.push(
        Line::new("agent: RSS + kernel maps at the standard load", rss + maps, "MB")
            .target(60.0)
            .note(format!("RSS {rss:.1}, peak {peak:.1}, kernel maps {maps:.1}")),
    );
    lines.push(
        Line::new("  of it, its own memory + kernel maps", own + maps, "MB")
            .note("the rest is pages of files it reads symbols from, shared with who runs them"),
    );
    lines.push(
        Line::new("collector: CPU for that agent", median(&of_collector.daemon), "% host")
            .noise(apart(&of_collector.daemon))
            .note(of_collector.threads),
    );
    let rss = watched::megabytes(collector.child.id(), "smaps_rollup", "Rss");
    lines.push(Line::new("collector: RSS for that agent", rss.unwrap_or(f64::NAN), "MB"));
    agent.stop()?;
    collector.stop()?;
    Ok(())
}

fn streams(place: &Place) -> bool {
    place
        .health()
        .is_ok_and(|health| health.agents.iter().any(|agent| agent.last_batch_unix_ns > 0))
}

/// Waits until a service's first look at the host is over: it then takes hardly any CPU time. Where others
/// keep it busy, it is measured as it is.
fn settles(pid: u32) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(500);
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        let (at, cpu) = (Instant::now(), cpu_seconds(pid)?);
        thread::sleep(LOOK);
        if cpu_seconds(pid)? - cpu < REST * at.elapsed().as_secs_f64() {
            break;
        }
    }
    Ok(())
}

/// Waits until it holds; false when the service ended, or it takes too long.
fn first_of(service: &mut Service, holds: impl Fn() -> bool) -> bool {
    let mut held = false;
    wait_until(SOON, || {
        held = holds();
        held || !matches!(service.child.try_wait(), Ok(None))
    });
    held
}

/// CPU time in percent of the host, per slice of time.
#[derive(Debug, Default)]
struct Cost {
    daemon: Vec<f64>,
    kernel: Vec<f64>,
    both: Vec<f64>,
    switches: f64,
    /// Percent of the host, by name.
    threads: String,
}

// === impl Cost ===

impl Cost {
    fn measure(service: &Service, slices: usize) -> Result<Self> {
        Self::of(service.child.id(), &host::held_objects(service.child.id())?, slices)
    }

    fn daemon_only(service: &Service, slices: usize) -> Result<Self> {
        Self::of(service.child.id(), &BTreeSet::new(), slices)
    }

    fn of(pid: u32, objects: &BTreeSet<String>, slices: usize) -> Result<Self> {
        let cpus = thread::available_parallelism()?.get() as f64;
        let programs =
            || if objects.is_empty() { Ok(Default::default()) } else { programs(objects) };
        let mut cost = Self::default();
        let (begun, switches) = (Instant::now(), context_switches());
        let by_thread: HashMap<String, f64> = watched::cpu_by_thread(pid).into_iter().collect();
        for _ in 0..slices {
            let (at, cpu, runs) = (Instant::now(), cpu_seconds(pid)?, programs()?);
            // A length of time is what is measured.
            thread::sleep(SLICE);
            let share = at.elapsed().as_secs_f64() * cpus / 100.0;
            let daemon = (cpu_seconds(pid)? - cpu) / share;
            let runs = difference(&runs, &programs()?);
            let kernel = runs.values().map(|runs| runs.ns).sum::<u64>() as f64 / 1e9 / share;
            cost.daemon.push(daemon);
            cost.kernel.push(kernel);
            cost.both.push(daemon + kernel);
        }
        let share = begun.elapsed().as_secs_f64() * cpus / 100.0;
        cost.switches = (context_switches() - switches) as f64 / begun.elapsed().as_secs_f64();
        let threads = watched::cpu_by_thread(pid).into_iter().map(|(name, seconds)| {
            let before = by_thread.get(&name).copied().unwrap_or(0.0);
            format!("{name} {:.3}", (seconds - before) / share)
        });
        cost.threads = threads.collect::<Vec<_>>().join(", ");
        Ok(cost)
    }

    fn line(&self, quantity: &str) -> Line {
        Line::new(quantity, median(&self.both), "% host").noise(apart(&self.both))
    }
}
