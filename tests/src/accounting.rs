//! The accounting after the end: per kind `captured = delivered + in_flight + lost(by reason)`, exactly.
//! They are read from a collector that never saw the agent: what counts is what is on the disk.
//!
//! An agent profiles the whole host, so this is everybody's accounting, neighbours' included. What was
//! lost before the stream began, because the host gave the agent no time, is counted like all else; but
//! whether it may be lost is not what tests of the stream and the store ask.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use hotspan::ledger::{Counter, Kind, Role};

use crate::{
    check::conservation_problems,
    report::Report,
    service::{Agent, Health, Place, Service},
};

/// What is wrong with the accounting of a run. A loss for a reason that is not in `may_lose` is.
pub fn problems(agent: &Agent, may_lose: &[&str]) -> Vec<String> {
    let report = Report {
        spans: Vec::new(),
        recorded: Vec::new(),
        threads: Vec::new(),
        loss: agent.loss.clone(),
        conservation: agent.conservation.clone(),
    };
    let mut problems = conservation_problems(&report);
    for (kind, kept) in &agent.conservation {
        if !agent.connected && kept.in_flight > 0 {
            problems.push(format!("{kind} in flight after the end: {kept:?}"));
        }
        if kept.delivered > kept.captured {
            problems.push(format!("more {kind} delivered than captured: {kept:?}"));
        }
        let allowed = |reason: &str| may_lose.contains(&reason) || is_at_the_source(kind, reason);
        if !is_marked(kind) && kept.lost.keys().any(|reason| !allowed(reason)) {
            problems.push(format!("{kind} lost: {kept:?}"));
        }
    }
    problems
}

/// Whether it is a loss between the kernel or a lane and the join.
fn is_at_the_source(kind: &str, reason: &str) -> bool {
    let is_it =
        |role: &Role| matches!(role, Role::Lost(of, key) if of.key() == kind && *key == reason);
    Counter::all().any(|counter| counter.entry().roles.iter().any(is_it))
}

/// Whether what a kind lost left its mark elsewhere: walks that ended early did in their stacks, and the
/// stacks are all there.
fn is_marked(kind: &str) -> bool {
    Kind::of_key(kind).is_some_and(Kind::is_marked)
}

/// The accounting of one run, ended well.
pub fn balanced(agent: &Agent, may_lose: &[&str]) -> Result<()> {
    ensure!(agent.closed, "its last batch did not arrive: {agent:?}");
    let problems = problems(agent, may_lose);
    ensure!(problems.is_empty(), "{problems:?}\n{agent:?}");
    Ok(())
}

/// What a run lost, by reason, over all kinds.
pub fn lost(agent: &Agent) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    let kinds = agent.conservation.iter().filter(|(kind, _)| !is_marked(kind));
    for (reason, n) in kinds.flat_map(|(_, kept)| &kept.lost) {
        *sums.entry(reason.clone()).or_default() += n;
    }
    sums
}

/// Ends the agent, then the collector if it is a process of its own, both well; then another
/// collector serves what they stored, and every run's accounting is closed and balances.
pub fn end_well(
    place: &Place,
    agent: Service,
    collector: Option<Service>,
    may_lose: &[&str],
) -> Result<(Service, Health)> {
    for service in [Some(agent), collector].into_iter().flatten() {
        let said = service.log();
        let status = service.stop()?;
        ensure!(status.success(), "{status}: {said}");
    }
    let collector = place.collector(&[])?;
    let health = place.health()?;
    ensure!(!health.agents.is_empty(), "no run is known");
    for agent in &health.agents {
        balanced(agent, may_lose)?;
        print(agent);
    }
    Ok((collector, health))
}

/// One line per run.
pub fn print(agent: &Agent) {
    let kinds = agent.conservation.iter().map(|(kind, kept)| {
        let lost: u64 = kept.lost.values().sum();
        format!("{kind} {} = {} + {lost}", kept.captured, kept.delivered)
    });
    let kinds: Vec<_> = kinds.collect();
    println!(
        "accounting (captured = delivered + lost): {}; lost {:?}",
        kinds.join(", "),
        lost(agent)
    );
}
