//! What many or slow callers can do: nothing to others.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use axum::serve::Listener as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Answer, Api, memory::Memory};
use crate::{
    peers::table::{Table, TableLimits},
    web::{ASKING, WAITING, connection::Limited},
};

#[test]
fn beyond_the_queue_callers_are_told_to_come_back() {
    let memory = Memory::shop();
    memory.gate.0.lock().unwrap().1 = false;
    let gate = Arc::clone(&memory.gate);
    let api = Api::new(memory);
    let mut waiting: Vec<TcpStream> = (0..ASKING + WAITING)
        .map(|_| {
            let mut stream = TcpStream::connect(api.address).unwrap();
            let request = "GET /api/spans HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    // Places are taken before they are waited for: once none is left, the next is turned away.
    let answer = loop {
        let answer = {
            let mut stream = TcpStream::connect(api.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let request =
                "GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut first = [0; 1];
            // It waits as long as there is still a place; then somebody else is still to come.
            match stream.read(&mut first) {
                Ok(1) => {
                    stream.set_read_timeout(None).unwrap();
                    // Before the others came it was just answered; without a first byte no status.
                    Some(Answer::read(&mut stream)).filter(|it| it.body.contains("\"error\""))
                }
                _ => None,
            }
        };
        if let Some(answer) = answer {
            break answer;
        }
    };
    assert!(answer.body.contains("\"busy\""), "{answer:?}");
    assert_eq!(answer.headers["retry-after"], "1");
    // What needs no store is answered all the same.
    assert_eq!(api.get("/").status, 200);
    {
        let (state, changed) = &*gate;
        let mut state = state.lock().unwrap();
        assert!(state.0 <= ASKING, "{} at once", state.0);
        state.1 = true;
        changed.notify_all();
    }
    let answered = waiting.iter_mut().map(|stream| Answer::read(stream).status);
    let answered: Vec<u16> = answered.collect();
    assert!(answered.iter().filter(|&&status| status == 200).count() >= ASKING);
    assert!(answered.iter().all(|status| [200, 503].contains(status)), "{answered:?}");
}

#[test]
fn headers_without_end_are_refused() {
    let api = Api::new(Memory::shop());
    let mut stream = TcpStream::connect(api.address).unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(1 << 20));
    // It may be closed before all is sent.
    let _ = stream.write_all(head.as_bytes());
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8(text));
}

/// One connection at a time.
fn limited(tcp: tokio::net::TcpListener, silence: Duration) -> Limited {
    let table = Table::new(TableLimits { most: 1, unproven: 1, share: 1 });
    Limited { tcp, socket: None, table, silence }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_connection_on_which_nothing_is_answered_ends() {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut limited = limited(listener, Duration::from_millis(100));
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = limited.accept().await;
        // Bytes that trickle in do not hold it.
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let error = loop {
            if let Err(error) = connection.read_u8().await {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        drop(connection);
        trickle.await.unwrap();
    });
}

#[test]
fn a_request_has_its_time_from_its_first_byte() {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut limited = limited(listener, Duration::from_millis(400));
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let begun = std::time::Instant::now();
        let (mut connection, _) = limited.accept().await;
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.write_all(b"x").await.unwrap();
            client
        });
        assert_eq!(connection.read_u8().await.unwrap(), b'x');
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(600));
        drop(late.await);
    });
}

#[test]
fn only_so_many_connections_are_open() {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut limited = limited(listener, Duration::from_secs(60));
        let _clients = [
            tokio::net::TcpStream::connect(address).await.unwrap(),
            tokio::net::TcpStream::connect(address).await.unwrap(),
        ];
        let (mut first, _) = limited.accept().await;
        let (mut second, _) = limited.accept().await;
        let error = first.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        let silent = tokio::time::timeout(Duration::from_millis(50), second.read_u8()).await;
        assert!(silent.is_err(), "the second has the place");
    });
}
