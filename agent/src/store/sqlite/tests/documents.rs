//! The same records give the same document, wherever they are kept and whoever asks: the store in memory
//! is what `record` shows, SQLite what the page shows.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::conformance::subject;
use crate::{
    document::{
        answer,
        assemble::Scope,
        report,
        span::{SpanDocument, SpanSummary},
    },
    store::{
        Sink as _, Snapshot, SpanFilter,
        account::SpanAccount,
        conformance::{Subject, Tangle},
        memory::MemoryStore,
        synthetic::{entry, run},
    },
};

/// Both stores, given the same batches in which everything meets.
fn filled(seed: u64, batches: u64) -> (Subject, MemoryStore) {
    let (mut sqlite, mut memory) = (subject(), MemoryStore::default());
    let mut tangle = Tangle::new(seed);
    for sequence in 1..=batches {
        let entries = [entry(&run(sequence as u8 % 2), sequence, tangle.batch())];
        memory.append(&entries).unwrap();
        sqlite.sink.append(&entries).unwrap();
    }
    (sqlite, memory)
}

/// All spans, in an order that does not depend on the store.
fn all(snapshot: &dyn Snapshot) -> Vec<SpanAccount> {
    let filter = SpanFilter { limit: 10_000, ..SpanFilter::default() };
    let mut spans = snapshot.search(&filter).unwrap().spans;
    spans.sort_by(by_key);
    spans
}

fn by_key(a: &SpanAccount, b: &SpanAccount) -> Ordering {
    let ids = (a.trace_id, a.span_id).cmp(&(b.trace_id, b.span_id));
    ids.then_with(|| a.process.cmp(&b.process))
}

fn documents(snapshot: &dyn Snapshot, spans: &[SpanAccount], scope: Scope) -> Vec<SpanDocument> {
    spans.iter().map(|span| answer::document(snapshot, span, scope).unwrap()).collect()
}

/// Whether no span of its trace in its process is its parent.
fn is_request(span: &SpanAccount, all: &[SpanAccount]) -> bool {
    !all.iter().any(|other| {
        other.trace_id == span.trace_id
            && other.process.identity.pid == span.process.identity.pid
            && other.span_id == span.parent
            && other.span_id != span.span_id
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_give_the_same_documents(seed: u64, batches in 1_u64..12) {
        let (sqlite, memory) = filled(seed, batches);
        let (on_disk, view) = (sqlite.source.snapshot().unwrap(), memory.view());
        let (of_disk, of_memory) = (all(&*on_disk), all(&view));
        for scope in Scope::ALL {
            let stored = documents(&*on_disk, &of_disk, scope);
            prop_assert_eq!(stored, documents(&view, &of_memory, scope), "{:?}", scope);
        }
        let summaries = answer::summaries(&*on_disk, &of_disk).unwrap();
        let expected = answer::summaries(&view, &of_memory).unwrap();
        prop_assert_eq!(&summaries, &expected);
        // A list says of a span what its document says.
        for (SpanSummary(short), whole) in summaries.iter().zip(documents(&view, &of_memory, Scope::Span)) {
            let (causes, methods, stacks) = Default::default();
            // Only who reads the rows can see that stacks are missing.
            let loss = short.loss.clone();
            prop_assert_eq!(short, &SpanDocument { causes, methods, stacks, loss, ..whole });
        }
    }

    #[test]
    fn a_recording_shows_what_the_page_shows(seed: u64, batches in 1_u64..12) {
        let (sqlite, memory) = filled(seed, batches);
        let (on_disk, view) = (sqlite.source.snapshot().unwrap(), memory.view());
        // The recording's own list, and the page's accounts of it.
        let recorded: Vec<SpanAccount> = view.all().collect();
        let stored = all(&*on_disk);
        let find = |span: &SpanAccount| stored.iter().find(|it| by_key(it, span).is_eq()).cloned();
        let shown: Vec<SpanAccount> = recorded.iter().filter_map(find).collect();
        prop_assert_eq!(shown.len(), recorded.len());
        let spans = report::spans(&recorded, &view).unwrap();
        prop_assert_eq!(spans, documents(&*on_disk, &shown, Scope::Span));
        let requests: Vec<SpanAccount> =
            shown.iter().filter(|span| is_request(span, &shown)).cloned().collect();
        let (reported, nested) = report::requests(&recorded, &view).unwrap();
        prop_assert_eq!(nested, shown.len() - requests.len());
        prop_assert_eq!(reported, documents(&*on_disk, &requests, Scope::Children));
    }
}
