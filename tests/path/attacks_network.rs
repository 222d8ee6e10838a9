//! Neighbours who reach the ports and have no token: what they can take from others is nothing, and
//! what they cost is bounded.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    host::{self, can_record, is_root, wait_until},
    publisher::{MIXED, Publisher, all_found},
    service::{Place, SOON},
};
use rustix::{process::Uid, thread::set_thread_uid};

const NOBODY: u32 = 65_534;
/// What a collector reads of a connection before its token.
const BEFORE_TOKEN: usize = 16 << 10;
/// A hundred times what an idle agent has, and far from the unit's 512 MB.
const MOST_GROWTH: u64 = 48 << 20;

/// Does something as nobody, who owns the sockets that it makes.
fn as_nobody<T: Send + 'static>(
    act: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<Result<T>> {
    thread::spawn(|| {
        // Of this thread alone.
        set_thread_uid(Uid::from_raw(NOBODY))?;
        Ok(act())
    })
}

fn joined<T>(handle: thread::JoinHandle<Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow::anyhow!("the attacker failed"))?
}

fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Four probes on one connection, each with a message that says it is of 4 MiB, of `bytes` in all.
fn probes(bytes: usize) -> Vec<u8> {
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(h2_frame(4, 0, 0, &[]));
    let mut head = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/hotspan.ingest.v1.Ingest/Probe"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        head.extend([0, name.len() as u8]);
        head.extend(name.as_bytes());
        head.push(value.len() as u8);
        head.extend(value.as_bytes());
    }
    for stream in [1, 3, 5, 7] {
        said.extend(h2_frame(1, 4, stream, &head));
    }
    let mut message = vec![0, 0, 0x3f, 0xff, 0xff];
    message.resize(900, 0);
    for stream in [1, 3, 5, 7] {
        said.extend(h2_frame(0, 0, stream, &message));
    }
    while said.len() < bytes {
        said.extend(h2_frame(0, 0, 1, &[0; 8_000]));
    }
    said.truncate(bytes);
    said
}

/// Connections that have said this much, and stay.
fn hold(port: u16, count: usize, said: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        // It may be closed meanwhile.
        let _ = stream.write_all(said);
        held.push(stream);
    }
    held
}

/// Resident bytes of a process, now or at its most (`VmRSS`, `VmHWM`).
fn memory(pid: u32, which: &str) -> Result<u64> {
    let status = host::read_text(format!("/proc/{pid}/status"));
    let line = status.lines().find(|line| line.starts_with(which)).context("no such line")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib << 10)
}

fn refused(place: &Place, reason: &str) -> Result<u64> {
    Ok(place.health()?.collector["refused"][reason].as_u64().unwrap_or(0))
}

fn spans(api: &str, token: Option<&str>) -> Result<Output> {
    let mut command = Command::new(host::hotspan()?);
    command.args(["spans", "--json", "-n", "1", "--api", api]).stdin(Stdio::null());
    if let Some(token) = token {
        command.env("HOTSPAN_TOKEN", token);
    }
    command.output().context("hotspan does not start")
}

#[test]
fn probes_without_end_cost_little_and_an_honest_program_keeps_its_spans() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let service = place.run(&[])?;
    let publisher = Publisher::start(MIXED);
    let port = place.ingest;
    let before = memory(service.child.id(), "VmRSS")?;
    for _ in 0..4 {
        let said = probes(1 << 20);
        joined(as_nobody(move || drop(hold(port, 100, &said))))?;
        ensure!(place.get("/api/health")?.status == 200, "no answer meanwhile");
    }
    let peak = memory(service.child.id(), "VmHWM")?;
    println!("400 endless probes: {} KiB more at most", peak.saturating_sub(before) >> 10);
    ensure!(peak < before + MOST_GROWTH, "{before} bytes before, {peak} at most");
    ensure!(refused(&place, "before_token")? > 0, "{:?}", place.health()?.collector);
    let truths = publisher.finish()?;
    place.settle()?;
    all_found(&place, "beside endless probes", truths)?;
    ensure!(service.stop()?.success(), "it does not end well");
    Ok(())
}

#[test]
fn what_a_connection_without_a_token_costs() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let place = Place::new()?;
    let collector = place.collector(&[])?;
    let pid = collector.child.id();
    let before = memory(pid, "VmRSS")?;
    // Nobody has a share of 64; root may have as many as there are places.
    let held = hold(place.ingest, 250, &probes(BEFORE_TOKEN - 64));
    let sockets = || std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|it| it.count() > 250);
    ensure!(wait_until(SOON, sockets), "they are not open: {}", collector.log());
    let most = memory(pid, "VmHWM")?.saturating_sub(before);
    println!("a connection without a token: {} KiB at most", (most / 250) >> 10);
    ensure!(most < MOST_GROWTH, "{most} bytes for 250");
    drop(held);
    let port = place.ingest;
    let nobodys = joined(as_nobody(move || hold(port, 200, b"")))?;
    let gave_way = || refused(&place, "gave_way").is_ok_and(|n| n >= 200 - 64);
    ensure!(wait_until(SOON, gave_way), "{:?}", place.health()?.collector);
    drop(nobodys);
    ensure!(collector.stop()?.success(), "it does not end well");
    Ok(())
}

#[test]
fn connections_of_nobody_leave_the_api_to_others() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for token in [None, Some("correct-horse-battery")] {
        let place = Place::new()?;
        let mut command = place.command("collector", &[])?;
        if let Some(token) = token {
            command.env("HOTSPAN_WEB_TOKEN", token);
        }
        let collector = place.spawn(command, "collector")?;
        let answers = || place.get("/").is_ok_and(|answer| [200, 401].contains(&answer.status));
        ensure!(wait_until(SOON, answers), "{}", collector.log());
        let port = place.web;
        let ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let mut held = joined(as_nobody(move || hold(port, 256, ask)))?;
        // They go on asking, each on its connection.
        held.retain_mut(|stream| stream.write_all(ask).is_ok());
        let http = format!("http://127.0.0.1:{}", place.web);
        let told = spans(&http, token)?;
        ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        // Whoever may enter the data directory needs no token.
        let socket = format!("unix:{}", place.data_dir().join("api.sock").display());
        let told = spans(&socket, None)?;
        ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        drop(held);
        ensure!(collector.stop()?.success(), "it does not end well");
    }
    Ok(())
}

#[test]
fn who_listens_first_is_named_and_told_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let place = Place::new()?;
    let port = place.web;
    let squatter = as_nobody(move || -> Result<Vec<u8>> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let mut told = Vec::new();
        listener.accept()?.0.read_to_end(&mut told)?;
        Ok(told)
    });
    let listens =
        || host::read_text("/proc/net/tcp").contains(&format!(":{port:04X} 00000000:0000"));
    ensure!(wait_until(SOON, listens), "nobody listens");
    let mut collector = place.start("collector", &[])?;
    ensure!(!collector.end(SOON)?.success(), "it listens beside another");
    let log = collector.log();
    ensure!(log.contains("in use") && log.contains("uid 65534"), "{log}");
    let asked = spans(&format!("http://127.0.0.1:{port}"), Some("the-real-web-token-0123"))?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    ensure!(!asked.status.success() && said.contains("uid 65534"), "{said}");
    ensure!(said.contains("--api-user") && said.lines().count() == 1, "{said}");
    let told = joined(squatter)??;
    ensure!(told.is_empty(), "{:?}", String::from_utf8_lossy(&told));
    Ok(())
}
