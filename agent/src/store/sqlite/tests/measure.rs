//! Figures, not a test: `cargo test --release store::sqlite::tests::measure -- --ignored --nocapture`.
//! `HOTSPAN_STORE_BATCHES` sets the size; 3,600 batches are 10 M samples and 1 M spans.

use std::time::Instant;

use super::{
    super::{catalogue::Clock, part::PartName},
    *,
};
use crate::{
    model::clock::UnixNs,
    store::{Sort, SpanFilter, synthetic::Random},
};

#[test]
#[ignore = "takes minutes; prints figures"]
fn bytes_and_times() {
    let batches: u64 =
        std::env::var("HOTSPAN_STORE_BATCHES").map_or(360, |text| text.parse().unwrap());
    let mut bench = Bench::new("measure");
    if let Ok(bytes) = std::env::var("HOTSPAN_STORE_BYTES") {
        bench.max_bytes = bytes.parse().unwrap();
    }
    let mut store = bench.open();
    let mut host = Host::new(1, MIDNIGHT as i64);
    let run = run(1);
    let (mut appends, mut maintains) = (Vec::new(), Vec::new());
    let (mut samples, mut generating) = (0, Duration::ZERO);
    let begun = Instant::now();
    for sequence in 1..=batches {
        let before = Instant::now();
        let batch = host.batch(2 * SECOND, 2_780, 278);
        generating += before.elapsed();
        samples += batch.samples.len();
        bench.set(host.now + MIDNIGHT);
        let before = Instant::now();
        store.append(&[entry(&run, sequence, batch)]).unwrap();
        appends.push(before.elapsed());
        if sequence.is_multiple_of(5) {
            let before = Instant::now();
            store.maintain().unwrap();
            maintains.push(before.elapsed());
        }
    }
    bench.set(host.now + MIDNIGHT + 600 * SECOND);
    for _ in 0..200 {
        store.maintain().unwrap();
    }
    eprintln!("filled in {:?}, of which generating {generating:?}", begun.elapsed());
    report("append of 2,780 samples, 278 spans", appends);
    report("maintain", maintains);
    drop(store);
    let before = Instant::now();
    let store = bench.open();
    eprintln!("open: {:?}", before.elapsed());
    sizes(&bench, samples);
    times_of_reading(&bench, &store);
}

fn sizes(bench: &Bench, samples: usize) {
    let (mut total, mut free, mut spans) = (0, 0, 0);
    let mut of_table: std::collections::BTreeMap<String, u64> = Default::default();
    for file in bench.main_files() {
        total += file.metadata().unwrap().len();
        let conn = rusqlite::Connection::open(&file).unwrap();
        let one = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64;
        free += one("PRAGMA freelist_count") * 4_096;
        spans += one("SELECT count(*) FROM span");
        let mut statement =
            conn.prepare("SELECT name, sum(pgsize) FROM dbstat GROUP BY name").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?))).unwrap();
        for (name, bytes) in rows.map(Result::unwrap) {
            *of_table.entry(name).or_default() += bytes as u64;
        }
    }
    let is_span = |name: &str| name == "span" || name.starts_with("span_");
    let of_spans: u64 = of_table.iter().filter(|(name, _)| is_span(name)).map(|(_, n)| n).sum();
    let of_samples = total - of_spans - free;
    eprintln!(
        "{samples} samples, {spans} span rows in {} parts, {total} bytes ({free} free)",
        bench.main_files().len()
    );
    eprintln!(
        "{:.2} B/sample without spans, {:.2} with; {:.1} B/span row",
        of_samples as f64 / samples as f64,
        total as f64 / samples as f64,
        of_spans as f64 / spans as f64
    );
    for (name, bytes) in of_table {
        eprintln!("  {name}: {bytes}");
    }
}

fn times_of_reading(bench: &Bench, store: &Store) {
    let reader = store.reader();
    let mut random = Random::new(3);
    let (from, to) = (MIDNIGHT + HOUR, bench.now.load(Ordering::Relaxed));
    let default = SpanFilter::default;
    let lock = State::from_key("lock");
    let slowest = || SpanFilter { sort: Sort::Slowest, ..default() };
    type Make<'a> = Box<dyn Fn(&mut Random) -> SpanFilter + 'a>;
    let service = |random: &mut Random| Some(format!("service-{}", random.below(12)));
    let name = |random: &mut Random| Some(format!("GET /resource/{}", random.below(20)));
    let around = |random: &mut Random, filter: SpanFilter, length: u64| {
        let at = from + random.below(to - from);
        SpanFilter {
            from_unix_ns: Some(UnixNs(at)),
            to_unix_ns: Some(UnixNs(at + length)),
            ..filter
        }
    };
    let kinds: Vec<(&str, Make<'_>)> = vec![
        ("newest", Box::new(|_| default())),
        ("slowest", Box::new(|_| slowest())),
        ("newest of a service", Box::new(|r| SpanFilter { service: service(r), ..default() })),
        ("slowest of a service", Box::new(|r| SpanFilter { service: service(r), ..slowest() })),
        (
            "slowest of a service and name",
            Box::new(|r| SpanFilter { service: service(r), name: name(r), ..slowest() }),
        ),
        (
            "slowest of a pid",
            Box::new(|r| SpanFilter { pid: Some(1_000 + r.below(40) as u32 * 17), ..slowest() }),
        ),
        ("newest with a lock wait", Box::new(|_| SpanFilter { state: lock, ..default() })),
        ("newest over 1 s", Box::new(|_| SpanFilter { min_ns: SECOND, ..default() })),
        ("slowest in 5 min", Box::new(|r| around(r, slowest(), 300 * SECOND))),
        ("slowest in 1 min", Box::new(|r| around(r, slowest(), 60 * SECOND))),
        (
            "slowest of a service in 5 min",
            Box::new(|r| {
                let filter = SpanFilter { service: service(r), ..slowest() };
                around(r, filter, 300 * SECOND)
            }),
        ),
        (
            "nothing: a state no span has",
            Box::new(|_| SpanFilter { state: State::from_key("child"), ..default() }),
        ),
        ("nothing: over an hour, newest", Box::new(|_| SpanFilter { min_ns: HOUR, ..default() })),
    ];
    let mut some = Vec::new();
    for (what, make) in kinds {
        let mut taken = Vec::new();
        let mut truncated = 0;
        for _ in 0..40 {
            let filter = make(&mut random);
            let before = Instant::now();
            let found = reader.search(&filter).unwrap();
            taken.push(before.elapsed());
            truncated += usize::from(found.truncated);
            some.extend(found.spans.into_iter().take(3));
        }
        report(&format!("search: {what} ({truncated} of 40 truncated)"), taken);
    }
    let mut taken = Vec::new();
    let mut rows = 0;
    for span in &some {
        let before = Instant::now();
        let spans = reader.spans(Some(span.trace_id), span.span_id).unwrap();
        rows += reader.details(&spans).unwrap().samples.len();
        taken.push(before.elapsed());
    }
    report(&format!("span with details ({} samples each)", rows / some.len().max(1)), taken);
    let mut taken = Vec::new();
    for _ in 0..40 {
        let span = &some[random.below(some.len() as u64) as usize];
        let before = Instant::now();
        reader.process(&span.process, span.start, span.start + 60 * SECOND).unwrap();
        taken.push(before.elapsed());
    }
    report("process over 60 s", taken);
    let before = Instant::now();
    let cold = Reader::clone(&store.reader());
    cold.health();
    eprintln!("health: {:?}", before.elapsed());
}

fn report(what: &str, mut taken: Vec<Duration>) {
    taken.sort_unstable();
    let at = |percent: usize| taken[(taken.len() * percent / 100).min(taken.len() - 1)];
    eprintln!("{what}: p50 {:?}, p95 {:?}, max {:?}", at(50), at(95), taken[taken.len() - 1]);
}

#[test]
fn opening_does_not_look_at_older_parts() {
    let bench = Bench::new("open");
    drop(bench.open());
    // Older parts that take any reader ages: here, that are nothing at all beyond their header.
    let header = fs::read(&bench.main_files()[0]).unwrap()[..100].to_vec();
    for day in 1..30 {
        let name = PartName::first_at(MIDNIGHT - day * DAY);
        fs::write(bench.dir.0.join(name.to_string()), &header).unwrap();
    }
    let clock: Clock = Arc::new(|| MIDNIGHT + HOUR);
    let settings =
        Settings { dir: bench.dir.0.clone(), max_age: bench.max_age, max_bytes: bench.max_bytes };
    let store = Store::open_with_clock(settings, clock).unwrap();
    assert_eq!(store.catalogue.parts().len(), 30);
    assert_eq!(store.reader().health().set_aside.len(), 29);
}
