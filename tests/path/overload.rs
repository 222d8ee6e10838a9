//! Too much for hotspan: rings forced tiny lose records, and the account of time loses nothing.

use anyhow::Result;
use hotspan_tests::{
    check::Checks,
    fixture::{Language, Recorder},
    host::can_record,
    report::get,
};

fn with_tiny_rings(scenario: &str, must_lose: bool) -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    for language in Language::BOTH {
        let recording =
            Recorder::new()?.env("HOTSPAN_RING_BYTES", "4096").scenario(language, scenario)?;
        let mut checks = Checks::new(format!("{scenario} {language:?}, tiny rings"), &recording)?;
        checks.threads().schedstat().exact_sums().conservation();
        let lost: u64 = checks.report.conservation.values().flat_map(|k| k.lost.values()).sum();
        let shown: u64 = checks.report.loss.values().sum();
        if must_lose {
            checks.require(lost > 0, || "nothing was lost, so nothing was tested".to_owned());
        }
        checks.require(lost == 0 || shown > 0, || format!("{lost} lost, but loss says nothing"));
        // What a span lost it must not invent: its truth bounds every state it has.
        let mut problems = Vec::new();
        for (truth, span) in &checks.pairs {
            let running = get(&span.states, "running");
            if running > truth.wall_ns + 100_000 {
                problems.push(format!("`{}` ran {running} of {} ns", truth.name, truth.wall_ns));
            }
        }
        checks.require(problems.is_empty(), || problems.join("; ")).finish();
    }
    Ok(())
}

#[test]
fn a_full_ring_costs_no_time() -> Result<()> {
    with_tiny_rings("storm", true)
}

#[test]
fn a_full_ring_costs_no_waits() -> Result<()> {
    with_tiny_rings("mutex", false)
}

#[test]
fn a_full_ring_costs_no_short_spans() -> Result<()> {
    with_tiny_rings("many", false)
}
