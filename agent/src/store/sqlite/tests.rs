//! The store on real files: appending, merging, parts, cursors, and who may open it.

mod crash;
mod damage;
mod gone;
mod hostile;
mod measure;
mod model;
mod retention;
mod search;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{synthetic::Host, *};
use crate::{
    model::{
        batch::{
            Account, Batch, Counts, Gap, ProcessIdentity, Run, SampleRow, SpanPart, TotalRow,
            WaitRow,
        },
        cause::Cause,
        frame::{Frame, FrameKind},
        id::{RunId, SpanId, TraceId},
        state::{State, StateTimes},
    },
    store::{
        Body, Entry, Found, Questions as _, RunRecord, SetAside, StoreHealth,
        account::{ProcessKey, SpanAccount},
        rules::PARTS_MISSING,
    },
};

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// 2026-10-01 00:00 UTC.
const MIDNIGHT: u64 = 20_727 * DAY;

/// A directory that goes with it.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir()
            .join(format!("hotspan-store-{name}-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A store whose clock the test moves.
struct Bench {
    dir: TempDir,
    now: Arc<AtomicU64>,
    max_age: Duration,
    max_bytes: u64,
}

impl Bench {
    fn new(name: &str) -> Self {
        Self {
            dir: TempDir::new(name),
            now: Arc::new(AtomicU64::new(MIDNIGHT + HOUR)),
            max_age: Duration::from_secs(86_400),
            max_bytes: 1 << 40,
        }
    }

    fn try_open(&self) -> Result<Store, StoreError> {
        let settings =
            Settings { dir: self.dir.0.clone(), max_age: self.max_age, max_bytes: self.max_bytes };
        let now = Arc::clone(&self.now);
        Store::open_with_clock(settings, Arc::new(move || now.load(Ordering::Relaxed)))
    }

    fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    fn set(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    fn files(&self) -> Vec<String> {
        let mut files: Vec<String> = fs::read_dir(&self.dir.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("part-"))
            .collect();
        files.sort();
        files
    }

    fn main_files(&self) -> Vec<PathBuf> {
        let files = self.files().into_iter().filter(|name| name.ends_with(".db"));
        files.map(|name| self.dir.0.join(name)).collect()
    }
}

fn run(id: u8) -> Arc<Run> {
    Arc::new(Run { id: RunId([id; 16]), boot_id: "boot".into(), pid: 7, ..Run::default() })
}

fn entry(run: &Arc<Run>, sequence: u64, batch: Batch) -> Entry {
    Entry { run: Arc::clone(run), sequence, body: Body::Batch(batch) }
}

fn times(running: u64, lock: u64) -> StateTimes {
    let mut states = StateTimes::default();
    states.add(State::default(), running);
    states.add(State::from_key("lock").unwrap(), lock);
    states
}

/// One part of span `span` of 100 ns, with a sample and a wait.
fn one_span(span: u8, part: u32, at: u64) -> Batch {
    let frame = |name: &str| Frame {
        name: name.into(),
        file: "main.rs".into(),
        line: 3,
        kind: FrameKind::Native,
    };
    Batch {
        from: at,
        to: at + SECOND,
        unix_offset_ns: MIDNIGHT as i64,
        processes: vec![ProcessIdentity {
            pid: 42,
            since: 5,
            comm: "comm".into(),
            service: "shop".into(),
        }],
        stacks: vec![[frame("inner"), frame("outer")].into()],
        spans: vec![SpanPart {
            trace_id: TraceId([9; 16]),
            span_id: SpanId([span; 8]),
            name: "GET /".into(),
            start_unix_ns: MIDNIGHT + at,
            start: at,
            end: at + 100,
            active_ns: 100,
            states: times(60, 40),
            active: vec![(at, at + 100)],
            exact: true,
            part,
            ..SpanPart::default()
        }],
        samples: vec![SampleRow {
            at,
            tid: 43,
            span: Some(0),
            stack: Some(0),
            ns: 60,
            ..SampleRow::default()
        }],
        waits: vec![WaitRow {
            span: 0,
            state: State::from_key("lock").unwrap(),
            cause: Cause { name: "other".into(), ..Cause::default() },
            ns: 40,
            count: 1,
        }],
        totals: vec![TotalRow { process: 0, from: at, to: at + SECOND, states: times(1_000, 0) }],
        counts: Counts { samples: 1, spans: 1, ..Counts::default() },
        account: Account::default(),
    }
}

fn only(spans: Vec<SpanAccount>) -> SpanAccount {
    assert_eq!(spans.len(), 1, "{spans:?}");
    spans.into_iter().next().unwrap()
}

#[test]
fn what_goes_in_comes_out_once() {
    let bench = Bench::new("once");
    let mut store = bench.open();
    let (run, at) = (run(1), HOUR);
    let first = entry(&run, 1, one_span(1, 0, at));
    let second = entry(&run, 2, one_span(1, 1, at + 2 * SECOND));
    store.append(std::slice::from_ref(&first)).unwrap();
    assert_eq!(store.durable(run.id), 1);
    // Delivered again, alone, twice in one call and with what is new.
    store.append(std::slice::from_ref(&first)).unwrap();
    store.append(&[first.clone(), second.clone(), second, first]).unwrap();
    assert_eq!((store.durable(run.id), store.durable(RunId([8; 16]))), (2, 0));
    let reader = store.reader();
    for round in 0..3 {
        let span = only(reader.spans(None, SpanId([1; 8])).unwrap());
        assert_eq!((span.active_ns, span.wall_ns()), (200, 2 * SECOND + 100));
        assert_eq!(span.states, times(120, 80));
        assert_eq!(span.active, [(at, at + 100), (at + 2 * SECOND, at + 2 * SECOND + 100)]);
        assert!(span.exact && span.loss.is_empty());
        assert_eq!((&*span.name, &*span.process.identity.service), ("GET /", "shop"));
        assert_eq!(
            reader.spans(Some(TraceId([9; 16])), SpanId([1; 8])).unwrap(),
            std::slice::from_ref(&span)
        );
        assert_eq!(reader.trace(TraceId([9; 16])).unwrap(), std::slice::from_ref(&span));
        assert_eq!(reader.spans(Some(TraceId([8; 16])), SpanId([1; 8])).unwrap(), []);
        let details = reader.details(std::slice::from_ref(&span)).unwrap();
        assert_eq!(details.samples.len(), 2);
        assert_eq!(&*details.samples[0].stack.as_ref().unwrap()[0].name, "inner");
        assert_eq!((details.waits.len(), details.waits[0].ns, details.waits[0].count), (1, 80, 2));
        let slice = reader.process(&span.process, at, at + SECOND / 2).unwrap();
        assert_eq!((slice.states, slice.samples.len()), (times(500, 0), 1));
        let record = &reader.runs().unwrap()[0];
        assert_eq!((record.delivered.samples, record.last_sequence), (2, 2));
        match round {
            0 => {
                // Long after: every minute is closed, and merged.
                bench.set(MIDNIGHT + 3 * HOUR);
                store.maintain().unwrap();
                assert_eq!(count(&store, "SELECT count(*) FROM chunk WHERE is_raw"), 0);
            }
            _ => {
                drop(store);
                store = bench.open();
            }
        }
    }
}

fn count(store: &Store, sql: &str) -> i64 {
    store.newest.conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_missing_part_is_told_within_and_across_parts() {
    let bench = Bench::new("missing");
    let mut store = bench.open();
    let run = run(1);
    store.append(&[entry(&run, 1, one_span(1, 0, HOUR))]).unwrap();
    store.append(&[entry(&run, 2, one_span(1, 3, HOUR + 10))]).unwrap();
    let reader = store.reader();
    let missing = |span: u8| {
        let span = only(reader.spans(None, SpanId([span; 8])).unwrap());
        (span.loss.get(PARTS_MISSING).copied(), span.exact)
    };
    assert_eq!(missing(1), (Some(2), false));
    store.append(&[entry(&run, 3, one_span(2, 0, HOUR))]).unwrap();
    bench.set(MIDNIGHT + DAY + 1);
    store.append(&[entry(&run, 4, one_span(2, 1, HOUR + 100))]).unwrap();
    assert_eq!(bench.main_files().len(), 2);
    assert_eq!(missing(2), (None, true));
    store.append(&[entry(&run, 5, one_span(2, 3, HOUR + 200))]).unwrap();
    assert_eq!(missing(2), (Some(1), false));
    // A span whose beginning is nowhere.
    store.append(&[entry(&run, 6, one_span(3, 2, HOUR))]).unwrap();
    assert_eq!(missing(3), (Some(2), false));
    // Starting over is a restart.
    store.append(&[entry(&run, 7, one_span(2, 0, HOUR + 300))]).unwrap();
    assert_eq!(missing(2), (Some(1), false));
    assert_eq!(
        only(reader.spans(None, SpanId([2; 8])).unwrap()).active,
        // Touching ones are joined, over parts too.
        [(HOUR, HOUR + 400)]
    );
}

#[test]
fn cursors_counts_and_gaps_are_carried_to_new_parts() {
    let bench = Bench::new("carry");
    let mut store = bench.open();
    let run = run(3);
    let counts = Counts { samples: 5, ..Counts::default() };
    store.append(&[entry(&run, 1, one_span(1, 0, HOUR))]).unwrap();
    let gap = |from, to| Entry {
        run: Arc::clone(&run),
        sequence: to,
        body: Body::Gap(Gap {
            from_sequence: from,
            to_sequence: to,
            reason: "queue_full".into(),
            counts,
            from: 0,
            to: 0,
        }),
    };
    store.append(&[gap(2, 6)]).unwrap();
    for day in 1..4 {
        bench.set(MIDNIGHT + day * DAY + 5);
        store.append(&[entry(&run, 6 + day, one_span(1 + day as u8, 0, HOUR))]).unwrap();
        drop(store);
        store = bench.open();
        assert_eq!(store.durable(run.id), 6 + day);
    }
    assert_eq!(bench.main_files().len(), 4);
    let record = store.reader().runs().unwrap().remove(0);
    assert_eq!((record.delivered.samples, record.gaps["queue_full"]), (4, counts));
    // One of an earlier run is not applied again in a later part.
    store.append(&[gap(2, 6), entry(&run, 1, one_span(1, 0, HOUR))]).unwrap();
    assert_eq!(store.reader().runs().unwrap(), [record]);
    assert_eq!(only(store.reader().spans(None, SpanId([1; 8])).unwrap()).active_ns, 100);
}

#[test]
fn one_store_per_directory_which_others_cannot_read() {
    let bench = Bench::new("lock");
    let store = bench.open();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.dir.0), 0o700);
    for file in bench.files() {
        assert_eq!(mode(&bench.dir.0.join(&file)), 0o600, "{file}");
    }
    let refused = bench.try_open().unwrap_err().to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    drop(store);
    // With the clock of the host.
    let (dir, max_age) = (bench.dir.0.clone(), bench.max_age);
    Store::open(Settings { dir, max_age, max_bytes: 1 << 30 }).unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let bench = Bench::new("newer");
    drop(bench.open());
    let file = bench.main_files().remove(0);
    let conn = rusqlite::Connection::open(&file).unwrap();
    conn.execute_batch("UPDATE meta SET value = 2 WHERE key = 'version'; PRAGMA user_version = 2;")
        .unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(conn);
    let before = fs::read(&file).unwrap();
    let refused = bench.try_open().unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 2, known: 1, .. }), "{refused}");
    assert!(fs::read(&file).unwrap() == before);
}

#[test]
fn a_process_is_matched_without_its_names() {
    let bench = Bench::new("process");
    let mut store = bench.open();
    store.append(&[entry(&run(1), 1, one_span(1, 0, HOUR))]).unwrap();
    let process = |pid, since| ProcessKey {
        boot_id: "boot".into(),
        identity: ProcessIdentity { pid, since, comm: "renamed".into(), service: "x".into() },
    };
    let reader = store.reader();
    let samples = |process| reader.process(&process, 0, 2 * HOUR).unwrap().samples.len();
    assert_eq!(
        [samples(process(42, 5)), samples(process(42, 6)), samples(process(41, 5))],
        [1, 0, 0]
    );
}

#[test]
fn the_writer_moves_and_readers_are_shared_between_threads() {
    fn moves<T: Send>() {}
    fn is_shared<T: Clone + Send + Sync>() {}
    moves::<Store>();
    is_shared::<Reader>();
    moves::<(SetAside, StoreHealth, RunRecord, Found)>();
}
