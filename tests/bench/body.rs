//! The bodies of the kernel programs, by `bpf_stats`: per switch, wakeup and sample, under a
//! ping-pong of two threads on one CPU, with and without spans. A lower bound of the cost: the dispatch is not
//! in it (see `pipe`).

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hotspan_lanes::{Span, span_clear, span_set};

use crate::{
    Line,
    agent::{Agent, EMPTY_PROGRAM_NS, Runs, Stats, difference, pin_this_thread},
    sample::{apart, median},
};

const ROUNDS: usize = 6;
const ROUND: Duration = Duration::from_millis(700);

const SWITCH: [&str; 2] = ["sched_switch", "sched_exit_tp"];
const WAKE: [&str; 3] = ["sched_waking", "sched_wakeup", "sched_wakeup_new"];

/// One round's mean body per event, floor subtracted.
#[derive(Debug, Default)]
struct Series {
    switch: Vec<f64>,
    wakeup: Vec<f64>,
}

pub(crate) fn measure() -> Result<Vec<Line>> {
    let _stats = Stats::enable()?;
    let agent = Agent::start(true)?;
    let (mut without, mut within) = (Series::default(), Series::default());
    let before = agent.programs()?;
    for _ in 0..ROUNDS {
        without.round(&agent, false)?;
        within.round(&agent, true)?;
    }
    let all = difference(&before, &agent.programs()?);
    agent.stop()?;

    let floor = format!("bpf_stats floor of {EMPTY_PROGRAM_NS} ns a run subtracted");
    let mut lines = vec![
        without.line("switch", 150.0, "no span").note(&floor),
        within.line("switch", 300.0, "in span").note(&floor),
        without.line("wakeup", 60.0, "no span").note("waking and wakeup together"),
        within.line("wakeup", 60.0, "in span").note("waking and wakeup together"),
    ];
    if let Some(sample) = all.get("timer_sample").filter(|runs| runs.count > 0) {
        let value = (sample.ns as f64 / sample.count as f64 - EMPTY_PROGRAM_NS) / 1000.0;
        let note = format!("{} samples of two pipe threads, idle ones too", sample.count);
        lines.push(Line::new("body per on-CPU sample", value, "us").target(25.0).note(note));
    }
    Ok(lines)
}

impl Series {
    fn round(&mut self, agent: &Agent, in_span: bool) -> Result<()> {
        let before = agent.programs()?;
        ping_pong(ROUND, in_span)?;
        let runs = difference(&before, &agent.programs()?);
        self.switch.push(per_event(&runs, &SWITCH, "sched_switch"));
        self.wakeup.push(per_event(&runs, &WAKE, "sched_wakeup"));
        Ok(())
    }

    fn line(&self, event: &str, target: f64, when: &str) -> Line {
        let series = if event == "switch" { &self.switch } else { &self.wakeup };
        Line::new(format!("program bodies per {event}, {when}"), median(series), "ns")
            .target(target)
            .noise(apart(series))
    }
}

/// All of these programs' time, without the floor, per run of one of them.
fn per_event(runs: &BTreeMap<String, Runs>, programs: &[&str], event: &str) -> f64 {
    // The kernel keeps 15 characters of a name.
    let find = |name: &str| runs.get(&name[..name.len().min(15)]).copied().unwrap_or_default();
    let body = |runs: Runs| runs.ns as f64 - EMPTY_PROGRAM_NS * runs.count as f64;
    programs.iter().map(|name| body(find(name))).sum::<f64>() / find(event).count as f64
}

/// Two threads that wake each other through pipes, both on CPU 1 where there is one.
fn ping_pong(time: Duration, in_span: bool) -> Result<()> {
    let (mut from_first, mut to_second) = std::io::pipe()?;
    let (mut from_second, mut to_first) = std::io::pipe()?;
    let span = |id: u8| Span { trace_id: [9; 16], span_id: [id; 8], ..Span::default() };
    thread::scope(|scope| {
        let second = scope.spawn(move || -> std::io::Result<()> {
            pin_this_thread(1);
            let mut byte = [0];
            while from_first.read(&mut byte)? == 1 {
                if in_span {
                    let _ = span_set(&span(2));
                }
                to_first.write_all(&byte)?;
            }
            span_clear();
            Ok(())
        });
        let first = scope.spawn(move || -> std::io::Result<()> {
            pin_this_thread(1);
            let begin = Instant::now();
            let mut byte = [0];
            while begin.elapsed() < time {
                if in_span {
                    let _ = span_set(&span(1));
                }
                to_second.write_all(&byte)?;
                from_second.read_exact(&mut byte)?;
            }
            span_clear();
            Ok(())
        });
        first.join().ok().context("one end panicked")??;
        second.join().ok().context("the other end panicked")??;
        Ok(())
    })
}
