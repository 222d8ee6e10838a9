//! What a local user can do to the life of the agent: keep it from starting, take its files, flood it
//! with processes.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    attack::{Arena, NOBODY, program},
    fixture::{Language, Recorder},
    host::{self, can_record},
    publisher::{all_found, publish},
    service::{Place, SOON, Service},
};

/// How long an attacker may take to end by itself.
const LIMIT: Duration = Duration::from_secs(60);
/// The six, and SYS_NICE, by their numbers in the kernel's `capability.h`.
const KEPT: [u32; 7] = [2, 19, 23, 34, 38, 39, 40];

/// Ends by itself, having said these words.
fn refused(mut service: Service, words: &[&str]) -> Result<()> {
    let status = service.end(SOON)?;
    let said = service.log();
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(words.iter().all(|word| said.contains(word)), "{said}");
    Ok(())
}

/// Any user can take any name of the abstract kind: none of them is in the way.
#[test]
fn abstract_name() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let address = SocketAddr::from_abstract_name("hotspan-agent")?;
    // Taken already is as good: by an older hotspan, or another attacker.
    let _taken = UnixListener::bind_addr(&address).ok();
    let place = Place::new()?;
    let service = place.run(&[])?;
    let sockets = host::read_text("/proc/net/unix");
    let names = sockets.lines().filter(|line| line.contains(" @hotspan")).count();
    ensure!(names <= 1, "it has a name of this kind: {sockets}");
    ensure!(service.stop()?.success(), "it does not end well");
    Ok(())
}

/// A directory that a user made first, with a lock that leads to root's file and a token of that user's.
#[test]
fn data_dir() -> Result<()> {
    if !host::is_root() {
        eprintln!("skipped: only root can play the other user");
        return Ok(());
    }
    let place = Place::new()?;
    let (data, victim) = (place.data_dir(), place.scratch.file("victim"));
    fs::write(&victim, "a file of root's")?;
    fs::create_dir(&data)?;
    fs::set_permissions(&data, Permissions::from_mode(0o777))?;
    symlink(&victim, data.join("lock"))?;
    symlink(&victim, data.join("agent.lock"))?;
    let token = data.join("ingest-token");
    fs::write(&token, "token-of-the-attacker-0123456789")?;
    for path in [&token, &data] {
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    let theirs = ["belongs to user 65534", "give another place", "--data-dir"];
    for command in ["collector", "run"] {
        refused(place.spawn(place.command(command, &[])?, command)?, &theirs)?;
    }
    refused(place.spawn(place.agent_command(None, &[])?, "agent")?, &theirs[..1])?;

    // As the remedy of a hasty administrator leaves it: what others left in it is no better.
    chown(&data, Some(0), Some(0))?;
    refused(place.spawn(place.command("collector", &[])?, "c1")?, &["can be written by others"])?;
    fs::set_permissions(&data, Permissions::from_mode(0o755))?;
    refused(place.spawn(place.command("collector", &[])?, "c2")?, &["lock is a symbolic link"])?;
    fs::remove_file(data.join("lock"))?;
    fs::remove_file(data.join("agent.lock"))?;
    refused(place.spawn(place.command("collector", &[])?, "c3")?, &["ingest-token", "65534"])?;
    ensure!(fs::read_to_string(&victim)? == "a file of root's", "root's file was changed");

    // Root's own with the usual mode is fine, and nobody else reads what is in it.
    fs::remove_file(&token)?;
    let collector = place.collector(&[])?;
    for entry in fs::read_dir(&data)? {
        let entry = entry?.metadata()?;
        ensure!(entry.mode() & 0o077 == 0 && entry.uid() == 0, "{entry:?}");
    }
    ensure!(collector.stop()?.success(), "it does not end well");
    Ok(())
}

/// The sets of capabilities of every thread, and whether it may gain more and calls what it likes.
fn rights(pid: u32) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = host::read_text(task?.path().join("status"));
        for line in status.lines() {
            let (name, value) = line.split_once(':').context("name: value")?;
            if name.starts_with("Cap") || name == "NoNewPrivs" || name == "Seccomp" {
                all.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }
    ensure!(!all.is_empty(), "{pid} has no threads");
    Ok(all)
}

/// Problems with the rights of a process: capabilities beyond `kept` in any set of any thread.
fn too_much(pid: u32, kept: &[u32]) -> Result<BTreeSet<String>> {
    let kept: u64 = kept.iter().map(|bit| 1 << bit).sum();
    let mut problems = BTreeSet::new();
    for (name, value) in rights(pid)? {
        let fits = match name.as_str() {
            "NoNewPrivs" => value == "1",
            "Seccomp" => value == "2",
            "CapInh" | "CapAmb" => u64::from_str_radix(&value, 16)? == 0,
            _ => u64::from_str_radix(&value, 16)? & !kept == 0,
        };
        if !fits {
            problems.insert(format!("{name} {value}"));
        }
    }
    Ok(problems)
}

/// Without systemd too: every thread has the seven capabilities at most, in no set more, no_new_privs and a
/// filter; it profiles as before; and after SIGKILL nothing of it is left in the kernel.
#[test]
fn kill_leftovers() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let service = place.run(&[])?;
    let pid = service.child.id();
    let problems = too_much(pid, &KEPT)?;
    ensure!(problems.is_empty(), "{problems:?}");
    all_found(&place, "with the rights that are kept", {
        let truths = publish(Language::C, "mutex")?;
        place.settle()?;
        truths
    })?;
    // Threads that came meanwhile.
    let problems = too_much(pid, &KEPT)?;
    ensure!(problems.is_empty(), "{problems:?}");
    // What is kept suffices for a raised priority, and no right for all files the caller may open.
    let priority = host::read_text(format!("/proc/{pid}/stat"));
    let priority = priority.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(16));
    ensure!(priority == Some("-10"), "the drain thread's priority is {priority:?}");
    let limits = host::read_text(format!("/proc/{pid}/limits"));
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut files = files.context("a limit of files")?.split_whitespace();
    ensure!(files.next() == files.next(), "it could open more files: {limits}");
    let held = host::held_objects(pid)?;
    ensure!(!held.is_empty(), "it holds no programs");
    service.kill()?;
    // The kernel lets go of maps and programs a grace period later.
    let gone = || host::kernel_objects().is_ok_and(|left| left.is_disjoint(&held));
    ensure!(host::wait_until(SOON, gone), "left in the kernel");
    // Its lock is no obstacle, although the file is still there.
    let next = place.run(&[])?;
    ensure!(next.stop()?.success(), "it does not end well");

    let collector = place.collector(&[])?;
    let problems = too_much(collector.child.id(), &[])?;
    // A user's process may keep what it could gain by exec, for it cannot drop that.
    ensure!(problems.is_empty(), "a collector needs none: {problems:?}");
    ensure!(collector.stop()?.success(), "it does not end well");
    Ok(())
}

/// Ports below 1,024 are taken before the right to take them is given up.
#[test]
fn ports_of_roots() -> Result<()> {
    if !host::is_root() {
        eprintln!("skipped: these ports are root's");
        return Ok(());
    }
    let mut place = Place::new()?;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = (512..1024).rev().filter(free);
    place.web = ports.next().context("no free port")?;
    place.ingest = ports.next().context("no free port")?;
    let collector = place.collector(&[])?;
    ensure!(collector.stop()?.success(), "it does not end well");
    Ok(())
}

/// The rights are the caller's business: the command has them all, and no filter.
#[test]
fn a_recorded_command_keeps_its_callers_rights() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let recorder = Recorder::new()?;
    let (status, parent) = (recorder.file("status"), recorder.file("parent"));
    let script = format!(
        "cat /proc/self/status > {}; for t in /proc/$PPID/task/*; do cat $t/comm $t/status; done > {}",
        status.display(),
        parent.display()
    );
    let recording = recorder.record(["sh", "-c", &script].map(Into::into).to_vec())?;
    recording.report()?;
    ensure!(recording.status.success(), "{}", recording.stderr);
    let of = |path: &Path, name: &str| -> Vec<String> {
        let text = host::read_text(path);
        let values = text.lines().filter_map(|line| line.strip_prefix(name));
        values.map(|value| value.trim_start_matches(':').trim().to_owned()).collect()
    };
    for name in ["CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"] {
        let ours = of(Path::new("/proc/self/status"), name);
        ensure!(of(&status, name) == ours, "{name}: {:?}, ours {ours:?}", of(&status, name));
    }
    // CAP_KILL is the starter's, to pass signals on.
    let kept: u64 = KEPT.iter().chain(&[5]).map(|bit| 1 << bit).sum();
    let effective = of(&parent, "CapEff");
    ensure!(!effective.is_empty(), "the parent's threads were not seen");
    for set in effective {
        ensure!(u64::from_str_radix(&set, 16)? & !kept == 0, "a thread of hotspan has {set}");
    }
    Ok(())
}

/// `record` passes signals on to a command that has become another user.
#[test]
fn a_command_of_another_user_is_ended() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let recorder = Recorder::new()?;
    let ready = recorder.file("ready");
    File::create(&ready)?;
    chown(&ready, Some(NOBODY), Some(NOBODY))?;
    let script = format!("echo $$ > {}; exec sleep 1000", ready.display());
    let command = ["setpriv", "--reuid", "65534", "--clear-groups", "sh", "-c", &script];
    let running = recorder.start(command.map(Into::into).to_vec())?;
    let started = || !host::read_text(&ready).is_empty();
    ensure!(host::wait_until(SOON, started), "the command does not start");
    host::signal(&running.child, libc::SIGTERM)?;
    let recording = running.finish()?;
    ensure!(recording.status.code() == Some(128 + libc::SIGTERM), "{}", recording.status);
    Ok(())
}

/// Thousands of processes a second, one after the other: each is in the batch of its second, and a batch
/// that is cut names in a piece only whom that piece is about.
#[test]
fn fork_storm() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut arena = Arena::start(&[])?;
    let honest = arena.honest()?;
    let mut storm = arena.attack(&program("fork_storm"), &["3", "20000"])?;
    let status = storm.end(LIMIT)?;
    ensure!(status.success(), "the storm did not blow: {status}");
    arena.finish("fork_storm", honest)?.holds()
}
