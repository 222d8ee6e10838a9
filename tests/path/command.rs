//! `hotspan record` as a command: exit codes, one-line errors, Ctrl-C, and what a SIGKILL leaves.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    fixture::{Language, Recorder},
    host::{self, can_record, is_root, signal, wait_for_child, wait_until},
    truth::Truth,
};

const SOON: Duration = Duration::from_secs(30);

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

#[test]
fn the_commands_exit_code_is_passed_on() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    for code in [0, 7, 255] {
        let recording = Recorder::new()?.record(words(&["sh", "-c", &format!("exit {code}")]))?;
        assert_eq!(recording.status.code(), Some(code), "{}", recording.stderr);
        assert!(recording.report.is_some(), "no report of a command that ended with {code}");
    }
    Ok(())
}

#[test]
fn the_report_goes_to_standard_output() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let recording = Recorder::new()?.report_to_stdout().record(words(&["true"]))?;
    assert!(recording.status.success(), "{}", recording.stderr);
    recording.report()?;
    Ok(())
}

/// One line says what is wrong, and the exit code is 1.
fn fails_in_one_line(command: Vec<OsString>) -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let name = command[0].clone();
    let recording = Recorder::new()?.record(command)?;
    let lines = recording.stderr.lines().count();
    assert_eq!(recording.status.code(), Some(1), "{}", recording.stderr);
    assert_eq!(lines, 1, "{}", recording.stderr);
    let (said, name) = (&recording.stderr, name.to_string_lossy());
    assert!(said.contains(name.as_ref()), "does not name {name}: {said}");
    Ok(())
}

#[test]
fn a_command_that_is_not_there() -> Result<()> {
    fails_in_one_line(words(&["/nonexistent/program"]))
}

#[test]
fn a_command_that_is_not_in_path() -> Result<()> {
    fails_in_one_line(words(&["hotspan-no-such-program"]))
}

#[test]
fn a_command_that_is_not_executable() -> Result<()> {
    let scratch = host::Scratch::new()?;
    let file = scratch.file("text");
    fs::write(&file, "not a program")?;
    fails_in_one_line(vec![file.into()])
}

#[test]
fn a_user_without_rights() -> Result<()> {
    if !is_root() {
        eprintln!("skipped: only root can become nobody");
        return Ok(());
    }
    // Where nobody can reach it, whatever the rights of the build's folders.
    let program = std::env::temp_dir().join(format!("hotspan-as-nobody-{}", std::process::id()));
    fs::copy(host::hotspan()?, &program)?;
    let recorder = Recorder::new()?;
    let mut hotspan = Command::new(&program);
    hotspan.args(["record", "--", "true"]).stdin(std::process::Stdio::null());
    // SAFETY: setgroups, setgid and setuid are plain system calls without locks or memory.
    unsafe {
        hotspan.pre_exec(|| {
            for result in
                [libc::setgroups(0, std::ptr::null()), libc::setgid(65534), libc::setuid(65534)]
            {
                if result != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        })
    };
    let output = hotspan.current_dir("/").output();
    fs::remove_file(&program)?;
    let output = output?;
    drop(recorder);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    Ok(())
}

/// SIGINT to hotspan ends the command, and what was recorded is still printed.
#[test]
fn ctrl_c_ends_the_command_and_still_prints() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let recorder = Recorder::new()?;
    let started = recorder.file("started");
    let script = format!(
        "{} sleep --truth {}; : > {}; exec sleep 60",
        Language::C.workload()?.display(),
        recorder.file("truth.json").display(),
        started.display()
    );
    let begin = Instant::now();
    let running = recorder.start(words(&["sh", "-c", &script]))?;
    ensure!(wait_until(SOON, || started.exists()), "the command does not start");
    signal(&running.child, libc::SIGINT)?;
    let recording = running.finish()?;
    assert!(begin.elapsed() < Duration::from_secs(50), "the command was not ended");
    assert!(recording.report()?.spans.len() >= 40, "what was recorded is not printed");
    Ok(())
}

/// SIGKILL at any moment: nothing stays in the kernel, and the workload does not notice.
#[test]
fn sigkill_leaves_nothing() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut most = 0;
    // From before the attach to the end of the workload, in an order that is not that of time.
    for turn in 0..20_u64 {
        let recorder = Recorder::new()?;
        let truth = recorder.file("truth.json");
        let command = recorder.scenario_command(Language::C, "nested")?;
        let mut running = recorder.start(command)?;
        let moment = Duration::from_millis(turn * 7919 % 20 * 40);
        let ended = wait_for_child(&mut running.child, moment)?;
        let mut held = BTreeSet::new();
        if ended.is_none() {
            // It must not load anything between the look and the kill.
            signal(&running.child, libc::SIGSTOP)?;
            held = host::held_objects(running.child.id())?;
            signal(&running.child, libc::SIGKILL)?;
        }
        most = most.max(held.len());
        wait_for_child(&mut running.child, SOON)?.context("SIGKILL ends a process")?;

        let mut left = BTreeSet::new();
        let clean = wait_until(SOON, || {
            let now = host::kernel_objects().unwrap_or_else(|_| held.clone());
            left = held.intersection(&now).cloned().collect();
            left.is_empty()
        });
        assert!(clean, "killed after {moment:?}, in the kernel stay {left:?}");
        // The workload may not have been started yet; once it runs, it ends well.
        let unharmed = wait_until(SOON, || no_process_has(&truth.to_string_lossy()));
        assert!(unharmed, "the workload hangs after hotspan was killed after {moment:?}");
        if truth.exists() {
            let spans: usize = Truth::load_all(&truth)?.iter().map(|t| t.spans.len()).sum();
            assert_eq!(spans, 60, "the workload was harmed after {moment:?}");
        }
    }
    assert!(most > 3, "hotspan was never seen in the kernel: {most} objects");
    Ok(())
}

/// Whether no process has this word on its command line.
fn no_process_has(word: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    !processes.flatten().any(|process| {
        let name = process.file_name();
        let is_process = name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        is_process && host::read_text(process.path().join("cmdline")).contains(word)
    })
}
