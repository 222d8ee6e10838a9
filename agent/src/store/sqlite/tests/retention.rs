//! Age, size, and a clock that does what it likes.

use super::*;
use crate::{model::id::SpanId, store::SpanFilter};

#[test]
fn a_day_of_batches_stays_within_age_and_bytes() {
    let mut bench = Bench::new("retention");
    bench.max_age = Duration::from_secs(6 * 3_600);
    bench.max_bytes = 12 << 20;
    let mut store = bench.open();
    let run = run(1);
    let mut host = Host::new(9, MIDNIGHT as i64);
    let mut stored = 0;
    let mut most = 0;
    // 24 hours from 01:00: a batch every four minutes.
    for sequence in 1..=360 {
        bench.set(MIDNIGHT + HOUR + sequence * 240 * SECOND);
        let batch = host.batch(240 * SECOND, 300, 90);
        stored += batch.spans.iter().filter(|span| span.part == 0).count() as u64;
        store.append(&[entry(&run, sequence, batch)]).unwrap();
        store.maintain().unwrap();
        let bytes = store.reader().health().bytes;
        most = most.max(bytes);
        // The newest part may grow by a batch between two looks.
        assert!(bytes <= bench.max_bytes + (1 << 20), "{bytes} bytes");
    }
    let health = store.reader().health();
    assert!(health.parts >= 3 && health.dropped_spans > 0, "{health:?}");
    assert!(most > bench.max_bytes / 2, "the limit was never near: {most}");
    assert_eq!(health.set_aside, []);
    // Every span is stored or counted as dropped. (A few have a row on both sides of a border.)
    let all = SpanFilter { limit: 10_000, ..SpanFilter::default() };
    let kept = store.reader().search(&all).unwrap();
    let accounted = kept.spans.len() as u64 + health.dropped_spans;
    assert!(!kept.truncated || kept.spans.len() == 10_000);
    assert!(kept.truncated || (stored..stored + 200).contains(&accounted), "{stored} {accounted}");
    // Survives, and only the newest is kept when all is old.
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.reader().health().dropped_spans, health.dropped_spans);
    assert_eq!(store.durable(run.id), 360);
    bench.set(MIDNIGHT + 9 * DAY);
    store.append(&[entry(&run, 361, host.batch(SECOND, 3, 3))]).unwrap();
    store.maintain().unwrap();
    assert_eq!(bench.main_files().len(), 1);
    assert_eq!(store.durable(run.id), 361);
}

#[test]
fn by_age_alone() {
    let mut bench = Bench::new("age");
    bench.max_age = Duration::from_secs(2 * 86_400);
    let mut store = bench.open();
    let run = run(1);
    for day in 0..6 {
        bench.set(MIDNIGHT + day * DAY + HOUR);
        let mut batch = one_span(day as u8 + 1, 0, HOUR);
        batch.unix_offset_ns = (MIDNIGHT + day * DAY) as i64;
        store.append(&[entry(&run, day + 1, batch)]).unwrap();
        store.maintain().unwrap();
    }
    // Of the last two days, and the one those two days began in.
    assert_eq!(bench.main_files().len(), 3);
    assert_eq!(store.reader().spans(None, SpanId([1; 8])).unwrap(), []);
    assert_eq!(store.reader().spans(None, SpanId([4; 8])).unwrap().len(), 1);
}

#[test]
fn a_clock_that_steps_changes_no_order() {
    let mut bench = Bench::new("clock");
    bench.max_age = Duration::from_secs(9 * 86_400);
    let mut store = bench.open();
    let run = run(1);
    // Back and forth over midnight.
    for (sequence, at) in [23, 24, 23, 25, 24, 23, 26, 22].into_iter().enumerate() {
        bench.set(MIDNIGHT + at * HOUR + HOUR / 2);
        let sequence = sequence as u64 + 1;
        store
            .append(&[entry(&run, sequence, one_span(1, sequence as u32 - 1, HOUR + sequence))])
            .unwrap();
        store.maintain().unwrap();
    }
    assert_eq!(bench.main_files().len(), 2);
    let span = only(store.reader().spans(None, SpanId([1; 8])).unwrap());
    assert_eq!((span.active_ns, span.loss.len()), (800, 0));
    drop(store);
    let store = bench.open();
    assert_eq!((store.durable(run.id), bench.main_files().len()), (8, 2));
}

#[test]
fn readers_follow_parts_that_come_and_go() {
    let mut bench = Bench::new("follow");
    bench.max_age = Duration::from_secs(3_600);
    let mut store = bench.open();
    let reader = store.reader();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (reader, stop) = (reader.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    let found = reader.search(&SpanFilter::default()).unwrap();
                    reader.details(&found.spans).unwrap();
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut host = Host::new(2, MIDNIGHT as i64);
    for day in 0..20 {
        bench.set(MIDNIGHT + day * DAY);
        host.unix_offset_ns = (MIDNIGHT + day * DAY) as i64;
        store.append(&[entry(&run(1), day + 1, host.batch(SECOND, 40, 10))]).unwrap();
        store.maintain().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        assert!(thread.join().unwrap() > 0);
    }
    assert_eq!(reader.health().set_aside, []);
    assert!(bench.main_files().len() <= 2);
}
