//! Opens files that other processes run, on threads that may be left behind: a file system that a user
//! serves, or one behind a network that is down, answers when it likes. Who hangs is not asked for a while,
//! and for longer each time (`process::reader`).

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::fstatfs;

use super::parser::lines::{Asked, Owner};
use crate::{
    budget::Budgets,
    ledger::{AtomicTally, DaemonCounter},
    model::id::Pid,
    process::{
        file::{self, Version},
        maps::{FileId, Mapping, ProcessMap},
        reader::{Fate, Question, Reader},
    },
};

/// How long one file is waited for. Local ones take microseconds.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often is looked after threads that hang, so that another one works.
const LOOK: Duration = Duration::from_millis(20);
/// `FUSE_SUPER_MAGIC` (fs/fuse/inode.c): who serves it says whose its files are.
const FUSE: i64 = 0x6573_5546;
/// Files of which nobody that can be trusted says whose they are.
const SOMEBODY: Owner = Owner(u32::MAX);

/// It did not answer in time.
#[derive(Debug)]
pub(super) struct Hangs;

/// Something to be done of a process.
struct Opening {
    number: u64,
    pid: Pid,
    what: What,
}

enum What {
    Open {
        mapping: Box<Mapping>,
        id: FileId,
        path: Arc<Path>,
    },
    Restore(Arc<ProcessMap>),
    /// Until the other end is gone.
    #[cfg(test)]
    Hang(std::sync::Mutex<std::sync::mpsc::Receiver<()>>),
}

/// The threads, as the symbol thread sees them.
pub(super) struct Opener {
    reader: Reader<Opening>,
    counters: Arc<AtomicTally>,
    number: u64,
}

// === impl Opener ===

impl Opener {
    pub(super) fn start(counters: Arc<AtomicTally>) -> io::Result<Self> {
        // These are other threads than those that read processes: an account of their own.
        let reader = Reader::start(|| (), Budgets::default())?;
        Ok(Self { reader, counters, number: 0 })
    }

    /// The file behind a mapping; none when it cannot be had.
    pub(super) fn open(
        &mut self,
        pid: Pid,
        mapping: &Mapping,
        id: FileId,
        path: &Arc<Path>,
    ) -> Result<Option<Asked>, Hangs> {
        let (mapping, path) = (Box::new(mapping.clone()), Arc::clone(path));
        self.ask(pid, What::Open { mapping, id, path })
    }

    /// Gives moved text back to its file. Without it in time the map is as it was read.
    pub(super) fn restore(&mut self, map: &Arc<ProcessMap>) {
        if !map.is_restored() {
            let _ = self.ask(map.pid(), What::Restore(Arc::clone(map)));
        }
    }

    fn ask(&mut self, pid: Pid, what: What) -> Result<Option<Asked>, Hangs> {
        self.number += 1;
        let number = self.number;
        self.reader.ask(Opening { number, pid, what });
        let until = Instant::now() + 2 * PATIENCE;
        loop {
            // What others of before have left to say comes too late for them.
            let outcomes = self.reader.collect().into_iter();
            let mut ours = outcomes.filter(|outcome| outcome.question.number == number);
            match ours.next().map(|outcome| outcome.fate) {
                Some(Fate::Answered(asked)) => return Ok(asked),
                None if Instant::now() < until => self.reader.wait(LOOK),
                Some(Fate::Hangs | Fate::Refused) | None => {
                    self.counters.add(DaemonCounter::SymbolFilesHanging, 1);
                    return Err(Hangs);
                }
            }
        }
    }
}

// === impl Opening ===

impl Question for Opening {
    type Answer = Option<Asked>;

    fn pid(&self) -> Pid {
        self.pid
    }

    fn is_urgent(&self) -> bool {
        true
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn read(&self) -> Option<Asked> {
        match &self.what {
            What::Open { mapping, id, path } => {
                let file = file::open_mapped(self.pid, mapping, *id, path).ok()?;
                let version = Version::of(&file).ok()?;
                let is_fuse = fstatfs(&file).map_or(true, |of| of.f_type == FUSE);
                let owner = if is_fuse { SOMEBODY } else { Owner(file.metadata().ok()?.uid()) };
                let (file, path) = (Arc::new(file), Arc::clone(path));
                Some(Asked { id: *id, version, owner, file, path })
            }
            What::Restore(map) => {
                map.restore();
                None
            }
            #[cfg(test)]
            What::Hang(until) => {
                let _ = until.lock().ok()?.recv();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc::channel};

    use super::*;
    use crate::process::{
        fixture::{Directory, map_of},
        maps::Backing,
    };

    #[test]
    fn who_hangs_is_left_behind_and_the_others_are_opened() {
        let counters = Arc::new(AtomicTally::default());
        let mut opener = Opener::start(Arc::clone(&counters)).unwrap();
        let directory = Directory::new("opener");
        let program = directory.path("program");
        std::fs::write(&program, "x").unwrap();
        let map = map_of(&program);
        let Backing::File { id, path, .. } = &map.mappings()[0].backing else { panic!("{map:?}") };
        let mut held = Vec::new();
        for pid in 1..4 {
            let (hold, until) = channel();
            held.push(hold);
            let hangs = opener.ask(Pid(pid), What::Hang(Mutex::new(until)));
            assert!(matches!(hangs, Err(Hangs)), "{hangs:?}");
            assert_eq!(counters.get(DaemonCounter::SymbolFilesHanging), u64::from(pid));
            let opened = opener.open(map.pid(), &map.mappings()[0], *id, path);
            assert_eq!(opened.unwrap().unwrap().id, *id);
        }
    }
}
