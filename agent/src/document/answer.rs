//! Documents of stored spans: what a snapshot is asked for each scope.

use std::collections::BTreeMap;

use super::{
    assemble::{Family, Scope, Trace},
    span::{SpanDocument, SpanSummary},
};
use crate::{
    model::id::TraceId,
    store::{Found, Snapshot, SourceError, account::SpanAccount},
};

/// Spans of traces that are looked at for one list.
const TRACE_SPANS_READ: usize = 100_000;

/// The document of a span in a scope, all of one snapshot.
pub fn document(
    snapshot: &dyn Snapshot,
    span: &SpanAccount,
    scope: Scope,
) -> Result<SpanDocument, SourceError> {
    let trace = snapshot.trace(span.trace_id, Some(&span.process))?;
    let trace = Trace::of(&trace);
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
    let mut by_trace: BTreeMap<TraceId, Vec<usize>> = BTreeMap::new();
    for (place, _) in summaries.iter().enumerate().filter(|(_, it)| it.off_thread_ns > 0) {
        by_trace.entry(spans[place].trace_id).or_default().push(place);
    }
    // Once for all spans of a trace, and one trace at a time: any of them may be long.
    let mut read = 0;
    for (id, places) in by_trace {
        let first = places.first().map(|&place| &spans[place].process);
        let found = match read < TRACE_SPANS_READ {
            true => snapshot.trace(id, first)?,
            false => Found { spans: Vec::new(), truncated: true },
        };
        read += found.spans.len();
        let trace = Trace::of(&found);
        for place in places {
            summaries[place] = Family::new(&spans[place], &trace).summary();
        }
    }
    Ok(summaries.into_iter().map(SpanSummary).collect())
}
