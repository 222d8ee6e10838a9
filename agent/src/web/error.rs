//! Every error of the API as a caller reads it: `{"error":{"code","cause","hint"}}`. The code is for
//! programs and never changes; the cause says what is wrong, the hint what to do.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::json;
use crate::{document::span::SpanSummary, store::SourceError};

/// Spans that may be meant, told of an id.
const CANDIDATES_NAMED: usize = 20;

/// An answer that is not the one asked for.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    code: &'static str,
    cause: String,
    hint: String,
    /// The spans an id may mean.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<SpanSummary>,
}

/// What an error is wrapped in.
#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a Body,
}

// === impl ApiError ===

impl ApiError {
    fn new(
        status: StatusCode,
        code: &'static str,
        cause: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let body = Body { code, cause: cause.into(), hint: hint.into(), candidates: Vec::new() };
        Self { status, body }
    }

    pub(super) fn bad_parameter(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_parameter", cause, hint)
    }

    pub(super) fn bad_request(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", cause, hint)
    }

    pub(super) fn no_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this hotspan wants a token, and the request has none or a wrong one",
            "send `Authorization: Bearer TOKEN` or `?token=TOKEN`; `hotspan spans --token TOKEN`",
        )
    }

    pub(super) fn forbidden_host(host: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden_host",
            format!("requests for host {host:?} are not answered"),
            "use localhost or 127.0.0.1, or start hotspan with this name as an allowed host",
        )
    }

    pub(super) fn forbidden_origin(origin: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden_origin",
            format!("pages of origin {origin:?} may not ask"),
            "open hotspan's own page, or start hotspan with this name as an allowed host",
        )
    }

    pub(super) fn no_such_span(id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_span",
            format!("no span {id} is stored"),
            "a span shows within 3 s of its end and goes when its day is dropped; \
             `hotspan spans` lists what there is",
        )
    }

    pub(super) fn no_such_route(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_route",
            format!("there is nothing at {path}"),
            "GET / lists what there is",
        )
    }

    pub(super) fn method_not_allowed(method: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{method} is not for this"),
            "everything here is read with GET",
        )
    }

    pub(super) fn ambiguous(span_id: &str, candidates: Vec<SpanSummary>) -> Self {
        let ids: Vec<String> = candidates
            .iter()
            .take(CANDIDATES_NAMED)
            .map(|SpanSummary(span)| format!("{}/{}", span.trace_id, span.span_id))
            .collect();
        let all = match candidates.len() > CANDIDATES_NAMED {
            true => "many",
            false => "several",
        };
        let mut error = Self::new(
            StatusCode::CONFLICT,
            "ambiguous",
            format!("{all} traces have a span {span_id}: {}", ids.join(", ")),
            "ask for /api/span/TRACE/SPAN",
        );
        error.body.candidates = candidates;
        error.body.candidates.truncate(CANDIDATES_NAMED);
        error
    }

    pub(super) fn busy() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "too many questions at once",
            "ask again in a second",
        )
    }

    pub(super) fn slow() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "slow",
            "the store did not answer in time",
            "ask for less: a lower limit, a shorter time, a narrower scope",
        )
    }

    pub(super) fn internal(cause: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            cause,
            "hotspan's own log has more; HOTSPAN_LOG=debug shows all",
        )
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Damaged(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "store_damaged",
                error.to_string(),
                "GET /api/health names the parts; deleting them loses their spans only",
            ),
            SourceError::Failed(_) => Self::internal(error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(code = self.body.code, cause = %self.body.cause, "request failed");
        }
        let text = serde_json::to_vec(&Envelope { error: &self.body }).unwrap_or_default();
        let mut response = (self.status, json(text)).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            _ => {}
        }
        response
    }
}
