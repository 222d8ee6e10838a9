//! The server's end of the wire (design 3.9): agents in, durable entries out.
//!
//! ```text
//!  agents ──► Connections ──► Gate ──► Session ──► Decoder ──► Writer (thread) ──► Sink
//!               places, bytes   token    order, credit          group commit        │
//!  agents ◄──────────────────────── Ack ◄──────────────────────── durable ◄─────────┘
//! ```
//! Invariants: an acknowledgement means durable; each sequence of a run reaches the sink once and in
//! order; whatever comes in, memory is bounded: by credit per stream, by a budget over all of them,
//! by limits in the decoder; before its token a connection costs `BEFORE_TOKEN` bytes of input, for
//! `open_within`. Everything that comes in is hostile, a token or not.

mod connections;
mod gate;
mod ingest;
mod refusal;
mod session;
pub mod sessions;
pub mod writer;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use hotspan_ingest::{MAX_FRAME, v1::ingest_server::IngestServer};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tonic::{codec::CompressionEncoding, transport::Server};

use crate::{
    peers::table::{Table, TableLimits},
    store::Sink,
};
use connections::Connections;
use gate::{Gate, Keys};
use ingest::IngestService;
use session::Shared;
use sessions::{SessionStatus, Sessions};
use writer::{Writer, WriterStatus};

/// A dead peer is noticed after the sum of both.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(4);
/// An agent has one stream; a few more for probes and for one that supersedes.
const STREAMS_PER_CONNECTION: u32 = 4;
/// HTTP/2 windows: what an agent may send before it is read. A frame fits.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;
const HEADER_BYTES: u32 = 16 << 10;

/// What a collector is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What agents must show; not empty.
    pub token: String,
    /// Says to an agent without it where it lies and how to give it.
    pub token_hint: String,
    /// This program's version.
    pub version: &'static str,
    /// See `Limits`.
    pub limits: Limits,
}

/// How much of what.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Of those, without a token.
    pub tokenless: usize,
    /// Of those, of one user of this host or of another host. Root's and our own have no such limit.
    pub tokenless_of_peer: usize,
    /// Streams at a time.
    pub streams: usize,
    /// A connection that has not shown the token by then is closed; one that has, and has no stream,
    /// after this or twice this.
    pub open_within: Duration,
}

/// Why a collector does not start.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Agents could not be told from others.
    #[error("the ingest token is empty: delete its file, a new one is made")]
    NoToken,
    /// The listener cannot be used.
    #[error("cannot listen for agents: {0}")]
    Listen(#[source] std::io::Error),
    /// No thread.
    #[error("cannot start the writer's thread: {0}; raise the limit of tasks")]
    Thread(#[source] std::io::Error),
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    sessions: Arc<Sessions>,
    table: Arc<Table>,
    writer: Writer,
    thread: thread::JoinHandle<()>,
    streams: Arc<Semaphore>,
    most_streams: usize,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// How a collector is.
#[derive(Clone, Debug)]
pub struct CollectorStatus {
    /// Agents that stream now.
    pub sessions: Vec<SessionStatus>,
    /// Streams and connections refused or ended, by reason.
    pub refusals: BTreeMap<&'static str, u64>,
    /// The store's side.
    pub writer: WriterStatus,
}

/// Starts a collector on a runtime. The sink moves to a thread of its own.
pub fn serve<S: Sink>(
    runtime: &Handle,
    listener: TcpListener,
    settings: Settings,
    sink: S,
) -> Result<Collector, CollectorError> {
    if settings.token.is_empty() {
        return Err(CollectorError::NoToken);
    }
    let Settings { token, token_hint, version, limits } = settings;
    let _runtime = runtime.enter();
    let address = listener.local_addr().map_err(CollectorError::Listen)?;
    listener.set_nonblocking(true).map_err(CollectorError::Listen)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(CollectorError::Listen)?;
    let (writer, thread) = Writer::start(sink).map_err(CollectorError::Thread)?;
    let sessions = Arc::new(Sessions::default());
    let streams = Arc::new(Semaphore::new(limits.streams));
    let (stop, stopped) = watch::channel(false);
    let service = IngestService {
        shared: Arc::new(Shared {
            sessions: sessions.clone(),
            writer: writer.clone(),
            budget: Arc::new(Semaphore::new(session::BUDGET)),
            version,
        }),
        streams: streams.clone(),
        most_streams: limits.streams,
        stop: stopped.clone(),
    };
    let table = Table::new(TableLimits {
        most: limits.connections,
        unproven: limits.tokenless,
        share: limits.tokenless_of_peer,
    });
    let connections =
        Connections::new(listener, table.clone(), limits.open_within, sessions.clone());
    let keys =
        Keys { authorization: format!("Bearer {token}"), token_hint, sessions: sessions.clone() };
    let server = runtime.spawn(listen(service, Arc::new(keys), connections, stopped));
    let most_streams = limits.streams;
    Ok(Collector { address, sessions, table, writer, thread, streams, most_streams, stop, server })
}

async fn listen(
    service: IngestService,
    keys: Arc<Keys>,
    connections: Connections,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    // The limit holds for what comes out of the compression, too.
    let inner = IngestServer::new(service)
        .accept_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(MAX_FRAME);
    let service = Gate { inner, keys };
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
        .serve_with_incoming_shutdown(service, connections, async move {
            // An error means that the collector was dropped: the same.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        })
        .await
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            tokenless: 256,
            tokenless_of_peer: 64,
            streams: 512,
            open_within: Duration::from_secs(10),
        }
    }
}

// === impl Collector ===

impl Collector {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For health.
    pub fn status(&self) -> CollectorStatus {
        let mut refusals = self.sessions.refusals();
        match self.table.evictions() {
            0 => {}
            evictions => _ = refusals.insert("gave_way", evictions),
        }
        CollectorStatus { sessions: self.sessions.status(), refusals, writer: self.writer.status() }
    }

    /// Ends streams, lets the writer store what it has, drops the sink. Whether all of it was done
    /// in time; what was not stored stays with its agents, who have had no acknowledgement.
    pub async fn stop(self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        self.stop.send_replace(true);
        let all = u32::try_from(self.most_streams).unwrap_or(u32::MAX);
        let ended = timeout_at(deadline, self.streams.acquire_many(all)).await.is_ok();
        self.writer.stop();
        let joined = tokio::task::spawn_blocking(move || self.thread.join());
        let written = timeout_at(deadline, joined).await.is_ok_and(|joined| joined.is_ok());
        // Connections of clients that never became agents end by themselves.
        let mut server = self.server;
        if timeout(Duration::from_millis(100), &mut server).await.is_err() {
            server.abort();
        }
        ended && written
    }
}

#[cfg(test)]
mod tests;
