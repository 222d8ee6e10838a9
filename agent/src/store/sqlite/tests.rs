//! The store on real files: appending, merging, parts, cursors, and who may open it.

mod conformance;
mod crash;
mod damage;
mod documents;
mod fixture;
mod gone;
mod measure;
mod model;
mod retention;

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

use super::*;
use crate::{
    model::{
        batch::{Counts, Gap, ProcessIdentity, SampleRow, SpanPart, WaitRow},
        cause::Cause,
        id::{RunId, SpanId, TraceId},
        state::State,
    },
    store::{
        Body, Entry, Found, Questions as _, RunRecord, SetAside, StoreHealth,
        account::{ProcessKey, Sample, SpanAccount},
        rules::PARTS_MISSING,
        synthetic::{DAY, HOUR, Host, MIDNIGHT, SECOND, entry, one_span, only, run, times},
    },
};

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
fn the_writer_moves_and_readers_are_shared_between_threads() {
    fn moves<T: Send>() {}
    fn is_shared<T: Clone + Send + Sync>() {}
    moves::<Store>();
    is_shared::<Reader>();
    moves::<(SetAside, StoreHealth, RunRecord, Found)>();
}
