//! The cases.

use std::{cell::RefCell, sync::Arc};

use super::Subject;
use crate::{
    model::{
        batch::{Account, Batch, Counts, Gap, ProcessIdentity},
        clock::UnixNs,
        frame::{Frame, FrameKind},
        id::{RunId, SpanId, Tid, TraceId},
        state::State,
    },
    store::{
        Body, Entry, Questions as _, RunRecord, Sort, SourceError, SpanFilter,
        account::{ProcessKey, SpanAccount},
        answer,
        rules::PARTS_MISSING,
        synthetic::{DAY, HOUR, Host, MIDNIGHT, SECOND, entry, one_span, only, run, times},
    },
};

pub(in crate::store) fn entries_are_stored_once(mut store: Subject) {
    let (run, at) = (run(1), HOUR);
    let first = entry(&run, 1, one_span(1, 0, at));
    let second = entry(&run, 2, one_span(1, 1, at + 2 * SECOND));
    assert_eq!(store.sink.durable(run.id), 0);
    store.sink.append(std::slice::from_ref(&first)).unwrap();
    assert_eq!(store.sink.durable(run.id), 1);
    // Delivered again, alone, twice in one call and with what is new.
    store.sink.append(std::slice::from_ref(&first)).unwrap();
    store.sink.append(&[first.clone(), second.clone(), second, first]).unwrap();
    assert_eq!((store.sink.durable(run.id), store.sink.durable(RunId([8; 16]))), (2, 0));
    let span = only(store.source.spans(None, SpanId([1; 8])).unwrap());
    assert_eq!((span.active_ns, span.wall_ns()), (200, 2 * SECOND + 100));
    assert_eq!(
        store.source.spans(Some(TraceId([9; 16])), SpanId([1; 8])).unwrap(),
        std::slice::from_ref(&span)
    );
    assert_eq!(store.source.trace(TraceId([9; 16])).unwrap(), std::slice::from_ref(&span));
    assert_eq!(store.source.spans(Some(TraceId([8; 16])), SpanId([1; 8])).unwrap(), []);
    let details = store.source.details(std::slice::from_ref(&span)).unwrap();
    assert_eq!(details.samples.iter().map(|row| row.at).collect::<Vec<_>>(), [at, at + 2 * SECOND]);
    assert_eq!(&*details.samples[0].stack.as_ref().unwrap()[0].name, "inner");
    assert_eq!((details.waits.len(), details.waits[0].ns, details.waits[0].count), (1, 80, 2));
    let record = &store.source.runs().unwrap()[0];
    assert_eq!((record.delivered.samples, record.last_sequence), (2, 2));
}

pub(in crate::store) fn additions_to_a_span_add_up(mut store: Subject) {
    let run = run(1);
    let with = |part, change: &dyn Fn(&mut Batch)| {
        let mut batch = one_span(1, part, HOUR + u64::from(part) * 100);
        change(&mut batch);
        batch
    };
    let batches = [
        with(0, &|batch| batch.spans[0].open = true),
        with(1, &|batch| {
            batch.spans[0].name = "GET /late".into();
            batch.spans[0].parent = SpanId([7; 8]);
            batch.spans[0].exact = false;
            batch.processes[0].comm = "renamed".into();
            batch.spans[0].loss = [("x".into(), 3)].into();
        }),
        with(2, &|batch| {
            // What is not said again stays as it was.
            batch.spans[0].name = "".into();
            batch.processes[0].comm = "unheard".into();
            batch.spans[0].loss = [("x".into(), 4), ("y".into(), 1)].into();
            batch.spans[0].start_unix_ns = UnixNs(1);
        }),
    ];
    for (sequence, batch) in (1..).zip(batches) {
        store.sink.append(&[entry(&run, sequence, batch)]).unwrap();
        let open = only(store.source.spans(None, SpanId([1; 8])).unwrap()).open;
        assert_eq!(open, sequence == 1);
    }
    let mut identity = one_span(1, 0, 0).processes.remove(0);
    identity.comm = "renamed".into();
    let expected = SpanAccount {
        process: ProcessKey { boot_id: "boot".into(), identity },
        trace_id: TraceId([9; 16]),
        span_id: SpanId([1; 8]),
        parent: SpanId([7; 8]),
        name: "GET /late".into(),
        start_unix_ns: UnixNs(MIDNIGHT + HOUR),
        start: HOUR,
        end: HOUR + 300,
        active_ns: 300,
        states: times(180, 120),
        // Touching ones are joined.
        active: vec![(HOUR, HOUR + 300)],
        exact: false,
        open: false,
        loss: [("x".into(), 7), ("y".into(), 1)].into(),
    };
    assert_eq!(only(store.source.spans(None, SpanId([1; 8])).unwrap()), expected);
}

pub(in crate::store) fn missing_additions_show(mut store: Subject) {
    let run = run(1);
    let mut sequence = 0;
    let mut add = |store: &mut Subject, span, part, at| {
        sequence += 1;
        store.sink.append(&[entry(&run, sequence, one_span(span, part, at))]).unwrap();
        let span = only(store.source.spans(None, SpanId([span; 8])).unwrap());
        (span.loss.get(PARTS_MISSING).copied(), span.exact)
    };
    assert_eq!(add(&mut store, 1, 0, HOUR), (None, true));
    assert_eq!(add(&mut store, 1, 3, HOUR + 10), (Some(2), false));
    assert_eq!(add(&mut store, 2, 0, HOUR), (None, true));
    (store.set_clock)(MIDNIGHT + DAY + 1);
    assert_eq!(add(&mut store, 2, 1, HOUR + 100), (None, true));
    assert_eq!(add(&mut store, 2, 3, HOUR + 200), (Some(1), false));
    // A span whose beginning is nowhere.
    assert_eq!(add(&mut store, 3, 2, HOUR), (Some(2), false));
    // Starting over is a restart.
    assert_eq!(add(&mut store, 2, 0, HOUR + 300), (Some(1), false));
    assert_eq!(
        only(store.source.spans(None, SpanId([2; 8])).unwrap()).active,
        // Over a day's border too.
        [(HOUR, HOUR + 400)]
    );
}

pub(in crate::store) fn gaps_and_accounts_move_a_run_on(mut store: Subject) {
    let agent = run(3);
    let counts = Counts { samples: 5, ..Counts::default() };
    let gap = |from, to| Entry {
        run: Arc::clone(&agent),
        sequence: to,
        body: Body::Gap(Gap {
            from_sequence: from,
            to_sequence: to,
            reason: "queue_full".into(),
            counts,
            ..Gap::default()
        }),
    };
    store.sink.append(&[entry(&agent, 1, one_span(1, 0, HOUR)), gap(2, 6)]).unwrap();
    assert_eq!(store.sink.durable(agent.id), 6);
    (store.set_clock)(MIDNIGHT + DAY + 5);
    let account = Account { loss: [("late".into(), 2)].into(), closed: true, ..Account::default() };
    let mut last = one_span(1, 1, HOUR + SECOND);
    last.account = account.clone();
    store.sink.append(&[entry(&agent, 7, last)]).unwrap();
    // A flush in pieces: this one has no account.
    store.sink.append(&[entry(&agent, 8, one_span(1, 2, HOUR + 2 * SECOND))]).unwrap();
    let record = only_run(&store);
    assert_eq!((record.delivered.samples, record.gaps["queue_full"]), (3, counts));
    assert_eq!((record.account.clone(), record.closed), (account, true));
    assert_eq!(record.last_to, HOUR + 3 * SECOND);
    assert_eq!(record.last_unix_ns, MIDNIGHT + HOUR + 3 * SECOND);
    assert_eq!(store.source.health().unwrap().newest_unix_ns, Some(record.last_unix_ns));
    // What was stored is not applied again.
    store.sink.append(&[gap(2, 6), entry(&agent, 1, one_span(1, 0, HOUR))]).unwrap();
    assert_eq!(only_run(&store), record);
    // Another run counts for itself, and they come in order of id.
    let other = run(2);
    store.sink.append(&[entry(&other, 1, one_span(2, 0, HOUR))]).unwrap();
    let ids: Vec<u8> = store.source.runs().unwrap().iter().map(|run| run.run.id.0[0]).collect();
    assert_eq!(ids, [2, 3]);
}

fn only_run(store: &Subject) -> RunRecord {
    let mut runs = store.source.runs().unwrap();
    assert_eq!(runs.len(), 1);
    runs.remove(0)
}

pub(in crate::store) fn a_contradiction_stores_nothing(mut store: Subject) {
    let run = run(1);
    type Spoil = fn(&mut Batch);
    let spoils: [Spoil; 7] = [
        |batch| batch.spans[0].process = 1,
        |batch| batch.samples[0].process = u32::MAX,
        |batch| batch.samples[0].span = Some(1),
        |batch| batch.samples[0].stack = Some(1),
        |batch| batch.waits[0].span = 1,
        |batch| batch.totals[0].process = 1,
        |batch| batch.totals[0].to = 0,
    ];
    let good = entry(&run, 1, one_span(1, 0, HOUR));
    let mut bad: Vec<Entry> = Vec::new();
    for spoil in spoils {
        let mut batch = one_span(2, 0, HOUR);
        spoil(&mut batch);
        bad.push(entry(&run, 2, batch));
    }
    let gap = Gap { from_sequence: 3, to_sequence: 2, ..Gap::default() };
    bad.push(Entry { run: Arc::clone(&run), sequence: 2, body: Body::Gap(gap) });
    for bad in bad {
        let refused = store.sink.append(&[good.clone(), bad]).unwrap_err().to_string();
        assert!(refused.contains("contradicts itself"), "{refused}");
        assert_eq!(store.sink.durable(run.id), 0);
        assert_eq!(store.source.search(&SpanFilter::default()).unwrap().spans, []);
        assert_eq!(store.source.runs().unwrap(), []);
    }
    store.sink.append(&[good]).unwrap();
}

pub(in crate::store) fn ids_of_two_processes_are_two_spans(mut store: Subject) {
    let run = run(1);
    let mut batch = one_span(1, 0, HOUR);
    let other = ProcessIdentity { pid: 43, ..batch.processes[0].clone() };
    batch.processes.push(other);
    let mut copy = batch.spans[0].clone();
    (copy.process, copy.start_unix_ns) = (1, UnixNs(copy.start_unix_ns.0 + 1));
    batch.spans.push(copy);
    // Their rows too; a sample's process is its span's, whatever it says itself.
    let mut row = batch.samples[0].clone();
    (row.span, row.tid, row.process) = (Some(1), Tid(99), 0);
    batch.samples.push(row);
    store.sink.append(&[entry(&run, 1, batch)]).unwrap();
    let spans = store.source.spans(Some(TraceId([9; 16])), SpanId([1; 8])).unwrap();
    let pids: Vec<u32> = spans.iter().map(|span| span.process.identity.pid).collect();
    assert_eq!(pids, [42, 43]);
    assert_eq!(store.source.trace(TraceId([9; 16])).unwrap(), spans);
    let tids = |spans: &[SpanAccount]| -> Vec<u32> {
        let samples = store.source.details(spans).unwrap().samples;
        samples.iter().map(|row| row.tid.0).collect()
    };
    assert_eq!((tids(&spans[..1]), tids(&spans[1..])), (vec![43], vec![99]));
    // Asked for twice it is there once.
    let both = store.source.details(&[spans.clone(), spans.clone()].concat()).unwrap();
    assert_eq!((both.samples.len(), both.waits[0].count), (2, 1));
    let slice = store.source.process(&spans[1].process, 0, 2 * HOUR).unwrap();
    assert_eq!(slice.samples.iter().map(|row| row.tid.0).collect::<Vec<_>>(), [99]);
}

pub(in crate::store) fn a_process_is_matched_without_its_names(mut store: Subject) {
    store.sink.append(&[entry(&run(1), 1, one_span(1, 0, HOUR))]).unwrap();
    let process = |pid, since| ProcessKey {
        boot_id: "boot".into(),
        identity: ProcessIdentity { pid, since, comm: "renamed".into(), service: "x".into() },
    };
    let samples = |process| store.source.process(&process, 0, 2 * HOUR).unwrap().samples.len();
    assert_eq!(
        [samples(process(42, 5)), samples(process(42, 6)), samples(process(41, 5))],
        [1, 0, 0]
    );
}

pub(in crate::store) fn the_edges_of_a_stretch_count_pro_rata(mut store: Subject) {
    let batches =
        [one_span(1, 0, HOUR), one_span(1, 1, HOUR + SECOND), one_span(1, 2, HOUR + 2 * SECOND)];
    for (sequence, batch) in (1..).zip(batches) {
        store.sink.append(&[entry(&run(1), sequence, batch)]).unwrap();
    }
    let process = only(store.source.spans(None, SpanId([1; 8])).unwrap()).process;
    let slice = |from, to| {
        let slice = store.source.process(&process, from, to).unwrap();
        (slice.states, slice.samples.len())
    };
    assert_eq!(slice(HOUR, HOUR + SECOND / 2), (times(500, 0), 1));
    assert_eq!(slice(HOUR + SECOND / 4, HOUR + 2 * SECOND), (times(1_750, 0), 1));
    assert_eq!(slice(0, u64::MAX), (times(3_000, 0), 3));
    // The end is not within, the beginning is.
    assert_eq!(slice(HOUR - 5, HOUR), (times(0, 0), 0));
    assert_eq!(slice(HOUR, HOUR + 1), (times(0, 0), 1));
    assert_eq!(slice(2 * HOUR, HOUR), (times(0, 0), 0));
}

/// Every plan of a search against a plain filter over everything, over two days.
pub(in crate::store) fn a_search_finds_what_a_plain_filter_finds(mut store: Subject) {
    let run = run(1);
    let mut host = Host::new(4, MIDNIGHT as i64);
    for sequence in 1..40 {
        (store.set_clock)(MIDNIGHT + sequence * HOUR);
        store.sink.append(&[entry(&run, sequence, host.batch(SECOND, 50, 60))]).unwrap();
    }
    let all = store.source.search(&SpanFilter { limit: 10_000, ..SpanFilter::default() }).unwrap();
    assert!(!all.truncated && all.spans.len() > 2_000);
    let middle = all.spans[all.spans.len() / 2].start_unix_ns;
    let default = SpanFilter::default;
    let filters = [
        SpanFilter { min_ns: 400_000_000, ..default() },
        SpanFilter { service: Some("service-1".into()), min_ns: 400_000_000, ..default() },
        default(),
        SpanFilter { service: Some("service-3".into()), ..default() },
        SpanFilter { name: Some("GET /resource/2".into()), min_ns: 1_000_000, ..default() },
        SpanFilter { pid: Some(1_017), to_unix_ns: Some(middle), ..default() },
        SpanFilter { state: State::from_key("lock"), from_unix_ns: Some(middle), ..default() },
        SpanFilter { state: State::from_key("disk"), ..default() },
        SpanFilter { service: Some("nobody".into()), ..default() },
    ];
    for mut filter in filters {
        for (sort, limit) in [(Sort::Newest, 7), (Sort::Slowest, 7), (Sort::Newest, 5_000)] {
            (filter.sort, filter.limit) = (sort, limit);
            let mut expected: Vec<&SpanAccount> = (all.spans.iter())
                .filter(|span| {
                    let process = &span.process.identity;
                    filter.service.as_deref().is_none_or(|service| service == &*process.service)
                        && filter.name.as_deref().is_none_or(|name| name == &*span.name)
                        && filter.pid.is_none_or(|pid| pid == process.pid)
                        && filter.state.is_none_or(|state| span.states.get(state) > 0)
                        && filter.from_unix_ns.is_none_or(|from| span.start_unix_ns >= from)
                        && filter.to_unix_ns.is_none_or(|to| span.start_unix_ns < to)
                        && span.wall_ns() >= filter.min_ns
                })
                .collect();
            expected.sort_by_key(|span| match sort {
                Sort::Newest => u64::MAX - span.start_unix_ns.0,
                Sort::Slowest => u64::MAX - span.wall_ns(),
            });
            let found = store.source.search(&filter).unwrap();
            assert_eq!(found.truncated, expected.len() > limit, "{filter:?}");
            expected.truncate(limit);
            assert_eq!(found.spans.iter().collect::<Vec<_>>(), expected, "{filter:?}");
        }
    }
}

/// A writer appends between the questions of one answer.
pub(in crate::store) fn an_answer_is_of_one_state(mut store: Subject) {
    let run = run(1);
    store.sink.append(&[entry(&run, 1, one_span(1, 0, HOUR))]).unwrap();
    let writer = RefCell::new((store.sink, 1));
    let grow = || {
        let (sink, sequence) = &mut *writer.borrow_mut();
        *sequence += 1;
        if *sequence == 3 {
            // What is appended from here on lies elsewhere.
            (store.set_clock)(MIDNIGHT + DAY + HOUR);
        }
        let at = HOUR + *sequence * SECOND;
        sink.append(&[entry(&run, *sequence, one_span(1, *sequence as u32 - 1, at))]).unwrap();
        sink.maintain();
    };
    for round in 0..2 {
        let before = writer.borrow().1;
        answer::<_, SourceError>(&*store.source, |snapshot| {
            // Before the first question too.
            grow();
            let span = only(snapshot.spans(None, SpanId([1; 8]))?);
            assert_eq!(span.active_ns, before * 100, "round {round}");
            grow();
            assert_eq!(snapshot.trace(TraceId([9; 16]), None)?.spans, std::slice::from_ref(&span));
            grow();
            let found = snapshot.search(&SpanFilter::default())?.spans;
            assert_eq!(found, std::slice::from_ref(&span));
            grow();
            let details = snapshot.details(std::slice::from_ref(&span))?;
            assert_eq!(details.waits[0].ns, span.states.get(details.waits[0].state));
            assert_eq!(details.samples.len() as u64, before);
            grow();
            let slice = snapshot.process(&span.process, 0, DAY)?;
            assert_eq!(slice.samples, details.samples);
            assert_eq!(snapshot.runs()?[0].last_sequence, before);
            Ok(())
        })
        .unwrap();
        assert_eq!(writer.borrow().1, before + 5);
    }
    let span = only(store.source.spans(None, SpanId([1; 8])).unwrap());
    assert_eq!((span.active_ns, span.loss.len()), (1_100, 0));
}

pub(in crate::store) fn hostile_sizes_and_sums_are_bounded(mut store: Subject) {
    let run = run(1);
    let mut batch = one_span(1, 0, HOUR);
    let long: Arc<str> = "é".repeat(5_000).into();
    batch.spans[0].name = Arc::clone(&long);
    batch.spans[0].states = times(u64::MAX, 1);
    batch.spans[0].active_ns = u64::MAX;
    batch.spans[0].active = vec![(0, u64::MAX), (u64::MAX, 0)];
    batch.spans[0].end = u64::MAX;
    batch.spans[0].loss = (0..100).map(|i| (format!("{i:0100}").into(), u64::MAX)).collect();
    batch.waits[0].cause.name = Arc::clone(&long);
    (batch.waits[0].ns, batch.waits[0].count) = (u64::MAX, u64::MAX);
    batch.counts.samples = u64::MAX;
    let frame = Frame { name: long, file: "f".into(), line: u32::MAX, kind: FrameKind::Mark };
    batch.stacks[0] = vec![frame; 3_000].into();
    batch.samples[0].ns = u64::MAX;
    for sequence in 1..4 {
        store.sink.append(&[entry(&run, sequence, batch.clone())]).unwrap();
    }
    let span = only(store.source.spans(None, SpanId([1; 8])).unwrap());
    assert_eq!((span.name.len(), span.active_ns), (4_096, u64::MAX));
    // Cut to 64 bytes they are all the same one.
    assert_eq!(span.loss.values().copied().collect::<Vec<_>>(), [u64::MAX]);
    let details = store.source.details(&[span]).unwrap();
    let stack = details.samples[0].stack.as_ref().unwrap();
    assert_eq!((stack.len(), stack[0].name.len()), (1_024, 4_096));
    let wait = &details.waits[0];
    assert_eq!((wait.cause.name.len(), wait.ns, wait.count), (4_096, u64::MAX, u64::MAX));
    let slowest = SpanFilter { sort: Sort::Slowest, ..SpanFilter::default() };
    assert_eq!(store.source.search(&slowest).unwrap().spans.len(), 1);
    (store.set_clock)(MIDNIGHT + 5 * HOUR);
    store.sink.maintain();
    assert_eq!(store.source.runs().unwrap()[0].delivered.samples, u64::MAX);
}
