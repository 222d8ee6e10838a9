//! The embedded store with a million spans and ten million samples: what they take on the disk,
//! what storing them costs, how fast they are found.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use hotspan::{
    model::{
        clock::UnixNs,
        id::{SpanId, TraceId},
    },
    store::{
        Body, Entry,
        account::ProcessKey,
        sqlite::{Settings, Store},
    },
};
use hotspan_tests::service::Place;
use rusqlite::{Connection, OpenFlags};

use crate::{
    Line, questions,
    sample::{apart, median},
    synthetic::{self, Host, SECOND, TEN_PER_SPAN},
    watched::thread_cpu_ns,
};

/// What is stored: spans, and ten samples for each.
const SPANS: u64 = 1_000_000;
const SMALL: u64 = 100_000;
/// Whatever is stored by then is what is measured.
const PATIENCE: Duration = Duration::from_secs(240);
/// For chunks of the last minutes to be merged.
const TIDYING: Duration = Duration::from_secs(30);
/// The collector maintains its store so often.
const BATCHES_PER_MAINTENANCE: u64 = 10;
/// Every so many spans one is kept to ask for.
const ONE_IN: usize = 97;

/// A span to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) start_unix_ns: UnixNs,
}

/// What is in the store.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) spans: Vec<Known>,
    pub(crate) processes: Vec<ProcessKey>,
    /// CLOCK_MONOTONIC.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Sums of ingestion.
#[derive(Default)]
struct Ingest {
    samples: u64,
    spans: u64,
    /// CPU milliseconds of each append, and its wall time.
    cpu: Vec<f64>,
    wall: Vec<f64>,
    maintenance: f64,
    /// Chunks not merged when the last batch was in.
    raw_left: u64,
    tidying: f64,
}

pub(crate) fn measure(small: bool) -> Result<Vec<Line>> {
    let place = Place::new()?;
    let dir = place.data_dir();
    let settings = Settings {
        dir: dir.clone(),
        max_age: Duration::from_secs(7 * 86_400),
        max_bytes: 10 << 30,
    };
    let mut store = Store::open(settings)?;
    let mut contents = Contents::default();
    let spans = if small { SMALL } else { SPANS };
    let ingest = fill(&mut store, spans, &mut contents, &dir)?;
    let mut lines = ingest.lines(spans);
    let reader = store.reader();
    sizes(&dir, &ingest, &mut lines)?;
    questions::to_reader(&reader, &contents, &mut lines)?;
    drop((reader, store));
    questions::to_api(&place, &contents, &mut lines)?;
    Ok(lines)
}

fn fill(store: &mut Store, spans: u64, contents: &mut Contents, dir: &Path) -> Result<Ingest> {
    let begun = Instant::now();
    let run = synthetic::run(1);
    let seconds = spans / TEN_PER_SPAN.spans + 1;
    // As if it had just been recorded.
    let unix = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let from = 3_600 * SECOND;
    let offset = (unix - seconds * SECOND - from).cast_signed();
    let mut host = Host::new(7, from, offset);
    let mut ingest = Ingest::default();
    for sequence in 1..=seconds {
        let mut batch = host.batch(TEN_PER_SPAN);
        let out_of_time = begun.elapsed() >= PATIENCE;
        batch.account.closed = sequence == seconds || out_of_time;
        ingest.samples += batch.samples.len() as u64;
        let first_parts = batch.spans.iter().filter(|span| span.part == 0);
        ingest.spans += first_parts.clone().count() as u64;
        for span in first_parts.skip((sequence % 7) as usize).step_by(ONE_IN) {
            contents.spans.push(Known {
                trace_id: span.trace_id,
                span_id: span.span_id,
                name: span.name.to_string(),
                service: batch.processes[span.process as usize].service.to_string(),
                start_unix_ns: span.start_unix_ns,
            });
        }
        if sequence == 1 {
            contents.processes = (batch.processes.iter().cloned())
                .map(|identity| ProcessKey { boot_id: run.boot_id.as_str().into(), identity })
                .collect();
        }
        let entries = [Entry { run: run.clone(), sequence, body: Body::Batch(batch) }];
        let (at, cpu) = (Instant::now(), thread_cpu_ns());
        store.append(&entries)?;
        ingest.cpu.push((thread_cpu_ns() - cpu) as f64 / 1e6);
        ingest.wall.push(at.elapsed().as_secs_f64() * 1e3);
        if sequence.is_multiple_of(BATCHES_PER_MAINTENANCE) {
            let cpu = thread_cpu_ns();
            store.maintain()?;
            ingest.maintenance += (thread_cpu_ns() - cpu) as f64 / 1e6;
        }
        if out_of_time {
            break;
        }
    }
    (contents.from, contents.to) = (from, host.now);
    ingest.raw_left = raw_chunks(dir)?;
    let (tidied, cpu) = (Instant::now(), thread_cpu_ns());
    while tidied.elapsed() < TIDYING && raw_chunks(dir)? > 0 {
        store.maintain()?;
    }
    ingest.tidying = (thread_cpu_ns() - cpu) as f64 / 1e9;
    Ok(ingest)
}

// === impl Ingest ===

impl Ingest {
    fn lines(&self, wanted: u64) -> Vec<Line> {
        let batches = self.cpu.len() as f64;
        let appending = self.cpu.iter().sum::<f64>() / 1e3;
        let all = appending + self.maintenance / 1e3 + self.tidying;
        // In the order of time, so that growth shows as noise.
        let eighth = self.cpu.len().div_ceil(8).max(1);
        let rate = |cpu: &[f64]| 1e3 * cpu.len() as f64 / cpu.iter().sum::<f64>();
        let rates: Vec<f64> = self.cpu.chunks(eighth).map(rate).collect();
        let stored = match self.spans >= wanted {
            true => format!("{} spans, {} samples", self.spans, self.samples),
            false => format!(
                "only {} spans, {} samples: no more in {} s",
                self.spans,
                self.samples,
                PATIENCE.as_secs()
            ),
        };
        let first = rates.first().copied().unwrap_or(f64::NAN);
        let last = rates.last().copied().unwrap_or(f64::NAN);
        let raw = self.raw_left;
        vec![
            Line::new("store: batches of 1,500 samples, per core", batches / appending, "1/s")
                .noise(apart(&rates))
                .note(format!("{stored}; first eighth {first:.0}, last {last:.0}")),
            Line::new("store: samples stored, per core", self.samples as f64 / all, "1/s")
                .note("with maintenance"),
            Line::new("store: CPU time of one append", median(&self.cpu), "ms")
                .noise(apart(&self.cpu)),
            Line::new("store: wall time of one append", median(&self.wall), "ms")
                .noise(apart(&self.wall))
                .note("durable"),
            Line::new(
                "store: CPU time of maintenance, per batch",
                self.maintenance / batches,
                "ms",
            )
            .note(format!("{raw} chunks not merged at the end, merged in {:.1} s", self.tidying)),
        ]
    }
}

fn parts(dir: &Path) -> Result<Vec<Connection>> {
    let mut parts = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "db") {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
            parts.push(Connection::open_with_flags(path, flags)?);
        }
    }
    Ok(parts)
}

fn raw_chunks(dir: &Path) -> Result<u64> {
    let mut raw = 0;
    for part in parts(dir)? {
        raw += part
            .query_row("SELECT count(*) FROM chunk WHERE is_raw", [], |row| row.get::<_, i64>(0))?;
    }
    Ok(raw.unsigned_abs())
}

/// Pages of tables with their indexes.
fn sizes(dir: &Path, ingest: &Ingest, lines: &mut Vec<Line>) -> Result<()> {
    let (mut chunks, mut spans, mut span_indexes, mut entries, mut all) = (0, 0, 0, 0, 0);
    for part in parts(dir)? {
        let mut statement =
            part.prepare("SELECT name, pgsize FROM dbstat WHERE aggregate = TRUE")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (name, bytes): (String, i64) = (row.get(0)?, row.get(1)?);
            all += bytes;
            match name.split('_').next().context("a table has a name")? {
                "chunk" => chunks += bytes,
                "span" if name != "span" => {
                    (spans, span_indexes) = (spans + bytes, span_indexes + bytes)
                }
                "span" => spans += bytes,
                "entry" => entries += bytes,
                _ => {}
            }
        }
    }
    let per = |bytes: i64, rows: u64| bytes as f64 / rows.max(1) as f64;
    lines.push(
        Line::new(
            "store: chunks (samples, waits, totals)",
            per(chunks, ingest.samples),
            "B/sample",
        )
        .note("merged"),
    );
    lines.push(
        Line::new("store: spans with their indexes", per(spans, ingest.spans), "B/span")
            .note(format!("{:.0} of them indexes", per(span_indexes, ingest.spans))),
    );
    lines.push(
        Line::new("store: names and stacks", entries as f64 / 1e6, "MB")
            .note("grows with what is new, not with what is seen"),
    );
    lines.push(Line::new("store: everything", per(all, ingest.samples), "B/sample"));
    Ok(())
}
