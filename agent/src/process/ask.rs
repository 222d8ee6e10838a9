//! What the accounts of processes need to know of them: questions for the [`super::reader`].

use super::{
    maps::ProcessMap,
    names::Names,
    procfs::{self, Stat},
};
use crate::model::id::Pid;

/// A question about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What it has mapped.
    Map(Pid),
    /// What its image of that time (ktime, 0 for before the agent) is called.
    Names { pid: Pid, since: u64 },
    /// Whether it lives.
    Life(Pid),
    /// Whose child it is.
    Stat(Pid),
}

/// The answer to it.
#[derive(Debug)]
pub enum Answer {
    /// Nothing when it is gone, or has no memory.
    Map(Option<ProcessMap>),
    /// How it is called.
    Names(Names),
    /// It, or another thread of it, lives.
    Life(bool),
    /// Nothing when there is none.
    Stat(Option<Stat>),
}

// === impl Ask ===

impl Ask {
    /// Whom it is about.
    pub fn pid(self) -> Pid {
        match self {
            Self::Map(pid) | Self::Names { pid, .. } | Self::Life(pid) | Self::Stat(pid) => pid,
        }
    }

    /// Reads it. May wait for the process.
    pub fn read(self) -> Answer {
        match self {
            Self::Map(pid) => {
                let map = ProcessMap::read(pid).ok();
                Answer::Map(map.filter(|map| !map.mappings().is_empty()))
            }
            Self::Names { pid, .. } => Answer::Names(Names::read(pid)),
            Self::Life(pid) => Answer::Life(procfs::is_alive(pid)),
            Self::Stat(pid) => Answer::Stat(Stat::read(pid)),
        }
    }
}
