//! What publishing costs the program: nanoseconds per marker, without and with a timestamp. The
//! clock is chosen once per process, so each is a process of its own.

use std::{hint::black_box, process::Command, time::Instant};

use anyhow::{Context as _, Result, ensure};
use hotspan_lanes::{Span, span_set};

use crate::{
    Line,
    sample::{apart, median},
};

const BATCH: u32 = 100_000;
const BATCHES: usize = 61;

pub(crate) fn measure() -> Result<Vec<Line>> {
    [("none", "without timestamp", 5.0), ("tsc", "with TSC", 15.0)]
        .into_iter()
        .map(|(clock, what, target)| {
            let series = under_clock(clock)?;
            let line = Line::new(format!("marker publish, {what}"), median(&series), "ns");
            Ok(line.target(target).noise(apart(&series)))
        })
        .collect()
}

fn under_clock(clock: &str) -> Result<Vec<f64>> {
    let this = std::env::current_exe()?;
    let output = Command::new(this).arg("marker-part").env("HOTSPAN_TS", clock).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.split_whitespace().map(|word| word.parse().context("a number")).collect()
}

/// Prints the cost per marker of each batch. Every SET differs from the one before, so none is
/// skipped.
pub(crate) fn part() -> Result<()> {
    let spans = [1_u8, 2].map(|id| Span { trace_id: [9; 16], span_id: [id; 8], ..Span::default() });
    for _ in 0..BATCHES {
        let begin = Instant::now();
        let mut published = true;
        for round in 0..BATCH {
            published &= span_set(black_box(&spans[round as usize & 1])).is_ok();
        }
        ensure!(published, "publishing is off here");
        println!("{:.3}", begin.elapsed().as_nanos() as f64 / f64::from(BATCH));
    }
    Ok(())
}
