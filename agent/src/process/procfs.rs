//! Where `/proc` shows a process. Its main thread may end before the others: `/proc/PID` is then a
//! zombie's, without maps, executable, root and time namespace, while `/proc/TID` of any other thread
//! shows them all (it is not listed, but every thread id can be asked, fs/proc/base.c,
//! `proc_pid_lookup`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::model::id::Pid;

/// Threads asked in place of a main thread; any that is not just ending answers.
const MAX_ASKED: usize = 16;

/// Asks a process something that only a thread with memory can answer; `question` gets the folder to
/// look into. The answer of the main thread, if that has ended: of the first other thread that has one.
pub fn ask<T, E>(pid: Pid, mut question: impl FnMut(&Path) -> Result<T, E>) -> Result<T, E> {
    let answer = question(&folder(pid.0));
    if answer.is_ok() || !main_thread_has_ended(pid) {
        return answer;
    }
    let mut others = threads(pid).filter(|&tid| tid != pid.0).take(MAX_ASKED);
    others.find_map(|tid| question(&folder(tid)).ok()).map_or(answer, Ok)
}

/// Whether the main thread ended: only then may another answer for it. The number may also be nobody's.
fn main_thread_has_ended(pid: Pid) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.is_zombie())
}

/// Every process there is.
pub fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid)
}

/// Whether a process lives: its main thread does, or another.
pub fn is_alive(pid: Pid) -> bool {
    let Some(stat) = Stat::read(pid) else { return false };
    !stat.is_zombie() || threads(pid).take(2).count() > 1
}

/// The living threads of a process, the main thread included even when it has ended.
pub fn threads(pid: Pid) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(folder(pid.0).join("task")).ok().into_iter().flatten();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What `stat` says of a process or thread, as far as it is needed (proc_pid_stat(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its name.
    pub comm: String,
    pub(super) state: char,
    pub(super) parent: Pid,
    pub(super) flags: u64,
    /// When it started, in ticks since boot: with the number it is the process.
    pub started: u64,
}

/// include/linux/sched.h
const PF_KTHREAD: u64 = 0x0020_0000;

// === impl Stat ===

impl Stat {
    /// Of a process; none if there is no such process.
    pub fn read(pid: Pid) -> Option<Self> {
        Self::read_in(&folder(pid.0))
    }

    /// Of a thread of it.
    pub fn of_thread(pid: Pid, tid: u32) -> Option<Self> {
        Self::read_in(&folder(pid.0).join(format!("task/{tid}")))
    }

    fn read_in(folder: &Path) -> Option<Self> {
        // A name need not be text.
        let bytes = fs::read(folder.join("stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, parentheses too.
        let (head, rest) = text.rsplit_once(')')?;
        let (_, comm) = head.split_once('(')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            comm: comm.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: Pid(u32::try_from(number(1)?).ok()?),
            flags: number(6)?,
            started: number(19)?,
        })
    }

    /// Whether both are of one process, whose number cannot tell.
    pub fn is_same(&self, other: &Self) -> bool {
        self.started == other.started
    }

    /// Whether its main thread has ended.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether it is a thread of the kernel.
    pub fn is_kernel(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// The number of a thread in its own, innermost pid namespace.
pub fn inner_id(pid: Pid, tid: u32) -> Option<u32> {
    let status = folder(pid.0).join(format!("task/{tid}/status"));
    let status = fs::read_to_string(status).ok()?;
    let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

fn folder(id: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{id}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn this_process_answers_for_itself() {
        let pid = Pid(std::process::id());
        assert!(is_alive(pid));
        assert!(threads(pid).any(|tid| tid == pid.0));
        let mut asked = Vec::new();
        let maps = ask(pid, |folder| {
            asked.push(folder.to_owned());
            fs::read(folder.join("maps"))
        });
        assert!(!maps.expect("our own").is_empty());
        assert_eq!(asked, [folder(pid.0)]);
    }

    #[test]
    fn nobody_answers_for_the_dead() {
        let pid = Pid(u32::MAX);
        let mut asked = 0;
        let answer: io::Result<Vec<u8>> = ask(pid, |folder| {
            asked += 1;
            fs::read(folder.join("maps"))
        });
        assert_eq!((answer.is_err(), asked, is_alive(pid)), (true, 1, false));
    }
}
