use std::time::Duration;

use tokio::{runtime::Runtime, time::timeout};

use super::*;
use crate::{
    collector::tests::MemorySink,
    store::Body,
    wire::fixture::{numbered, run},
};

fn submit(writer: &Writer, sequence: u64, acks: &Arc<watch::Sender<Acked>>) {
    let entry = Entry { run: run(1), sequence, body: Body::Batch(numbered(sequence)) };
    let submission =
        Submission { entry, frame_bytes: 10, heap_bytes: 1000, acks: acks.clone(), budget: None };
    writer.submit(submission).unwrap();
}

async fn acked(acks: &watch::Sender<Acked>, sequence: u64) -> Acked {
    let mut receiver = acks.subscribe();
    let reached = receiver.wait_for(|acked| acked.sequence >= sequence);
    *timeout(Duration::from_secs(10), reached).await.expect("acknowledged").unwrap()
}

#[test]
fn what_comes_twice_is_stored_once_and_acknowledged_twice() {
    let sink = MemorySink::default();
    let (writer, thread) = Writer::start(sink.clone()).unwrap();
    let (first, second) = (Arc::new(watch::Sender::default()), Arc::new(watch::Sender::default()));
    for sequence in 1..=5 {
        submit(&writer, sequence, &first);
    }
    for sequence in 3..=7 {
        submit(&writer, sequence, &second);
    }
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        assert_eq!(acked(&first, 5).await, Acked { sequence: 5, bytes: 50 });
        assert_eq!(acked(&second, 7).await, Acked { sequence: 7, bytes: 50 });
        assert_eq!(writer.durable(RunId([1; 16])).await.unwrap(), 7);
    });
    writer.stop();
    thread.join().unwrap();
    assert_eq!(sink.sequences(), (1..=7).collect::<Vec<_>>());
    assert_eq!(writer.status().queued_entries, 0);
    assert_eq!(writer.status().queued_bytes, 0);
}

#[test]
fn a_full_store_makes_wait_and_loses_nothing() {
    let sink = MemorySink::default();
    sink.set_trouble(Some(SinkError::Full("no space left".into())));
    let (writer, thread) = Writer::start(sink.clone()).unwrap();
    let acks = Arc::new(watch::Sender::default());
    submit(&writer, 1, &acks);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        crate::collector::tests::until("full shows", || writer.status().full.is_some()).await;
        submit(&writer, 2, &acks);
        // It still answers.
        assert_eq!(writer.durable(RunId([1; 16])).await.unwrap(), 0);
        assert_eq!(acks.borrow().sequence, 0);
        assert_eq!(writer.status().queued_entries, 2);
        sink.set_trouble(None);
        assert_eq!(acked(&acks, 2).await.sequence, 2);
        assert_eq!(writer.status().full, None);
    });
    writer.stop();
    thread.join().unwrap();
    assert_eq!(sink.sequences(), [1, 2]);
    assert!(sink.is_dropped_but_for_tests());
}

#[test]
fn a_full_store_does_not_keep_the_collector_from_ending() {
    let sink = MemorySink::default();
    sink.set_trouble(Some(SinkError::Other("read-only".into())));
    let (writer, thread) = Writer::start(sink.clone()).unwrap();
    let acks = Arc::new(watch::Sender::default());
    submit(&writer, 1, &acks);
    writer.stop();
    thread.join().unwrap();
    assert_eq!(acks.borrow().sequence, 0);
    assert_eq!(writer.status().failing.as_deref(), Some("read-only"));
}

#[test]
fn the_store_tidies_up_in_a_pause() {
    let sink = MemorySink::default();
    let (writer, thread) = Writer::start(sink.clone()).unwrap();
    let acks = Arc::new(watch::Sender::default());
    submit(&writer, 1, &acks);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(crate::collector::tests::until("tidied up", || sink.maintained() > 0));
    writer.stop();
    thread.join().unwrap();
}
