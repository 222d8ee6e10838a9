//! The commands' client against the API it is made for.

use serde::Deserialize;

use super::*;
use crate::web::{
    Settings,
    tests::{
        Api,
        memory::Memory,
        shop::{CHECKOUT, QUERY},
    },
};

#[derive(Debug, Deserialize)]
struct List {
    spans: Vec<SpanDocument>,
}

fn endpoint(api: &Api, token: Option<&str>) -> Endpoint {
    Endpoint { api: format!("http://{}", api.address), token: token.map(str::to_owned) }
}

#[test]
fn answers_are_read_whole() {
    let api = Api::new(Memory::shop());
    let endpoint = endpoint(&api, None);
    let body = endpoint.get("/api/spans", &[("name", "GET /checkout".to_owned())]).unwrap();
    let List { spans } = endpoint.read(&body).unwrap();
    assert_eq!(spans.len(), 1);
    let body = endpoint.get(&format!("/api/span/{CHECKOUT:016x}"), &[]).unwrap();
    let span: SpanDocument = endpoint.read(&body).unwrap();
    assert_eq!(span.states, spans[0].states);
    assert_eq!(span.states.sum(), span.active_ns);
    assert!(span.causes.iter().any(|cause| cause.span_id == format!("{QUERY:016x}")));
    assert!(!span.stacks.is_empty() && !span.methods.is_empty());
    // What is printed as JSON is what the API said.
    assert_eq!(serde_json::to_vec(&span).unwrap(), body.trim_ascii_end());
    assert!(endpoint.read::<List>(b"<html>").unwrap_err().to_string().contains("--api"));
}

#[test]
fn errors_keep_their_hints() {
    let api = Api::new(Memory::shop());
    let endpoint = endpoint(&api, None);
    let error = endpoint.get("/api/span/00000000000000ff", &[]).unwrap_err().to_string();
    assert!(error.contains("no span 00000000000000ff is stored: a span shows"), "{error}");
    match endpoint.get("/api/span/3f00aa0000000004", &[]).unwrap_err() {
        ClientError::Api { code, candidates, .. } => {
            assert_eq!((code.as_str(), candidates.len()), ("ambiguous", 2));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_token_is_sent() {
    let settings = Settings { token: Some("s3cret".to_owned()), ..Settings::default() };
    let api = Api::with(Memory::shop(), settings);
    assert!(endpoint(&api, Some("s3cret")).get("/api/spans", &[]).is_ok());
    let error = endpoint(&api, None).get("/api/spans", &[]).unwrap_err().to_string();
    assert!(error.contains("--token"), "{error}");
}
