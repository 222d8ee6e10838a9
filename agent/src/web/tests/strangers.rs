//! What those who may not, or ask too much, can do: nothing to others.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use rustix::{
    process::{Uid, geteuid},
    thread::set_thread_uid,
};

use super::{
    Answer, Api,
    memory::Memory,
    shop::{batch_of, span},
};
use crate::{
    model::{id::SpanId, state::State},
    web::Settings,
};

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Does something as another user, who is not trusted; only root can.
fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> Option<T> {
    if !geteuid().is_root() {
        return None;
    }
    let acted = thread::scope(|scope| {
        let acting = scope.spawn(|| {
            // Of this thread alone.
            set_thread_uid(Uid::from_raw(uid)).unwrap();
            act()
        });
        acting.join().unwrap()
    });
    Some(acted)
}

/// Connections that were answered and stay open, and how many still are.
fn hold(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).unwrap();
        let answered = stream.write_all(ASK).and_then(|()| stream.read(&mut [0; 4096]));
        if answered.is_ok_and(|length| length > 0) {
            held.push(stream);
        }
    }
    held
}

/// An empty store that answers.
fn open() -> Memory {
    let memory = Memory::default();
    memory.gate.0.lock().unwrap().1 = true;
    memory
}

#[test]
fn connections_of_one_user_keep_no_other_out() {
    let api = Api::new(Memory::shop());
    let address = api.address;
    let Some(mut held) = as_user(65_534, || hold(address, 300)) else { return };
    assert!(held.len() >= 64, "{} were answered", held.len());
    let another = as_user(65_533, || hold(address, 3).len());
    assert_eq!(another, Some(3));
    assert_eq!(api.get("/api/spans").status, 200);
    // The oldest of them have gone for the newer ones.
    let mut rest = Vec::new();
    held[0].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = held[0].read_to_end(&mut rest);
    let metrics = api.get("/metrics").body;
    let evicted = metrics.lines().find(|line| line.starts_with("hotspan_http_evicted_total"));
    let evicted: u64 = evicted.unwrap().split(' ').next_back().unwrap().parse().unwrap();
    assert!(evicted >= 300 - 64, "{evicted}");
}

#[test]
fn who_may_not_ask_does_not_stay() {
    let settings = Settings { token: Some("s3cret".to_owned()), ..Settings::default() };
    let api = Api::with(Memory::shop(), settings);
    for host in ["localhost", "evil.example"] {
        let mut stream = TcpStream::connect(api.address).unwrap();
        // It would keep the connection.
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let answer = Answer::read(&mut stream);
        assert!([401, 403].contains(&answer.status));
        assert_eq!(answer.headers["connection"], "close");
    }
}

#[test]
fn the_socket_lets_in_whoever_may_enter_its_directory() {
    let settings = Settings { token: Some("s3cret".to_owned()), ..Settings::default() };
    let api = Api::with(Memory::shop(), settings);
    let mut stream = UnixStream::connect(&api.socket).unwrap();
    stream
        .write_all(b"GET /api/spans HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("\"spans\""), "{text}");
    // Names are checked there, too.
    let mut stream = UnixStream::connect(&api.socket).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    api.error("/api/spans", 401, "unauthorized");
}

#[test]
fn of_a_trace_without_end_a_part_is_summed_and_that_is_said() {
    let memory = open();
    let running = [(State::from_key("running").unwrap(), 1_000)];
    let spans: Vec<_> = (1..=10_100_u64)
        .map(|id| {
            let process = if id <= 10_050 { (7, "flood") } else { (8, "shop") };
            span(id, u64::from(id > 1), "GET /", process, id * 10, &running, 5_000)
        })
        .collect();
    memory.append(batch_of(&spans));
    let api = Api::new(memory);
    let document = |id: u64, scope: &str| {
        api.json(&format!("/api/span/{}?scope={scope}", SpanId(id.to_be_bytes())))
    };
    // The process of the span that is asked for comes first.
    let of_shop = document(10_100, "trace");
    assert_eq!(of_shop["active_ns"], 50 * 1_000);
    assert_eq!(of_shop["loss"]["trace_cut"], 1);
    let on_host = document(10_100, "trace_host");
    assert_eq!(on_host["active_ns"], 10_000 * 1_000);
    // In the flood's own process it is cut.
    let of_flood = document(10_050, "trace");
    assert_eq!(of_flood["active_ns"], 10_001 * 1_000, "itself, and as many as are looked at");
    let list = api.json("/api/spans?limit=10000");
    assert_eq!(
        (list["truncated"].as_bool(), list["spans"][0]["loss"]["trace_cut"].as_u64()),
        (Some(true), Some(1))
    );
}

#[test]
fn a_list_of_long_names_is_cut_and_says_so() {
    let memory = open();
    let running = [(State::from_key("running").unwrap(), 1_000)];
    let name = "x".repeat(4_000);
    let spans: Vec<_> =
        (1..=5_000_u64).map(|id| span(id, 0, &name, (7, "long"), id, &running, 0)).collect();
    memory.append(batch_of(&spans));
    let list = Api::new(memory).json("/api/spans?limit=5000");
    let told = list["spans"].as_array().unwrap().len();
    assert!(list["truncated"].as_bool().unwrap() && (2_000..4_000).contains(&told), "{told}");
}

#[test]
fn a_request_without_end_is_not_kept() {
    let api = Api::new(Memory::shop());
    let mut stream = TcpStream::connect(api.address).unwrap();
    let header = format!("X-{}: {}\r\n", "n".repeat(100), "v".repeat(4_000));
    let mut sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n");
    // Far below hyper's own limit.
    for _ in 0..20 {
        sent = sent.and_then(|()| stream.write_all(header.as_bytes()));
    }
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    assert!(text.is_empty(), "{:?}", String::from_utf8_lossy(&text));
    assert_eq!(api.get("/").status, 200);
}
