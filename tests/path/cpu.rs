//! CPU time and the shape of spans: contention, nesting, a span on two threads, threads that never
//! switch, 10,000 short spans, 1,000 short threads, migration.

use anyhow::Result;
use hotspan_tests::{report::get, scenario::whole_path};

#[test]
fn burning_is_running() -> Result<()> {
    whole_path("burn", |_| {})
}

/// Three burners on one CPU: each has it for a third of the time, and waits ready for the rest.
#[test]
fn contention_is_ready() -> Result<()> {
    whole_path("contention", |checks| {
        let (mut ready, mut wall, mut named, mut cpu) = (0, 0, 0, 0);
        for (truth, span) in &checks.pairs {
            ready += get(&span.states, "ready_preempted");
            wall += truth.wall_ns;
            cpu += truth.cpu_ns;
            let rivals = span.causes.iter().filter(|cause| cause.kind == "rival" && cause.tid != 0);
            named += rivals.map(|cause| cause.ns).sum::<u64>();
        }
        checks.require(ready * 10 >= (wall - cpu) * 9, || {
            format!("of {} ns without the CPU, ready_preempted has {ready}", wall - cpu)
        });
        checks.require(named * 10 >= ready * 9, || {
            format!("of {ready} ns of preemption, {named} have their rival")
        });
    })
}

/// The children's time is not the parent's: it appears twice nowhere.
#[test]
fn nesting_excludes_children() -> Result<()> {
    whole_path("nested", |checks| {
        let mut problems = Vec::new();
        for (truth, span) in &checks.pairs {
            let sleep = get(&span.states, "sleep");
            if truth.name == "parent" && sleep != 0 {
                problems.push(format!("a parent slept {sleep} ns"));
            }
            if truth.name == "parent" && span.wall_ns <= span.active_ns {
                problems.push(format!("a parent's wall {} is its own time", span.wall_ns));
            }
        }
        checks.require(problems.is_empty(), || problems.join("; "));
    })
}

/// `active_ns` is the sum over both threads and exceeds `wall_ns`.
#[test]
fn one_span_on_two_threads() -> Result<()> {
    whole_path("two_threads", |checks| {
        let shared = || checks.pairs.iter().filter(|(truth, _)| truth.activations == 2);
        let overlapping = shared().filter(|(_, span)| span.active_ns > span.wall_ns).count();
        let all = shared().count();
        checks.require(overlapping * 2 > all, || {
            format!("only {overlapping} of {all} spans are active on both threads at once")
        });
    })
}

#[test]
fn a_thread_that_never_switches() -> Result<()> {
    whole_path("no_switch", |_| {})
}

#[test]
fn ten_thousand_spans_of_50_us() -> Result<()> {
    whole_path("many", |checks| {
        let spans = checks.pairs.len();
        checks.require(spans == 10_000, || format!("{spans} spans"));
    })
}

#[test]
fn a_thousand_threads() -> Result<()> {
    whole_path("storm", |checks| {
        // Each a first one, which makes the lane, and another.
        let spans = checks.pairs.len();
        checks.require(spans == 2000, || format!("{spans} spans"));
    })
}

#[test]
fn migration_loses_nothing() -> Result<()> {
    whole_path("migrate", |_| {})
}
