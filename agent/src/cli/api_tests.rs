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
    let address = Address::parse(&format!("http://{}", api.address)).unwrap();
    Endpoint { api: Some(address), token: token.map(str::to_owned), api_user: None }
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
fn nothing_is_sent_to_another_users_program() {
    use std::io::Read as _;

    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (told, address) = std::sync::mpsc::channel();
    let squatter = std::thread::spawn(move || {
        // Of this thread alone.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        told.send(listener.local_addr().unwrap()).unwrap();
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        let (mut trusting, _) = listener.accept().unwrap();
        let mut first = [0; 3];
        trusting.read_exact(&mut first).unwrap();
        (got, first)
    });
    let address = address.recv().unwrap();
    let api = Some(Address::parse(&address.to_string()).unwrap());
    let token = Some("s3cret".to_owned());
    let endpoint = Endpoint { api: api.clone(), token: token.clone(), api_user: None };
    let error = endpoint.get("/api/spans", &[]).unwrap_err();
    assert!(matches!(error, ClientError::Stranger(..)), "{error:?}");
    let text = error.to_string();
    for part in ["uid 65534", "unix:", "--api-user", &address.to_string()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let trusting = Endpoint { api, token, api_user: Some(65_534) };
    assert!(matches!(trusting.get("/", &[]), Err(ClientError::Transport(..))));
    let (got, first) = squatter.join().unwrap();
    assert_eq!((got.len(), &first), (0, b"GET"));
}

#[test]
fn the_socket_wants_no_token() {
    let settings = Settings { token: Some("s3cret".to_owned()), ..Settings::default() };
    let api = Api::with(Memory::shop(), settings);
    let socket = Address::parse(&format!("unix:{}", api.socket.display())).unwrap();
    let endpoint = Endpoint { api: Some(socket), token: None, api_user: None };
    let body = endpoint.get("/api/spans", &[("name", "GET /checkout".to_owned())]).unwrap();
    assert_eq!(endpoint.read::<List>(&body).unwrap().spans.len(), 1);
    let nowhere = Address::parse("unix:/nowhere/api.sock").unwrap();
    let endpoint = Endpoint { api: Some(nowhere), token: None, api_user: None };
    assert!(matches!(endpoint.get("/", &[]), Err(ClientError::Refused(_))));
}

#[test]
fn the_token_is_sent() {
    let settings = Settings { token: Some("s3cret".to_owned()), ..Settings::default() };
    let api = Api::with(Memory::shop(), settings);
    assert!(endpoint(&api, Some("s3cret")).get("/api/spans", &[]).is_ok());
    let error = endpoint(&api, None).get("/api/spans", &[]).unwrap_err().to_string();
    assert!(error.contains("--token"), "{error}");
}
