//! Documents of stored spans: what a snapshot is asked for each scope.

use std::collections::{HashMap, hash_map::Entry};

use super::{
    assemble::{Family, Scope, Trace},
    span::{SpanDocument, SpanSummary},
};
use crate::{
    model::id::TraceId,
    store::{Snapshot, SourceError, account::SpanAccount},
};

/// The document of a span in a scope, all of one snapshot.
pub fn document(
    snapshot: &dyn Snapshot,
    span: &SpanAccount,
    scope: Scope,
) -> Result<SpanDocument, SourceError> {
    let trace = snapshot.trace(span.trace_id)?;
    let trace = Trace::new(&trace);
    let family = Family::new(span, &trace);
    Ok(match scope.window(span) {
        Some((from, to)) => {
            family.process_document(scope, &snapshot.process(&span.process, from, to)?)
        }
        None => {
            let members: Vec<SpanAccount> = family.members(scope).into_iter().cloned().collect();
            family.document(scope, &snapshot.details(&members)?)
        }
    })
}

/// What lists hold of these spans.
pub fn summaries(
    snapshot: &dyn Snapshot,
    spans: &[SpanAccount],
) -> Result<Vec<SpanSummary>, SourceError> {
    let mut traces: HashMap<TraceId, Vec<SpanAccount>> = HashMap::new();
    let mut summaries = Vec::with_capacity(spans.len());
    for span in spans {
        let nobody = Trace::default();
        let alone = Family::new(span, &nobody).summary();
        // Who was active all the time needs no descendants to show it: most of a long list.
        if alone.off_thread_ns == 0 {
            summaries.push(SpanSummary(alone));
            continue;
        }
        let trace = match traces.entry(span.trace_id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(snapshot.trace(span.trace_id)?),
        };
        let trace = Trace::new(trace);
        summaries.push(SpanSummary(Family::new(span, &trace).summary()));
    }
    Ok(summaries)
}
