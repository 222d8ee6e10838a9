//! HTTP/1.1 as far as the shop needs it: one GET per connection, with a deadline on every read.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::trace::{Remote, parse_traceparent};

const PATIENCE: Duration = Duration::from_secs(10);
const HEADERS_MAX: u64 = 8192;

/// A request that was read, with the connection its answer goes to.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) remote: Option<Remote>,
    stream: TcpStream,
}

impl Request {
    pub(crate) fn read(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new((&stream).take(HEADERS_MAX)).lines();
        let first = lines.next().context("no request")??;
        let mut words = first.split(' ');
        ensure!(words.next() == Some("GET"), "not a GET: {first}");
        let path = words.next().context("no path")?.to_owned();
        let mut remote = None;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                return Ok(Self { path, remote, stream });
            }
            if let Some(value) = line.strip_prefix("traceparent: ") {
                remote = parse_traceparent(value);
            }
        }
        bail!("the request has no end")
    }

    pub(crate) fn answer(mut self, status: u16, body: &str) -> Result<()> {
        let len = body.len();
        let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {len}\r\nConnection: close");
        self.stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
        Ok(())
    }
}

/// The body of `GET path`.
pub(crate) fn get(address: SocketAddr, path: &str, traceparent: Option<&str>) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let context = traceparent.map(|it| format!("traceparent: {it}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{context}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {}", answer.lines().next().unwrap_or(""));
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    Ok(body.to_owned())
}
