//! Both ends over real sockets: a sink in memory with switches, and a proxy that cuts and freezes
//! connections.

mod cost;
mod hostile;
mod resume;
mod rules;
mod tokenless;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use hotspan_ingest::v1::{
    AgentFrame, Hello, ServerFrame, agent_frame::Frame, ingest_client::IngestClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::{Collector, Limits, Settings, serve};
use crate::{
    model::{
        batch::{Counts, Run},
        id::RunId,
    },
    store::{Body, Entry, Sink, SinkError},
    stream::{
        client::{self, ClientError, ClientSettings, Farewell, Timing},
        queue::Queue,
        status::ClientStatus,
    },
};

const TOKEN: &str = "a token";

/// Waits for a condition, not for a time.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// A sink in memory. It notes what a store should never see.
#[derive(Clone, Default)]
pub(super) struct MemorySink(Arc<Memory>);

#[derive(Default)]
struct Memory {
    stored: Mutex<Stored>,
    trouble: Mutex<Option<SinkError>>,
    delay: Mutex<Duration>,
    maintained: AtomicU64,
}

#[derive(Default)]
struct Stored {
    entries: Vec<Entry>,
    durable: HashMap<RunId, u64>,
    problems: Vec<String>,
}

impl MemorySink {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.stored.lock().unwrap()
    }

    pub(super) fn set_trouble(&self, trouble: Option<SinkError>) {
        *self.0.trouble.lock().unwrap() = trouble;
    }

    fn set_delay(&self, delay: Duration) {
        *self.0.delay.lock().unwrap() = delay;
    }

    pub(super) fn sequences(&self) -> Vec<u64> {
        self.stored().entries.iter().map(|entry| entry.sequence).collect()
    }

    fn durable_of(&self, run: &Run) -> u64 {
        self.stored().durable.get(&run.id).copied().unwrap_or(0)
    }

    pub(super) fn maintained(&self) -> u64 {
        self.0.maintained.load(SeqCst)
    }

    pub(super) fn is_dropped_but_for_tests(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Counts of batches and of gaps.
    fn counts(&self) -> (Counts, Counts) {
        let (mut batches, mut gaps) = (Counts::default(), Counts::default());
        for entry in &self.stored().entries {
            match &entry.body {
                Body::Batch(batch) => batches.merge(&batch.counts),
                Body::Gap(gap) => gaps.merge(&gap.counts),
            }
        }
        (batches, gaps)
    }

    fn assert_no_problems(&self) {
        let problems = &self.stored().problems;
        assert!(problems.is_empty(), "{problems:?}");
    }
}

impl Sink for MemorySink {
    fn append(&mut self, entries: &[Entry]) -> Result<(), SinkError> {
        let delay = *self.0.delay.lock().unwrap();
        std::thread::sleep(delay);
        if let Some(trouble) = self.0.trouble.lock().unwrap().clone() {
            return Err(trouble);
        }
        let mut stored = self.stored();
        for entry in entries {
            let durable = stored.durable.get(&entry.run.id).copied().unwrap_or(0);
            let from = match &entry.body {
                Body::Batch(_) => entry.sequence,
                Body::Gap(gap) => gap.from_sequence,
            };
            if from != durable + 1 {
                stored.problems.push(format!("{from} after {durable}"));
            }
            stored.durable.insert(entry.run.id, entry.sequence);
            stored.entries.push(entry.clone());
        }
        Ok(())
    }

    fn durable(&self, run: RunId) -> u64 {
        self.stored().durable.get(&run).copied().unwrap_or(0)
    }

    fn maintain(&mut self) {
        self.0.maintained.fetch_add(1, SeqCst);
    }
}

fn settings() -> Settings {
    Settings {
        token: TOKEN.into(),
        token_hint: "it lies in /data/ingest.token".into(),
        version: "0.1.0",
        limits: Limits::default(),
    }
}

fn collector(sink: &MemorySink) -> Collector {
    collector_at("127.0.0.1:0".parse().unwrap(), sink, settings())
}

fn collector_at(address: SocketAddr, sink: &MemorySink, settings: Settings) -> Collector {
    let listener = std::net::TcpListener::bind(address).unwrap();
    serve(&Handle::current(), listener, settings, sink.clone()).unwrap()
}

/// A running client.
struct Agent {
    queue: Arc<Queue>,
    status: Arc<ClientStatus>,
    shutdown: watch::Sender<Option<Instant>>,
    task: JoinHandle<Result<Farewell, ClientError>>,
}

impl Agent {
    fn start(address: SocketAddr, run: Arc<Run>, queue: Arc<Queue>) -> Self {
        let timing = Timing {
            backoff_first: Duration::from_millis(2),
            backoff_most: Duration::from_millis(20),
            keepalive_every: Duration::from_millis(300),
            keepalive_within: Duration::from_millis(700),
            rival_grace: Duration::ZERO,
            ..Timing::default()
        };
        let endpoint = format!("http://{address}");
        let settings =
            ClientSettings { endpoint, token: TOKEN.into(), token_owner: None, run, timing };
        Self::with(settings, queue)
    }

    fn with(settings: ClientSettings, queue: Arc<Queue>) -> Self {
        let status = Arc::new(ClientStatus::default());
        let (shutdown, stopped) = watch::channel(None);
        let task = tokio::spawn(client::run(settings, queue.clone(), status.clone(), stopped));
        Self { queue, status, shutdown, task }
    }

    async fn stop(self) -> Farewell {
        let deadline = Instant::now() + Duration::from_secs(30);
        self.shutdown.send_replace(Some(deadline));
        self.task.await.unwrap().unwrap()
    }
}

fn hello(run: &Run, first_sequence: u64) -> Hello {
    Hello {
        protocol: 1,
        version: run.version.clone(),
        run_id: run.id.0.to_vec(),
        boot_id: run.boot_id.clone(),
        host: run.host.clone(),
        pid: run.pid,
        started_unix_ns: run.started_unix_ns,
        first_sequence,
        ..Hello::default()
    }
}

fn frame(frame: Frame) -> AgentFrame {
    AgentFrame { frame: Some(frame) }
}

type RawStream = (mpsc::Sender<AgentFrame>, Streaming<ServerFrame>);

/// A stream by hand.
async fn raw(address: SocketAddr, token: Option<&str>) -> Result<RawStream, Status> {
    let client = IngestClient::connect(format!("http://{address}")).await.unwrap();
    raw_by(client, token).await
}

async fn raw_by(
    client: IngestClient<tonic::transport::Channel>,
    token: Option<&str>,
) -> Result<RawStream, Status> {
    let mut client = client.max_encoding_message_size(usize::MAX);
    let (frames, receiver) = mpsc::channel(64);
    let mut request = Request::new(ReceiverStream::new(receiver));
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    Ok((frames, client.stream(request).await?.into_inner()))
}

/// The error a stream ends with.
async fn end_of(answers: &mut Streaming<ServerFrame>) -> Status {
    let ending = async {
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("ended"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ending).await.expect("the stream ends")
}

/// Sits between both ends: cuts connections after so many bytes, or stops forwarding.
struct Proxy {
    address: SocketAddr,
    /// Bytes each new connection may carry, both directions together; 0 for any.
    cut_after: Arc<AtomicU64>,
    cuts: Arc<AtomicU64>,
    /// Connections open at this moment fall silent and stay open.
    freeze: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut_after, cuts) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (freeze, frozen) = watch::channel(0);
        let (limit, count) = (cut_after.clone(), cuts.clone());
        let task = tokio::spawn(async move {
            loop {
                let (down, _) = listener.accept().await.unwrap();
                let Ok(up) = TcpStream::connect(upstream).await else { continue };
                let limit = limit.load(SeqCst);
                tokio::spawn(Self::carry(down, up, limit, count.clone(), frozen.clone()));
            }
        });
        Self { address, cut_after, cuts, freeze, task }
    }

    async fn carry(
        mut down: TcpStream,
        mut up: TcpStream,
        limit: u64,
        cuts: Arc<AtomicU64>,
        mut frozen: watch::Receiver<u64>,
    ) {
        frozen.mark_unchanged();
        let is_frozen = AtomicBool::new(false);
        let carried = AtomicU64::new(0);
        let (mut down_read, mut down_write) = down.split();
        let (mut up_read, mut up_write) = up.split();
        let one_way = async |from: &mut tokio::net::tcp::ReadHalf<'_>,
                             to: &mut tokio::net::tcp::WriteHalf<'_>| {
            let mut buffer = [0; 4096];
            loop {
                let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
                if is_frozen.load(SeqCst) {
                    std::future::pending::<()>().await;
                }
                let before = carried.fetch_add(read as u64, SeqCst);
                let may = if limit == 0 { read as u64 } else { limit.saturating_sub(before) };
                let part = read.min(may as usize);
                if to.write_all(&buffer[..part]).await.is_err() || part < read {
                    return;
                }
            }
        };
        let freeze = async {
            let _ = frozen.changed().await;
            is_frozen.store(true, SeqCst);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = one_way(&mut down_read, &mut up_write) => {}
            () = one_way(&mut up_read, &mut down_write) => {}
            () = freeze => {}
        }
        if limit > 0 && carried.load(SeqCst) >= limit {
            cuts.fetch_add(1, SeqCst);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
