//! The wall clock jumps an hour back and forth under `hotspan run`: durations and sums do not care,
//! nothing is lost, nothing is stored twice. libfaketime moves the clock of that process alone.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    accounting,
    fixture::Language,
    host::{can_record, wait_until},
    publisher::{all_found, publish},
    service::{Place, SOON},
};

/// Debian's package `faketime`, by architecture.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// Until three more batches are stored: whatever ended before now is in them. Batches are counted,
/// for their times are what this test bends.
fn settle(place: &Place) -> Result<()> {
    let sequence = || Some(place.health().ok()?.agents.first()?.sequence);
    let now = sequence().context("the run")?;
    let settled = || sequence().is_some_and(|later| later >= now + 3);
    ensure!(wait_until(SOON, settled), "no newer batch comes: {:?}", place.health());
    Ok(())
}

#[test]
fn a_clock_that_jumps_costs_nothing() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let Some(library) = LIBRARIES.into_iter().find(|path| Path::new(path).exists()) else {
        eprintln!("skipped: libfaketime is not installed (Debian's package is faketime)");
        return Ok(());
    };
    let place = Place::new()?;
    let clock = place.scratch.file("clock");
    // In one step: a file that is half written would be read as it is.
    let set = |text: &str| {
        let next = clock.with_extension("next");
        fs::write(&next, text).and_then(|()| fs::rename(&next, &clock))
    };
    set("+0")?;
    let service = place.alone("run", || {
        let mut command = place.command("run", &[])?;
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
        // Two names for the same: before and after 0.9.
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.env("FAKETIME_NO_CACHE", "1");
        Ok(command)
    })?;
    place.wait_for_agent(&service)?;
    let mut truths = Vec::new();
    let mut offsets = Vec::new();
    let languages = Language::BOTH.into_iter().cycle();
    for (offset, language) in ["+0", "-1h", "+1h", "+0"].into_iter().zip(languages) {
        set(offset)?;
        let published = publish(language, "nested")?;
        settle(&place)?;
        let pid = published.first().context("a truth")?.pid;
        let spans = place.spans_of(pid, false)?;
        let start = spans.iter().map(|span| span.start_unix_ns).max().context("spans")?;
        let real = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let real = i64::try_from(real.as_nanos())?;
        offsets.push((i64::try_from(start)? - real) / 60_000_000_000);
        truths.extend(published);
    }
    println!("spans started so many minutes from now: {offsets:?}");
    ensure!(offsets.iter().any(|m| *m < -50) && offsets.iter().any(|m| *m > 50), "no clock moved");
    let (last, health) = accounting::end_well(&place, service, None, &[])?;
    ensure!(health.agents.len() == 1, "one agent ran: {:?}", health.agents);
    all_found(&place, "a clock that jumps", truths)?;
    ensure!(last.stop()?.success(), "the last collector does not end well");
    Ok(())
}
