use proptest::prelude::*;

use super::*;
use crate::{
    model::batch::{ProcessIdentity, SpanPart, TotalRow},
    wire::{
        fixture::{Load, Random, numbered, resolved, stack, wild},
        item::Content,
    },
};

fn minus(counts: &Counts, other: &Counts) -> Counts {
    Counts {
        samples: counts.samples - other.samples,
        intervals: counts.intervals - other.intervals,
        interval_ns: counts.interval_ns - other.interval_ns,
        markers: counts.markers - other.markers,
        stacks: counts.stacks - other.stacks,
        spans: counts.spans - other.spans,
    }
}

fn dropped(status: &QueueStatus) -> Counts {
    let mut counts = Counts::default();
    status.dropped.values().for_each(|dropped| counts.merge(&dropped.counts));
    counts
}

proptest! {
    /// Whatever is pushed, taken and released: the accounting balances, sequences have no holes, and the
    /// bound holds.
    #[test]
    fn accounting_balances(steps in prop::collection::vec((0_u8..4, 1_u64..40), 1..200)) {
        let limit = 40 * size::batch_bytes(&numbered(0));
        let queue = Queue::new(limit);
        let mut pushed = Counts::default();
        let mut cursor = 0;
        for (step, amount) in steps {
            match step {
                0 | 1 => for n in 0..amount {
                    let batch = numbered(n);
                    pushed.merge(&batch.counts);
                    queue.push(batch);
                },
                2 => for _ in 0..amount {
                    let Some(item) = queue.take_after(cursor) else { break };
                    prop_assert_eq!(item.from_sequence, cursor + 1);
                    cursor = item.to_sequence;
                },
                _ => queue.release(cursor.saturating_sub(amount)),
            }
            let status = queue.status();
            let mut known = status.in_flight;
            known.merge(&status.delivered);
            prop_assert_eq!(minus(&pushed, &known), dropped(&status));
            // What was sent stays, the last flush too, and gaps need a little room.
            let last = size::batch_bytes(&numbered(0));
            prop_assert!(status.bytes <= limit + last + status.gaps * GAP_BYTES);
        }
        // To the end without a hole.
        while let Some(item) = queue.take_after(cursor) {
            prop_assert_eq!(item.from_sequence, cursor + 1);
            cursor = item.to_sequence;
        }
        prop_assert_eq!(cursor, queue.status().last_sequence);
        queue.release(cursor);
        prop_assert!(queue.is_empty());
        prop_assert_eq!(queue.status().bytes, 0);
    }
}

#[test]
fn what_was_sent_stays_and_the_oldest_unsent_goes() {
    let one = size::batch_bytes(&numbered(0));
    let queue = Queue::new(4 * one);
    for n in 0..2 {
        queue.push(numbered(n));
        queue.take_after(n).unwrap();
    }
    for n in 2..10 {
        queue.push(numbered(n));
    }
    let mut kinds = Vec::new();
    let mut cursor = 0;
    while let Some(item) = queue.take_after(cursor) {
        cursor = item.to_sequence;
        kinds.push((item.from_sequence, item.to_sequence, matches!(item.content, Content::Gap(_))));
    }
    assert_eq!(kinds[..3], [(1, 1, false), (2, 2, false), (3, 9, true)]);
    assert_eq!(kinds[3], (10, 10, false));
    let gap = &queue.status().dropped[QUEUE_FULL];
    assert_eq!((gap.batches, gap.counts.samples), (7, (2..9).sum::<u64>()));
}

#[test]
fn when_all_was_sent_the_last_flush_alone_waits() {
    let one = size::batch_bytes(&numbered(0));
    let queue = Queue::new(2 * one + GAP_BYTES);
    for n in 0..2 {
        queue.push(numbered(n));
        queue.take_after(n).unwrap();
    }
    for n in 2..5 {
        queue.push(numbered(n));
    }
    let item = queue.take_after(2).unwrap();
    assert_eq!((item.from_sequence, item.to_sequence), (3, 4));
    assert!(matches!(item.content, Content::Gap(_)));
    let item = queue.take_after(4).unwrap();
    assert!(item.to_sequence == 5 && matches!(item.content, Content::Batch(_)));
}

#[test]
fn when_more_was_sent_than_may_wait_the_new_one_goes() {
    let queue = Queue::new(size::batch_bytes(&numbered(0)));
    for n in 0..2 {
        queue.push(numbered(n));
        queue.take_after(n).unwrap();
    }
    queue.push(numbered(2));
    let item = queue.take_after(2).unwrap();
    assert!(item.to_sequence == 3 && matches!(item.content, Content::Gap(_)));
}

/// A small queue on a busy host: each flush is more than it may hold, and yet they arrive.
#[test]
fn a_flush_above_the_bound_is_delivered() {
    let queue = Queue::new(1);
    for n in 0..3 {
        queue.push(numbered(n));
        let item = queue.take_after(n).unwrap();
        assert!(matches!(item.content, Content::Batch(_)), "flush {n} was given up");
        queue.release(item.to_sequence);
    }
    assert!(queue.status().dropped.is_empty());
}

#[test]
fn shared_stacks_count_once() {
    let stack = stack(&mut Random(1), 1000);
    let batch = || Batch { stacks: vec![stack.clone()], ..Batch::default() };
    let queue = Queue::new(usize::MAX);
    queue.push(batch());
    let first = queue.status().bytes;
    queue.push(batch());
    assert_eq!(queue.status().bytes - first, size::own_bytes(&batch()));
    queue.release(1);
    assert_eq!(queue.status().bytes, first);
}

#[test]
fn a_refused_batch_becomes_a_gap_although_sent() {
    let queue = Queue::new(usize::MAX);
    queue.push(numbered(5));
    queue.push(numbered(6));
    queue.take_after(0).unwrap();
    queue.give_up(1, "collector_refused");
    let item = queue.take_after(0).unwrap();
    let Content::Gap(gap) = item.content else { panic!("still a batch") };
    assert_eq!((gap.from_sequence, gap.to_sequence, gap.counts.samples), (1, 1, 5));
    assert!(matches!(queue.take_after(1).unwrap().content, Content::Batch(_)));
}

#[test]
fn large_batches_are_cut_and_lose_nothing() {
    let mut random = Random(3);
    let mut whole = Load::new(3).flush();
    // Until it is far above a piece, and with spans that have samples and waits.
    let rows = whole.samples.clone();
    for _ in 0..60 {
        whole.samples.extend(rows.iter().cloned());
        let waits = whole.waits.clone();
        whole.waits.extend(waits.into_iter().take(200));
    }
    whole.account = wild(&mut random).account;
    let pieces = split::pieces(whole.clone());
    assert!(pieces.len() > 2, "{} pieces", pieces.len());
    let (last, others) = pieces.split_last().unwrap();
    assert_eq!((last.counts, &last.account), (whole.counts, &whole.account));
    assert!(others.iter().all(|piece| piece.counts == Counts::default()));
    for piece in &pieces {
        assert!(size::batch_bytes(piece) <= size::PIECE_BYTES);
        resolved(piece);
    }
    // Each span with the process it names.
    let spans = |batch: &Batch| -> Vec<_> {
        let named = |span: &SpanPart| {
            let process = batch.processes[span.process as usize].clone();
            (process, SpanPart { process: 0, ..span.clone() })
        };
        batch.spans.iter().map(named).collect()
    };
    let got: Vec<_> = pieces.iter().flat_map(spans).collect();
    assert!(got == spans(&whole), "spans differ");
    // Each row with what it refers to, in any order.
    let samples = |batch: &Batch| -> Vec<String> {
        let line = |row: &crate::model::batch::SampleRow| {
            let span = row.span.map(|span| batch.spans[span as usize].span_id);
            let stack = row.stack.map(|stack| batch.stacks[stack as usize].as_ptr());
            let process = &batch.processes[row.process as usize];
            format!("{} {process:?} {} {:?} {span:?} {stack:?}", row.at, row.tid, row.state)
        };
        batch.samples.iter().map(line).collect()
    };
    let mut got: Vec<String> = pieces.iter().flat_map(samples).collect();
    let mut want = samples(&whole);
    got.sort_unstable();
    want.sort_unstable();
    assert!(got == want, "samples differ");
    let waits = |batch: &Batch| -> u64 { batch.waits.iter().map(|wait| wait.ns).sum() };
    assert_eq!(pieces.iter().map(waits).sum::<u64>(), waits(&whole));
    assert_eq!(pieces.iter().map(|piece| piece.totals.len()).sum::<usize>(), whole.totals.len());
}

/// A host that builds software: most of a flush is processes that have ended since the last one.
#[test]
fn many_processes_take_their_own_room_once() {
    const PROCESSES: u32 = 60_000;
    let identity = |pid| ProcessIdentity { pid, comm: "true".into(), ..Default::default() };
    let total = |process| TotalRow { process, to: process.into(), ..Default::default() };
    let whole = Batch {
        processes: (0..PROCESSES).map(identity).collect(),
        totals: (0..PROCESSES).map(total).collect(),
        ..Batch::default()
    };
    let bytes = size::batch_bytes(&whole);
    assert!(bytes > 2 * size::PIECE_BYTES, "{bytes}");
    let pieces = split::pieces(whole);
    assert!(pieces.len() <= 2 * bytes / size::PIECE_BYTES, "{} pieces", pieces.len());
    let mut next = 0;
    for piece in &pieces {
        assert!(size::batch_bytes(piece) <= size::PIECE_BYTES);
        assert_eq!(piece.processes.len(), piece.totals.len());
        for total in &piece.totals {
            let pid = piece.processes[total.process as usize].pid;
            assert_eq!((u64::from(pid), pid), (total.to, next));
            next += 1;
        }
    }
    assert_eq!(next, PROCESSES);
}

#[test]
fn pieces_of_a_flush_go_together() {
    let mut flush = Load::new(4).flush();
    let rows = flush.samples.clone();
    for _ in 0..60 {
        flush.samples.extend(rows.iter().cloned());
    }
    let pieces = split::pieces(flush.clone()).len() as u64;
    let queue = Queue::new(size::batch_bytes(&flush) * 3 / 2);
    queue.push(flush.clone());
    assert_eq!(queue.status().batches as u64, pieces);
    queue.push(flush);
    let item = queue.take_after(0).unwrap();
    assert_eq!((item.from_sequence, item.to_sequence), (1, pieces));
    assert!(matches!(item.content, Content::Gap(_)));
}
