//! Who may ask.

use super::{Api, memory::Memory};
use crate::web::Settings;

const TARGETS: [&str; 5] = ["/", "/api/spans", "/api/health", "/metrics", "/nothing"];

#[test]
fn only_our_names_are_hosts() {
    let settings = Settings { hosts: vec!["probe.example".to_owned()], ..Settings::default() };
    let api = Api::with(Memory::shop(), settings);
    for host in ["localhost", "127.0.0.1:7690", "[::1]:1", "LocalHost", "probe.example:80"] {
        assert_eq!(api.ask("GET", "/api/spans", &[("Host", host)]).status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "0.0.0.0:7690", "", "[::1"] {
        for target in TARGETS {
            let answer = api.ask("GET", target, &[("Host", host)]);
            let text = answer.error(403, "forbidden_host");
            assert!(text.contains("allowed host"), "{text}");
            assert_eq!(answer.headers["cache-control"], "no-store");
        }
    }
    api.ask("GET", "/", &[]).error(403, "forbidden_host");
    api.ask("GET", "/", &[("Host", "localhost"), ("Host", "evil.example")])
        .error(403, "forbidden_host");
    api.ask("GET", "http://evil.example/", &[("Host", "localhost")]).error(403, "forbidden_host");
    assert_eq!(api.send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").status, 200);
}

#[test]
fn other_spellings_are_others() {
    let api = Api::new(Memory::shop());
    for host in [
        "localhost.",
        "127.1",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "localhost\tevil.example",
        "localhost@evil.example",
        "localhost:80@evil.example",
    ] {
        let answer = api.ask("GET", "/api/health", &[("Host", host)]);
        assert!([400, 403].contains(&answer.status), "{host}: {answer:?}");
    }
    for target in [
        "http://evil.example/api/health",
        "http://localhost@evil.example/api/health",
        "http://evil.example@localhost/api/health",
    ] {
        let answer = api.ask("GET", target, &[("Host", "localhost")]);
        assert!([400, 403].contains(&answer.status), "{target}: {answer:?}");
    }
    let answer = api.ask("GET", "http://localhost/api/health", &[("Host", "evil.example")]);
    answer.error(403, "forbidden_host");
    assert_eq!(api.send("GET /api/health HTTP/1.0\r\n\r\n").status, 403);
    assert_eq!(api.get("/api/../../../etc/passwd").status, 404);
}

#[test]
fn only_our_pages_are_origins() {
    let api = Api::new(Memory::shop());
    let ask = |origin| api.ask("GET", "/api/spans", &[("Host", "localhost"), ("Origin", origin)]);
    for origin in ["http://localhost:7690", "http://127.0.0.1", "https://[::1]:8"] {
        assert_eq!(ask(origin).status, 200, "{origin}");
    }
    for origin in ["null", "http://evil.example", "localhost", "file://", "http://localhost@evil"] {
        ask(origin).error(403, "forbidden_origin");
    }
    assert!(!ask("http://localhost").headers.contains_key("access-control-allow-origin"));
}

#[test]
fn with_a_token_every_request_shows_it() {
    let settings = Settings { token: Some("s3cret+/%".to_owned()), ..Settings::default() };
    let api = Api::with(Memory::shop(), settings);
    let with = |target: &str, value: &str| {
        api.ask("GET", target, &[("Host", "localhost"), ("Authorization", value)])
    };
    for target in TARGETS {
        let answer = api.get(target);
        let text = answer.error(401, "unauthorized");
        assert!(text.contains("--token"), "{text}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        for wrong in [
            "Bearer wrong",
            "Bearer s3cret+/",
            "Bearer s3cret+/%x",
            "Basic s3cret+/%",
            "Bearer",
            "",
        ] {
            with(target, wrong).error(401, "unauthorized");
        }
        api.error(&format!("{target}?token=wrong"), 401, "unauthorized");
    }
    assert_eq!(with("/api/spans", "Bearer s3cret+/%").status, 200);
    assert_eq!(with("/api/spans", "bearer s3cret+/%").status, 200);
    assert_eq!(api.get("/api/spans?limit=1&token=s3cret%2B%2F%25").status, 200);
    with("/nothing", "Bearer s3cret+/%").error(404, "no_such_route");
}

#[test]
fn every_answer_has_its_headers() {
    let api = Api::new(Memory::shop());
    for target in TARGETS {
        let headers = api.get(target).headers;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{target}");
        assert_eq!(headers["cache-control"], "no-store", "{target}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{target}");
    }
}
