//! Every publisher is seen, or what it published is counted as lost by name: programs that start
//! while the agent comes or goes, without `/proc`, without a main thread, with more lanes or more
//! processes than anybody expects.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    accounting,
    check::conservation_problems,
    fixture::{Recorder, Recording},
    host::{self, Scratch, can_record, publishers, wait_for_child},
    report::sum,
    service::Place,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Between two starts of programs.
const STEP: Duration = Duration::from_millis(5);

/// A span as its program knows it, CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
struct Published {
    start: u64,
    end: u64,
    id: String,
}

fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What `publishers` wrote.
fn published(text: &str) -> Result<Vec<Published>> {
    let line = |line: &str| -> Option<Published> {
        let mut words = line.split(' ');
        let (start, end) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Published { start, end, id: words.next()?.to_owned() })
    };
    text.lines().map(|text| line(text).with_context(|| format!("not a span: {text}"))).collect()
}

/// A program that publishes until it is let go.
struct Beating {
    child: Child,
    said: std::path::PathBuf,
}

impl Beating {
    fn start(scratch: &Scratch, number: usize) -> Result<Self> {
        let said = scratch.file(&format!("beat{number}"));
        let child = Command::new(publishers())
            .args(["beat", "100"])
            .stdin(Stdio::piped())
            .stdout(File::create(&said)?)
            .spawn()?;
        Ok(Self { child, said })
    }

    /// Its pid and its spans, at its end.
    fn end(mut self) -> Result<(u32, Vec<Published>)> {
        drop(self.child.stdin.take());
        let status = wait_for_child(&mut self.child, LIMIT)?.context("it does not end")?;
        ensure!(status.success(), "{status}");
        Ok((self.child.id(), published(&fs::read_to_string(&self.said)?)?))
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        // Reaped already, or the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts programs, one each [`STEP`], until `enough`.
fn start_until(scratch: &Scratch, from: usize, enough: impl Fn() -> bool) -> Result<Vec<Beating>> {
    let mut all = Vec::new();
    let began = Instant::now();
    while !enough() {
        ensure!(began.elapsed() < LIMIT, "what was waited for does not come");
        all.push(Beating::start(scratch, from + all.len())?);
        // A rate, not a wait: which program falls where does not matter.
        thread::sleep(STEP);
    }
    Ok(all)
}

/// Programs start every 5 ms while the agent attaches, and again while it goes. From the moment it
/// answers to the moment it is told to end, no span of any of them is missing.
#[test]
fn programs_that_start_while_the_agent_comes_and_goes() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let mut programs = start_until(&place.scratch, 0, {
        let began = Instant::now();
        move || began.elapsed() >= 4 * STEP
    })?;
    let mut agent = None;
    let came = thread::scope(|scope| -> Result<_> {
        let starting = scope.spawn(|| place.run(&[]));
        let first = programs.len();
        programs.extend(start_until(&place.scratch, first, || starting.is_finished())?);
        agent = Some(starting.join().expect("no panic")?);
        Ok(monotonic())
    })?;
    let agent = agent.context("it was started")?;
    // Long enough that each has spans that nothing but the agent could lose.
    place.settle()?;

    let leaving = Instant::now();
    let first = programs.len();
    programs.extend(start_until(&place.scratch, first, || leaving.elapsed() >= 20 * STEP)?);
    let asked_to_end = monotonic();
    let (collector, health) = thread::scope(|scope| -> Result<_> {
        let ending = scope.spawn(|| accounting::end_well(&place, agent, None, &[]));
        let first = programs.len();
        programs.extend(start_until(&place.scratch, first, || ending.is_finished())?);
        ending.join().expect("no panic")
    })?;
    let loss = &health.agents[0].loss;
    ensure!(!loss.contains_key("lane_replaced"), "nobody has two lanes: {loss:?}");

    let (mut asked, mut found, mut began_before) = (0, 0, 0);
    for program in programs {
        let (pid, truth) = program.end()?;
        let stored = place.spans_of(pid, false)?;
        let ids: BTreeSet<&str> = stored.iter().map(|span| span.span_id.as_str()).collect();
        let within = |span: &&Published| span.start >= came && span.end < asked_to_end;
        let missing: Vec<_> =
            truth.iter().filter(within).filter(|span| !ids.contains(span.id.as_str())).collect();
        ensure!(missing.is_empty(), "pid {pid}: {missing:?} of {} are missing", truth.len());
        // What is reported of spans that began before the agent came has no hole either.
        let known = truth.iter().skip_while(|span| !ids.contains(span.id.as_str()));
        let hole =
            known.filter(|span| span.end < asked_to_end).find(|s| !ids.contains(s.id.as_str()));
        ensure!(hole.is_none(), "pid {pid}: {hole:?} is missing");
        for span in &stored {
            ensure!(sum(&span.states) == span.active_ns, "pid {pid}: {span:?}");
        }
        asked += truth.iter().filter(within).count();
        began_before +=
            truth.iter().filter(|s| s.start < came && ids.contains(s.id.as_str())).count();
        found += stored.len();
    }
    ensure!(asked > 0 && began_before > 0, "nothing was asked of it");
    println!(
        "{asked} spans asked for, {found} found, {began_before} of them from before the first answer"
    );
    ensure!(collector.stop()?.success());
    Ok(())
}

/// Runs `publishers` under `record`; its truth is what it writes, which hotspan passes to its own
/// standard error.
fn recorded(command: &[&OsStr], files: Option<u64>) -> Result<(Recording, Vec<Published>)> {
    let mut hotspan = Command::new("prlimit");
    hotspan.args(files.map(|files| format!("--nofile={files}"))).arg(host::hotspan()?);
    let command = command.iter().map(|&word| word.to_owned()).collect();
    let recording = Recorder::new()?.start_by(hotspan, command)?.finish()?;
    ensure!(recording.status.success(), "{}: {}", recording.status, recording.stderr);
    let spans = recording.stderr.lines().filter(|line| line.split(' ').count() == 3);
    let truth = published(&spans.collect::<Vec<_>>().join("\n"))?;
    ensure!(!truth.is_empty(), "nothing was published: {}", recording.stderr);
    Ok((recording, truth))
}

/// Every span is there, or its markers are lost by name; the account balances and sums are exact.
fn found_or_lost(recording: &Recording, truth: &[Published]) -> Result<usize> {
    let report = recording.report()?;
    let problems = conservation_problems(report);
    ensure!(problems.is_empty(), "{problems:?}");
    let ids: BTreeSet<&str> = report.spans.iter().map(|span| span.span_id.as_str()).collect();
    let missing = truth.iter().filter(|span| !ids.contains(span.id.as_str())).count();
    let markers = &report.conservation["markers"];
    let lost: u64 = markers.lost.values().sum();
    ensure!(missing as u64 <= lost, "{missing} of {} missing: {markers:?}", truth.len());
    for span in &report.spans {
        ensure!(sum(&span.states) == span.active_ns, "{span:?}");
    }
    println!("{} published, {missing} missing, {markers:?}, {:?}", truth.len(), report.loss);
    Ok(missing)
}

/// No `/proc` in its root: the publisher cannot say when it began, and is read all the same. More
/// markers than a ring holds, so that what is saved of it at its end is not all.
#[test]
fn a_program_without_proc() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let root = Scratch::new()?;
    fs::copy(publishers(), root.file("publishers"))?;
    let chroot = ["chroot".as_ref(), root.path().as_os_str()];
    let program = ["/publishers", "spans", "1000", "1"].map(OsStr::new);
    let (recording, truth) = recorded(&[&chroot[..], &program].concat(), None)?;
    ensure!(truth.len() == 1_000 && found_or_lost(&recording, &truth)? == 0);
    // Nor is a name missing: not even of hotspan's own programs, which are gone when it is asked for. A
    // sample may by chance hit `chroot` itself, whose image is gone before it is looked at.
    let loss = &recording.report()?.loss;
    let lost = |key: &str| loss.get(key).copied().unwrap_or_default();
    ensure!(lost("symbols_unresolved") <= lost("stacks_tables_missing"), "{loss:?}");
    Ok(())
}

/// More threads than 64 segments have lanes for, all at once.
#[test]
fn five_thousand_lanes() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let program = publishers();
    let words = ["threads", "5000", "100"].map(OsStr::new);
    let (recording, truth) = recorded(&[&[program.as_os_str()], &words[..]].concat(), None)?;
    ensure!(truth.len() == 5_000);
    // A burst like this may overrun rings; then what is not seen is counted, and is little.
    let missing = found_or_lost(&recording, &truth)?;
    ensure!(missing * 10 <= truth.len(), "{missing} of {} are missing", truth.len());
    Ok(())
}

/// More programs than descriptors: the agent looks at as many as it can, lives on, and counts the rest.
#[test]
fn more_publishers_than_descriptors() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let program = publishers();
    let words = ["processes", "400", "1500"].map(OsStr::new);
    let command = [&[program.as_os_str()], &words[..]].concat();
    let (recording, truth) = recorded(&command, Some(256))?;
    let missing = found_or_lost(&recording, &truth)?;
    let report = recording.report()?;
    ensure!(report.loss.contains_key("segment_descriptors"), "{:?}", report.loss);
    ensure!(missing < truth.len(), "not even those it had descriptors for");
    Ok(())
}

/// The main thread ends, the others go on: `/proc/PID` shows nothing of them. Recorded from the start,
/// and found when that is over.
#[test]
fn a_program_without_its_main_thread() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let program = publishers();
    let command = [program.as_os_str(), "orphans".as_ref(), "600".as_ref()];
    let (recording, truth) = recorded(&command, None)?;
    ensure!(found_or_lost(&recording, &truth)? == 0);
    orphan_stacks(&recording)?;

    let scratch = Scratch::new()?;
    let said = scratch.file("said");
    let mut orphans = Command::new(&program);
    let mut orphans = orphans.args(["orphans", "20000"]).stdout(File::create(&said)?).spawn()?;
    let stat = format!("/proc/{}/stat", orphans.id());
    let alone = || host::read_text(&stat).contains(") Z ");
    let alone = host::wait_until(LIMIT, alone);
    // Until it has published sixty more, by its own account.
    let lines = format!(
        "n=$(wc -l <{0}); until [ $(wc -l <{0}) -ge $((n + 60)) ]; do sleep 0.02; done",
        said.display()
    );
    let recorder = Recorder::new()?.pid(orphans.id());
    let recording = recorder.record(["sh", "-c", &lines].map(Into::into).to_vec());
    orphans.kill()?;
    orphans.wait()?;
    ensure!(alone, "its main thread did not end");
    let recording = recording?;
    ensure!(recording.status.success(), "{}", recording.stderr);
    let report = recording.report()?;
    ensure!(report.spans.len() >= 40, "{} spans, loss {:?}", report.spans.len(), report.loss);
    let problems = conservation_problems(report);
    ensure!(problems.is_empty(), "{problems:?}");
    orphan_stacks(&recording)
}

/// Most of the running time of its spans is in stacks down to the thread's start.
fn orphan_stacks(recording: &Recording) -> Result<()> {
    let report = recording.report()?;
    let (mut all, mut whole) = (0, 0);
    for stack in report.spans.iter().flat_map(|span| &span.stacks) {
        if stack.state != "running" {
            continue;
        }
        all += stack.ns;
        let names: Vec<&str> = stack.frames.iter().map(|frame| frame.name.as_str()).collect();
        let has = |name: &str| names.contains(&name);
        if has("orphan_leaf") && has("orphan_top") && has("orphan") && has("start_thread") {
            whole += stack.ns;
        }
    }
    ensure!(all > 0 && whole * 10 >= all * 8, "{whole} of {all} ns in whole stacks");
    Ok(())
}
