//! Scenarios about the life of processes and threads: spans older than the agent, deaths inside of
//! spans, fork, exec, and a process that lives 5 ms.

use std::{
    fs::File,
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    clocks::{MS, length_of_wait, sleep_ns},
    options,
    record::{Span, fork as fork_process, join, start, warm_up, write_truth},
};

fn sleep_span(name: &'static str, ns: u64) {
    Span::new(name, "sleep").waiting(ns).around(|| sleep_ns(ns));
}

/// A span that is open when the agent comes.
pub(crate) fn before_attach() -> Result<()> {
    let ready = options().ready.as_deref().context("--ready is missing")?;
    let go = options().go.as_deref().context("--go is missing")?;
    join(start(move || {
        Span::new("before attach", "sleep").around(|| {
            File::create(ready).expect("the ready file can be made");
            let deadline = Instant::now() + Duration::from_secs(30);
            while !go.exists() {
                assert!(Instant::now() < deadline, "nobody said go");
                sleep_ns(MS);
            }
            sleep_ns(20 * MS);
        });
        for turn in 0..10 {
            sleep_span("after attach", length_of_wait(turn));
        }
    }))
}

/// Deaths inside of a span: of a thread, of a process, by a signal.
pub(crate) fn exit_in_span() -> Result<()> {
    for _ in 0..5 {
        join(start(|| {
            warm_up();
            let mut span = Span::new("thread dies", "sleep");
            span.enter();
            sleep_ns(5 * MS);
            span.keep_open();
        }))?;
        dying_process("process exits", false)?;
        dying_process("process is killed", true)?;
    }
    Ok(())
}

fn dying_process(name: &'static str, by_signal: bool) -> Result<()> {
    let pid = fork_process()?;
    if pid != 0 {
        return wait_for(pid);
    }
    warm_up();
    let mut span = Span::new(name, "sleep");
    span.enter();
    sleep_ns(5 * MS);
    span.keep_open();
    let code = i32::from(write_truth().is_err());
    if by_signal {
        // SAFETY: the signal goes to this very process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(code) }
}

fn wait_for(pid: libc::pid_t) -> Result<()> {
    let mut status = 0;
    // SAFETY: `status` is writable and the child is ours.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(reaped == pid, "waitpid: {}", std::io::Error::last_os_error());
    Ok(())
}

fn next_program(scenario: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(scenario).arg("--truth").arg(&options().truth);
    command
}

/// One process, three programs (the first only forks).
pub(crate) fn exec() -> Result<()> {
    let mut child = next_program("exec_again").spawn()?;
    sleep_span("first program", 5 * MS);
    ensure!(child.wait()?.success(), "the chain failed");
    Ok(())
}

pub(crate) fn exec_again() -> Result<()> {
    sleep_span("second program", 5 * MS);
    let mut span = Span::new("open at exec", "sleep");
    span.enter();
    sleep_ns(5 * MS);
    span.keep_open();
    write_truth()?;
    Err(next_program("exec_last").exec()).context("exec")
}

pub(crate) fn exec_last() -> Result<()> {
    sleep_span("third program", 5 * MS);
    Ok(())
}

/// A parent and a child that publish.
pub(crate) fn fork() -> Result<()> {
    for _ in 0..5 {
        sleep_span("in parent", 3 * MS);
        let pid = fork_process()?;
        if pid == 0 {
            sleep_span("in child", 4 * MS);
            sleep_span("in child again", 3 * MS);
            let code = i32::from(write_truth().is_err());
            // SAFETY: ends the process without running anything of the parent's.
            unsafe { libc::_exit(code) };
        }
        sleep_span("in parent again", 3 * MS);
        wait_for(pid)?;
    }
    Ok(())
}

/// Gone before anybody looks.
pub(crate) fn short() -> Result<()> {
    for _ in 0..3 {
        sleep_span("short life", MS + MS / 2);
    }
    Ok(())
}
