//! Questions to a full store, through its reader and through the API, and how long the answers
//! take.

use std::time::Instant;

use anyhow::{Result, ensure};
use hotspan::{
    model::{clock::UnixNs, state::State},
    store::{self, Sort, SpanFilter, sqlite::Reader},
};
use hotspan_tests::service::Place;

use crate::{
    Line,
    names::Random,
    sample::{apart, median, quantile, tails_apart},
    store::{Contents, Known},
    synthetic::SECOND,
    watched,
};

const DOCUMENTS: usize = 500;
const SEARCHES: usize = 200;
const SLICES: usize = 100;
/// Through the API, which answers one at a time here.
const REQUESTS: usize = 200;

const DOCUMENT_MS: f64 = 50.0;
const SEARCH_MS: f64 = 100.0;

/// Filters, each with values of some stored span.
const FILTERS: [&str; 7] =
    ["no filter", "service", "name", "service and name", "min_ns", "state", "time"];
const STATES: [&str; 4] = ["lock", "socket", "disk", "running"];

pub(crate) fn to_reader(reader: &Reader, contents: &Contents, lines: &mut Vec<Line>) -> Result<()> {
    let mut random = Random::new(11);
    let times = timed(DOCUMENTS, || {
        let known = pick(&mut random, contents);
        store::answer(reader, |snapshot| {
            let spans = snapshot.spans(Some(known.trace_id), known.span_id)?;
            ensure!(!spans.is_empty(), "a span that was stored is not there");
            snapshot.details(&spans)?;
            Ok(())
        })
    })?;
    lines.extend(answers("store: span document", &times, Some(DOCUMENT_MS)));
    for sort in [Sort::Newest, Sort::Slowest] {
        for kind in FILTERS {
            let mut found = 0;
            let times = timed(SEARCHES, || {
                let filter = filter(kind, sort, &mut random, contents);
                let answer = store::answer(reader, |snapshot| snapshot.search(&filter));
                found += answer?.spans.len();
                Ok(())
            })?;
            let quantity = format!("store: search {sort:?}, {kind}").to_lowercase();
            let each = found / SEARCHES;
            let mut of_search = answers(&quantity, &times, Some(SEARCH_MS));
            of_search[0].note.push_str(&format!(", {each} spans an answer"));
            lines.extend(of_search);
        }
    }
    let times = timed(SLICES, || {
        let process = &contents.processes[random.below(contents.processes.len() as u64) as usize];
        let room = (contents.to - contents.from).saturating_sub(60 * SECOND);
        let from = contents.from + random.below(room.max(1));
        let until = from + 60 * SECOND;
        store::answer(reader, |snapshot| snapshot.process(process, from, until))?;
        Ok(())
    })?;
    lines.extend(answers("store: 60 s of a process", &times, None));
    Ok(())
}

pub(crate) fn to_api(place: &Place, contents: &Contents, lines: &mut Vec<Line>) -> Result<()> {
    let begun = Instant::now();
    let collector = place.start("collector", &[])?;
    place.wait_for_api(&collector)?;
    let opened = begun.elapsed().as_secs_f64() * 1e3;
    lines.push(Line::new("store: from exec to the API's first answer, full store", opened, "ms"));
    let mut random = Random::new(12);
    let times = timed(REQUESTS, || {
        let known = pick(&mut random, contents);
        let (trace, span) = (known.trace_id, known.span_id);
        ask(place, &format!("/api/span/{trace}/{span}"))
    })?;
    lines.extend(answers("API: span document", &times, Some(DOCUMENT_MS)));
    for sort in ["newest", "slowest"] {
        for kind in ["", "service", "min_ns"] {
            let times = timed(REQUESTS, || {
                let known = pick(&mut random, contents);
                let more = match kind {
                    "service" => format!("&service={}", known.service),
                    "min_ns" => format!("&min_ns={}", wall(&mut random)),
                    _ => String::new(),
                };
                ask(place, &format!("/api/spans?sort={sort}{more}"))
            })?;
            let filter = if kind.is_empty() { "no filter" } else { kind };
            let quantity = format!("API: search {sort}, {filter}");
            lines.extend(answers(&quantity, &times, Some(SEARCH_MS)));
        }
    }
    let rss = watched::megabytes(collector.child.id(), "smaps_rollup", "Rss").unwrap_or(f64::NAN);
    lines.push(Line::new("store: RSS of the collector after all that", rss, "MB"));
    collector.stop()?;
    Ok(())
}

fn ask(place: &Place, path: &str) -> Result<()> {
    let answer = place.get(path)?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    Ok(())
}

/// Milliseconds of each.
fn timed(count: usize, mut ask: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let one = |_| {
        let begun = Instant::now();
        ask()?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    };
    (0..count).map(one).collect()
}

fn answers(quantity: &str, times: &[f64], target: Option<f64>) -> Vec<Line> {
    let (middle, tail) = (median(times), quantile(times, 0.95));
    let noise = tails_apart(times);
    let spread = apart(times).unwrap_or(f64::NAN);
    let line = Line::new(format!("{quantity}, p95"), tail, "ms").noise(noise);
    let line = line.note(format!("p50 {middle:.2} +- {spread:.2}"));
    vec![Line { target, ..line }]
}

fn pick<'a>(random: &mut Random, contents: &'a Contents) -> &'a Known {
    &contents.spans[random.below(contents.spans.len() as u64) as usize]
}

/// Most spans take less.
fn wall(random: &mut Random) -> u64 {
    20_000_000 + random.below(80_000_000)
}

fn filter(kind: &str, sort: Sort, random: &mut Random, contents: &Contents) -> SpanFilter {
    let known = pick(random, contents).clone();
    let mut filter = SpanFilter { sort, ..SpanFilter::default() };
    if kind.contains("service") {
        filter.service = Some(known.service);
    }
    if kind.contains("name") {
        filter.name = Some(known.name);
    }
    match kind {
        "min_ns" => filter.min_ns = wall(random),
        "state" => filter.state = State::from_key(STATES[random.below(4) as usize]),
        "time" => {
            filter.from_unix_ns = Some(known.start_unix_ns);
            filter.to_unix_ns = Some(UnixNs(known.start_unix_ns.0 + 60 * SECOND));
        }
        _ => {}
    }
    filter
}
