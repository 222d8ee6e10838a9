//! Stacks of samples are compared with the call graph of the program, and with those perf finds.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use hotspan_tests::{
    chains::{CallGraph, Chains, chain, likeness},
    host, perf, unwind,
    unwind::{Fixture, Symbols},
};

use super::{
    Extent,
    watch::{Seen, Watch, is_whole},
};

/// Samples that are judged.
const SAMPLES: u64 = 1000;
/// Of perf, which drops some on a loaded host.
const SAMPLES_OF_PERF: u64 = 200;
/// Of each, when shares are compared: of 500, a half may differ by a tenth by chance.
const SAMPLES_COMPARED: u64 = 2000;
/// Of those, one in a hundred may be at an instruction that nobody's tables describe.
pub(crate) const NEARLY_ALL: f64 = 0.99;
/// While libgcc's unwinder installs a landing pad, it writes that pad's registers over its own saved
/// ones, return address included: about one sample in a hundred has no true stack left to be found.
pub(crate) const NEARLY_ALL_THROWING: f64 = 0.98;
/// A rate without a common divisor with the kernel's tick.
const HZ: u64 = 499;
/// Chains seen more rarely than this are not compared with perf's.
const RARE: f64 = 0.02;
/// How much of the samples must agree with perf.
const ALIKE: f64 = 0.9;
/// How long perf looks at a time: it copies 64 KiB per sample.
const PERF_SECONDS: u32 = 2;
/// How often at most: on a loaded host the program hardly runs, and perf drops some.
const PERF_LOOKS: usize = 24;
/// For as many looks, and what goes on beside them.
const PATIENCE: Duration = Duration::from_secs(150);

/// Calls of `burn`.
pub(crate) const BURN: CallGraph = CallGraph {
    calls: &[
        ("main", "scenario_burn"),
        ("main", "scenario_short"),
        ("scenario_short", "burn_a"),
        ("scenario_burn", "span_begin"),
        ("scenario_burn", "ready"),
        ("scenario_burn", "called"),
        ("scenario_burn", "burn_a"),
        ("burn_a", "burn_b"),
        ("burn_b", "burn_c"),
        ("burn_c", "burn_d"),
        ("burn_d", "burn_leaf"),
    ],
    leave: &["called", "ready", "span_begin", "scenario_short"],
};

/// Calls of `plt`: the leaf is of a library, and so is what binds it.
pub(crate) const PLT: CallGraph = CallGraph {
    calls: &[
        ("main", "scenario_plt"),
        ("scenario_plt", "plt_caller"),
        ("scenario_plt", "called"),
        ("scenario_plt", "ready"),
        ("scenario_plt", "span_begin"),
    ],
    leave: &["plt_caller", "called", "ready", "span_begin"],
};

/// Calls of `exceptions`.
pub(crate) const EXCEPTIONS: CallGraph = CallGraph {
    calls: &[
        ("main", "scenario_exceptions"),
        ("scenario_exceptions", "catcher"),
        ("scenario_exceptions", "called"),
        ("scenario_exceptions", "ready"),
        ("scenario_exceptions", "span_begin"),
        ("catcher", "dive"),
        ("dive", "dive"),
    ],
    leave: &["catcher", "dive", "called", "ready", "span_begin"],
};

/// Samples a scenario; a good part of it must be stacks the program can have.
pub(crate) fn possible(
    variant: &str,
    scenario: &str,
    graph: &CallGraph,
    extent: Extent,
    good: f64,
) -> Result<()> {
    if !host::can_record() {
        return Ok(());
    }
    let Some(program) = unwind::program(variant) else { return Ok(()) };
    let fixture = Fixture::start(&program, &[scenario])?;
    let mut watch = Watch::start(fixture.pid, HZ)?;
    watch.until("samples", |seen| running(seen).map(|seen| seen.count).sum::<u64>() >= SAMPLES)?;
    let seen = watch.finish()?;
    judge(&fixture, &seen, graph, extent, good)?;
    fixture.end()
}

/// Whether the call graph is that of the program: perf's chains must be possible too.
pub(crate) fn perf_thinks_so(
    variant: &str,
    scenario: &str,
    graph: &CallGraph,
    good: f64,
) -> Result<()> {
    if !perf::is_installed() {
        return Ok(());
    }
    let Some(program) = unwind::program(variant) else { return Ok(()) };
    let fixture = Fixture::start(&program, &[scenario])?;
    let chains = chains_of_perf(&fixture, SAMPLES_OF_PERF)?;
    let mut verdict = Verdict::default();
    for (chain, count) in chains {
        verdict.add(count, graph.problem(&chain), || chain.join(" "));
    }
    verdict.finish(&format!("{} by perf", fixture.name), SAMPLES_OF_PERF, good)?;
    fixture.end()
}

/// The same chains, as often, as perf finds in the same process.
pub(crate) fn as_perf_says(variant: &str, scenario: &str) -> Result<()> {
    if !host::can_record() || !perf::is_installed() {
        return Ok(());
    }
    let Some(program) = unwind::program(variant) else { return Ok(()) };
    let fixture = Fixture::start(&program, &[scenario])?;
    let mut watch = Watch::start(fixture.pid, HZ)?;
    let count = |seen: &[Seen]| running(seen).map(|seen| seen.count).sum::<u64>();
    // At the same time: which of two instructions is the one that is interrupted depends on what else
    // the processor has to do.
    let theirs = thread::scope(|scope| {
        let perf = scope.spawn(|| chains_of_perf(&fixture, SAMPLES_COMPARED));
        let deadline = Instant::now() + PATIENCE;
        while !perf.is_finished() || count(&watch.seen()?) < SAMPLES_COMPARED {
            ensure!(Instant::now() < deadline, "not enough samples within {PATIENCE:?}");
            watch.round(None)?;
        }
        perf.join().map_err(|_| anyhow!("the thread of perf panicked"))?
    })?;
    let ours = chains(&watch.finish()?, &fixture.symbols);
    let alike = likeness(&ours, &theirs, RARE);
    let name = &fixture.name;
    println!("{name}: {:.1} % alike; perf has {} samples", alike * 100.0, total(&theirs));
    ensure!(total(&theirs) >= SAMPLES_COMPARED, "{name}: perf took {} samples", total(&theirs));
    ensure!(
        alike >= ALIKE,
        "{name}: {alike:.3} alike\nhotspan {}\nperf {}",
        most(&ours),
        most(&theirs)
    );
    fixture.end()
}

/// What perf sees in as many samples, or in as many as it takes.
fn chains_of_perf(fixture: &Fixture, samples: u64) -> Result<Chains> {
    let mut all = Chains::new();
    for _ in 0..PERF_LOOKS {
        for (chain, count) in perf::chains(fixture.pid, PERF_SECONDS, &fixture.symbols)? {
            *all.entry(chain).or_default() += count;
        }
        if total(&all) >= samples {
            break;
        }
    }
    Ok(all)
}

fn running(seen: &[Seen]) -> impl Iterator<Item = &Seen> {
    seen.iter().filter(|seen| seen.is_running())
}

fn chains(seen: &[Seen], symbols: &Symbols) -> Chains {
    let mut chains = Chains::new();
    for seen in running(seen) {
        let chain = chain(&seen.addresses(), seen.is_exact(), symbols);
        *chains.entry(chain).or_default() += seen.count;
    }
    chains
}

fn judge(
    fixture: &Fixture,
    seen: &[Seen],
    graph: &CallGraph,
    extent: Extent,
    good: f64,
) -> Result<()> {
    let mut verdict = Verdict::default();
    for seen in running(seen) {
        let chain = chain(&seen.addresses(), seen.is_exact(), &fixture.symbols);
        let problem = match (extent, chain.iter().position(|name| name == "main")) {
            (Extent::Program, Some(main)) => graph.problem_below_main(&chain[main..]),
            (Extent::Program, None) => Some("main is not there".to_owned()),
            (Extent::Whole, _) => graph.problem(&chain).or_else(|| {
                (!is_whole(&seen.stack)).then(|| "does not end at the bottom".to_owned())
            }),
        };
        let place = seen.addresses().first().copied().unwrap_or(0);
        verdict.add(seen.count, problem, || format!("{} at {place:#x}", chain.join(" ")));
    }
    verdict.finish(&fixture.name, SAMPLES, good)
}

/// How many samples are stacks the program can have, and what is wrong with the others.
#[derive(Debug, Default)]
struct Verdict {
    all: u64,
    possible: u64,
    problems: BTreeMap<String, (u64, String)>,
}

// === impl Verdict ===

impl Verdict {
    fn add(&mut self, count: u64, problem: Option<String>, example: impl FnOnce() -> String) {
        self.all += count;
        match problem {
            None => self.possible += count,
            Some(problem) => {
                self.problems.entry(problem).or_insert_with(|| (0, example())).0 += count;
            }
        }
    }

    fn finish(&self, name: &str, least: u64, good: f64) -> Result<()> {
        let (all, possible) = (self.all, self.possible);
        let share = possible as f64 / all.max(1) as f64;
        println!("{name}: {possible} of {all} samples are possible ({:.2} %)", share * 100.0);
        for (problem, (count, example)) in &self.problems {
            println!("  {count} times: {problem}, as {example}");
        }
        ensure!(all >= least, "{name}: only {all} samples");
        ensure!(share >= good, "{name}: only {possible} of {all} samples are possible stacks");
        Ok(())
    }
}

fn total(chains: &Chains) -> u64 {
    chains.values().sum()
}

/// The most frequent chains, for a message.
fn most(chains: &Chains) -> String {
    let mut list: Vec<_> = chains.iter().map(|(chain, count)| (count, chain.join(" "))).collect();
    list.sort_by(|a, b| b.cmp(a));
    list.iter().take(6).map(|(count, chain)| format!("\n  {count} {chain}")).collect()
}
