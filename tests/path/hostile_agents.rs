//! Whoever reaches the ingest port, with a token or without: refused, at a bounded cost, while the
//! honest agent of this host streams on and its accounting balances.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hotspan_ingest::v1::{
    AgentFrame, Batch, Dictionary, Hello, Process, SampleColumns, ServerFrame, SpanColumns,
    TotalColumns, agent_frame::Frame, ingest_client::IngestClient, server_frame,
};
use hotspan_tests::{
    accounting,
    host::{can_record, read_text, wait_until},
    publisher::{MIXED, Publisher, all_found},
    random::Random,
    service::{Place, SOON},
};
use tokio::{runtime::Runtime, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

/// Open files a service has unless it asks for more: fewer than idle connections would take.
const FILES: u64 = 1024;
const IDLE: usize = 1100;
/// What hostility may cost the collector, for good.
const COST_BYTES: u64 = 64 << 20;
/// Frames of 1 MiB sent without a look at the credit, which is 4 MiB.
const ENDLESS: usize = 256;

/// A client that keeps no rule.
struct Hostile {
    frames: mpsc::Sender<AgentFrame>,
    answers: Streaming<ServerFrame>,
}

fn hello(version: String) -> AgentFrame {
    let hello = Hello {
        protocol: 1,
        version,
        run_id: vec![7; 16],
        boot_id: "another kernel".into(),
        host: "hostile".into(),
        pid: 1,
        started_unix_ns: 1,
        unix_offset_ns: 0,
        first_sequence: 1,
        last_acked: 0,
    };
    AgentFrame { frame: Some(Frame::Hello(hello)) }
}

fn batch(epoch: u32, sequence: u64, dictionary: Dictionary, spans: SpanColumns) -> AgentFrame {
    let batch = Batch {
        epoch,
        sequence,
        from: 1,
        to: 2,
        dictionary: Some(dictionary),
        spans: Some(spans),
        ..Batch::default()
    };
    AgentFrame { frame: Some(Frame::Batch(batch)) }
}

// === impl Hostile ===

impl Hostile {
    /// Opens a stream; with a first frame, for a stream is answered only then.
    async fn open(port: u16, token: Option<&str>, first: AgentFrame) -> Result<Self, Status> {
        let url = format!("http://127.0.0.1:{port}");
        let client = IngestClient::connect(url).await;
        let mut client = client.map_err(|error| Status::unavailable(error.to_string()))?;
        let (frames, receiver) = mpsc::channel(1);
        // There is room: the receiver is here.
        let _ = frames.send(first).await;
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            let value = format!("Bearer {token}");
            let value = value.parse().map_err(|_| Status::internal("no header"))?;
            request.metadata_mut().insert("authorization", value);
        }
        let answers = client.stream(request).await?.into_inner();
        Ok(Self { frames, answers })
    }

    /// What it is answered next.
    async fn answer(&mut self) -> Result<server_frame::Frame, Status> {
        let late = |_| Status::deadline_exceeded("it says nothing");
        let answer = timeout(SOON, self.answers.message()).await.map_err(late)??;
        answer.and_then(|frame| frame.frame).ok_or_else(|| Status::cancelled("the end"))
    }

    /// How the stream ends, whatever is said before.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.answer().await {
                return status;
            }
        }
    }
}

/// Strangers are told where the token is; they cost nothing.
async fn strangers(port: u16) -> Result<()> {
    for token in [None, Some("0123456789abcdef0123456789abcdef"), Some("")] {
        match Hostile::open(port, token, hello(String::new())).await {
            Err(status) if status.code() == Code::Unauthenticated => {
                ensure!(status.message().contains("wants its token"), "{status}");
            }
            Err(status) => bail!("{status}"),
            Ok(_) => bail!("{token:?} is taken"),
        }
    }
    Ok(())
}

/// A frame above the largest, as the first and as a later one.
async fn oversized(port: u16, token: &str) -> Result<Vec<Status>> {
    let first = match Hostile::open(port, Some(token), hello("x".repeat(5 << 20))).await {
        Ok(mut hostile) => hostile.end().await,
        Err(status) => status,
    };
    let mut hostile = Hostile::open(port, Some(token), hello(String::new())).await?;
    hostile.answer().await?;
    let strings = vec!["x".repeat(5 << 20)];
    let dictionary = Dictionary { strings, ..Dictionary::default() };
    hostile.frames.send(batch(1, 1, dictionary, SpanColumns::default())).await?;
    Ok(vec![first, hostile.end().await])
}

/// Frames without end, none of whose acknowledgements is read. How many got through, and the end.
async fn endless(port: u16, token: &str) -> Result<(usize, Status)> {
    let mut hostile = Hostile::open(port, Some(token), hello(String::new())).await?;
    let strings = vec!["x".repeat(1 << 20)];
    for sequence in 1..=ENDLESS {
        let dictionary = Dictionary { strings: strings.clone(), ..Dictionary::default() };
        let frame = batch(1, sequence as u64, dictionary, SpanColumns::default());
        match timeout(SOON, hostile.frames.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok((sequence, hostile.end().await)),
            Err(_) => return Ok((sequence, Status::deadline_exceeded("it is not read"))),
        }
    }
    drop(hostile.frames);
    Ok((ENDLESS, Status::ok("all of it was taken")))
}

/// Indexes behind every table: a new epoch is asked for, twice, and then it is over.
async fn wrong_indexes(port: u16, token: &str) -> Result<(u32, Status)> {
    let wrong = [
        Dictionary {
            frame_name: vec![u32::MAX],
            frame_file: vec![0],
            frame_line: vec![0],
            frame_kind: vec![0],
            ..Dictionary::default()
        },
        Dictionary { node_parent: vec![9], node_frame: vec![u32::MAX], ..Dictionary::default() },
        Dictionary { traces: vec![1; 15], ..Dictionary::default() },
        Dictionary::default(),
    ];
    let spans = SpanColumns { span: vec![-1], ..SpanColumns::default() };
    let mut hostile = Hostile::open(port, Some(token), hello(String::new())).await?;
    let mut resets = 0;
    for (epoch, dictionary) in (1..).zip(wrong.into_iter().cycle()) {
        let sequence = match hostile.answer().await {
            Ok(server_frame::Frame::Reset(reset)) => {
                resets += 1;
                reset.resume_sequence
            }
            Ok(server_frame::Frame::Welcome(welcome)) => welcome.resume_sequence,
            Ok(server_frame::Frame::Ack(_)) => continue,
            Err(status) => return Ok((resets, status)),
        };
        let _ = hostile.frames.send(batch(epoch, sequence, dictionary, spans.clone())).await;
        ensure!(resets < 100, "asked for a new epoch {resets} times");
    }
    bail!("no end")
}

/// Batches that can be followed and not be stored: a new epoch is asked for, or the collector would
/// try to store them for ever, and everybody else's behind them.
async fn poison(port: u16, token: &str) -> Result<()> {
    let dictionary = Dictionary {
        strings: vec![String::new()],
        processes: vec![Process { pid: 1, since: 0, comm: 0, service: 0 }],
        thread_process: vec![0],
        thread_tid: vec![1],
        ..Dictionary::default()
    };
    let made = Batch { epoch: 1, from: 1, to: 2, ..Batch::default() };
    let totals = TotalColumns {
        process: vec![0],
        from: vec![0],
        for_ns: vec![u64::MAX],
        states_len: vec![0],
        ..TotalColumns::default()
    };
    let ends_before_it_begins = Batch { totals: Some(totals), ..made.clone() };
    let rows = 5000;
    let samples = SampleColumns {
        at: vec![60_000_000_000; rows],
        thread: vec![0; rows],
        span: vec![0; rows],
        node: vec![0; rows],
        state: vec![0; rows],
        ns: vec![1; rows],
    };
    let of_all_times = Batch { samples: Some(samples), ..made };
    for batch in [ends_before_it_begins, of_all_times] {
        let mut hostile = Hostile::open(port, Some(token), hello(String::new())).await?;
        let server_frame::Frame::Welcome(welcome) = hostile.answer().await? else {
            bail!("no welcome");
        };
        let sequence = welcome.resume_sequence;
        let batch = Batch { sequence, dictionary: Some(dictionary.clone()), ..batch };
        hostile.frames.send(AgentFrame { frame: Some(Frame::Batch(batch)) }).await?;
        match hostile.answer().await {
            Ok(server_frame::Frame::Reset(reset)) => println!("poison: {}", reset.reason),
            other => bail!("poison: {other:?}"),
        }
    }
    Ok(())
}

/// Not gRPC, not HTTP/2, or only as far as its first bytes.
fn noise(port: u16, random: &mut Random) -> Result<()> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for turn in 0..40 {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        let mut bytes = if turn % 2 == 0 { Vec::new() } else { preface.to_vec() };
        let length = 1 << random.below(15);
        bytes.extend(random.bytes(length));
        // It may be closed before all of it is sent.
        let _ = stream.write_all(&bytes);
    }
    Ok(())
}

fn rss_bytes(pid: u32) -> Result<u64> {
    let status = read_text(format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10)
}

/// Raises this process's limit of open files, as far as it may.
fn many_files() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live rlimit.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    ensure!(result == 0, "getrlimit: {}", std::io::Error::last_os_error());
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    ensure!(result == 0, "setrlimit: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Connections that say nothing: the API answers beside them, and they are closed.
fn idle(place: &Place) -> Result<Duration> {
    let mut idle = Vec::new();
    for n in 0..IDLE {
        let stream = TcpStream::connect(("127.0.0.1", place.ingest));
        let stream = stream.with_context(|| format!("connection {n}"))?;
        stream.set_nonblocking(true)?;
        idle.push(stream);
    }
    let opened = Instant::now();
    ensure!(place.get("/api/spans")?.status == 200, "the store does not answer beside them");
    let refused = place.health()?.collector["refused"].clone();
    println!("beside {IDLE} idle connections: answers after {:?}, {refused}", opened.elapsed());
    ensure!(refused["accept"].is_null(), "no file was left for a connection: {refused}");
    // The first ones give way to those that come.
    ensure!(refused["gave_way"].as_u64() > Some(0), "all {IDLE} were taken: {refused}");
    let all_closed = || {
        idle.retain_mut(|stream| match stream.read(&mut [0; 64]) {
            // Some settings of HTTP/2 may come first.
            Ok(got) => got > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        idle.is_empty()
    };
    ensure!(wait_until(SOON * 2, all_closed), "idle connections stay open");
    Ok(opened.elapsed())
}

#[test]
fn hostile_agents_are_refused_and_honest_ones_are_not() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    many_files()?;
    let mut random = Random::seeded("hostile agents");
    let place = Place::new()?;
    let mut command = place.command("collector", &[])?;
    // SAFETY: setrlimit is async-signal-safe, and the limit lives in the closure.
    unsafe {
        command.pre_exec(|| {
            let mut limit = libc::rlimit { rlim_cur: FILES, rlim_max: FILES };
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = FILES;
            match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let collector = place.spawn(command, "collector")?;
    place.wait_for_api(&collector)?;
    let agent = place.agent(None, &[])?;
    place.wait_for_agent(&agent)?;
    let publisher = Publisher::start(MIXED);
    place.settle()?;
    let token = std::fs::read_to_string(place.data_dir().join("ingest-token"))?;
    let (port, pid) = (place.ingest, collector.child.id());
    let before = rss_bytes(pid)?;

    let runtime = Runtime::new()?;
    runtime.block_on(strangers(port))?;
    for status in runtime.block_on(oversized(port, &token))? {
        println!("oversized: {:?}: {}", status.code(), status.message());
        ensure!(status.code() == Code::OutOfRange, "an oversized frame ends with {status}");
    }
    let (frames, status) = runtime.block_on(endless(port, &token))?;
    println!("endless: {frames} frames of 1 MiB, then {:?}: {}", status.code(), status.message());
    let after_endless = rss_bytes(pid)?;
    let (resets, status) = runtime.block_on(wrong_indexes(port, &token))?;
    println!("wrong indexes: {resets} new epochs, then {:?}: {}", status.code(), status.message());
    ensure!(status.code() == Code::InvalidArgument && resets == 2, "{resets} resets, {status}");
    runtime.block_on(poison(port, &token))?;
    noise(port, &mut random)?;
    let closed = idle(&place)?;
    println!("{IDLE} idle connections were closed within {closed:?}");

    place.settle()?;
    let after = rss_bytes(pid)?;
    println!("RSS {before} before, {after_endless} after endless frames, {after} at the end");
    let most = after.max(after_endless);
    ensure!(most <= before + COST_BYTES, "hostility cost {} bytes", most - before);
    let refused = place.health()?.collector["refused"].clone();
    println!("refused: {refused}");
    ensure!(refused["token"] == 3, "{refused}");

    let honest = agent.child.id();
    let truths = publisher.finish()?;
    place.settle()?;
    ensure!(agent.stop()?.success(), "the honest agent does not end well");
    ensure!(collector.stop()?.success(), "the collector does not end well");
    let last = place.collector(&[])?;
    let health = place.health()?;
    let runs: Vec<_> = health.agents.iter().filter(|run| run.pid == honest).collect();
    ensure!(runs.len() == 1, "one honest agent ran: {:?}", health.agents);
    accounting::balanced(runs[0], &[])?;
    accounting::print(runs[0]);
    all_found(&place, "beside hostile agents", truths)?;
    ensure!(last.stop()?.success(), "the last collector does not end well");
    Ok(())
}
