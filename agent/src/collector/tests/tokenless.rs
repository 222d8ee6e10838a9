//! What can be had without the token: little, and nothing of anybody else's.

use hotspan_ingest::v1::ProbeRequest;
use tokio_stream::StreamExt as _;
use tonic::{Code, codec::CompressionEncoding};

use super::{hostile::Good, *};
use crate::{
    collector::{
        connections::{BEFORE_TOKEN, Connections},
        gate::PROBE_BYTES,
        sessions::Sessions,
    },
    peers::table::{Table, TableLimits},
};

/// The head of an HTTP/2 connection with so many requests to a method, whose bodies are still to come.
fn requests(method: &str, count: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(h2_frame(4, 0, 0, &[]));
    let path = format!("/hotspan.ingest.v1.Ingest/{method}");
    let mut head = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that no table keeps, not packed.
        head.extend([0, name.len() as u8]);
        head.extend(name.as_bytes());
        head.push(value.len() as u8);
        head.extend(value.as_bytes());
    }
    for stream in 0..count {
        bytes.extend(h2_frame(1, 4, 2 * stream + 1, &head));
    }
    bytes
}

fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a connection says until it ends, which it does by itself.
async fn until_end(tcp: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(60), tcp.read_to_end(&mut said));
    // An end or a reset.
    let _ = ended.await.expect("closed");
    said
}

fn refusals(collector: &Collector, reason: &str) -> u64 {
    collector.status().refusals.get(reason).copied().unwrap_or(0)
}

async fn client(collector: &Collector) -> IngestClient<tonic::transport::Channel> {
    IngestClient::connect(format!("http://{}", collector.address())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_without_end_are_read_to_the_bound_and_no_further() {
    let collector = collector(&MemorySink::default());
    let mut good = Good::start(&collector);
    good.goes_on().await;
    for method in ["Probe", "Stream", "Nothing"] {
        let before = refusals(&collector, "before_token");
        let mut all = Vec::new();
        for _ in 0..20 {
            let mut tcp = TcpStream::connect(collector.address()).await.unwrap();
            tcp.write_all(&requests(method, 4)).await.unwrap();
            all.push(tcp);
        }
        for tcp in &mut all {
            // It says that a message of 4 MiB comes, and sends a part of it.
            let mut message = vec![0, 0, 0x3f, 0xff, 0xff];
            message.resize(16_000, 0);
            for stream in 0..4 {
                // It may be closed meanwhile.
                let _ = tcp.write_all(&h2_frame(0, 0, 2 * stream + 1, &message)).await;
            }
        }
        for tcp in &mut all {
            until_end(tcp).await;
        }
        assert_eq!(refusals(&collector, "before_token"), before + 20, "{method}");
        good.goes_on().await;
    }
}

#[tokio::test]
async fn bytes_before_the_token_are_counted_and_after_it_are_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let table = Table::new(TableLimits { most: 9, unproven: 9, share: 9 });
    let sessions = Arc::new(Sessions::default());
    let mut connections =
        Connections::new(listener, table, Duration::from_secs(60), sessions.clone());
    for is_proven in [false, true] {
        let sender = tokio::spawn(async move {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            let _ = tcp.write_all(&vec![7; 4 * BEFORE_TOKEN]).await;
            tcp
        });
        let mut connection = connections.next().await.unwrap().unwrap();
        if is_proven {
            tonic::transport::server::Connected::connect_info(&connection).proven();
        }
        let mut read = vec![0; 4 * BEFORE_TOKEN];
        let mut length = 0;
        while length < read.len() {
            match connection.read(&mut read[length..]).await {
                Ok(n) => length += n,
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                    break;
                }
            }
        }
        assert_eq!(length, if is_proven { 4 * BEFORE_TOKEN } else { BEFORE_TOKEN });
        assert!(read[..length].iter().all(|byte| *byte == 7));
        drop(sender.await);
    }
    assert_eq!(sessions.refusals()["before_token"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_small_plain_and_ends() {
    let collector = collector(&MemorySink::default());
    let probe =
        |version: usize| ProbeRequest { version: "x".repeat(version), ..Default::default() };
    let mut plain = client(&collector).await;
    plain.probe(probe(PROBE_BYTES / 2)).await.unwrap();
    plain.probe(probe(PROBE_BYTES)).await.unwrap_err();
    // The same connection goes on.
    plain.probe(probe(0)).await.unwrap();
    let mut packed = client(&collector).await.send_compressed(CompressionEncoding::Zstd);
    // A few bytes that unpack to a thousand times as many.
    let status = packed.probe(probe(1 << 20)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(refusals(&collector, "probe"), 1);
    let mut tcp = TcpStream::connect(collector.address()).await.unwrap();
    tcp.write_all(&requests("Probe", 4)).await.unwrap();
    until("probes that do not end are refused", || refusals(&collector, "probe") == 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tokenless_give_way_and_nobody_else() {
    let mut settings = settings();
    settings.limits.connections = 4;
    settings.limits.tokenless = 2;
    let collector = collector_at("127.0.0.1:0".parse().unwrap(), &MemorySink::default(), settings);
    let mut good = Good::start(&collector);
    good.goes_on().await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(collector.address()).await.unwrap());
    }
    until("the first of them go", || refusals(&collector, "gave_way") >= 38).await;
    for tcp in &mut idle[..38] {
        until_end(tcp).await;
    }
    // One that has something to say is heard among them.
    client(&collector).await.probe(ProbeRequest::default()).await.unwrap();
    good.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_neither_sends_nor_reads_ends() {
    let mut settings = settings();
    settings.limits.open_within = Duration::from_millis(200);
    let collector = collector_at("127.0.0.1:0".parse().unwrap(), &MemorySink::default(), settings);
    let mut tcp = TcpStream::connect(collector.address()).await.unwrap();
    tcp.write_all(&requests("Stream", 4)).await.unwrap();
    until_end(&mut tcp).await;
    until("they were refused", || refusals(&collector, "token") == 4).await;
}
