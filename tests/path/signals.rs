//! `hotspan run` and its end: by SIGTERM, by Ctrl-C, by a second Ctrl-C, by `--duration`, and not by
//! SIGHUP. How long it takes to answer and to end is printed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hotspan_tests::{
    accounting,
    fixture::Language,
    host::{can_record, held_objects, signal, wait_until},
    publisher::{all_found, publish},
    service::{Place, SOON},
};

/// Longest an end on request may take; what it takes is printed.
const DRAIN: Duration = Duration::from_secs(15);

#[test]
fn run_ends_on_request_and_with_nothing_lost() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    for (name, number) in [("SIGTERM", libc::SIGTERM), ("SIGINT", libc::SIGINT)] {
        let place = Place::new()?;
        let started = Instant::now();
        let mut service = place.start("run", &[])?;
        place.wait_for_api(&service)?;
        let answers = started.elapsed();
        place.wait_for_agent(&service)?;
        println!("answers after {answers:?}, first batch after {:?}", started.elapsed());
        // There is nothing to read again: SIGHUP changes nothing.
        let before = place.health()?;
        signal(&service.child, libc::SIGHUP)?;
        let truths = publish(Language::Rust, "nested")?;
        place.settle()?;
        let after = place.health()?;
        ensure!(before.agents[0].run_id == after.agents[0].run_id, "SIGHUP began a new run");
        let asked = Instant::now();
        signal(&service.child, number)?;
        let status = service.end(DRAIN)?;
        println!("{name}: ended after {:?}", asked.elapsed());
        ensure!(status.code() == Some(0), "{name}: {status}: {}", service.log());
        ensure!(service.log().is_empty(), "{name}: it complains: {}", service.log());
        let collector = place.collector(&[])?;
        for agent in &place.health()?.agents {
            accounting::balanced(agent, &[])?;
        }
        all_found(&place, name, truths)?;
        ensure!(collector.stop()?.success(), "the collector does not end well");
    }
    Ok(())
}

#[test]
fn run_ends_by_itself_after_its_duration() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    // Not waited for until it streams: on a busy host its time may be over before that was seen.
    let mut service = place.start("run", &["--duration", "3s"])?;
    let truths = publish(Language::C, "pipe")?;
    let status = service.end(SOON)?;
    ensure!(status.code() == Some(0), "{status}: {}", service.log());
    let collector = place.collector(&[])?;
    let agents = place.health()?.agents;
    ensure!(agents.len() == 1, "{} runs", agents.len());
    accounting::balanced(&agents[0], &[])?;
    // It may have ended before the workload did: what is there is whole all the same.
    let served = place.report(&[truths[0].pid], false)?.spans.len();
    println!("{served} of {} spans within the 3 s", truths[0].spans.len());
    ensure!(collector.stop()?.success(), "the collector does not end well");
    Ok(())
}

/// With its collector away an agent waits for it, for the length of the drain: who asks a second
/// time does not want to.
#[test]
fn a_second_request_ends_at_once() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    for second in [true, false] {
        let place = Place::new()?;
        let collector = place.collector(&[])?;
        let mut agent = place.agent(None, &[])?;
        place.wait_for_agent(&agent)?;
        collector.kill()?;
        signal(&agent.child, libc::SIGINT)?;
        let asked = Instant::now();
        let pid = agent.child.id();
        // The first request was heard once the programs are out of the kernel.
        let detached = || {
            let held = held_objects(pid).unwrap_or_default();
            !held.iter().any(|object| object.starts_with("link"))
        };
        ensure!(wait_until(SOON, detached), "SIGINT does nothing: {}", agent.log());
        let heard = asked.elapsed();
        if second {
            ensure!(agent.child.try_wait()?.is_none(), "it does not wait for its collector");
            signal(&agent.child, libc::SIGINT)?;
        }
        let status = agent.end(DRAIN)?;
        println!("second {second}: detached after {heard:?}, ended after {:?}", asked.elapsed());
        if second {
            ensure!(status.code() == Some(130), "{status}");
        } else {
            // Ended well, but not silently: what was not sent is lost.
            ensure!(status.code() == Some(0), "{status}");
            ensure!(agent.log().contains("lost"), "it does not say so: {}", agent.log());
        }
    }
    Ok(())
}
