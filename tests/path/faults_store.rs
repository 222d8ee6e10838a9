//! The disk: full and then not, and files of the store that were cut or changed while nobody looked.
//! The agent keeps what the store cannot take; a damaged part is set aside and the rest serves.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    accounting,
    disk::Disk,
    fixture::Language,
    host::{can_record, wait_until},
    publisher::{MIXED, Publisher, all_found, publish},
    random::Random,
    report::{Span, get, sum},
    service::{Health, Place, SOON, Service},
    stream::Stream,
};

/// How long the disk stays full: several batches.
const FULL: Duration = Duration::from_secs(5);
/// Bytes changed, one by one.
const FLIPS: usize = 30;
/// The older of two parts.
const OLDER: &str = "part-20200101-00.db";

#[test]
fn a_full_disk_costs_nothing_once_there_is_room() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let disk = Disk::mount(&place.data_dir(), "16m")?;
    let service = place.run(&[])?;
    let publisher = Publisher::start(MIXED);
    let ballast = disk.fill()?;
    let mut said = None;
    let is_reported = wait_until(SOON, || {
        said = place.health().ok().filter(|health| health.store["is_full"] == true);
        said.is_some()
    });
    ensure!(is_reported, "a full disk is not reported: {:?}", place.health());
    let health = said.context("reported")?;
    ensure!(health.status == "degraded", "full, and yet {}", health.status);
    println!("full: {:?}", health.reasons);
    ensure!(health.reasons.iter().any(|why| why.contains("room")), "{:?}", health.reasons);
    // It answers, and the agent keeps what comes.
    let until = std::time::Instant::now() + FULL;
    while std::time::Instant::now() < until {
        ensure!(place.get("/api/spans")?.status == 200, "a full disk keeps it from answering");
        std::thread::sleep(Duration::from_millis(200));
    }
    let stored = place.health()?.agents.first().context("the run")?.sequence;
    fs::remove_file(ballast)?;
    place.settle()?;
    let health = place.health()?;
    ensure!(health.status == "ok", "there is room, and yet {:?}", health.reasons);
    let later = health.agents.first().context("the run")?.sequence;
    println!("{stored} batches stored when full, {later} after");
    let truths = publisher.finish()?;
    place.settle()?;
    let (last, _) = accounting::end_well(&place, service, None, &[])?;
    all_found(&place, "full disk", truths)?;
    ensure!(last.stop()?.success(), "the last collector does not end well");
    Ok(())
}

/// The collector is killed, its newest part is cut, and a new collector meets an agent that knows
/// batches to be durable which are gone: that is reported as a loss, and everything since is there.
#[test]
fn what_a_damaged_part_held_of_a_living_agent_is_reported() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut stream = Stream::start(&[])?;
    publish(Language::Rust, "nested")?;
    stream.place.settle()?;
    stream.kill_collector()?;
    let data = stream.place.data_dir();
    fs::File::options().write(true).open(data.join(newest(&data)?))?.set_len(50)?;
    stream.start_collector()?;
    stream.place.settle()?;
    let truths = publish(Language::Rust, "nested")?;
    stream.place.settle()?;
    let ended = stream.end(&["agent_forgot"])?;
    let lost = accounting::lost(ended.health.agents.first().context("the run")?);
    ensure!(lost.get("agent_forgot").is_some_and(|n| *n > 0), "the loss is not reported: {lost:?}");
    let reasons = &ended.health.reasons;
    ensure!(!reasons.iter().any(|why| why.contains("bug")), "{reasons:?}");
    ended.found("since the damage", truths)
}

/// A store of two parts, the newer with a WAL, and what it holds.
struct Original {
    place: Place,
    newest: String,
    older: BTreeMap<String, Span>,
    newer: BTreeMap<String, Span>,
}

fn served(place: &Place, pids: &[u32]) -> Result<BTreeMap<String, Span>> {
    let mut spans = BTreeMap::new();
    for &pid in pids {
        for span in place.spans_of(pid, false)? {
            ensure!(sum(&span.states) == span.active_ns, "broken sums: {span:?}");
            let twice = spans.insert(format!("{}/{}", span.trace_id, span.span_id), span);
            ensure!(twice.is_none(), "a span twice: {twice:?}");
        }
    }
    Ok(spans)
}

// === impl Original ===

impl Original {
    fn make() -> Result<Self> {
        let place = Place::new()?;
        let service = place.run(&[])?;
        let old = publish(Language::Rust, "nested")?;
        place.settle()?;
        ensure!(service.stop()?.success(), "the first run does not end well");
        // An earlier day's part: the next run begins another one.
        let first = newest(&place.data_dir())?;
        fs::rename(place.data_dir().join(first), place.data_dir().join(OLDER))?;
        let service = place.run(&[])?;
        let new = publish(Language::C, "nested")?;
        place.settle()?;
        let old: Vec<u32> = old.iter().map(|truth| truth.pid).collect();
        let new: Vec<u32> = new.iter().map(|truth| truth.pid).collect();
        let (older, newer) = (served(&place, &old)?, served(&place, &new)?);
        ensure!(older.len() == 60 && newer.len() == 60, "{} and {}", older.len(), newer.len());
        // Killed: what came last is in the WAL only.
        service.kill()?;
        let newest = newest(&place.data_dir())?;
        ensure!(newest != OLDER, "there is one part only");
        let wal = place.data_dir().join(format!("{newest}-wal")).metadata()?.len();
        println!("two parts, a WAL of {wal} bytes");
        Ok(Self { place, newest, older, newer })
    }

    /// Everything into the part itself.
    fn checkpoint(&self) -> Result<()> {
        let collector = self.place.collector(&[])?;
        ensure!(collector.stop()?.success(), "the collector does not end well");
        Ok(())
    }

    /// A collector on a copy that `damage` has been at. Whether the part was set aside.
    fn with(&self, what: &str, damage: impl Fn(&Path) -> Result<()>) -> Result<bool> {
        self.served_after(what, damage, same)
    }

    /// The same without the end of the WAL: what is served may be as it was some batches ago.
    fn with_less(&self, what: &str, damage: impl Fn(&Path) -> Result<()>) -> Result<bool> {
        self.served_after(what, damage, |span, written| {
            let mut states = span.states.iter();
            span.name == written.name
                && states.all(|(state, ns)| *ns <= get(&written.states, state))
        })
    }

    fn served_after(
        &self,
        what: &str,
        damage: impl Fn(&Path) -> Result<()>,
        is_as_written: impl Fn(&Span, &Span) -> bool,
    ) -> Result<bool> {
        let place = Place::new()?;
        fs::create_dir(place.data_dir())?;
        for file in fs::read_dir(self.place.data_dir())? {
            let file = file?;
            // The agent's cache of unwind tables is a folder, and no part of the store.
            if file.file_type()?.is_file() {
                fs::copy(file.path(), place.data_dir().join(file.file_name()))?;
            }
        }
        damage(&place.data_dir().join(&self.newest)).with_context(|| what.to_owned())?;
        let mut collector = place.collector(&[])?;
        let aside = self.ask(&place, &mut collector, is_as_written).with_context(|| {
            format!("{what}: {:?}, it said {}", collector.child.try_wait(), collector.log())
        })?;
        ensure!(collector.stop()?.success(), "{what}: the collector does not end well");
        Ok(aside)
    }

    fn ask(
        &self,
        place: &Place,
        collector: &mut Service,
        is_as_written: impl Fn(&Span, &Span) -> bool,
    ) -> Result<bool> {
        let (old, new) = (pids(&self.older), pids(&self.newer));
        let older = served(place, &old)?;
        ensure!(older.len() == self.older.len(), "{} older spans serve", older.len());
        for (key, span) in &older {
            ensure!(same(span, &self.older[key]), "changed: {span:?}");
        }
        // Of the damaged part nothing, or what was written.
        let newer = served(place, &new)?;
        for (key, span) in &newer {
            let written = self.newer.get(key).with_context(|| format!("nobody wrote {key}"))?;
            ensure!(is_as_written(span, written), "changed: {span:?}, written {written:?}");
        }
        let some = self.older.keys().next().context("a span")?;
        ensure!(place.get(&format!("/api/span/{some}"))?.status == 200, "no document");
        for key in self.newer.keys().take(10) {
            let status = place.get(&format!("/api/span/{key}"))?.status;
            ensure!([200, 404].contains(&status), "{status} for a span of a damaged part");
        }
        let health = place.health()?;
        ensure!(collector.child.try_wait()?.is_none(), "it ended");
        let aside = self.aside(&health)?;
        if aside {
            // What was served above was served before the damage was met, by the documents perhaps.
            let newer = served(place, &new)?.len();
            ensure!(newer == 0, "{newer} spans of a part that was set aside");
        }
        Ok(aside)
    }

    /// Whether the part was set aside; then it says so.
    fn aside(&self, health: &Health) -> Result<bool> {
        let aside = health.store["set_aside"].as_array().context("set_aside")?;
        if aside.is_empty() {
            return Ok(false);
        }
        let file = aside[0]["file"].as_str().unwrap_or_default();
        let reason = aside[0]["reason"].as_str().unwrap_or_default();
        ensure!(file.starts_with(&self.newest) && !reason.is_empty(), "{aside:?}");
        ensure!(health.status == "degraded", "set aside, and yet {}", health.status);
        ensure!(health.reasons.iter().any(|why| why.contains(&self.newest)), "{health:?}");
        Ok(true)
    }
}

fn pids(spans: &BTreeMap<String, Span>) -> Vec<u32> {
    let pids: std::collections::BTreeSet<u32> = spans.values().map(|s| s.process.pid).collect();
    pids.into_iter().collect()
}

fn same(a: &Span, b: &Span) -> bool {
    (a.active_ns, a.wall_ns, &a.states, &a.name) == (b.active_ns, b.wall_ns, &b.states, &b.name)
}

/// The newest part in a folder.
fn newest(folder: &Path) -> Result<String> {
    let mut parts = Vec::new();
    for file in fs::read_dir(folder)? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if name.starts_with("part-") && name.ends_with(".db") {
            parts.push(name);
        }
    }
    parts.sort();
    parts.pop().context("a part")
}

#[test]
fn a_damaged_part_is_set_aside_and_the_rest_serves() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut random = Random::seeded("damage");
    let original = Original::make()?;
    let wal = |part: &Path| part.with_extension("db-wal");
    original.with_less("the WAL is gone", |part| Ok(fs::remove_file(wal(part))?))?;
    original.with_less("the WAL is cut", |part| {
        let file = fs::File::options().write(true).open(wal(part))?;
        Ok(file.set_len(file.metadata()?.len() / 2)?)
    })?;
    original.checkpoint()?;
    ensure!(!original.with("undamaged", |_| Ok(()))?, "an undamaged part was set aside");
    let length = original.place.data_dir().join(&original.newest).metadata()?.len();
    for kept in [0, 50, 100, 4096, length / 2, length - 4096, length - 1] {
        let cut = |part: &Path| Ok(fs::File::options().write(true).open(part)?.set_len(kept)?);
        let aside = original.with(&format!("cut to {kept} of {length}"), cut)?;
        // Of the last page something is left, and perhaps nothing that was asked for was not.
        let whole_pages = kept < length - 4095;
        ensure!(aside || !whole_pages, "a part cut to {kept} of {length} bytes is not set aside");
    }
    let mut noticed = 0;
    for _ in 0..FLIPS {
        let (at, bit) = (random.below(length) as usize, random.below(8));
        let flip = |part: &Path| {
            let mut bytes = fs::read(part)?;
            bytes[at] ^= 1 << bit;
            Ok(fs::write(part, bytes)?)
        };
        noticed += usize::from(original.with(&format!("bit {bit} of byte {at} flipped"), flip)?);
    }
    // The others fell on bytes that nothing asked for, or that nothing uses.
    println!("{noticed} of {FLIPS} flips set the part aside, none was served");
    Ok(())
}
