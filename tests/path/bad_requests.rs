//! Requests to the API that are wrong, by accident or on purpose: each answer is JSON with a code,
//! the cause and a hint, and the service goes on.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::service::Place;
use serde_json::Value;

/// What a client sends is its own: no library that would put it right.
fn send(port: u16, request: &str) -> Result<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer with a head")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()))))
}

fn get(port: u16, path: &str, headers: &[&str]) -> Result<(u16, Value)> {
    let more: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let host = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:"));
    let host = if host { "" } else { "Host: localhost\r\n" };
    send(port, &format!("GET {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n"))
}

/// An error with this status and code, a cause and a hint.
fn wrong(answer: (u16, Value), status: u16, code: &str) -> Result<()> {
    let (got, body) = answer;
    let error = &body["error"];
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    println!("{got} {}: {} ({})", text("code"), text("cause"), text("hint"));
    ensure!(got == status, "{got}, not {status}: {body}");
    ensure!(text("code") == code, "{body}");
    ensure!(!text("cause").is_empty() && !text("hint").is_empty(), "{body}");
    Ok(())
}

#[test]
fn wrong_requests_are_told_what_is_wrong() -> Result<()> {
    let place = Place::new()?;
    let mut collector = place.collector(&[])?;
    let ask = |path: &str| get(place.web, path, &[]);
    let trace = "0123456789abcdef0123456789abcdef";
    for path in [format!("/api/span/{trace}/0123456789abcdef"), "/api/span/0123456789abcdef".into()]
    {
        wrong(ask(&path)?, 404, "no_such_span")?;
    }
    for path in ["/nowhere", "/api/span", "/api/", "//", "/api/spans/x/y"] {
        wrong(ask(path)?, 404, "no_such_route")?;
    }
    let huge = format!("/api/span/{}", "a".repeat(4_000));
    for path in ["/api/span/xyz", "/api/span/0123/4567", "/api/span/%00", &huge] {
        wrong(ask(path)?, 400, "bad_request")?;
    }
    for query in [
        "limit=many",
        "limit=-1",
        "limit=99999999999999999999999",
        "min_ns=1.5",
        "sort=oldest",
        "state=happy",
        "servce=shop",
        "limit=1&limit=2",
        "pid=4294967296",
        "from_unix_ns=tomorrow",
        "name=%ff%fe",
    ] {
        wrong(ask(&format!("/api/spans?{query}"))?, 400, "bad_parameter")?;
    }
    wrong(ask("/api/health?verbose=1")?, 400, "bad_parameter")?;
    for host in ["Host: evil.example", "Host: localhost.evil.example", "Host: 10.0.0.1", "Host: "] {
        wrong(get(place.web, "/api/health", &[host])?, 403, "forbidden_host")?;
    }
    for origin in ["Origin: http://evil.example", "Origin: null", "Origin: file://localhost"] {
        wrong(get(place.web, "/api/health", &[origin])?, 403, "forbidden_origin")?;
    }
    let post = "POST /api/spans HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\
                Connection: close\r\n\r\n";
    wrong(send(place.web, post)?, 405, "method_not_allowed")?;
    // Not HTTP at all: no answer is promised, only that others get theirs.
    for bytes in
        ["\0\0\0", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", place.web))?;
        stream.write_all(bytes.as_bytes())?;
    }
    let (status, body) = ask("/api/health")?;
    ensure!(status == 200 && body["status"] == "ok", "{status}: {body}");
    ensure!(collector.child.try_wait()?.is_none(), "it ended");
    ensure!(collector.stop()?.success(), "the collector does not end well");
    Ok(())
}

#[test]
fn a_token_keeps_others_out() -> Result<()> {
    const TOKEN: &str = "correct-horse-battery";
    let place = Place::new()?;
    let mut command = place.command("collector", &[])?;
    command.env("HOTSPAN_WEB_TOKEN", TOKEN);
    let collector = place.spawn(command, "collector")?;
    let ask = |path: &str, headers: &[&str]| get(place.web, path, headers);
    let answers = || ask("/api/health", &[]).is_ok_and(|(status, _)| status == 401);
    ensure!(
        hotspan_tests::host::wait_until(hotspan_tests::service::SOON, answers),
        "{}",
        collector.log()
    );
    for header in ["Authorization: Bearer wrong-horse-battery", "Authorization: Bearer", "X: y"] {
        for path in ["/", "/api/health", "/api/spans", "/metrics", "/api/span/x", "/nowhere"] {
            wrong(ask(path, &[header])?, 401, "unauthorized")?;
        }
    }
    wrong(ask(&format!("/api/health?token={TOKEN}x"), &[])?, 401, "unauthorized")?;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    ensure!(ask("/api/health", &[&bearer])?.0 == 200, "the right token is refused");
    ensure!(
        ask(&format!("/api/health?token={TOKEN}"), &[])?.0 == 200,
        "the right token is refused"
    );
    // A token opens no other name.
    wrong(ask("/api/health", &[&bearer, "Host: evil.example"])?, 403, "forbidden_host")?;
    ensure!(!collector.log().contains(TOKEN), "the token is logged");
    ensure!(collector.stop()?.success(), "the collector does not end well");
    Ok(())
}
