//! Programs of a user without rights that spend as much of hotspan as they can, each beside honest
//! ones: hotspan lives, the honest lose (nearly) nothing, memory stays bounded, and what the greedy
//! lose is counted under their name.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hotspan_tests::{
    attack::Public,
    fixture::Language,
    host::{self, can_record, wait_for_child, wait_until},
    publisher::publish,
    service::{Agent, Health, OverBudget, Place, SOON, Service},
};

/// The user nobody.
const NOBODY: u32 = 65_534;
/// What the unit allows hotspan.
const MEMORY_MAX: u64 = 512 << 20;

/// A greedy program. Its standard input ends with this value, and so does it.
struct Stranger {
    child: Child,
    said: BufReader<ChildStdout>,
    _program: Public,
}

// === impl Stranger ===

impl Stranger {
    /// Runs as a user, and spends when this returns.
    fn of(user: u32, words: &[&str]) -> Result<Self> {
        let program = Public::make()?;
        let mut child = Command::new(program.copy(&host::strangers())?)
            .args(words)
            .uid(user)
            .gid(user)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut stranger = Self { child, said, _program: program };
        let line = stranger.line()?;
        ensure!(line == "ready", "{words:?} says {line:?}");
        Ok(stranger)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Ends it. Returns the last it said.
    fn end(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let line = self.line()?;
        wait_for_child(&mut self.child, SOON)?.context("it does not end")?;
        Ok(line)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent(health: &Health) -> Result<&Agent> {
    health.agents.iter().find(|agent| agent.connected).context("no agent is connected")
}

/// What is left after honest programs ran beside a stranger for a while.
struct Beside {
    service: Service,
    /// While the stranger was there.
    health: Health,
    /// The honest program.
    honest: u32,
    /// The last the stranger said.
    said: String,
}

/// Lets an honest program run beside a stranger until `is_enough`, ends both, and checks what holds for
/// each kind of stranger.
fn beside(words: &[&str], is_enough: impl Fn(&Agent) -> bool) -> Result<Beside> {
    let place = Place::new()?;
    let mut service = place.run(&[])?;
    let before = agent(&place.health()?)?.cost.rss_bytes;
    // A span every 5 ms or so: its ring holds those of seconds, should this host be starved.
    let honest = Stranger::of(0, &["spans", "4"])?;
    let pid = honest.child.id();
    let has_spans = || place.spans_of(pid, false).is_ok_and(|spans| !spans.is_empty());
    ensure!(wait_until(SOON, has_spans), "an honest program has no spans");
    let stranger = Stranger::of(NOBODY, words)?;
    let began = Instant::now();
    let mut most = 0;
    let enough = wait_until(SOON, || {
        let Ok(health) = place.health() else { return false };
        let Ok(agent) = agent(&health) else { return false };
        most = agent.cost.rss_bytes.max(most);
        is_enough(agent) && began.elapsed() >= Duration::from_secs(6)
    });
    let health = place.health()?;
    let published: usize = honest.end()?.parse()?;
    let said = stranger.end()?;
    place.settle()?;
    if let Some(status) = service.child.try_wait()? {
        bail!("hotspan has ended: {status}; {}", service.log());
    }
    ensure!(enough, "it is never over its share: {health:?}");
    // The last ones come with the next batch, behind the stranger's.
    let mut found = 0;
    wait_until(SOON, || {
        found = place.spans_of(pid, false).map_or(found, |spans| spans.len());
        found * 100 >= published * 99
    });
    println!("{words:?}: {said}; {found} of {published}, {} to {} MiB", before >> 20, most >> 20);
    println!("{:?} {:?}", agent(&health)?.loss, agent(&health)?.over_budget);
    ensure!(found * 100 >= published * 99, "{found} of {published} honest spans are there");
    ensure!(most < MEMORY_MAX, "{} to {} MiB", before >> 20, most >> 20);
    Ok(Beside { service, health, honest: pid, said })
}

impl Beside {
    /// It is named as the one that is over its share of one of these, and the honest one is not.
    fn names(&self, resources: &[&str]) -> Result<()> {
        let over = &agent(&self.health)?.over_budget;
        ensure!(over.iter().all(|it| it.pid != self.honest), "{over:?}");
        let is_it = |it: &&OverBudget| it.uid == NOBODY && it.comm == "strangers";
        let mut its = over.iter().filter(is_it);
        ensure!(its.any(|it| resources.contains(&it.resource.as_str())), "{over:?}");
        Ok(())
    }

    fn end(self) -> Result<()> {
        ensure!(self.service.stop()?.success(), "it does not end well");
        Ok(())
    }
}

fn is_over(agent: &Agent) -> bool {
    !agent.over_budget.is_empty()
}

#[test]
fn a_flood_of_spans_loses_its_own() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let beside = beside(&["spans", "3000"], is_over)?;
    beside.names(&["span_bytes", "changed_spans", "draining"])?;
    ensure!(!beside.said.is_empty(), "it says how many it published");
    beside.end()
}

#[test]
fn segments_without_end_are_not_kept() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    // More than a user may have, in processes that each have as many as they may.
    let beside = beside(&["segments", "20", "250"], is_over)?;
    beside.names(&["segments"])?;
    beside.end()
}

#[test]
fn threads_that_announce_lanes_and_end_leave_nothing() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let beside = beside(&["threads", "1"], |_| true)?;
    ensure!(!beside.said.is_empty(), "it says how many there were");
    beside.end()
}

#[test]
fn ids_that_another_repeats_stay_whose_they_were() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let service = place.run(&[])?;
    let truths = publish(Language::C, "nested")?;
    place.settle()?;
    let program = truths.first().context("a program")?;
    let truth = program.spans.first().context("a span")?;
    ensure!(service.stop()?.success(), "it does not end well");
    let stranger = Stranger::of(NOBODY, &["takeover", &truth.trace_id, &truth.span_id])?;
    let service = place.run(&[])?;
    let path = format!("/api/span/{}/{}", truth.trace_id, truth.span_id);
    let liar = format!("{path}?pid={}", stranger.child.id());
    let is_there = || place.get(&liar).is_ok_and(|answer| answer.status == 200);
    ensure!(wait_until(SOON, is_there), "what it says is a span of its own");
    let document = place.get(&path)?.body;
    ensure!(document["process"]["pid"] == program.pid, "{document}");
    let lie = place.get(&liar)?.body;
    let (start, wall) = (&lie["start_unix_ns"], lie["wall_ns"].as_u64().unwrap_or(u64::MAX));
    let later = document["start_unix_ns"].as_u64() < start.as_u64();
    ensure!(later, "it does not begin before hotspan: {lie}");
    let health = place.health()?;
    let began = place.get("/api/health")?.body["agents"].clone();
    ensure!(wall < 60_000_000_000, "{wall} ns: {began}");
    ensure!(agent(&health).is_ok(), "{health:?}");
    stranger.end()?;
    ensure!(service.stop()?.success(), "it does not end well");
    Ok(())
}
