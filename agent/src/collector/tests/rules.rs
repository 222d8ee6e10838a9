//! Who may stream, and in which order.

use hotspan_ingest::v1::{Batch as WireBatch, Gap, ProbeRequest, server_frame};
use tonic::Code;

use super::*;
use crate::{
    model::batch::{ProcessIdentity, SampleRow},
    wire::{
        encode::Encoder,
        fixture::{Random, numbered, run, wild},
        item::{Content, Item},
    },
};

async fn refused_with(address: SocketAddr, first: AgentFrame) -> Status {
    let (frames, mut answers) = raw(address, Some(TOKEN)).await.unwrap();
    frames.send(first).await.unwrap();
    end_of(&mut answers).await
}

async fn welcome(answers: &mut Streaming<ServerFrame>) -> u64 {
    match answers.message().await.unwrap().unwrap().frame.unwrap() {
        server_frame::Frame::Welcome(welcome) => welcome.resume_sequence,
        other => panic!("{other:?} is no welcome"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_needs_no_token() {
    let collector = collector(&MemorySink::default());
    let url = format!("http://{}", collector.address());
    let mut client = IngestClient::connect(url).await.unwrap();
    let reply = client.probe(ProbeRequest::default()).await.unwrap().into_inner();
    assert_eq!((reply.protocol_min, reply.protocol_max), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nothing_is_read() {
    let collector = collector(&MemorySink::default());
    for token in [None, Some(""), Some("another"), Some("a token ")] {
        let status = raw(collector.address(), token).await.map(drop).unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("/data/ingest.token"), "{status}");
    }
    assert_eq!(collector.status().refusals["token"], 4);
    let timing = Timing::default();
    let endpoint = format!("http://{}", collector.address());
    let settings = ClientSettings {
        endpoint,
        token: "another".into(),
        token_owner: None,
        run: run(1),
        timing,
    };
    let agent = Agent::with(settings, Arc::new(Queue::new(1 << 20)));
    let error = agent.task.await.unwrap().unwrap_err();
    assert!(matches!(&error, ClientError::Unauthenticated(said) if said.contains("ingest.token")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hellos_that_are_refused() {
    let collector = collector(&MemorySink::default());
    let address = collector.address();
    let good = hello(&run(1), 1);
    for (protocol, older) in [(0, "update the agent"), (2, "update the collector")] {
        let hello = Hello { protocol, ..good.clone() };
        let status = refused_with(address, frame(Frame::Hello(hello))).await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(older), "{status}");
        assert!(status.message().contains(&format!("protocol {protocol}")), "{status}");
    }
    for wrong in [
        Hello { run_id: vec![1; 15], ..good.clone() },
        Hello { boot_id: String::new(), ..good.clone() },
        Hello { host: "x".repeat(1000), ..good.clone() },
        Hello { first_sequence: 0, ..good.clone() },
        Hello { first_sequence: u64::MAX, ..good.clone() },
    ] {
        let status = refused_with(address, frame(Frame::Hello(wrong))).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let batch = Frame::Batch(WireBatch::default());
    assert_eq!(refused_with(address, frame(batch)).await.code(), Code::InvalidArgument);
    let nothing = AgentFrame { frame: None };
    assert_eq!(refused_with(address, nothing).await.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_agent_per_kernel() {
    let collector = collector(&MemorySink::default());
    let address = collector.address();
    let queue = Arc::new(Queue::new(1 << 20));
    let first = Agent::start(address, run(1), queue.clone());
    until("the first streams", || first.status.health().connected).await;
    let second = Agent::start(address, run(2), Arc::new(Queue::new(1 << 20)));
    let error = second.task.await.unwrap().unwrap_err();
    let ClientError::Rival(message) = error else { panic!("{error}") };
    assert!(message.contains("pid 4001, version 0.1.0"), "{message}");
    // Another host's is welcome.
    let other = Arc::new(Run { boot_id: "another kernel".into(), ..(*run(3)).clone() });
    let third = Agent::start(address, other, Arc::new(Queue::new(1 << 20)));
    until("both stream", || collector.status().sessions.len() == 2).await;
    // When the first has gone, another may come.
    first.stop().await;
    third.stop().await;
    until("none streams", || collector.status().sessions.is_empty()).await;
    let fourth = Agent::start(address, run(2), Arc::new(Queue::new(1 << 20)));
    until("the other streams", || fourth.status.health().connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_run_supersedes_its_older_stream() {
    let sink = MemorySink::default();
    let collector = collector(&sink);
    let (frames, mut answers) = raw(collector.address(), Some(TOKEN)).await.unwrap();
    frames.send(frame(Frame::Hello(hello(&run(1), 1)))).await.unwrap();
    assert_eq!(welcome(&mut answers).await, 1);
    let queue = Arc::new(Queue::new(1 << 20));
    queue.push(numbered(1));
    let agent = Agent::start(collector.address(), run(1), queue.clone());
    assert_eq!(end_of(&mut answers).await.code(), Code::Aborted);
    until("durable", || queue.is_empty()).await;
    agent.stop().await;
    sink.assert_no_problems();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_forgot_is_a_gap() {
    let sink = MemorySink::default();
    let collector = collector(&sink);
    let (frames, mut answers) = raw(collector.address(), Some(TOKEN)).await.unwrap();
    frames.send(frame(Frame::Hello(hello(&run(1), 6)))).await.unwrap();
    assert_eq!(welcome(&mut answers).await, 6);
    until("the gap is stored", || sink.durable_of(&run(1)) == 5).await;
    let entry = sink.stored().entries[0].clone();
    let Body::Gap(gap) = entry.body else { panic!("not a gap") };
    assert_eq!((gap.from_sequence, gap.to_sequence, &*gap.reason), (1, 5, "agent_forgot"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_begins_a_new_epoch_and_an_old_batch_is_passed_over() {
    let sink = MemorySink::default();
    let collector = collector(&sink);
    let (frames, mut answers) = raw(collector.address(), Some(TOKEN)).await.unwrap();
    frames.send(frame(Frame::Hello(hello(&run(1), 1)))).await.unwrap();
    assert_eq!(welcome(&mut answers).await, 1);
    let mut encoder = Encoder::new();
    let mut random = Random(9);
    let mut batch = async |encoder: &mut Encoder, sequence| {
        let batch = Frame::Batch(encoder.batch(sequence, &wild(&mut random)));
        frames.send(frame(batch)).await.unwrap();
    };
    batch(&mut encoder, 1).await;
    batch(&mut encoder, 1).await;
    batch(&mut encoder, 3).await;
    // On its way while the collector asks for a new epoch.
    batch(&mut encoder, 4).await;
    let reset = loop {
        match answers.message().await.unwrap().unwrap().frame.unwrap() {
            server_frame::Frame::Reset(reset) => break reset,
            server_frame::Frame::Ack(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reset.resume_sequence, 2);
    assert!(reset.reason.contains("sequence 3"), "{}", reset.reason);
    encoder.end_epoch();
    for sequence in 2..=4 {
        batch(&mut encoder, sequence).await;
    }
    until("all are stored", || sink.durable_of(&run(1)) == 4).await;
    sink.assert_no_problems();
    assert_eq!(sink.sequences(), [1, 2, 3, 4]);
    assert_eq!(collector.status().sessions[0].resets, 1);
}

/// Behind the last number there is none: the stream would count on from zero.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_up_to_the_last_number_is_refused() {
    let sink = MemorySink::default();
    let collector = collector(&sink);
    let (frames, mut answers) = raw(collector.address(), Some(TOKEN)).await.unwrap();
    frames.send(frame(Frame::Hello(hello(&run(1), 1)))).await.unwrap();
    assert_eq!(welcome(&mut answers).await, 1);
    let gap = |to_sequence| {
        let reason = "queue_full".to_owned();
        frame(Frame::Gap(Gap { from_sequence: 1, to_sequence, reason, ..Gap::default() }))
    };
    frames.send(gap(u64::MAX)).await.unwrap();
    let server_frame::Frame::Reset(reset) =
        answers.message().await.unwrap().unwrap().frame.unwrap()
    else {
        panic!("the gap was taken")
    };
    assert_eq!(reset.resume_sequence, 1);
    frames.send(gap(2)).await.unwrap();
    until("the gap is stored", || sink.durable_of(&run(1)) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_followed_three_times_ends_the_stream() {
    let collector = collector(&MemorySink::default());
    let (frames, mut answers) = raw(collector.address(), Some(TOKEN)).await.unwrap();
    frames.send(frame(Frame::Hello(hello(&run(1), 1)))).await.unwrap();
    for epoch in 1..=3 {
        let mut wire = Encoder::new().batch(1, &wild(&mut Random(3)));
        wire.epoch = epoch;
        wire.samples.as_mut().unwrap().at.push(0);
        frames.send(frame(Frame::Batch(wire))).await.unwrap();
    }
    let status = end_of(&mut answers).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("samples: column"), "{status}");
}

/// A batch that the collector will never take must not keep back what is behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisonous_batch_becomes_a_gap() {
    let sink = MemorySink::default();
    let collector = collector(&sink);
    let queue = Arc::new(Queue::new(1 << 20));
    queue.push(numbered(1));
    let mut poison = numbered(2);
    poison.processes.push(ProcessIdentity::default());
    poison.samples.push(SampleRow { ns: u64::MAX, ..SampleRow::default() });
    queue.push(poison);
    queue.push(numbered(3));
    let agent = Agent::start(collector.address(), run(1), queue.clone());
    until("what is behind is durable", || sink.durable_of(&run(1)) == 3).await;
    let Body::Gap(gap) = sink.stored().entries[1].body.clone() else { panic!("not a gap") };
    assert_eq!((&*gap.reason, gap.counts), ("collector_refused", numbered(2).counts));
    assert_eq!(queue.status().dropped["collector_refused"].batches, 1);
    agent.stop().await;
    sink.assert_no_problems();
}

#[test]
fn sequences_of_items_are_those_of_their_content() {
    let item =
        Item { from_sequence: 4, to_sequence: 4, content: Content::Batch(Arc::new(numbered(4))) };
    let Some(Frame::Batch(batch)) = Encoder::new().frame(&item).frame else { panic!("no batch") };
    assert_eq!((batch.sequence, batch.epoch), (4, 1));
}
