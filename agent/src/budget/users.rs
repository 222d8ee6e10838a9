//! Which user a process runs as, as the kernel says.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _};

use super::Owner;
use crate::model::id::{Pid, Uid};

/// Processes remembered. Whoever lives is asked again.
const MAX_KNOWN: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Users(HashMap<Pid, Uid>);

// === impl Users ===

impl Users {
    pub(super) fn owner(&mut self, pid: Pid) -> Owner {
        if let Some(&uid) = self.0.get(&pid) {
            return Owner { pid, uid };
        }
        let Some(uid) = uid_of(pid) else { return Owner { pid, uid: Uid::UNKNOWN } };
        self.insert(pid, uid);
        Owner { pid, uid }
    }

    /// A child runs as its parent does: it may be gone when something of it comes.
    pub(super) fn forked(&mut self, parent: Pid, child: Pid) {
        match self.0.get(&parent) {
            Some(&uid) => self.insert(child, uid),
            None => self.forget(child),
        }
    }

    pub(super) fn forget(&mut self, pid: Pid) {
        self.0.remove(&pid);
    }

    pub(super) fn insert(&mut self, pid: Pid, uid: Uid) {
        if self.0.len() >= MAX_KNOWN && !self.0.contains_key(&pid) {
            self.0.clear();
        }
        self.0.insert(pid, uid);
    }
}

/// Its effective user, in the initial user namespace; none when it is gone. Of the folder itself that
/// holds for processes that do not let themselves be read, too, and nothing of them is waited for
/// (fs/proc/base.c, `task_dump_owner` and `pid_getattr`).
fn uid_of(pid: Pid) -> Option<Uid> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|folder| Uid(folder.uid()))
}
