//! Prints what publishing costs: nanoseconds per event, from the best of many short batches, because
//! everything else on the machine only ever adds.
//!
//! The clock is chosen once per process, so the example runs itself once per clock.

use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

use hotspan_lanes::{Span, span_clear, span_set};

const BATCH: u32 = 20_000;
const BATCHES: usize = 301;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "measure") {
        let (set, pair) = (best(sets), best(pairs));
        println!("{set:.2} {pair:.2}");
        return ExitCode::SUCCESS;
    }
    match (under_clock("none"), under_clock("tsc")) {
        (Some((none, _)), Some((stamped, pair))) => {
            println!(
                "{{\"publish_ns_no_ts\":{none:.2},\"publish_ns_ts\":{stamped:.2},\
                 \"set_clear_pair_ns\":{pair:.2}}}"
            );
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("publish_cost: publishing is off here");
            ExitCode::FAILURE
        }
    }
}

/// Nanoseconds of a changing SET and of a SET and CLEAR pair, measured in a fresh process.
fn under_clock(clock: &str) -> Option<(f64, f64)> {
    let this = std::env::current_exe().ok()?;
    let output = Command::new(this).arg("measure").env("HOTSPAN_TS", clock).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (set, pair) = text.trim().split_once(' ')?;
    let (set, pair): (f64, f64) = (set.parse().ok()?, pair.parse().ok()?);
    (set.is_finite() && pair.is_finite()).then_some((set, pair))
}

fn best(batch: fn() -> f64) -> f64 {
    // A batch that was not published counts as not a number, and spoils the result.
    (0..BATCHES).map(|_| batch()).fold(f64::INFINITY, |best, cost| {
        if cost.is_nan() || best.is_nan() { f64::NAN } else { best.min(cost) }
    })
}

/// Every SET differs from the one before, so none is skipped.
fn sets() -> f64 {
    let spans = [1_u8, 2].map(|id| Span { trace_id: [9; 16], span_id: [id; 8], ..Span::default() });
    timed(|round| span_set(black_box(&spans[round as usize & 1])).is_ok())
}

fn pairs() -> f64 {
    let span = Span { trace_id: [9; 16], span_id: [3; 8], ..Span::default() };
    timed(|_| {
        let published = span_set(black_box(&span)).is_ok();
        span_clear();
        published
    })
}

/// Not a number if anything was not published.
fn timed(mut publish: impl FnMut(u32) -> bool) -> f64 {
    let begin = Instant::now();
    let all = (0..BATCH).fold(true, |all, round| publish(round) & all);
    let nanos = begin.elapsed().as_nanos() as f64;
    if all { nanos / f64::from(BATCH) } else { f64::NAN }
}
