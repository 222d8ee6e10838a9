//! What a sample costs on the wire, in steady state: of a synthetic busy host and of this one,
//! beside the same samples as pprof and as OTLP profiles.

use std::{io::Write as _, time::Duration};

use anyhow::Result;
use flate2::{Compression, write::GzEncoder};
use hotspan::{model::batch::Batch, stream::queue::Queue, wire::encode::Encoder};
use hotspan_ingest::v1::{self, agent_frame::Frame};
use prost::Message as _;

use crate::{
    Line, otlp, pprof, real,
    sample::median,
    synthetic::{BUSY, Host, SECOND},
    watched::thread_cpu_ns,
};

/// Until every stack that is common has been sent.
const WARM: usize = 60;
const MEASURED: usize = 60;
/// Of those, in other formats.
const FOR_PEERS: usize = 30;
/// Simulated, for what epochs cost that begin again.
const LONG: usize = 600;
/// For the real host: batches, one a second.
const REAL_WARM: usize = 8;
const REAL: Duration = Duration::from_secs(20);

pub(crate) fn measure() -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let runs: Vec<(Vec<Batch>, Sizes)> = (1..=2).map(synthetic).collect::<Result<_>>()?;
    let [(batches, sizes), (_, again)] = &runs[..] else { return Ok(lines) };
    report("synthetic", sizes, again, Some(20.0), &mut lines);
    lines.push(long_run()?);
    peers("synthetic", &batches[MEASURED - FOR_PEERS..], &mut lines)?;
    drop(runs);
    match real::record(REAL_WARM, REAL) {
        Ok(real) => {
            let (_, sizes) = steady(real.warm.iter().cloned(), real.measured.iter().cloned())?;
            let half = real.measured.len() / 2;
            let warm = real.warm.iter().chain(&real.measured[..half]).cloned();
            let (_, again) = steady(warm, real.measured[half..].iter().cloned())?;
            // Whatever else runs here decides on it: processes that begin bring names and stacks.
            report("this host", &sizes, &again, None, &mut lines);
            let sent = real.bytes as f64 / real.samples.max(1) as f64;
            let note = format!(
                "{} samples, {} span parts in {:.0} s, the warm-up with them",
                real.samples, real.parts, real.seconds
            );
            lines.push(
                Line::new("wire, this host: frames the agent sent", sent, "B/sample").note(note),
            );
            peers("this host", &real.measured, &mut lines)?;
        }
        Err(error) => lines.push(Line::skipped("wire, this host", &format!("{error:#}"))),
    }
    Ok(lines)
}

/// Bytes by what they are for, and rows.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    samples: usize,
    stacks: usize,
    identities: usize,
    parts: usize,
    waits: usize,
    totals: usize,
    frames: usize,
    /// With the headers of gRPC and HTTP/2.
    sent: usize,
    zstd: usize,
    sample_rows: usize,
    span_rows: usize,
    wait_rows: usize,
    total_rows: usize,
    seconds: usize,
    nanoseconds: u64,
}

fn synthetic(seed: u64) -> Result<(Vec<Batch>, Sizes)> {
    let mut host = Host::new(seed, 3_600 * SECOND, 1_700_000_000 * SECOND as i64);
    let warm: Vec<Batch> = (0..WARM).map(|_| host.batch(BUSY)).collect();
    let measured: Vec<Batch> = (0..MEASURED).map(|_| host.batch(BUSY)).collect();
    steady(warm.into_iter(), measured.into_iter())
}

/// The second ones' sizes after the first ones were sent; and the second ones.
fn steady(
    warm: impl Iterator<Item = Batch>,
    measured: impl Iterator<Item = Batch>,
) -> Result<(Vec<Batch>, Sizes)> {
    let mut sender = Sender::new();
    for batch in warm {
        sender.send(batch, &mut Sizes::default())?;
    }
    let mut sizes = Sizes::default();
    let mut kept = Vec::new();
    for batch in measured {
        kept.push(batch.clone());
        sender.send(batch, &mut sizes)?;
    }
    Ok((kept, sizes))
}

fn long_run() -> Result<Line> {
    let mut host = Host::new(3, 3_600 * SECOND, 1_700_000_000 * SECOND as i64);
    let mut sender = Sender::new();
    let mut sizes = Sizes::default();
    for _ in 0..LONG {
        sender.send(host.batch(BUSY), &mut sizes)?;
    }
    let value = sizes.per_sample(sizes.samples + sizes.stacks + sizes.identities);
    let note = format!("{LONG} s from the first frame on, {} epochs", sender.encoder.epoch());
    let quantity = "wire, synthetic: with the starts of epochs";
    Ok(Line::new(quantity, value, "B/sample").note(note))
}

/// The agent's end of a stream, without a network.
struct Sender {
    queue: Queue,
    encoder: Encoder,
    sent: u64,
}

// === impl Sender ===

impl Sender {
    fn new() -> Self {
        Self { queue: Queue::new(1 << 30), encoder: Encoder::new(), sent: 0 }
    }

    fn send(&mut self, batch: Batch, sizes: &mut Sizes) -> Result<()> {
        // As a flush of the agent, cut where the queue cuts it.
        self.queue.push(batch);
        sizes.seconds += 1;
        while let Some(item) = self.queue.take_after(self.sent) {
            let begun = thread_cpu_ns();
            let frame = self.encoder.frame(&item);
            let bytes = frame.encode_to_vec();
            sizes.nanoseconds += thread_cpu_ns() - begun;
            sizes.zstd += zstd::bulk::compress(&bytes, 3)?.len();
            sizes.frames += bytes.len();
            // gRPC's length, and a header of HTTP/2 for each 16 KiB.
            sizes.sent += bytes.len() + 5 + 9 * (bytes.len() + 5).div_ceil(16 << 10);
            if let Some(Frame::Batch(batch)) = &frame.frame {
                sizes.add(batch);
            }
            self.sent = item.to_sequence;
        }
        self.queue.release(self.sent);
        Ok(())
    }
}

// === impl Sizes ===

impl Sizes {
    fn add(&mut self, batch: &v1::Batch) {
        let len = |message: Option<usize>| message.unwrap_or(0);
        self.samples += len(batch.samples.as_ref().map(v1::SampleColumns::encoded_len));
        self.parts += len(batch.spans.as_ref().map(v1::SpanColumns::encoded_len));
        self.waits += len(batch.waits.as_ref().map(v1::WaitColumns::encoded_len));
        self.totals += len(batch.totals.as_ref().map(v1::TotalColumns::encoded_len));
        if let Some(new) = batch.dictionary.clone() {
            let causes = v1::Dictionary {
                cause_kind: new.cause_kind.clone(),
                cause_name: new.cause_name.clone(),
                cause_pid: new.cause_pid.clone(),
                cause_tid: new.cause_tid.clone(),
                cause_trace: new.cause_trace.clone(),
                cause_span_id: new.cause_span_id.clone(),
                cause_span_name: new.cause_span_name.clone(),
                ..v1::Dictionary::default()
            };
            let stacks = v1::Dictionary {
                strings: new.strings.clone(),
                frame_name: new.frame_name.clone(),
                frame_file: new.frame_file.clone(),
                frame_line: new.frame_line.clone(),
                frame_kind: new.frame_kind.clone(),
                node_parent: new.node_parent.clone(),
                node_frame: new.node_frame.clone(),
                processes: new.processes.clone(),
                ..v1::Dictionary::default()
            };
            let (all, causes, stacks) =
                (new.encoded_len(), causes.encoded_len(), stacks.encoded_len());
            self.waits += causes;
            self.stacks += stacks;
            self.identities += all - causes - stacks;
        }
        self.sample_rows += batch.samples.as_ref().map_or(0, |rows| rows.at.len());
        self.span_rows += batch.spans.as_ref().map_or(0, |rows| rows.span.len());
        self.wait_rows += batch.waits.as_ref().map_or(0, |rows| rows.span.len());
        self.total_rows += batch.totals.as_ref().map_or(0, |rows| rows.process.len());
    }

    fn per_sample(&self, bytes: usize) -> f64 {
        bytes as f64 / self.sample_rows.max(1) as f64
    }
}

fn report(host: &str, sizes: &Sizes, again: &Sizes, target: Option<f64>, lines: &mut Vec<Line>) {
    type Value = fn(&Sizes) -> f64;
    let mut line = |what: &str, unit, value: Value, target: Option<f64>, note: String| {
        let (value, other) = (value(sizes), value(again));
        let line = Line::new(format!("wire, {host}: {what}"), value, unit).note(note);
        let line = line.noise(Some((value - other).abs()));
        lines.push(Line { target, ..line });
    };
    let seconds = sizes.seconds;
    let rate = |rows: usize| format!("{} a second", rows / seconds.max(1));
    line(
        "samples with their stacks and span ids",
        "B/sample",
        |s| s.per_sample(s.samples + s.stacks + s.identities),
        target,
        rate(sizes.sample_rows),
    );
    line("  of it sample columns", "B/sample", |s| s.per_sample(s.samples), None, String::new());
    line("  of it stacks and names", "B/sample", |s| s.per_sample(s.stacks), None, String::new());
    let of_spans = "sent once, for parts and waits too".to_owned();
    line("  of it span ids", "B/sample", |s| s.per_sample(s.identities), None, of_spans);
    line(
        "a span's part: times, states, activity",
        "B/part",
        |s| s.parts as f64 / s.span_rows.max(1) as f64,
        None,
        rate(sizes.span_rows),
    );
    line(
        "waits for one cause, the cause with them",
        "B/row",
        |s| s.waits as f64 / s.wait_rows.max(1) as f64,
        None,
        rate(sizes.wait_rows),
    );
    line(
        "a process's time by state",
        "B/row",
        |s| s.totals as f64 / s.total_rows.max(1) as f64,
        None,
        rate(sizes.total_rows),
    );
    let everything = "span parts, waits, totals and accounting too".to_owned();
    line("whole frames as sent", "B/sample", |s| s.per_sample(s.sent), None, everything);
    let note = "what travels: frames go out compressed".to_owned();
    line("whole frames under zstd-3", "B/sample", |s| s.per_sample(s.zstd), None, note);
    line(
        "CPU time to encode",
        "ns/sample",
        |s| s.nanoseconds as f64 / s.sample_rows.max(1) as f64,
        None,
        "whole frames".into(),
    );
}

type Encode = fn(&[Batch]) -> Vec<u8>;

/// The same samples in other formats, at two flushes.
fn peers(host: &str, batches: &[Batch], lines: &mut Vec<Line>) -> Result<()> {
    let formats: [(&str, Encode); 2] = [("pprof", pprof::encode), ("OTLP", otlp::encode)];
    let samples = batches.iter().map(|batch| batch.samples.len()).sum::<usize>();
    for (format, encode) in formats {
        for flush in [1, 5] {
            // Pieces of a flush are one.
            let mut sizes = [const { Vec::new() }; 3];
            for chunk in batches.chunks(flush) {
                let raw = encode(chunk);
                let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
                gzip.write_all(&raw)?;
                sizes[0].push(raw.len() as f64);
                sizes[1].push(gzip.finish()?.len() as f64);
                sizes[2].push(zstd::bulk::compress(&raw, 3)?.len() as f64);
            }
            for (sizes, packed) in sizes.iter().zip(["raw", "gzip-6", "zstd-3"]) {
                let value = sizes.iter().sum::<f64>() / samples.max(1) as f64;
                let quantity = format!("wire, {host}: {format} {packed}, flush {flush} s");
                let each = samples as f64 / sizes.len() as f64;
                let spread = sizes.iter().map(|size| (size - median(sizes)).abs());
                let noise = median(&spread.collect::<Vec<_>>()) / each;
                let note = "samples only";
                lines.push(Line::new(quantity, value, "B/sample").noise(Some(noise)).note(note));
            }
        }
    }
    Ok(())
}
