use hotspan_ingest::{MAX_FRAME, v1};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    model::{frame::Stack, id::SpanId},
    wire::{
        codes::{MAX_DEPTH, MAX_STRING},
        encode::Encoder,
        fixture::{Load, Random, resolved, stack, wild},
        size,
    },
};

/// Through the bytes of the wire.
fn over_the_wire(batch: &v1::Batch) -> v1::Batch {
    v1::Batch::decode(batch.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    /// What comes out is what went in, over several batches of an epoch and over epochs.
    #[test]
    fn batches_come_back(seed in any::<u64>(), count in 1_u64..8) {
        let mut random = Random(seed);
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::default());
        for sequence in 1..=count {
            if random.one_in(5) {
                encoder.end_epoch();
            }
            let batch = wild(&mut random);
            let wire = encoder.batch(sequence, &batch);
            prop_assert!(wire.encoded_len() <= size::batch_bytes(&batch));
            let back = decoder.batch(&over_the_wire(&wire)).unwrap();
            prop_assert_eq!(resolved(&back), resolved(&batch));
        }
        prop_assert_eq!(encoder.take_repaired(), Default::default());
    }
}

#[test]
fn epochs_roll_and_what_repeats_is_reported_once() {
    let mut load = Load::new(1);
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::default());
    let mut first = 0;
    for sequence in 1..=12 {
        let mut batch = load.flush();
        // Many spans, for the epoch to end.
        let spans = batch.spans.clone();
        for n in 0..50_u64 {
            batch.spans.extend(spans.iter().cloned().map(|mut span| {
                span.span_id = SpanId::from_number(sequence << 32 | n << 16);
                span.start_unix_ns.0 += n;
                span
            }));
        }
        let wire = encoder.batch(sequence, &batch);
        assert!(wire.encoded_len() < MAX_FRAME);
        let frames = wire.dictionary.as_ref().unwrap().frame_name.len();
        match sequence {
            1 => first = frames,
            2 => assert!(frames * 2 < first, "{frames} after {first}"),
            _ => {}
        }
        assert_eq!(resolved(&decoder.batch(&wire).unwrap()), resolved(&batch));
    }
    assert!(encoder.epoch() > 1);
    assert_eq!(decoder.epoch(), encoder.epoch());
}

#[test]
fn long_strings_and_deep_stacks_are_cut_and_counted() {
    let deep: Stack = stack(&mut Random(2), 2 * MAX_DEPTH as u64);
    let mut batch = wild(&mut Random(2));
    batch.stacks = vec![deep.clone()];
    batch.samples.truncate(1);
    batch.samples[0].stack = Some(0);
    batch.processes[0].comm = "x".repeat(2 * MAX_STRING).into();
    batch.samples[0].process = 0;
    let mut encoder = Encoder::new();
    let back = Decoder::default().batch(&encoder.batch(1, &batch)).unwrap();
    assert_eq!(back.stacks[0][..], deep[..MAX_DEPTH]);
    let row = &back.samples[0];
    assert_eq!(back.processes[row.process as usize].comm.len(), MAX_STRING);
    let repaired = encoder.take_repaired();
    assert_eq!((repaired.strings, repaired.stacks, repaired.rows), (1, 1, 0));
}

#[test]
fn rows_that_refer_to_nothing_are_left_out_and_counted() {
    let mut batch = wild(&mut Random(7));
    batch.samples.truncate(3);
    for row in &mut batch.samples {
        row.stack = Some(1000);
    }
    batch.waits.clear();
    let mut encoder = Encoder::new();
    let back = Decoder::default().batch(&encoder.batch(1, &batch)).unwrap();
    assert!(back.samples.is_empty());
    assert_eq!(encoder.take_repaired().rows, 3);
}

#[test]
fn strings_the_agent_did_not_cut_are_cut_and_counted() {
    let long = "y".repeat(2 * MAX_STRING);
    let strings = vec![long];
    let process = v1::Process { comm: 0, service: 0, ..v1::Process::default() };
    let dictionary = v1::Dictionary { strings, processes: vec![process], ..Default::default() };
    let wire = v1::Batch { epoch: 1, dictionary: Some(dictionary), ..v1::Batch::default() };
    let mut decoder = Decoder::default();
    decoder.batch(&wire).unwrap();
    assert_eq!(decoder.take_cut_strings(), 1);
}

/// Every column of indexes, each made wrong: refused, by name.
#[test]
fn wrong_indexes_of_each_kind_are_refused() {
    type Break = fn(&mut v1::Batch);
    fn dictionary(wire: &mut v1::Batch) -> &mut v1::Dictionary {
        wire.dictionary.as_mut().unwrap()
    }
    fn spans(wire: &mut v1::Batch) -> &mut v1::SpanColumns {
        wire.spans.as_mut().unwrap()
    }
    fn samples(wire: &mut v1::Batch) -> &mut v1::SampleColumns {
        wire.samples.as_mut().unwrap()
    }
    fn waits(wire: &mut v1::Batch) -> &mut v1::WaitColumns {
        wire.waits.as_mut().unwrap()
    }
    fn totals(wire: &mut v1::Batch) -> &mut v1::TotalColumns {
        wire.totals.as_mut().unwrap()
    }
    const FAR: u32 = u32::MAX;
    let breaks: &[(&str, Break)] = &[
        ("strings", |wire| dictionary(wire).frame_name[0] = FAR),
        ("strings", |wire| dictionary(wire).frame_file[0] = FAR),
        ("frame kind", |wire| dictionary(wire).frame_kind[0] = 99),
        ("frames", |wire| {
            dictionary(wire).frame_line.pop();
        }),
        ("frames", |wire| dictionary(wire).node_frame[0] = FAR),
        ("parent of nodes", |wire| dictionary(wire).node_parent[0] = 0),
        ("parent of nodes", |wire| dictionary(wire).node_parent[0] = 2),
        ("processes", |wire| dictionary(wire).thread_process[0] = FAR),
        ("nodes", |wire| {
            dictionary(wire).node_parent.pop();
        }),
        ("strings", |wire| dictionary(wire).processes[0].comm = FAR),
        ("traces", |wire| {
            dictionary(wire).traces.pop();
        }),
        ("traces", |wire| dictionary(wire).span_trace[0] = -1),
        ("strings", |wire| dictionary(wire).span_name[0] = FAR),
        ("processes", |wire| dictionary(wire).span_process[0] = FAR),
        ("spans", |wire| {
            dictionary(wire).span_start.pop();
        }),
        ("cause kind", |wire| dictionary(wire).cause_kind[0] = 99),
        ("strings", |wire| dictionary(wire).cause_name[0] = FAR),
        ("traces", |wire| dictionary(wire).cause_trace[0] = FAR),
        ("causes", |wire| {
            dictionary(wire).cause_tid.pop();
        }),
        ("spans", |wire| spans(wire).span[0] = -1),
        ("span rows", |wire| {
            spans(wire).end.pop();
        }),
        ("flags", |wire| spans(wire).flags[0] = 4),
        ("states", |wire| spans(wire).states_len[0] = FAR),
        ("states", |wire| {
            spans(wire).state_ns.pop();
        }),
        ("state", |wire| spans(wire).state[0] = 63),
        ("states", |wire| {
            spans(wire).state.push(0);
            spans(wire).state_ns.push(1);
        }),
        ("active", |wire| spans(wire).active_len[0] = FAR),
        ("active", |wire| {
            spans(wire).active_gap.push(1);
        }),
        ("loss", |wire| spans(wire).loss_len[0] = FAR),
        ("active time", |wire| spans(wire).active_ns[0] = -1 << 62),
        ("threads", |wire| samples(wire).thread[0] = FAR),
        ("span rows", |wire| samples(wire).span[0] = FAR),
        ("nodes", |wire| samples(wire).node[0] = FAR),
        ("state", |wire| samples(wire).state[0] = 300),
        ("samples", |wire| {
            samples(wire).ns.pop();
        }),
        ("time of a sample", |wire| samples(wire).ns[0] = -1),
        ("span rows", |wire| waits(wire).span[0] = FAR),
        ("causes", |wire| waits(wire).cause[0] = FAR),
        ("state", |wire| waits(wire).state[0] = 63),
        ("waits", |wire| {
            waits(wire).count.pop();
        }),
        ("processes", |wire| totals(wire).process[0] = FAR),
        ("totals", |wire| {
            totals(wire).for_ns.pop();
        }),
        ("states", |wire| totals(wire).states_len[0] = FAR),
        ("counts", |wire| wire.counts.as_mut().unwrap().samples = u64::MAX),
        ("epoch", |wire| wire.epoch = 0),
    ];
    let good = Encoder::new().batch(1, &Load::new(2).flush());
    Decoder::default().batch(&good).unwrap();
    let mut causeless = good.clone();
    dictionary(&mut causeless).cause_trace[0] = 0;
    Decoder::default().batch(&causeless).unwrap();
    for (n, (name, change)) in breaks.iter().enumerate() {
        let mut wire = good.clone();
        change(&mut wire);
        let mut decoder = Decoder::default();
        let error = decoder.batch(&wire).expect_err(&format!("{n}: {name} was taken"));
        assert!(error.to_string().contains(name), "{n}: {error} does not name {name}");
        // Nothing of that epoch is taken any more, the next epoch is.
        assert!(matches!(decoder.batch(&good), Err(Violation::Epoch { .. })) || wire.epoch == 0);
        decoder.batch(&v1::Batch { epoch: 2, ..good.clone() }).unwrap();
    }
}

/// Small frames that would take much memory.
#[test]
fn bombs_are_refused() {
    let node_frame = vec![0; 100 * MAX_DEPTH];
    // Each the child of the one before.
    let chain = vec![1; MAX_DEPTH];
    let deep = v1::Dictionary {
        strings: vec!["f".into()],
        frame_name: vec![0],
        frame_file: vec![0],
        frame_line: vec![0],
        frame_kind: vec![0],
        node_parent: chain.clone(),
        node_frame: node_frame[..MAX_DEPTH].to_vec(),
        processes: vec![v1::Process::default()],
        thread_process: vec![0],
        thread_tid: vec![1],
        ..v1::Dictionary::default()
    };
    let batch =
        |dictionary| v1::Batch { epoch: 1, dictionary: Some(dictionary), ..Default::default() };
    Decoder::default().batch(&batch(deep.clone())).unwrap();
    let mut deeper = deep.clone();
    deeper.node_parent.push(1);
    deeper.node_frame.push(0);
    assert_eq!(Decoder::default().batch(&batch(deeper)), Err(Violation::Depth(MAX_DEPTH)));
    // A thousand leaves below a deep stack, each a stack of its own.
    let mut wide = deep;
    wide.node_parent.extend(2..1002);
    wide.node_frame = node_frame[..MAX_DEPTH + 1000].to_vec();
    let rows = 1000;
    let samples = v1::SampleColumns {
        at: vec![0; rows],
        thread: vec![0; rows],
        span: vec![0; rows],
        node: (MAX_DEPTH as u32 + 1..).take(rows).collect(),
        state: vec![0; rows],
        ns: vec![0; rows],
    };
    let wire = v1::Batch { samples: Some(samples), ..batch(wide) };
    assert!(matches!(Decoder::default().batch(&wire), Err(Violation::Memory { .. })));
    // Dictionaries that grow over many batches of one epoch.
    let mut decoder = Decoder::default();
    let strings = || (0..800).map(|n| format!("{n:04000}")).collect();
    let grown = (0..40).map(|_| {
        decoder.batch(&batch(v1::Dictionary { strings: strings(), ..Default::default() }))
    });
    let error = grown.last().unwrap();
    assert!(matches!(error, Err(Violation::Epoch { .. } | Violation::Memory { .. })), "{error:?}");
}

/// Valid batches with bytes flipped and columns cut: an error or a batch, never a panic.
#[test]
fn mutations_never_panic() {
    let mut random = Random(0x5eed);
    let mut refused = 0;
    for round in 0..20_000_u64 {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::default());
        let first = encoder.batch(1, &wild(&mut random));
        let second = encoder.batch(2, &wild(&mut random));
        if random.one_in(2) {
            decoder.batch(&first).unwrap();
        }
        let mut bytes = second.encode_to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(4) {
                0 => bytes.truncate(at.max(1)),
                1 => drop(bytes.drain(at..(at + 1 + random.below(8) as usize).min(bytes.len()))),
                2 => bytes[at] = random.next() as u8,
                _ => bytes[at] ^= 1 << random.below(8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let Ok(wire) = v1::Batch::decode(bytes.as_slice()) else {
            refused += 1;
            continue;
        };
        match decoder.batch(&wire) {
            // Whatever is taken can be summed up and sent on.
            Ok(batch) => drop(Encoder::new().batch(round, &batch)),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 5_000, "only {refused} were refused: the mutations do nothing");
}
