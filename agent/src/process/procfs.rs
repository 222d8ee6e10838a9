//! Where `/proc` shows a process. Its main thread may end before the others: `/proc/PID` is then a
//! zombie's, without maps, executable, root and time namespace, while `/proc/TID` of any other thread
//! shows them all (it is not listed, but every thread id can be asked, fs/proc/base.c,
//! `proc_pid_lookup`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{family::Stat, id::Pid};

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
