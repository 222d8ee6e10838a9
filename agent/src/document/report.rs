//! The report of a recording: documents of all its spans, from the store it was delivered to.

use std::collections::{BTreeMap, HashSet};

use super::{
    answer,
    assemble::{Family, Scope, Trace},
    conservation,
    span::{SpanDocument, ThreadDocument},
};
use crate::{
    ledger::Conservation,
    link::ThreadAccount,
    store::{Snapshot, SourceError, account::SpanAccount},
};

/// What was captured, and what became of it.
#[derive(Debug, Default)]
pub struct Accounting {
    /// Everything lost or disturbed, by reason.
    pub loss: BTreeMap<String, u64>,
    /// Per kind.
    pub conservation: BTreeMap<String, Conservation>,
}

/// A document of every span.
pub fn spans(
    spans: &[SpanAccount],
    snapshot: &dyn Snapshot,
) -> Result<Vec<SpanDocument>, SourceError> {
    let trace = Trace::new(spans);
    let document = |span| answer::of(&Family::new(span, &trace), Scope::Span, snapshot);
    spans.iter().map(document).collect()
}

/// Documents of the spans that have no parent in their process, each with all its descendants there:
/// what a person calls a request. Second: how many spans are part of others.
pub fn requests(
    spans: &[SpanAccount],
    snapshot: &dyn Snapshot,
) -> Result<(Vec<SpanDocument>, usize), SourceError> {
    let key = |span: &SpanAccount, id| (span.trace_id, id, span.process.identity.pid);
    let known: HashSet<_> = spans.iter().map(|span| key(span, span.span_id)).collect();
    let is_root = |span: &&SpanAccount| {
        span.parent == span.span_id || !known.contains(&key(span, span.parent))
    };
    let trace = Trace::new(spans);
    let roots = spans.iter().filter(is_root);
    let document = |span| answer::of(&Family::new(span, &trace), Scope::Children, snapshot);
    let documents = roots.map(document).collect::<Result<Vec<_>, _>>()?;
    let nested = spans.len() - documents.len();
    Ok((documents, nested))
}

/// Accounts of threads, in order of their ids.
pub fn threads(accounts: Vec<ThreadAccount>) -> Vec<ThreadDocument> {
    let mut threads: Vec<ThreadDocument> = accounts
        .into_iter()
        .map(|thread| ThreadDocument {
            pid: thread.pid.0,
            tid: thread.tid.0,
            comm: thread.comm,
            wall_ns: thread.end.saturating_sub(thread.birth),
            states: thread.states,
        })
        .collect();
    threads.sort_by_key(|thread| (thread.pid, thread.tid));
    threads
}

// === impl Accounting ===

impl Accounting {
    /// That of the only run in a store.
    pub fn of(snapshot: &dyn Snapshot) -> Result<Self, SourceError> {
        let Some(record) = snapshot.runs()?.into_iter().next() else { return Ok(Self::default()) };
        let (loss, _) = conservation::loss_and_information(&record);
        Ok(Self { loss, conservation: conservation::of(&record, false) })
    }
}
