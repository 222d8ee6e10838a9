//! The stack of a thread as gdb sees it, address by address: an unwinder with nothing in common with
//! hotspan's. It stops the thread for as long as it looks.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::host;

/// Reading the symbols of a C library on a loaded host included.
const LIMIT: Duration = Duration::from_secs(60);

/// One line per physical frame. An inlined function or a tail call is no frame of the machine.
const SCRIPT: &str = r#"
import gdb
for thread in gdb.selected_inferior().threads():
    thread.switch()
    frame = gdb.newest_frame()
    while frame is not None:
        kind = frame.type()
        if kind not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            is_signal = int(kind == gdb.SIGTRAMP_FRAME)
            print("frame %d %x %d %s" % (thread.ptid[1], frame.pc(), is_signal, frame.name()))
        frame = frame.older()
"#;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it goes on: of all but the innermost, and of one that a signal interrupted, a return
    /// address.
    pub pc: u64,
    /// It is the code that ends a signal handler.
    pub is_signal: bool,
    /// Its function, as far as gdb knows.
    pub name: String,
}

/// Whether gdb is there; prints when it is not.
pub fn is_installed() -> bool {
    let found = Command::new("gdb").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: no gdb to compare with");
    }
    found
}

/// The frames of a thread, innermost first. Frames at address 0, which gdb shows when it is lost, are
/// left out.
pub fn stack(pid: u32, tid: u32) -> Result<Vec<Frame>> {
    let scratch = host::Scratch::new()?;
    let (script, said) = (scratch.file("stack.py"), scratch.file("said"));
    fs::write(&script, SCRIPT)?;
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-iex", "set auto-load off"]);
    // gdb by itself stops at main.
    for setting in ["limit unlimited", "past-main on", "past-entry on"] {
        gdb.args(["-ex", &format!("set backtrace {setting}")]);
    }
    gdb.args(["-p", &pid.to_string(), "-x"]).arg(&script);
    gdb.stdin(Stdio::null())
        .stdout(File::create(&said)?)
        .stderr(File::create(scratch.file("err"))?);
    let mut child = gdb.spawn().context("gdb does not start")?;
    let ended = host::wait_for_child(&mut child, LIMIT)?;
    if ended.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let complaint = host::read_text(scratch.file("err"));
    ensure!(ended.is_some(), "gdb did not end within {LIMIT:?}: {complaint}");
    let frames = parse(&said, tid)?;
    ensure!(!frames.is_empty(), "gdb shows no stack of {tid}: {complaint}");
    Ok(frames)
}

fn parse(said: &Path, tid: u32) -> Result<Vec<Frame>> {
    let text = host::read_text(said);
    let mut frames = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("frame ")) {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().context("gdb's line is cut");
        let (thread, pc, is_signal, name) = (word()?, word()?, word()?, word()?);
        let pc = u64::from_str_radix(pc, 16)?;
        if thread.parse::<u32>()? == tid && pc != 0 {
            frames.push(Frame { pc, is_signal: is_signal == "1", name: name.to_owned() });
        }
    }
    Ok(frames)
}
