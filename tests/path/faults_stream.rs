//! A network that is slow, silent or hostile, a collector that is stopped or away, a queue that is
//! too small: what may arrive does, once, and what cannot is a gap with a reason.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    accounting,
    fixture::Language,
    host::{can_record, signal, wait_until},
    proxy::{Rule, wait_for_resets},
    publisher::{MIXED, Publisher, pids, publish},
    random::Random,
    report::sum,
    service::SOON,
    stream::Stream,
    truth,
};

/// A second of the network, at 50 times a second: less than what comes.
const TRICKLE: usize = 200;
/// How long the collector is stopped, and away.
const STOPPED: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(60);
const RESETS: u64 = 100;
/// An agent flushes every second, and later on a host that gives it no time.
const SEVERAL_FLUSHES: Duration = Duration::from_secs(8);
/// Attempts in vain after which the next one is at least 2.5 s away.
const FAR_APART: u64 = 7;

/// The state of a fault lasts as long as the fault is about.
fn lasts(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn a_slow_stopped_or_silent_peer_costs_nothing() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let (stream, proxy) = Stream::through_proxy()?;
    let publisher = Publisher::start(MIXED);

    // Slow: what comes is more than what goes through, so the queue grows, and later shrinks.
    let before = proxy.forwarded();
    proxy.rule(Rule::Trickle(TRICKLE));
    let enough = || proxy.forwarded() >= before + 40_000;
    ensure!(wait_until(SOON * 2, enough), "{} bytes trickled", proxy.forwarded() - before);
    proxy.rule(Rule::Forward);
    stream.place.settle()?;

    // Stopped: the kernel keeps the connection, nobody reads.
    signal(&stream.collector()?.child, libc::SIGSTOP)?;
    lasts(STOPPED);
    signal(&stream.collector()?.child, libc::SIGCONT)?;
    stream.place.settle()?;

    // Half-open: both sides must notice by themselves, and the new stream takes the old one's place.
    let accepted = proxy.accepted();
    proxy.cut_silently();
    stream.place.settle()?;
    ensure!(proxy.accepted() > accepted, "the half-open stream was not given up");

    let truths = publisher.finish()?;
    stream.place.settle()?;
    stream.end(&[])?.found("slow, stopped, silent", truths)
}

#[test]
fn a_hundred_resets_cost_nothing() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let random = Random::seeded("resets");
    let (stream, proxy) = Stream::through_proxy()?;
    let publisher = Publisher::start(MIXED);
    // From within the first frames to several batches later.
    proxy.reset(RESETS, (300, 12_000), random);
    wait_for_resets(&proxy, RESETS, Duration::from_secs(120))?;
    println!("{} connections, {} of them reset", proxy.accepted(), proxy.resets());
    let truths = publisher.finish()?;
    stream.place.settle()?;
    stream.end(&[])?.found("resets", truths)
}

#[test]
fn a_collector_away_for_a_minute_costs_nothing() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut stream = Stream::start(&[])?;
    let publisher = Publisher::start(MIXED);
    stream.kill_collector()?;
    lasts(AWAY);
    stream.start_collector()?;
    stream.place.settle()?;
    let truths = publisher.finish()?;
    stream.place.settle()?;
    stream.end(&[])?.found("away", truths)
}

/// The agent is told to end just after an attempt that failed, when the collector is back already and
/// the next attempt is further away than the end of the drain.
#[test]
fn a_collector_that_comes_back_gets_the_last_batch() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let (mut stream, proxy) = Stream::through_proxy()?;
    let truths = publish(Language::Rust, "nested")?;
    stream.kill_collector()?;
    let accepted = proxy.accepted();
    let apart = || proxy.accepted() >= accepted + FAR_APART;
    ensure!(wait_until(SOON * 2, apart), "{} attempts", proxy.accepted() - accepted);
    stream.start_collector()?;
    stream.end(&[])?.found("back just before the end", truths)
}

#[test]
fn a_queue_that_overflows_leaves_a_gap_that_is_reported() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut stream = Stream::start(&["--queue-bytes", "1MiB"])?;
    stream.kill_collector()?;
    let mut truths = Vec::new();
    for _ in 0..3 {
        truths.extend(publish(Language::Rust, "many")?);
    }
    // The last flush stays however large it is: others have to follow.
    let until = Instant::now() + SEVERAL_FLUSHES;
    while Instant::now() < until {
        truths.extend(publish(Language::Rust, "nested")?);
    }
    stream.start_collector()?;
    stream.place.settle()?;
    let ended = stream.end(&["queue_full"])?;
    let run = ended.health.agents.first().context("the run")?;
    let lost = accounting::lost(run);
    ensure!(lost.get("queue_full").is_some_and(|n| *n > 0), "nothing overflowed: {run:?}");
    // What is there is whole; what is not is in the gap.
    let known = truth::spans(&truths);
    let mut served = 0;
    for pid in pids(&truths) {
        for span in ended.place.spans_of(pid, false)? {
            ensure!(sum(&span.states) == span.active_ns, "broken sums: {span:?}");
            ensure!(known.contains_key(&(span.trace_id, span.span_id)), "a span nobody published");
            served += 1;
        }
    }
    let missing = (known.len() - served) as u64;
    let reported = run.conservation["spans"].lost["queue_full"];
    println!(
        "{served} of {} spans served, {missing} missing; {reported} span parts lost",
        known.len()
    );
    ensure!(
        missing > 0 && missing <= reported,
        "{missing} spans are missing, {reported} reported as lost"
    );
    ended.stop()
}
