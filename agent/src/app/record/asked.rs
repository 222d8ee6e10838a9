//! Processes asked for by their number: which they are, or why they cannot be recorded.

use std::fs;

use crate::{
    document::span::RecordedDocument,
    model::id::Pid,
    process::{
        family::Root,
        procfs::{Stat, is_alive},
    },
};

/// Why a process cannot be recorded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskedError {
    /// No process, no thread.
    #[error("--pid {0}: there is no such process")]
    Absent(u32),
    /// It never runs anything of its own.
    #[error("--pid {0}: {1} is a thread of the kernel: it has no spans to record")]
    Kernel(u32, String),
    /// What we do ourselves is never reported.
    #[error("--pid {0}: that is this hotspan itself")]
    Ourselves(u32),
    /// At most a zombie, for which its parent has not waited.
    #[error("--pid {0}: {1} has ended already")]
    Ended(u32, String),
}

/// A process asked for.
#[derive(Debug)]
pub(super) struct Asked {
    number: u32,
    pid: Pid,
    stat: Stat,
}

// === impl Asked ===

impl Asked {
    /// The process behind a number; that of a thread means its process.
    pub(super) fn find(number: u32) -> Result<Self, AskedError> {
        let absent = AskedError::Absent(number);
        let Some(pid) = process_of(number) else { return Err(absent) };
        let Some(stat) = Stat::read(pid) else { return Err(absent) };
        if pid.0 == std::process::id() {
            return Err(AskedError::Ourselves(number));
        }
        if stat.is_kernel() {
            return Err(AskedError::Kernel(number, stat.comm));
        }
        if !is_alive(pid) {
            return Err(AskedError::Ended(number, stat.comm));
        }
        Ok(Self { number, pid, stat })
    }

    /// Whether it has not ended meanwhile.
    pub(super) fn check(&self) -> Result<(), AskedError> {
        let same = Stat::read(self.pid).is_some_and(|stat| stat.is_same(&self.stat));
        if same && is_alive(self.pid) {
            return Ok(());
        }
        Err(AskedError::Ended(self.number, self.stat.comm.clone()))
    }

    /// As a root of what is recorded.
    pub(super) fn root(&self, alone: bool) -> Root {
        Root { pid: self.pid, alone }
    }

    /// What is to be said before the recording, if something is.
    pub(super) fn note(&self) -> Option<String> {
        let Self { number, pid, stat: Stat { comm, .. } } = self;
        (*number != pid.0)
            .then(|| format!("{number} is a thread of {comm} ({pid}): its process is recorded"))
    }

    /// What is to be said of it afterwards. `below`: processes there were below it.
    pub(super) fn document(self, alone: bool, below: usize) -> RecordedDocument {
        RecordedDocument {
            pid: self.pid.0,
            asked_pid: self.number,
            comm: self.stat.comm,
            processes: if alone { 1 } else { 1 + below },
            with_children: !alone,
            left_out: if alone { below } else { 0 },
        }
    }
}

/// The process that a number is of, or is a thread of. `/proc/TID` can be opened, though it is not
/// listed.
fn process_of(number: u32) -> Option<Pid> {
    let status = fs::read(format!("/proc/{number}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok().map(Pid)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::{
        process::{WaitId, WaitIdOptions, waitid},
        thread::gettid,
    };

    use super::*;

    #[test]
    fn who_cannot_be_recorded_is_reported_why() {
        let own = std::process::id();
        let ourselves = AskedError::Ourselves;
        assert_eq!(Asked::find(own).unwrap_err(), ourselves(own));
        // A thread of ours is us.
        let this = std::thread::spawn(|| {
            let tid = gettid().as_raw_pid() as u32;
            (tid, Asked::find(tid).unwrap_err())
        });
        let (tid, error) = this.join().unwrap();
        assert_eq!(error, ourselves(tid));
        for absent in [0, u32::MAX] {
            assert_eq!(Asked::find(absent).unwrap_err(), AskedError::Absent(absent));
        }
    }

    #[test]
    fn one_that_has_ended_is_distinguished_from_one_that_lives() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let asked = Asked::find(child.id()).unwrap();
        assert_eq!(asked.note(), None);
        assert_eq!(asked.check(), Ok(()));
        drop(child.stdin.take());
        // Its end, without taking its status.
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(rustix::process::Pid::from_child(&child)), flags).unwrap();
        assert_eq!(
            Asked::find(child.id()).unwrap_err(),
            AskedError::Ended(child.id(), "cat".into())
        );
        assert_eq!(asked.check(), Err(AskedError::Ended(child.id(), "cat".into())));
        child.wait().unwrap();
        assert_eq!(Asked::find(child.id()).unwrap_err(), AskedError::Absent(child.id()));
    }
}
