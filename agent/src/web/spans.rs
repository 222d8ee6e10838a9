//! `/api/spans` and `/api/span/...`: the span documents.

use std::{cmp::Reverse, collections::BTreeSet, str::FromStr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Path, State, rejection::PathRejection},
    http::Uri,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use super::{App, connection::Caller, error::ApiError, json, parameters::Parameters};
use crate::{
    document::{answer, assemble::Scope, span::SpanSummary},
    model::{
        clock::UnixNs,
        id::{SpanId, TraceId},
        state::State as SpanState,
    },
    store::{Snapshot, Sort, SpanFilter, account::SpanAccount},
};

const LIMIT: usize = 100;
const MOST: usize = 10_000;

/// Bytes of a list, the last span of it aside: names may be long.
const LIST_BYTES: usize = 12 << 20;

/// `/api/spans`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let filter = filter(&uri)?;
    let text = app
        .answer(&caller, move |snapshot| {
            let found = snapshot.search(&filter)?;
            let spans = answer::summaries(snapshot, &found.spans)?;
            list_of(&spans, found.truncated)
        })
        .await?;
    Ok(json(text).into_response())
}

/// `/api/span/{trace}/{span}`
pub(super) async fn by_trace(
    State(app): State<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Path((trace, span)) = path.map_err(|error| bad_id(&error.to_string()))?;
    let trace = id(&trace)?;
    one(&app, &caller, Some(trace), id(&span)?, &uri).await
}

/// `/api/span/{span}`
pub(super) async fn by_span(
    State(app): State<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Path(span) = path.map_err(|error| bad_id(&error.to_string()))?;
    one(&app, &caller, None, id(&span)?, &uri).await
}

async fn one(
    app: &App,
    caller: &Caller,
    trace: Option<TraceId>,
    span_id: SpanId,
    uri: &Uri,
) -> Result<Response, ApiError> {
    let parameters = Parameters::of(uri, &["scope", "pid"])?;
    let scopes = Scope::ALL.map(Scope::key);
    let scope = parameters.word("scope", &scopes, Scope::from_key)?.unwrap_or_default();
    let pid: Option<u32> = parameters.number("pid")?;
    let text = app
        .answer(caller, move |snapshot| {
            let mut spans = snapshot.spans(trace, span_id)?;
            spans.retain(|span| pid.is_none_or(|pid| span.process.identity.pid == pid));
            written(&answer::document(snapshot, &chosen(snapshot, trace, span_id, spans)?, scope)?)
        })
        .await?;
    Ok(json(text).into_response())
}

/// The span meant. The same ids published by two processes are two accounts: the one that was seen to
/// begin first is reported, and of two that were there before hotspan the one with more time seen. So
/// nobody takes another's place by repeating its ids later, nor by what it says of the time before:
/// when a span began is what the kernel side saw. `pid` has the others.
fn chosen(
    snapshot: &dyn Snapshot,
    trace: Option<TraceId>,
    span_id: SpanId,
    mut spans: Vec<SpanAccount>,
) -> Result<SpanAccount, ApiError> {
    spans.sort_by_key(|span| {
        let pid = span.process.identity.pid;
        (seen_from(span), Reverse(seen_ns(span)), span.start_unix_ns, pid)
    });
    let traces: BTreeSet<TraceId> = spans.iter().map(|span| span.trace_id).collect();
    if traces.len() > 1 {
        return Err(ApiError::ambiguous(
            &span_id.to_string(),
            answer::summaries(snapshot, &spans)?,
        ));
    }
    spans.into_iter().next().ok_or_else(|| {
        let trace = trace.map(|trace| format!("{trace}/")).unwrap_or_default();
        ApiError::no_such_span(&(trace + &span_id.to_string()))
    })
}

/// When a span began as far as the kernel side saw it: what its publisher says of earlier is not known.
fn seen_from(span: &SpanAccount) -> UnixNs {
    UnixNs(span.start_unix_ns.0.saturating_add(span.states.get(SpanState::UnknownBeforeAttach)))
}

/// Time of it that was seen.
fn seen_ns(span: &SpanAccount) -> u64 {
    span.states.iter().filter(|(state, _)| !state.is_unknown()).map(|(_, ns)| ns).sum()
}

fn filter(uri: &Uri) -> Result<SpanFilter, ApiError> {
    let parameters = Parameters::of(
        uri,
        &[
            "service",
            "name",
            "min_ns",
            "state",
            "from_unix_ns",
            "to_unix_ns",
            "pid",
            "sort",
            "limit",
        ],
    )?;
    let states: Vec<&'static str> = SpanState::all().map(SpanState::key).collect();
    let limit = parameters.number("limit")?.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::bad_parameter(
            format!("limit={limit} is out of range"),
            format!("limit is from 1 to {MOST}; narrow the time for more"),
        ));
    }
    let from_unix_ns = parameters.number("from_unix_ns")?.map(UnixNs);
    let to_unix_ns = parameters.number("to_unix_ns")?.map(UnixNs);
    if let (Some(from), Some(to)) = (from_unix_ns, to_unix_ns)
        && from > to
    {
        return Err(ApiError::bad_parameter(
            format!("from_unix_ns={from} is after to_unix_ns={to}"),
            "give the earlier time as from_unix_ns",
        ));
    }
    Ok(SpanFilter {
        service: parameters.text("service").map(str::to_owned),
        name: parameters.text("name").map(str::to_owned),
        min_ns: parameters.number("min_ns")?.unwrap_or(0),
        state: parameters.word("state", &states, SpanState::from_key)?,
        from_unix_ns,
        to_unix_ns,
        pid: parameters.number("pid")?,
        sort: parameters
            .word("sort", &["newest", "slowest"], |word| match word {
                "newest" => Some(Sort::Newest),
                "slowest" => Some(Sort::Slowest),
                _ => None,
            })?
            .unwrap_or_default(),
        limit,
    })
}

/// `{"spans": [...], "truncated": bool}`, as many of them as an answer holds.
fn list_of(spans: &[SpanSummary], mut truncated: bool) -> Result<Vec<u8>, ApiError> {
    let mut text = b"{\"spans\":[".to_vec();
    for (place, span) in spans.iter().enumerate() {
        if text.len() > LIST_BYTES {
            truncated = true;
            break;
        }
        if place > 0 {
            text.push(b',');
        }
        serde_json::to_writer(&mut text, span)
            .map_err(|error| ApiError::internal(error.to_string()))?;
    }
    text.extend(format!("],\"truncated\":{truncated}}}\n").bytes());
    Ok(text)
}

/// An id, in either case of hex.
fn id<Id: FromStr>(text: &str) -> Result<Id, ApiError> {
    text.parse().map_err(|_| bad_id(text))
}

fn bad_id(text: &str) -> ApiError {
    let shown: String = text.chars().take(64).collect();
    ApiError::bad_request(
        format!("{shown:?} is no id"),
        "a trace id is 32 hex digits, a span id 16",
    )
}

/// As JSON.
pub(super) fn written(document: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    let mut text =
        serde_json::to_vec(document).map_err(|error| ApiError::internal(error.to_string()))?;
    text.push(b'\n');
    Ok(text)
}
