//! What is longer than any answer: traces of very many spans.

use std::collections::BTreeSet;

use super::Subject;
use crate::{
    model::{
        batch::{Batch, ProcessIdentity},
        clock::UnixNs,
        id::{SpanId, TraceId},
    },
    store::{
        SourceError,
        account::SpanAccount,
        answer,
        rules::MAX_FOUND,
        synthetic::{DAY, HOUR, MIDNIGHT, SECOND, entry, one_span, run},
    },
};

/// The spans of two processes, those of the first one first.
fn long(first: usize, second: usize, at: u64) -> Batch {
    let mut batch = one_span(1, 0, at);
    let other = ProcessIdentity { pid: 43, ..batch.processes[0].clone() };
    batch.processes.push(other);
    batch.samples.clear();
    batch.waits.clear();
    let span = batch.spans.remove(0);
    for number in 0..first + second {
        let mut span = span.clone();
        span.span_id = SpanId((number as u64 + 1).to_be_bytes());
        span.process = u32::from(number >= first);
        span.start_unix_ns = UnixNs(span.start_unix_ns.0 + number as u64);
        batch.spans.push(span);
    }
    batch
}

fn pids(spans: &[SpanAccount], pid: u32) -> usize {
    spans.iter().filter(|span| span.process.identity.pid == pid).count()
}

pub(in crate::store) fn a_long_trace_is_cut_behind_the_process_asked_for(mut store: Subject) {
    let run = run(1);
    (store.set_clock)(MIDNIGHT + HOUR);
    store.sink.append(&[entry(&run, 1, long(MAX_FOUND + 7, 300, HOUR))]).unwrap();
    let ask = |pid: Option<u32>| {
        answer::<_, SourceError>(&*store.source, |snapshot| {
            // Any span of the process tells which it is.
            let id = if pid == Some(43) { MAX_FOUND + 8 } else { 1 };
            let span = &snapshot.spans(None, SpanId((id as u64).to_be_bytes()))?[0];
            let found = snapshot.trace(TraceId([9; 16]), pid.map(|_| &span.process))?;
            assert!(found.truncated);
            assert_eq!(found.spans.len(), MAX_FOUND);
            assert!(found.spans.is_sorted_by_key(|span| span.start_unix_ns));
            let ids: BTreeSet<SpanId> = found.spans.iter().map(|span| span.span_id).collect();
            assert_eq!(ids.len(), MAX_FOUND, "each once");
            Ok(found.spans)
        })
        .unwrap()
    };
    assert_eq!(pids(&ask(None), 43), 0);
    assert_eq!(pids(&ask(Some(42)), 43), 0);
    let of_second = ask(Some(43));
    assert_eq!((pids(&of_second, 43), pids(&of_second, 42)), (300, MAX_FOUND - 300));
    // Goes on the next day, in another part: what is told of is told of whole.
    (store.set_clock)(MIDNIGHT + DAY + HOUR);
    let mut later = long(MAX_FOUND + 7, 300, DAY + HOUR);
    later.spans.iter_mut().for_each(|span| span.part = 1);
    later.spans.rotate_right(300);
    store.sink.append(&[entry(&run, 2, later)]).unwrap();
    store.sink.maintain();
    let of_second = ask(Some(43));
    assert_eq!(pids(&of_second, 43), 300);
    let mut second = of_second.iter().filter(|span| span.process.identity.pid == 43);
    assert!(
        second.clone().all(|span| span.active_ns == 200 && span.exact),
        "{:?}",
        second.next_back()
    );
}

pub(in crate::store) fn a_trace_that_fits_is_whole(mut store: Subject) {
    let run = run(1);
    store.sink.append(&[entry(&run, 1, long(20, 10, HOUR + SECOND))]).unwrap();
    answer::<_, SourceError>(&*store.source, |snapshot| {
        let span = &snapshot.spans(None, SpanId(25_u64.to_be_bytes()))?[0];
        for first in [None, Some(&span.process)] {
            let found = snapshot.trace(TraceId([9; 16]), first)?;
            assert_eq!((found.spans.len(), found.truncated), (30, false));
        }
        Ok(())
    })
    .unwrap();
}
