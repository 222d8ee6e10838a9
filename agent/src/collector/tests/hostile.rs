//! Clients that mean harm: each is ended by name, and a good agent goes on beside them.

use hotspan_ingest::{MAX_FRAME, v1::Batch as WireBatch};
use tonic::Code;

use super::*;
use crate::{
    collector::session::CREDIT,
    wire::fixture::{Random, numbered, run},
};

/// A good agent beside the bad ones.
pub(super) struct Good {
    agent: Agent,
    sent: u64,
}

impl Good {
    pub(super) fn start(collector: &Collector) -> Self {
        let run = Run { boot_id: "of the good agent".into(), ..(*run(100)).clone() };
        let queue = Arc::new(Queue::new(1 << 20));
        Self { agent: Agent::start(collector.address(), Arc::new(run), queue), sent: 0 }
    }

    pub(super) async fn goes_on(&mut self) {
        self.sent += 1;
        self.agent.queue.push(numbered(self.sent));
        until("the good agent goes on", || self.agent.queue.is_empty()).await;
        assert_eq!(self.agent.status.health().reconnects, 0);
    }
}

async fn introduced(address: SocketAddr) -> RawStream {
    let (frames, mut answers) = raw(address, Some(TOKEN)).await.unwrap();
    frames.send(frame(Frame::Hello(hello(&run(1), 1)))).await.unwrap();
    answers.message().await.unwrap().unwrap();
    (frames, answers)
}

/// A batch of about so many bytes that takes little memory when decoded.
fn padded(sequence: u64, bytes: usize) -> AgentFrame {
    let strings = (0..bytes / 1000).map(|_| "x".repeat(1000)).collect();
    let dictionary = Some(hotspan_ingest::v1::Dictionary { strings, ..Default::default() });
    let epoch = sequence as u32;
    frame(Frame::Batch(WireBatch { epoch, sequence, dictionary, ..WireBatch::default() }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_above_the_limit_ends_the_stream() {
    let collector = collector(&MemorySink::default());
    let mut good = Good::start(&collector);
    let (frames, mut answers) = introduced(collector.address()).await;
    frames.send(padded(1, MAX_FRAME * 2)).await.unwrap();
    assert_eq!(end_of(&mut answers).await.code(), Code::OutOfRange);
    good.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_frame_that_unpacks_to_a_large_one_ends_the_stream() {
    let collector = collector(&MemorySink::default());
    let mut good = Good::start(&collector);
    let client = IngestClient::connect(format!("http://{}", collector.address())).await.unwrap();
    let client = client.send_compressed(tonic::codec::CompressionEncoding::Zstd);
    let (frames, mut answers) = raw_by(client, Some(TOKEN)).await.unwrap();
    frames.send(frame(Frame::Hello(hello(&run(1), 1)))).await.unwrap();
    answers.message().await.unwrap().unwrap();
    frames.send(padded(1, MAX_FRAME * 16)).await.unwrap();
    let status = end_of(&mut answers).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_eq!(collector.status().writer.appended, 0, "nothing of it was stored");
    good.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_credit_a_stream_is_ended() {
    let sink = MemorySink::default();
    let collector = collector(&sink);
    let mut good = Good::start(&collector);
    good.goes_on().await;
    sink.set_trouble(Some(SinkError::Full("no space".into())));
    let (frames, mut answers) = introduced(collector.address()).await;
    let endless = tokio::spawn(async move {
        for sequence in 1.. {
            if frames.send(padded(sequence, 300_000)).await.is_err() {
                return sequence;
            }
        }
        0
    });
    let status = end_of(&mut answers).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    drop(answers);
    assert!(endless.await.unwrap() > CREDIT / 300_000);
    assert!(collector.status().writer.queued_bytes <= 2 * CREDIT);
    sink.set_trouble(None);
    good.goes_on().await;
    assert_eq!(collector.status().refusals["credit"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_on_the_port_do_no_harm() {
    let collector = collector(&MemorySink::default());
    let mut good = Good::start(&collector);
    let mut random = Random(11);
    for round in 0..100 {
        let mut tcp = TcpStream::connect(collector.address()).await.unwrap();
        // Half of them get past the preface.
        if round % 2 == 0 {
            tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        }
        let bytes: Vec<u8> = (0..random.below(3000)).map(|_| random.next() as u8).collect();
        // It may be closed meanwhile.
        let _ = tcp.write_all(&bytes).await;
    }
    good.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_and_hold_nobody_up() {
    let mut settings = settings();
    settings.limits.open_within = Duration::from_millis(500);
    settings.limits.connections = 1001;
    settings.limits.tokenless = 1000;
    let sink = MemorySink::default();
    let collector = collector_at("127.0.0.1:0".parse().unwrap(), &sink, settings);
    let mut good = Good::start(&collector);
    good.goes_on().await;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(collector.address()).await.unwrap());
    }
    good.goes_on().await;
    // For one more the first one goes.
    idle.push(TcpStream::connect(collector.address()).await.unwrap());
    until("it is counted", || collector.status().refusals.contains_key("gave_way")).await;
    for mut tcp in idle {
        let mut bytes = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), tcp.read_to_end(&mut bytes));
        // An end or a reset.
        let _ = closed.await.expect("closed");
    }
    // The one with a stream stays, though it is silent for longer.
    good.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_limited() {
    let mut settings = settings();
    settings.limits.streams = 2;
    let collector = collector_at("127.0.0.1:0".parse().unwrap(), &MemorySink::default(), settings);
    let mut good = Good::start(&collector);
    good.goes_on().await;
    let _second = introduced(collector.address()).await;
    let status = raw(collector.address(), Some(TOKEN)).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    good.goes_on().await;
}
