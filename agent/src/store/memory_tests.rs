//! What is this store's own: its views, and all spans at once.

use std::sync::Arc;

use super::*;
use crate::{
    model::{batch::Run, clock::UnixNs},
    store::conformance::{self, Subject},
};

fn subject() -> Subject {
    let store = MemoryStore::default();
    let source = Arc::new(store.clone());
    Subject { sink: Box::new(store), source, set_clock: Box::new(|_| ()), _kept: Box::new(()) }
}

conformance::conforms!(subject);

fn entry(sequence: u64, span: u16, start: u64) -> Entry {
    let mut span_id = [0; 8];
    span_id[..2].copy_from_slice(&span.to_le_bytes());
    let part = SpanPart {
        trace_id: TraceId([1; 16]),
        span_id: SpanId(span_id),
        start_unix_ns: UnixNs(start),
        start,
        end: start + 1,
        ..SpanPart::default()
    };
    let batch = Batch {
        processes: vec![ProcessIdentity::default()],
        spans: vec![part],
        ..Batch::default()
    };
    Entry { run: Arc::new(Run::default()), sequence, body: Body::Batch(batch) }
}

#[test]
fn all_spans_come_in_order_of_start_however_many() {
    let mut store = MemoryStore::default();
    let most = MAX_FOUND as u16 + 500;
    let entries: Vec<Entry> =
        (1..=most).map(|span| entry(span.into(), span, u64::from(most - span))).collect();
    store.append(&entries).unwrap();
    let starts: Vec<u64> = store.view().all().map(|span| span.start).collect();
    assert_eq!(starts, (0..u64::from(most)).collect::<Vec<_>>());
}

#[test]
fn a_view_stays_and_handles_share_the_store() {
    let store = MemoryStore::default();
    let mut other = store.clone();
    other.append(&[entry(1, 1, 5)]).unwrap();
    let view = store.view();
    other.append(&[entry(2, 2, 6)]).unwrap();
    assert_eq!((view.all().count(), store.view().all().count()), (1, 2));
    assert_eq!(store.durable(RunId([0; 16])), 2);
}
