//! Stored data of the first schema opens and answers as it did: `fixtures/` holds a store of two days
//! as the code of commit 02054b8 (schema 1) wrote it, and what that code answered. It is never written
//! anew; a later schema adds its own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::{
    model::{batch::Counts, frame::Frame},
    store::{Snapshot, Sort, SourceError, SpanFilter, answer},
};

/// The first day has closed minutes and is compacted; the second has rows as they came.
const PARTS: [(&str, &[u8]); 2] = [
    ("part-20261001-00.db", include_bytes!("../fixtures/schema-1/part-20261001-00.db")),
    ("part-20261002-00.db", include_bytes!("../fixtures/schema-1/part-20261002-00.db")),
];
const ANSWERS: &str = include_str!("../fixtures/schema-1/answers.json");

#[test]
fn a_store_of_schema_1_answers_as_it_did() {
    let mut bench = Bench::new("schema-1");
    bench.max_age = Duration::from_secs(9 * 86_400);
    fs::create_dir_all(&bench.dir.0).unwrap();
    for (name, bytes) in PARTS {
        fs::write(bench.dir.0.join(name), bytes).unwrap();
    }
    bench.set(MIDNIGHT + DAY + 2 * HOUR);
    let mut store = bench.open();
    assert_eq!(store.durable(RunId([1; 16])), 9);
    let expected: Value = serde_json::from_str(ANSWERS).unwrap();
    for round in 0..2 {
        let answered = answer::<_, SourceError>(&store.reader(), |snapshot| {
            let mut frames = Vec::new();
            let answers = answers(snapshot, &mut frames)?;
            Ok(json!({ "answers": answers, "frames": frames }))
        })
        .unwrap();
        for (key, expected) in expected["answers"].as_object().unwrap() {
            assert_eq!(&answered["answers"][key], expected, "{key}, round {round}");
        }
        assert_eq!(answered, expected, "round {round}");
        // What is left to do for it changes no answer.
        store.maintain().unwrap();
    }
    let health = store.reader().health();
    assert_eq!((health.parts, health.set_aside), (2, vec![]));
    // It goes on where it ended.
    let at = 2 * DAY;
    store.append(&[entry(&run(1), 10, one_span(77, 0, at))]).unwrap();
    assert_eq!(only(store.reader().spans(None, SpanId([77; 8])).unwrap()).start, at);
    assert_eq!(store.durable(RunId([1; 16])), 10);
}

/// Everything a store can be asked. Frames are listed once, in `frames`.
fn answers(snapshot: &dyn Snapshot, frames: &mut Vec<String>) -> Result<Value, SourceError> {
    let all = snapshot.search(&SpanFilter { limit: 10_000, ..SpanFilter::default() })?;
    let mut answers = BTreeMap::new();
    answers.insert("all".to_owned(), all.spans.iter().map(span_value).collect());
    let filters = [
        SpanFilter { sort: Sort::Slowest, limit: 5, ..SpanFilter::default() },
        SpanFilter { service: Some("service-1".to_owned()), ..SpanFilter::default() },
        SpanFilter { state: State::from_key("lock"), limit: 7, ..SpanFilter::default() },
        SpanFilter { min_ns: 100_000_000, pid: Some(1_000), ..SpanFilter::default() },
    ];
    for (number, filter) in filters.iter().enumerate() {
        let found = snapshot.search(filter)?;
        let ids: Vec<String> = found.spans.iter().map(|span| span.span_id.to_string()).collect();
        let value = json!({ "truncated": found.truncated, "spans": ids });
        answers.insert(format!("search {number}"), value);
    }
    for span in &all.spans {
        let id = span.span_id.to_string();
        let of_id: Value = snapshot.spans(None, span.span_id)?.iter().map(span_value).collect();
        answers.insert(format!("span {id}"), of_id);
        let of_trace = snapshot.trace(span.trace_id, None)?.spans;
        let of_trace: Vec<String> = of_trace.iter().map(|span| span.span_id.to_string()).collect();
        answers.insert(format!("trace {}", span.trace_id), json!(of_trace));
        let details = snapshot.details(std::slice::from_ref(span))?;
        let waits: Vec<Value> = (details.waits.iter())
            .map(|wait| {
                let cause = &wait.cause;
                let of = cause
                    .span
                    .as_ref()
                    .map(|of| json!([of.trace_id.to_string(), of.span_id.to_string(), *of.name]));
                json!([
                    wait.state,
                    kind_of(cause),
                    *cause.name,
                    cause.pid.0,
                    cause.tid.0,
                    of,
                    wait.ns,
                    wait.count
                ])
            })
            .collect();
        let samples = sample_values(&details.samples, frames);
        answers.insert(format!("details {id}"), json!({ "waits": waits, "samples": samples }));
        let slice = snapshot.process(&span.process, span.start, span.start + 700_000_000)?;
        let samples = sample_values(&slice.samples, frames);
        answers.insert(
            format!("process {} from {}", span.process.identity.pid, span.start),
            json!({ "states": slice.states, "samples": samples }),
        );
    }
    let runs = snapshot.runs()?;
    answers.insert("runs".to_owned(), runs.iter().map(run_value).collect());
    Ok(json!(answers))
}

fn span_value(span: &SpanAccount) -> Value {
    let identity = &span.process.identity;
    json!({
        "process": [*span.process.boot_id, identity.pid, identity.since, *identity.comm,
                    *identity.service],
        "ids": [span.trace_id.to_string(), span.span_id.to_string(), span.parent.to_string()],
        "name": *span.name,
        "times": [span.start_unix_ns.0, span.start, span.end, span.active_ns],
        "states": span.states,
        "active": span.active,
        "exact": span.exact,
        "open": span.open,
        "loss": pairs(&span.loss),
    })
}

fn sample_values(samples: &[Sample], frames: &mut Vec<String>) -> Vec<Value> {
    let mut index = |frame: &Frame| {
        let text = format!("{}|{}|{}|{}", frame.name, frame.file, frame.line, kind_of_frame(frame));
        frames.iter().position(|known| *known == text).unwrap_or_else(|| {
            frames.push(text);
            frames.len() - 1
        })
    };
    let value = |sample: &Sample| {
        let stack = sample.stack.as_ref();
        let stack = stack.map(|stack| stack.iter().map(&mut index).collect::<Vec<_>>());
        json!([sample.at, sample.tid.0, sample.state, sample.ns, stack])
    };
    samples.iter().map(value).collect()
}

fn run_value(record: &RunRecord) -> Value {
    let (run, account) = (&record.run, &record.account);
    let gaps = record.gaps.iter().map(|(reason, counts)| (reason.to_string(), counts_of(counts)));
    let kinds = account
        .kinds
        .iter()
        .map(|(kind, of)| (kind.to_string(), json!([of.captured, of.linked, pairs(&of.lost)])));
    let cost = &account.cost;
    json!({
        "run": [run.id.to_string(), run.boot_id, run.host, run.version, run.pid, run.started_unix_ns],
        "last": [record.last_sequence, record.last_unix_ns, record.last_to],
        "delivered": counts_of(&record.delivered),
        "gaps": gaps.collect::<BTreeMap<String, Value>>(),
        "kinds": kinds.collect::<BTreeMap<String, Value>>(),
        "loss": pairs(&account.loss),
        "cost": [cost.cpu_ns, cost.wall_ns, cost.rss_bytes, cost.queue_bytes],
        "closed": [account.closed, record.closed],
    })
}

fn counts_of(counts: &Counts) -> Value {
    counts.iter().map(|(kind, n)| (kind.to_owned(), json!(n))).collect()
}

fn pairs(map: &BTreeMap<Arc<str>, u64>) -> Value {
    map.iter().map(|(key, n)| (key.to_string(), json!(n))).collect()
}

fn kind_of(cause: &Cause) -> u8 {
    cause.kind.code()
}

fn kind_of_frame(frame: &Frame) -> &str {
    frame.kind.key()
}
