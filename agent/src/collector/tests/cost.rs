//! What the wire costs (design 6): bytes per sample of a busy host, and the time of both ends.

use std::time::Instant;

use hotspan_ingest::v1::Batch as WireBatch;
use prost::Message as _;

use crate::wire::{decode::Decoder, encode::Encoder, fixture::Load};

/// Design 6 wants 20. The rows of samples alone take 12 of these bytes and the ids of spans 6: random
/// numbers, mostly. What is left is accounts of spans, waits and processes, which are exact.
const MOST: f64 = 26.0;

fn zstd_bytes(bytes: &[u8]) -> usize {
    zstd::bulk::compress(bytes, 3).unwrap().len()
}

/// Long enough for epochs to end.
const SECONDS: u64 = 660;

/// Steady: from the second minute on. Bytes are the same on every machine, so they can be asserted.
#[test]
fn bytes_per_sample() {
    let (mut encoder, mut load) = (Encoder::new(), Load::new(42));
    let (mut raw, mut compressed, mut samples, mut parts) = (0, 0, 0, [0; 6]);
    for second in 1..=SECONDS {
        let wire = encoder.batch(second, &load.flush());
        if second <= 60 {
            continue;
        }
        let bytes = wire.encode_to_vec();
        raw += bytes.len();
        compressed += zstd_bytes(&bytes);
        samples += Load::SAMPLES;
        let sizes = [
            wire.dictionary.as_ref().map_or(0, |part| part.encoded_len()),
            wire.spans.as_ref().map_or(0, |part| part.encoded_len()),
            wire.samples.as_ref().map_or(0, |part| part.encoded_len()),
            wire.waits.as_ref().map_or(0, |part| part.encoded_len()),
            wire.totals.as_ref().map_or(0, |part| part.encoded_len()),
        ];
        parts.iter_mut().zip(sizes).for_each(|(sum, size)| *sum += size);
    }
    let per_sample = |bytes: usize| bytes as f64 / samples as f64;
    let [dictionary, spans, rows, waits, totals, _] = parts.map(per_sample);
    println!("bytes per sample: {:.1} raw, {:.1} zstd-3", per_sample(raw), per_sample(compressed));
    println!(
        "of which dictionary {dictionary:.1}, spans {spans:.1}, samples {rows:.1}, \
         waits {waits:.1}, totals {totals:.1}; {} epochs in {SECONDS} s",
        encoder.epoch()
    );
    assert!(per_sample(raw) <= MOST, "{:.1} bytes per sample", per_sample(raw));
}

/// Prints; asserts nothing about time.
#[test]
#[ignore = "a measurement: run it alone, with --release"]
fn throughput() {
    let mut load = Load::new(42);
    let batches: Vec<_> = (0..60).map(|_| load.flush()).collect();
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::default());
    let began = Instant::now();
    let frames: Vec<Vec<u8>> = (1..)
        .zip(&batches)
        .map(|(sequence, batch)| encoder.batch(sequence, batch).encode_to_vec())
        .collect();
    let encoded = began.elapsed();
    let began = Instant::now();
    for frame in &frames {
        decoder.batch(&WireBatch::decode(frame.as_slice()).unwrap()).unwrap();
    }
    let decoded = began.elapsed();
    let rate = |elapsed: std::time::Duration| batches.len() as f64 / elapsed.as_secs_f64();
    for (what, elapsed) in [("encode", encoded), ("decode", decoded), ("both", encoded + decoded)] {
        let batches = rate(elapsed);
        println!("{what}: {batches:.0} batches/s, {:.0} samples/s", batches * Load::SAMPLES as f64);
    }
}
