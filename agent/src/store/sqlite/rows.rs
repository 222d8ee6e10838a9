//! The rows behind spans and processes, read from chunks and put back into names.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    apply::NS_PER_MINUTE,
    chunk::{Rows, StoredCause, StoredSample},
    error::{PartError, StoreError},
    lexicon::find_process,
    view::View,
};
use crate::{
    model::{batch::SpanName, cause::Cause, state::State},
    store::{
        account::{Details, ProcessKey, ProcessSlice, Sample, SpanAccount, Wait},
        rules::{key, share, sum},
    },
};

/// Spans of one process in one part.
#[derive(Default)]
struct Wanted {
    spans: HashSet<i64>,
    minutes: Option<(u64, u64)>,
}

/// Samples and waits of these spans, whichever parts hold them.
pub(super) fn details(views: &mut [View], spans: &[SpanAccount]) -> Result<Details, StoreError> {
    let mut details = Details::default();
    let mut waits = BTreeMap::new();
    for view in views {
        add_details(view, spans, &mut details.samples, &mut waits)
            .map_err(|error| view.error(error))?;
    }
    details.samples.sort_by_key(|sample| sample.at);
    details.waits = waits
        .into_iter()
        .map(|((state, cause), (ns, count))| Wait { state, cause, ns, count })
        .collect();
    Ok(details)
}

fn add_details(
    view: &mut View,
    spans: &[SpanAccount],
    samples: &mut Vec<Sample>,
    waits: &mut BTreeMap<(State, Cause), (u64, u64)>,
) -> Result<(), PartError> {
    let mut wanted: HashMap<i64, Wanted> = HashMap::new();
    for span in spans {
        for (id, row) in view.spans(Some(span.trace_id), span.span_id)? {
            let (process, minutes) = (row.process, row.minutes);
            if key(&view.tally(row)?.account) != key(span) {
                continue;
            }
            let Some((first, last)) = minutes else { continue };
            let of_process = wanted.entry(process).or_default();
            of_process.spans.insert(id);
            of_process.minutes = Some(match of_process.minutes {
                Some((from, to)) => (from.min(first), to.max(last)),
                None => (first, last),
            });
        }
    }
    for (process, Wanted { spans, minutes }) in wanted {
        let Some((first, last)) = minutes else { continue };
        let mut found = Rows::default();
        view.chunks(process, first, last, |mut rows| {
            rows.samples.retain(|sample| spans.contains(&sample.span));
            rows.waits.retain(|wait| spans.contains(&wait.span));
            rows.totals.clear();
            found.append(rows);
        })?;
        for stored in &found.samples {
            samples.push(sample(view, stored)?);
        }
        let mut names: HashMap<StoredCause, Cause> = HashMap::new();
        for wait in found.waits {
            let cause = match names.get(&wait.cause) {
                Some(cause) => cause.clone(),
                None => {
                    let named = cause(view, &wait.cause)?;
                    names.insert(wait.cause, named.clone());
                    named
                }
            };
            let (ns, count) = waits.entry((wait.state, cause)).or_default();
            *ns = ns.saturating_add(wait.ns);
            *count = count.saturating_add(wait.count);
        }
    }
    Ok(())
}

/// A process over a stretch of time.
pub(super) fn process(
    views: &mut [View],
    process: &ProcessKey,
    from: u64,
    to: u64,
) -> Result<ProcessSlice, StoreError> {
    let mut slice = ProcessSlice::default();
    for view in views {
        add_process(view, process, from, to, &mut slice).map_err(|error| view.error(error))?;
    }
    slice.samples.sort_by_key(|sample| sample.at);
    Ok(slice)
}

fn add_process(
    view: &mut View,
    process: &ProcessKey,
    from: u64,
    to: u64,
    slice: &mut ProcessSlice,
) -> Result<(), PartError> {
    let Some(id) = find_process(&view.conn, view.meta.salt, process)? else { return Ok(()) };
    let mut samples = Vec::new();
    let states = &mut slice.states;
    view.chunks(id, from / NS_PER_MINUTE, to / NS_PER_MINUTE, |rows| {
        samples.extend(rows.samples.into_iter().filter(|row| (from..to).contains(&row.at)));
        for total in rows.totals {
            *states = sum(states, &share(&total.states, (total.from, total.to), (from, to)));
        }
    })?;
    for stored in &samples {
        slice.samples.push(sample(view, stored)?);
    }
    Ok(())
}

fn sample(view: &mut View, stored: &StoredSample) -> Result<Sample, PartError> {
    let stack = match stored.stack {
        Some(node) => Some(view.lexicon.stack(&view.conn, node)?),
        None => None,
    };
    Ok(Sample { at: stored.at, tid: stored.tid, stack, state: stored.state, ns: stored.ns })
}

fn cause(view: &mut View, stored: &StoredCause) -> Result<Cause, PartError> {
    let span = match stored.span {
        Some((trace_id, span_id, name)) => {
            let name = view.lexicon.text(&view.conn, name)?;
            Some(SpanName { trace_id, span_id, name })
        }
        None => None,
    };
    let name = view.lexicon.text(&view.conn, stored.name)?;
    Ok(Cause { kind: stored.kind, name, pid: stored.pid, tid: stored.tid, span })
}
