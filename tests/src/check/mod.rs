//! Compares a report with the truth of its workload. Every check collects what it finds, so that a
//! failing test shows the whole picture, and prints the figures behind a passing one.

mod account;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use account::{charged_as_cpu, cpu_problem};
use anyhow::{Result, ensure};
use hotspan::ledger::Kind;

use crate::{
    fixture::Recording,
    report::{self, Report, Span, blocked, get, sum},
    truth::{self, SpanKey, SpanTruth, Truth},
};

const US: u64 = 1000;
const MS: u64 = 1_000_000;

/// How a recording compares with the truth.
#[must_use]
#[derive(Debug)]
pub enum Verdict {
    /// In all points.
    Holds,
    /// In all points but the kernel's CPU clocks, which are themselves disturbed while the hypervisor
    /// runs something else: a fault of hotspan shows in every recording, a theft does not.
    ClocksDisagree(String),
}

/// A report joined with the truth by ids.
#[derive(Debug)]
pub struct Checks<'a> {
    pub report: &'a Report,
    pub truths: &'a [Truth],
    /// Every span of the truth, with hotspan's document of it.
    pub pairs: Vec<(SpanTruth, &'a Span)>,
    /// Documents of spans nobody published, as far as the truth knows.
    pub strangers: Vec<&'a Span>,
    name: String,
    missing: Vec<SpanTruth>,
    problems: Vec<String>,
    /// Where the kernel's own clocks say otherwise: our fault, or that of a host under theft.
    disagreements: Vec<String>,
    figures: Vec<String>,
}

impl<'a> Checks<'a> {
    /// Joins a recording; it must have ended well.
    pub fn new(name: impl Into<String>, recording: &'a Recording) -> Result<Self> {
        let report = recording.report()?;
        ensure!(recording.status.success(), "{}:\n{}", recording.status, recording.stderr);
        ensure!(!recording.truths.is_empty(), "the workload wrote no truth");
        let mut documents: BTreeMap<SpanKey, &Span> = BTreeMap::new();
        let mut problems = Vec::new();
        for span in &report.spans {
            if documents.insert((span.trace_id.clone(), span.span_id.clone()), span).is_some() {
                problems.push(format!("span {}/{} is there twice", span.trace_id, span.span_id));
            }
        }
        let (mut pairs, mut missing) = (Vec::new(), Vec::new());
        for (key, truth) in truth::spans(&recording.truths) {
            match documents.remove(&key) {
                Some(span) => pairs.push((truth, span)),
                None => missing.push(truth),
            }
        }
        let strangers = documents.into_values().collect();
        let (name, truths, figures) = (name.into(), &recording.truths[..], Vec::new());
        let disagreements = Vec::new();
        Ok(Self {
            report,
            truths,
            pairs,
            strangers,
            name,
            missing,
            problems,
            disagreements,
            figures,
        })
    }

    /// Adds a finding of a test's own.
    pub fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) -> &mut Self {
        if !holds {
            self.problems.push(problem());
        }
        self
    }

    /// Adds a comparison with a clock of the kernel's.
    fn agree(&mut self, holds: bool, problem: impl FnOnce() -> String) -> &mut Self {
        if !holds {
            self.disagreements.push(problem());
        }
        self
    }

    /// What holds for every workload.
    pub fn everything(&mut self) -> &mut Self {
        self.found()
            .no_strangers()
            .exact_sums()
            .active_time()
            .cpu_time()
            .intended_states()
            .threads()
            .schedstat()
            .conservation()
    }

    /// Every span of the truth is in the report, by its name and process.
    pub fn found(&mut self) -> &mut Self {
        let (have, missing) = (self.pairs.len(), self.missing.len());
        self.figures.push(format!("{have} spans"));
        let names: BTreeSet<_> = self.missing.iter().map(|span| span.name.clone()).collect();
        self.require(missing == 0, || {
            format!("{missing} of {} spans are missing: {names:?}", have + missing)
        });
        self.each_span("identity", |truth, span| {
            let same = truth.name == span.name
                && truth.pid == span.process.pid
                && truth.parent_span_id == span.parent_span_id;
            (!same).then(|| {
                format!("is `{}` of {} under {}", span.name, span.process.pid, span.parent_span_id)
            })
        })
    }

    /// Every span of the report is in the truth.
    pub fn no_strangers(&mut self) -> &mut Self {
        let count = self.strangers.len();
        let example = self.strangers.first().map(|s| format!("{} ({})", s.span_id, s.name));
        self.require(count == 0, || format!("{count} spans nobody published, as {example:?}"))
    }

    /// `sum(states) == active_ns`, exactly.
    pub fn exact_sums(&mut self) -> &mut Self {
        self.each_span("sum(states) == active_ns", |_, span| {
            let total = sum(&span.states);
            (total != span.active_ns).then(|| format!("{total} != {}", span.active_ns))
        })
    }

    /// |active - truth| <= 20 us at the median over the spans.
    pub fn active_time(&mut self) -> &mut Self {
        let mut errors: Vec<u64> =
            self.closed().map(|(truth, span)| span.active_ns.abs_diff(truth.wall_ns)).collect();
        let Some(median) = median(&mut errors) else {
            return self;
        };
        let worst = errors.last().copied().unwrap_or(0);
        self.figures.push(format!("active off by {median} ns (median), {worst} ns (worst)"));
        self.require(median <= 20 * US, || format!("active_ns is off by {median} ns at the median"))
    }

    /// `running` against the thread CPU clock: max(1 %, 60 us) + 40 us per switch-in, for the sum over
    /// the spans and for each of them but a few.
    ///
    /// A few, one in twenty: on a guest, a span can lose up to 64 us to the hypervisor without a trace
    /// (jitter, below the threshold of steal), share a larger theft with its neighbours in
    /// the slice, or have the latency of its wakeup booked as CPU by the kernel.
    pub fn cpu_time(&mut self) -> &mut Self {
        let (mut running_sum, mut clock_sum, mut switches, mut steal, mut count) = (0, 0, 0, 0, 0);
        let (mut worst, mut off) = (0, Vec::new());
        for (truth, span) in self.closed() {
            let running = get(&span.states, "running");
            // An interrupt between the reads of the two clocks is in the one and not in the other.
            let less = truth.slack_ns + charged_as_cpu(&span.states);
            // On a host that is itself stolen from, the clock may say more than there was.
            let most = truth.cpu_ns.min(truth.wall_ns);
            let clock = running.clamp(most.saturating_sub(less), most);
            count += 1;
            running_sum += running;
            clock_sum += clock;
            switches += truth.switch_ins;
            steal += get(&span.states, "steal");
            worst = worst.max(running.abs_diff(clock));
            if let Some(problem) = cpu_problem(running, clock, truth.switch_ins) {
                off.push(format!("`{}` {}: {problem}, {:?}", span.name, span.span_id, span.states));
            }
        }
        let few = (count / 20).max(2);
        self.figures.push(format!(
            "running {running_sum} ns, CPU clock {clock_sum} ns, off by {worst} ns (worst); {} of \
             {count} spans over the bound",
            off.len()
        ));
        let sums = cpu_problem(running_sum, clock_sum, switches);
        self.agree(sums.is_none() || running_sum.abs_diff(clock_sum) <= steal, || {
            format!("running == CPU clock, summed: {}", sums.unwrap_or_default())
        });
        self.agree(off.len() <= few, || {
            format!(
                "running == CPU clock: {} of {count} spans are off: {:?}",
                off.len(),
                off.first()
            )
        })
    }

    /// The intended state holds >= 98 % of the blocked part, per name.
    pub fn intended_states(&mut self) -> &mut Self {
        let mut by_name: BTreeMap<(String, String), report::States> = BTreeMap::new();
        for (truth, span) in self.pairs.iter().filter(|(truth, _)| truth.waits > 0) {
            let key = (truth.name.clone(), truth.intended_state.clone());
            let states = by_name.entry(key).or_default();
            for (state, ns) in &span.states {
                *states.entry(state.clone()).or_default() += ns;
            }
        }
        for ((name, state), states) in by_name {
            let (right, all) = (get(&states, &state), blocked(&states));
            let percent = right as f64 * 100.0 / all.max(1) as f64;
            self.figures.push(format!("`{name}`: {percent:.2} % of its blocked time is {state}"));
            self.require(all > 0 && right as f64 >= 0.98 * all as f64, || {
                format!("`{name}`: only {percent:.2} % of the blocked time is {state}: {states:?}")
            });
        }
        self
    }

    /// `captured == delivered + in_flight + spooled + sum(lost)`, per kind.
    pub fn conservation(&mut self) -> &mut Self {
        let problems = conservation_problems(self.report);
        self.problems.extend(problems);
        self
    }

    /// The wait of each span that knows its waker names the waker's thread and span.
    pub fn causes(&mut self, state: &str) -> &mut Self {
        let (mut named, mut all) = (0_u64, 0_u64);
        for (truth, span) in &self.pairs {
            if truth.waker_tid == 0 || truth.intended_state != state {
                continue;
            }
            for cause in span.causes.iter().filter(|c| c.state == state && c.kind == "waker") {
                all += cause.ns;
                if cause.tid == truth.waker_tid && cause.span_id == truth.waker_span_id {
                    named += cause.ns;
                }
            }
        }
        let percent = named as f64 * 100.0 / all.max(1) as f64;
        self.figures.push(format!("{percent:.2} % of {state} has its waker and the waker's span"));
        let waited: u64 = self
            .pairs
            .iter()
            .filter(|(truth, _)| truth.waker_tid != 0 && truth.intended_state == state)
            .map(|(_, span)| get(&span.states, state))
            .sum();
        let example = example_of_other_cause(&self.pairs, state);
        self.require(named as f64 >= 0.98 * waited as f64 && waited > 0, || {
            format!("the waker and its span are named for {named} of {waited} ns; {example}")
        })
    }

    /// Ends the test with everything that was found; prints the figures.
    pub fn finish(&mut self) -> Verdict {
        let mut text = format!("{}: {}", self.name, self.figures.join("; "));
        if !self.report.loss.is_empty() {
            let _ = write!(text, "; loss {:?}", self.report.loss);
        }
        println!("{text}");
        let shown = self.problems.iter().chain(&self.disagreements).take(12);
        let shown: String = shown.map(|problem| format!("\n- {problem}")).collect();
        let problems = self.problems.len();
        assert!(problems == 0, "{problems} problems\n{text}{shown}");
        if self.disagreements.is_empty() {
            Verdict::Holds
        } else {
            Verdict::ClocksDisagree(format!("{text}{shown}"))
        }
    }

    /// Spans whose truth is exact: their thread had a lane before and outlived them.
    fn closed(&self) -> impl Iterator<Item = (&SpanTruth, &'a Span)> {
        let exact = self.pairs.iter().filter(|(truth, _)| !truth.open && !truth.cold);
        exact.map(|(truth, span)| (truth, *span))
    }

    fn each_span(
        &mut self,
        what: &str,
        problem: impl Fn(&SpanTruth, &Span) -> Option<String>,
    ) -> &mut Self {
        let mut found = self.pairs.iter().filter_map(|(truth, span)| {
            Some(format!("`{}` {}: {}", truth.name, truth.span_id, problem(truth, span)?))
        });
        if let Some(first) = found.next() {
            let more = found.count();
            let all = self.pairs.len();
            self.problems.push(format!("{what}: {first} ({} of {all} spans)", more + 1));
        }
        self
    }
}

/// A span whose waker is not among its causes, for the message.
fn example_of_other_cause(pairs: &[(SpanTruth, &Span)], state: &str) -> String {
    let example = pairs.iter().find(|(truth, span)| {
        truth.intended_state == state
            && truth.waker_tid != 0
            && !span.causes.iter().any(|cause| cause.span_id == truth.waker_span_id)
    });
    example.map_or_else(String::new, |(truth, span)| {
        format!("expected {} in {}, got {:?}", truth.waker_tid, truth.waker_span_id, span.causes)
    })
}

/// What is wrong with the conservation of a report.
pub fn conservation_problems(report: &Report) -> Vec<String> {
    let mut problems = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_of_every_run()) {
        if !report.conservation.contains_key(kind.key()) {
            problems.push(format!("there is no account of {}", kind.key()));
        }
    }
    for (kind, kept) in &report.conservation {
        let lost: u64 = kept.lost.values().sum();
        let found = kept.delivered + kept.in_flight + kept.spooled + lost;
        if kept.captured != found {
            problems.push(format!("{kind}: captured {} != {found}: {kept:?}", kept.captured));
        }
    }
    problems
}

/// The median; sorts.
fn median(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
