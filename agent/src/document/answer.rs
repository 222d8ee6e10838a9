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
    match scope.window(span) {
        Some((from, to)) => {
            let slice = snapshot.process(&span.process, from, to)?;
            Ok(family.process_document(scope, &slice))
        }
        None => of(&family, scope, snapshot),
    }
}

/// The document of a scope of spans, with the rows behind them.
pub(super) fn of(
    family: &Family<'_>,
    scope: Scope,
    snapshot: &dyn Snapshot,
) -> Result<SpanDocument, SourceError> {
    let members: Vec<SpanAccount> = family.members(scope).into_iter().cloned().collect();
    Ok(family.document(scope, &snapshot.details(&members)?))
}

/// What lists hold of these spans.
pub fn summaries(
    snapshot: &dyn Snapshot,
    spans: &[SpanAccount],
) -> Result<Vec<SpanSummary>, SourceError> {
    let nobody = Trace::default();
    let mut summaries: Vec<_> =
        spans.iter().map(|span| Family::new(span, &nobody).summary()).collect();
    // Who was active all the time needs no descendants to show it: most of a long list.
    let mut traces: HashMap<TraceId, Vec<SpanAccount>> = HashMap::new();
    for (span, _) in spans.iter().zip(&summaries).filter(|(_, alone)| alone.off_thread_ns > 0) {
        if let Entry::Vacant(place) = traces.entry(span.trace_id) {
            place.insert(snapshot.trace(span.trace_id)?);
        }
    }
    // Once for all spans of a trace.
    let traces: HashMap<TraceId, Trace<'_>> =
        traces.iter().map(|(&id, spans)| (id, Trace::new(spans))).collect();
    for (span, summary) in spans.iter().zip(&mut summaries) {
        if summary.off_thread_ns > 0
            && let Some(trace) = traces.get(&span.trace_id)
        {
            *summary = Family::new(span, trace).summary();
        }
    }
    Ok(summaries.into_iter().map(SpanSummary).collect())
}
