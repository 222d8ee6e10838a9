//! `record --pid` of a server that has forked: its whole tree, or itself alone, and either way the
//! report says so.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    fixture::{Language, Recorder, Recording},
    host::{self, can_record, wait_until},
    service::SOON,
};

/// A shell with everything it starts, in a process group of its own: ended with this value.
struct Server(Child);

// === impl Server ===

impl Server {
    fn start(script: &str) -> Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::null()).process_group(0);
        Ok(Self(shell.spawn()?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.0.id()) {
            // SAFETY: plain integers; the leader is not reaped, so the group is its own.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.0.wait();
    }
}

/// A command that begins what the server waits for and ends after it.
fn until(begin: &Path, end: &Path) -> Vec<OsString> {
    let (begin, end) = (begin.display(), end.display());
    let script = format!(": > {begin}; while [ ! -e {end} ]; do sleep 0.02; done");
    vec!["sh".into(), "-c".into(), script.into()]
}

/// A server whose grandchild, there before, publishes during the recording.
fn forked_server(no_children: bool) -> Result<(Recording, u32)> {
    let mut recorder = Recorder::new()?;
    let (go, done, up) = (recorder.file("go"), recorder.file("done"), recorder.file("up"));
    let truth = recorder.file("truth.json");
    let worker = format!(
        ": > {up}; while [ ! -e {go} ]; do sleep 0.02; done; {program} nested --truth {truth}; : > {done}",
        up = up.display(),
        go = go.display(),
        done = done.display(),
        program = Language::C.workload()?.display(),
        truth = truth.display(),
    );
    // The last command keeps each shell from becoming it.
    let server = Server::start(&format!("sh -c 'sh -c \"{worker}\"; true'; sleep 1000; true"))?;
    ensure!(wait_until(SOON, || up.exists()), "the server does not come up");
    recorder = recorder.pid(server.pid());
    if no_children {
        recorder = recorder.option("--no-children");
    }
    let recording = recorder.record(until(&go, &done))?;
    ensure!(recording.status.success(), "{}", recording.stderr);
    Ok((recording, server.pid()))
}

#[test]
fn descendants_that_were_there_are_recorded() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let (recording, pid) = forked_server(false)?;
    let report = recording.report()?;
    let truth = recording.truths.first().context("a truth")?;
    let found = report.spans.iter().filter(|span| span.process.pid == truth.pid).count();
    ensure!(found == truth.spans.len(), "{found} of {} spans", truth.spans.len());
    let recorded = report.recorded.first().context("what was recorded is not reported")?;
    ensure!((recorded.pid, recorded.asked_pid) == (pid, pid), "{recorded:?}");
    // Two shells; a `sleep` of the inner one may be there, too.
    ensure!((3..=4).contains(&recorded.processes), "{recorded:?}");
    ensure!(recorded.with_children && recorded.left_out == 0, "{recorded:?}");
    Ok(())
}

#[test]
fn one_alone_is_one_alone() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let (recording, pid) = forked_server(true)?;
    let report = recording.report()?;
    ensure!(report.spans.is_empty(), "{} spans of children", report.spans.len());
    let threads: BTreeSet<u32> = report.threads.iter().map(|thread| thread.pid).collect();
    ensure!(threads.contains(&pid), "the one asked for is missing");
    let recorded = report.recorded.first().context("what was recorded is not reported")?;
    ensure!(recorded.processes == 1 && !recorded.with_children, "{recorded:?}");
    ensure!((2..=3).contains(&recorded.left_out), "{recorded:?}");
    Ok(())
}

/// While hotspan attaches and reads who is there, the server goes on forking: no child is missed.
#[test]
fn forks_during_the_attach_are_not_missed() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let recorder = Recorder::new()?;
    let (go, done) = (recorder.file("go"), recorder.file("done"));
    let pids = recorder.file("pids");
    let server = Server::start(&format!(
        "while [ ! -e {go} ]; do
             sh -c 'echo $$ >> {pids}; exec sleep 1000' &
             sleep 0.01
         done
         : > {done}
         sleep 1000; true",
        go = go.display(),
        pids = pids.display(),
        done = done.display(),
    ))?;
    ensure!(wait_until(SOON, || pids.exists()), "the server does not come up");
    let before = fs::read_to_string(&pids)?.lines().count();
    let recording = recorder.pid(server.pid()).record(until(&go, &done))?;
    let report = recording.report()?;
    let reported: BTreeSet<u32> = report.threads.iter().map(|thread| thread.pid).collect();
    let alive = fs::read_to_string(recording.scratch.file("pids"))?;
    let alive: Vec<u32> = alive.lines().map(str::parse).collect::<Result<_, _>>()?;
    println!("{before} children, then {}; reported: {:?}", alive.len(), report.recorded);
    // The last one may have been forked when the recording had ended.
    let missed: Vec<&u32> = alive.iter().filter(|pid| !reported.contains(pid)).collect();
    ensure!(missed.len() <= 1, "missed of {}: {missed:?}", alive.len());
    ensure!(before < alive.len(), "no fork during the attach: {before}");
    Ok(())
}

/// One line, and nothing is started.
#[test]
fn who_cannot_be_recorded_is_reported_in_one_line() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let hotspan = host::hotspan()?;
    let started = host::Scratch::new()?;
    let started = started.file("started");
    // A shell that becomes hotspan has its number.
    let cases = [("2", "thread of the kernel"), ("4194305", "no such process"), ("$$", "itself")];
    for (pid, why) in cases {
        let script =
            format!("exec {} record --pid {pid} -- touch {}", hotspan.display(), started.display());
        let output = Command::new("sh").args(["-c", &script]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{pid}: {}: {said}", output.status);
        ensure!(said.lines().count() == 1 && said.contains(why), "{pid}: {said}");
        ensure!(!started.exists(), "{pid}: the command was started");
    }
    Ok(())
}

/// The number of a thread stands for its process.
#[test]
fn a_thread_stands_for_its_process() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let recorder = Recorder::new()?;
    let (go, done) = (recorder.file("go"), recorder.file("done"));
    let (send, reported) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // SAFETY: gettid has no preconditions.
        let _ = send.send(unsafe { libc::gettid() });
        // Until the sender goes.
        let _ = ended.recv();
    });
    let tid = u32::try_from(reported.recv()?)?;
    fs::write(&done, "")?;
    let recording = recorder.pid(tid).record(until(&go, &done))?;
    drop(end);
    thread.join().ok().context("the thread")?;
    let recorded =
        recording.report()?.recorded.first().context("what was recorded is not reported")?;
    ensure!((recorded.pid, recorded.asked_pid) == (std::process::id(), tid), "{recorded:?}");
    ensure!(recording.stderr.contains("is a thread of"), "{}", recording.stderr);
    Ok(())
}
