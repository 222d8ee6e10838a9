//! What comes through connections that are cut, silent or away, and through a store that is slow or
//! full: everything, once.

use super::*;
use crate::{
    collector::session::CREDIT,
    model::batch::Batch,
    wire::fixture::{Load, Random, numbered, resolved, run, wild},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_under_a_hundred_resets() {
    let sink = MemorySink::default();
    let collector = collector(&sink);
    let proxy = Proxy::start(collector.address()).await;
    let queue = Arc::new(Queue::new(64 << 20));
    // Before the first connection, which would have no limit else.
    proxy.cut_after.store(10_000, SeqCst);
    let agent = Agent::start(proxy.address, run(1), queue.clone());
    let mut random = Random(77);
    let mut pushed: Vec<Batch> = Vec::new();
    let mut push = |random: &mut Random| {
        let batch = wild(random);
        queue.push(batch.clone());
        pushed.push(batch);
    };
    while proxy.cuts.load(SeqCst) < 100 {
        proxy.cut_after.store(100 + random.below(30_000), SeqCst);
        let before = proxy.cuts.load(SeqCst);
        until("a connection is cut", || {
            if queue.status().batches < 20 {
                push(&mut random);
            }
            proxy.cuts.load(SeqCst) > before
        })
        .await;
    }
    proxy.cut_after.store(0, SeqCst);
    // The last one still has its limit.
    until("all is durable", || queue.is_empty()).await;
    let status = queue.status();
    assert!(agent.status.health().reconnects > 20);
    assert!(agent.stop().await.all_durable);
    sink.assert_no_problems();
    assert!(status.dropped.is_empty());
    assert_eq!(sink.sequences(), (1..=pushed.len() as u64).collect::<Vec<_>>());
    for (entry, batch) in sink.stored().entries.iter().zip(&pushed) {
        let Body::Batch(got) = &entry.body else { panic!("a gap at {}", entry.sequence) };
        assert_eq!(resolved(got), resolved(batch));
    }
    assert!(collector.stop(Duration::from_secs(10)).await);
    assert!(sink.is_dropped_but_for_tests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_holds_the_agent_to_its_credit() {
    let sink = MemorySink::default();
    sink.set_trouble(Some(SinkError::Full("no space".into())));
    let collector = collector(&sink);
    let queue = Arc::new(Queue::new(256 << 20));
    let mut load = Load::new(5);
    for n in 0..40 {
        let mut batch = load.flush();
        // Nothing repeats, and little memory stands behind large frames: credit ends before budget.
        batch.samples.clear();
        batch.stacks.clear();
        for (row, span) in batch.spans.iter_mut().enumerate() {
            span.name = format!("{n} {row} {}", "x".repeat(1000)).into();
        }
        queue.push(batch);
    }
    let agent = Agent::start(collector.address(), run(1), queue.clone());
    until("the store says it is full", || collector.status().writer.full.is_some()).await;
    let mut last = 0;
    until("the agent has used its credit", || {
        let bytes = agent.status.health().bytes;
        std::mem::replace(&mut last, bytes) == bytes && bytes > CREDIT * 3 / 4
    })
    .await;
    let writer = collector.status().writer;
    assert!(agent.status.health().bytes <= CREDIT);
    assert!(writer.queued_bytes_peak <= crate::collector::session::BUDGET as u64);
    assert_eq!(agent.status.health().last_ack_unix_ns, 0);
    assert!(!queue.is_empty());
    sink.set_trouble(None);
    sink.set_delay(Duration::from_millis(20));
    until("all is durable", || queue.is_empty()).await;
    assert!(agent.stop().await.all_durable);
    sink.assert_no_problems();
    let writer = collector.status().writer;
    assert!(writer.queued_bytes_peak <= crate::collector::session::BUDGET as u64, "{writer:?}");
    assert_eq!(writer.queued_entries, 0);
    // It never had to be held to it.
    assert!(!collector.status().refusals.contains_key("credit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_and_back() {
    let sink = MemorySink::default();
    let first = collector(&sink);
    let address = first.address();
    let queue = Arc::new(Queue::new(64 << 20));
    let agent = Agent::start(address, run(1), queue.clone());
    for n in 1..=10 {
        queue.push(numbered(n));
    }
    until("the first ones are durable", || queue.is_empty()).await;
    assert!(agent.status.health().connected);
    assert!(first.stop(Duration::from_secs(10)).await);
    until("the agent knows", || !agent.status.health().connected).await;
    for n in 11..=20 {
        queue.push(numbered(n));
    }
    until("it tries", || agent.status.health().failed_attempts > 2).await;
    assert!(agent.status.health().last_error.unwrap().contains("cannot connect"));
    let second = collector_at(address, &sink, settings());
    until("the rest is durable", || queue.is_empty()).await;
    assert!(agent.stop().await.all_durable);
    sink.assert_no_problems();
    assert_eq!(sink.sequences(), (1..=20).collect::<Vec<_>>());
    assert!(second.stop(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_are_noticed() {
    let timing = Timing::default();
    assert!(timing.keepalive_every + timing.keepalive_within < Duration::from_secs(10));
    let sink = MemorySink::default();
    let collector = collector(&sink);
    let proxy = Proxy::start(collector.address()).await;
    let queue = Arc::new(Queue::new(64 << 20));
    let agent = Agent::start(proxy.address, run(1), queue.clone());
    queue.push(numbered(1));
    until("connected", || queue.is_empty()).await;
    proxy.freeze.send_replace(1);
    queue.push(numbered(2));
    until("through a new connection", || queue.is_empty()).await;
    assert_eq!(agent.status.health().reconnects, 1);
    // The new stream took the older one's place; the collector serves one agent.
    assert_eq!(collector.status().sessions.len(), 1);
    assert_eq!(collector.status().refusals["superseded"], 1);
    assert!(agent.stop().await.all_durable);
    assert_eq!(sink.sequences(), [1, 2]);
    sink.assert_no_problems();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_overflows_is_reported_exactly() {
    let sink = MemorySink::default();
    sink.set_trouble(Some(SinkError::Full("no space".into())));
    let collector = collector(&sink);
    let queue = Arc::new(Queue::new(100 << 10));
    let agent = Agent::start(collector.address(), run(1), queue.clone());
    let mut pushed = Counts::default();
    for n in 0..2000 {
        let batch = numbered(n);
        pushed.merge(&batch.counts);
        queue.push(batch);
        tokio::task::yield_now().await;
    }
    sink.set_trouble(None);
    until("all is durable", || queue.is_empty()).await;
    assert!(agent.stop().await.all_durable);
    sink.assert_no_problems();
    let (delivered, given_up) = sink.counts();
    assert!(given_up.samples > 0, "nothing overflowed");
    let status = queue.status();
    assert_eq!(delivered, status.delivered);
    assert_eq!(given_up, status.dropped["queue_full"].counts);
    let mut all = delivered;
    all.merge(&given_up);
    assert_eq!(all, pushed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_without_a_collector_ends_at_its_deadline() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let queue = Arc::new(Queue::new(1 << 20));
    queue.push(numbered(1));
    let agent = Agent::start(address, run(1), queue.clone());
    until("it tries", || agent.status.health().failed_attempts > 1).await;
    agent.shutdown.send_replace(Some(Instant::now() + Duration::from_millis(50)));
    let farewell = tokio::time::timeout(Duration::from_secs(5), agent.task).await;
    assert!(!farewell.expect("it ends").unwrap().unwrap().all_durable);
    assert_eq!(queue.status().in_flight, numbered(1).counts);
}
