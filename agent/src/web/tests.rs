//! The API over real connections, with a store in memory.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use serde_json::Value;

use super::{Listeners, Server, Settings, serve};
use memory::{Memory, Sessions};

mod accounting;
mod admission;
mod limits;
pub(crate) mod memory;
mod one_state;
mod owners;
mod routes;
pub(crate) mod shop;
mod strangers;

/// A served API.
pub(crate) struct Api {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    pub(crate) address: SocketAddr,
    /// Removed with this value.
    pub(crate) socket: PathBuf,
}

/// One answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

// === impl Api ===

impl Api {
    pub(crate) fn new(memory: Memory) -> Self {
        Self::with(memory, Settings { version: "1.2.3".to_owned(), ..Settings::default() })
    }

    pub(crate) fn with(memory: Memory, settings: Settings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("hotspan-api-{}-{number}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let listeners = Listeners {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            socket: Some(UnixListener::bind(&socket).unwrap()),
        };
        let live = Arc::new(Sessions(memory.live.clone()));
        let server = serve(listeners, runtime.handle(), Arc::new(memory), live, settings).unwrap();
        Self { address: server.address(), runtime, server: Some(server), socket }
    }

    /// Sends a request as it is and reads the answer.
    fn send(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(&mut stream)
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.send(&format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"))
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[("Host", "localhost:7690")])
    }

    fn json(&self, target: &str) -> Value {
        let answer = self.get(target);
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/json");
        answer.json()
    }

    /// Asks for an error and returns its cause and hint as one text.
    fn error(&self, target: &str, status: u16, code: &str) -> String {
        self.get(target).error(status, code)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

// === impl Answer ===

impl Answer {
    fn read(stream: &mut TcpStream) -> Self {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or("0");
        let headers = lines.filter_map(|line| line.split_once(": "));
        Self {
            status: status.parse().unwrap(),
            headers: headers.map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())).collect(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn error(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/json");
        assert_eq!(self.headers["x-content-type-options"], "nosniff");
        let error = &self.json()["error"];
        assert_eq!(error["code"], code, "{self:?}");
        let text = |key: &str| error[key].as_str().unwrap().to_owned();
        let (cause, hint) = (text("cause"), text("hint"));
        assert!(!cause.is_empty() && !hint.is_empty());
        format!("{cause}; {hint}")
    }
}

#[test]
fn a_stopped_server_is_gone() {
    let mut api = Api::new(Memory::shop());
    assert_eq!(api.get("/").status, 200);
    // A connection that is open and silent does not hold it.
    let mut silent = TcpStream::connect(api.address).unwrap();
    let server = api.server.take().unwrap();
    api.runtime.block_on(server.stop());
    assert!(TcpStream::connect(api.address).is_err());
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0);
}

/// For looking at the commands: `cargo test -p hotspan web::tests::looks -- --ignored`, then
/// `hotspan spans`. Ends by itself.
#[test]
#[ignore = "serves the sample at 127.0.0.1:7690 for ten minutes"]
fn looks() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:7690").unwrap();
    let listeners = Listeners { tcp, socket: None };
    let memory = Memory::shop();
    let live = Arc::new(Sessions(memory.live.clone()));
    let _server =
        serve(listeners, runtime.handle(), Arc::new(memory), live, Settings::default()).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(600));
}
