//! A collector that is killed again and again, while a real agent streams to it: nothing is lost,
//! nothing is stored twice, and each new collector answers at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hotspan_tests::{
    accounting,
    host::{can_record, wait_until},
    publisher::{MIXED, Publisher, all_found},
    random::Random,
    service::{Place, Service},
};

const KILLS: usize = 100;
/// A collector answers within this, on any host; what it really takes is printed.
const ANSWERS: Duration = Duration::from_secs(5);

/// A collector, and how long it took from its start to its first answer.
fn restarted(place: &Place) -> Result<(Service, Duration)> {
    let started = Instant::now();
    let mut collector = place.start("collector", &[])?;
    let mut ended = None;
    let answers = wait_until(ANSWERS, || {
        ended = collector.child.try_wait().ok().flatten();
        ended.is_some() || place.get("/api/health").is_ok_and(|answer| answer.status == 200)
    });
    ensure!(ended.is_none(), "{ended:?}: {}", collector.log());
    ensure!(answers, "no answer within {ANSWERS:?}: {}", collector.log());
    Ok((collector, started.elapsed()))
}

#[test]
fn a_collector_killed_a_hundred_times_loses_and_doubles_nothing() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut random = Random::seeded("killed collector");
    let place = Place::new()?;
    let (mut collector, _) = restarted(&place)?;
    let agent = place.agent(None, &[])?;
    place.wait_for_agent(&agent)?;
    let publisher = Publisher::start(MIXED);
    let (mut took, mut streaming, mut stored) = (Vec::new(), 0, 0);
    for _ in 0..KILLS {
        random.pause(Duration::from_millis(50), Duration::from_millis(300));
        if let Ok(health) = place.health() {
            streaming += usize::from(health.agents.iter().any(|agent| agent.connected));
            let sequence = health.agents.iter().map(|agent| agent.sequence).max().unwrap_or(0);
            ensure!(sequence >= stored, "batch {stored} was stored, and then only {sequence}");
            stored = sequence;
        }
        collector.kill()?;
        let (again, time) = restarted(&place)?;
        collector = again;
        took.push(time);
    }
    took.sort();
    println!(
        "{KILLS} kills, {streaming} of them while the agent was connected; API after {:?} (median), \
         {:?} (worst); {stored} batches stored meanwhile",
        took[KILLS / 2],
        took[KILLS - 1]
    );
    ensure!(streaming > 0, "no kill met a stream: nothing was tested");
    let truths = publisher.finish()?;
    place.settle()?;
    let (collector, health) = accounting::end_well(&place, agent, Some(collector), &[])?;
    ensure!(health.agents.len() == 1, "one agent ran: {:?}", health.agents);
    all_found(&place, "killed collector", truths)?;
    ensure!(collector.stop()?.success(), "the last collector does not end well");
    Ok(())
}
