//! An agent that is killed again and again: what it had not sent is gone and reported as such, what it
//! had sent stays whole, and the next agent of the host is taken at once.
//!
//! `HOTSPAN_KILLS` says how often; the default is what a test run has time for.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    accounting,
    host::{can_record, wait_until},
    publisher::{MIXED, Publisher, pids},
    random::Random,
    report::sum,
    service::{Place, SOON},
    truth::{self, Truth},
};

const KILLS: usize = 20;
/// From its start, a killed agent's successor has a stream.
const CONNECTS: Duration = Duration::from_secs(5);
/// What the marks of a span may be off the clock reads around them; one in a hundred may be off by
/// more, for a thread can be preempted between the two.
const SLACK_NS: u64 = 100_000;

/// Every span served is one that was published, is whole in itself, and holds no time twice.
fn spans_are_whole(place: &Place, truths: &[Truth]) -> Result<()> {
    let known = truth::spans(truths);
    let (mut served, mut time) = (0, BTreeMap::new());
    for pid in pids(truths) {
        for span in place.spans_of(pid, false)? {
            let total = sum(&span.states);
            ensure!(total == span.active_ns, "sum(states) {total} != {}: {span:?}", span.active_ns);
            // A process that outlives an agent is another process to the next one.
            *time.entry((span.trace_id, span.span_id)).or_insert(0) += span.active_ns;
            served += 1;
        }
    }
    let mut over = Vec::new();
    for (key, active_ns) in &time {
        let truth = known.get(key).with_context(|| format!("nobody published {key:?}"))?;
        if *active_ns > truth.wall_ns + SLACK_NS && !truth.open && !truth.cold {
            over.push(format!("`{}` {active_ns} of {} ns", truth.name, truth.wall_ns));
        }
    }
    ensure!(over.len() <= time.len() / 100, "{} were active for too long: {over:?}", over.len());
    println!("{} of {} spans in {served} documents, all whole", time.len(), known.len());
    ensure!(!time.is_empty(), "nothing is served");
    Ok(())
}

#[test]
fn a_killed_agent_leaves_a_store_that_is_whole() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let kills = env::var("HOTSPAN_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let mut random = Random::seeded("killed agent");
    let place = Place::new()?;
    let collector = place.collector(&[])?;
    let publisher = Publisher::start(MIXED);
    let (mut took, mut first) = (Vec::new(), Vec::new());
    let mut known = BTreeSet::new();
    for turn in 0..=kills {
        let agent = place.agent(None, &[])?;
        let started = Instant::now();
        // Connected, with a batch of its own: the accounting knows it from then on.
        let (mut run, mut connected) = (None, None);
        let streams = wait_until(SOON, || {
            let Ok(health) = place.health() else { return false };
            let sessions = health.collector["sessions"].as_array().map_or(0, Vec::len);
            if sessions > 0 && connected.is_none() {
                connected = Some(started.elapsed());
            }
            run = health.agents.into_iter().find(|it| it.connected && it.last_batch_unix_ns > 0);
            run.is_some()
        });
        ensure!(streams, "agent {turn} does not stream: {}", agent.log());
        let run = run.context("the run that streams")?;
        ensure!(known.insert(run.run_id.clone()), "the run of a killed agent goes on");
        took.push(connected.context("it is connected")?);
        first.push(started.elapsed());
        if turn == kills {
            // The last one ends well.
            let truths = publisher.finish()?;
            place.settle()?;
            ensure!(agent.stop()?.success(), "the last agent does not end well");
            ensure!(collector.stop()?.success(), "the collector does not end well");
            let collector = place.collector(&[])?;
            all_reported(&place, kills)?;
            spans_are_whole(&place, &truths)?;
            ensure!(collector.stop()?.success(), "the last collector does not end well");
            break;
        }
        random.pause(Duration::ZERO, Duration::from_millis(500));
        agent.kill()?;
        let gone = || place.health().is_ok_and(|health| health.agents.iter().all(|a| !a.connected));
        ensure!(wait_until(SOON, gone), "the collector keeps the stream of a dead agent");
    }
    let [(median, worst), (batch, last)] = [took, first].map(|mut times| {
        times.sort();
        (times[times.len() / 2], times[times.len() - 1])
    });
    println!(
        "{kills} kills; the next agent was connected after {median:?} (median), {worst:?} (worst), \
         its first batch was stored after {batch:?}, {last:?}"
    );
    ensure!(worst <= CONNECTS, "an agent had no stream within {CONNECTS:?}");
    Ok(())
}

/// Every run is there; all but the last died, with what they had not sent.
fn all_reported(place: &Place, kills: usize) -> Result<()> {
    let health = place.health()?;
    ensure!(health.agents.len() == kills + 1, "{} runs, not {}", health.agents.len(), kills + 1);
    let (mut closed, mut reported) = (0, BTreeMap::new());
    for agent in &health.agents {
        let problems = accounting::problems(agent, &["agent_died"]);
        ensure!(problems.is_empty(), "{problems:?}\n{agent:?}");
        closed += usize::from(agent.closed);
        for (reason, n) in accounting::lost(agent) {
            ensure!(!agent.closed || reason != "agent_died", "it ended well: {agent:?}");
            *reported.entry(reason).or_insert(0) += n;
        }
    }
    ensure!(closed == 1, "{closed} runs ended well, not the last alone");
    println!("reported as lost, over all kinds (interval_ns included): {reported:?}");
    Ok(())
}
