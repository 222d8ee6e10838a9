//! How processes are called, and who they are.

use std::{fs, sync::Arc, time::Instant};

use super::{late::Late, procfs};
use crate::model::{batch::ProcessIdentity, id::Pid};

/// How a process is called; empty where nobody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Its main thread.
    pub comm: String,
    /// Its executable, without directory.
    pub executable: String,
}

/// Who a process is, its names perhaps still to come.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// As it is known.
    known: ProcessIdentity,
    names: Option<Arc<Late<Names>>>,
}

// === impl Names ===

impl Names {
    /// Asks the process.
    pub fn read(pid: Pid) -> Self {
        let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let comm = String::from_utf8_lossy(&comm).trim_end().to_owned();
        Self { comm, executable: executable(pid) }
    }
}

fn executable(pid: Pid) -> String {
    let Ok(path) = procfs::ask(pid, |folder| fs::read_link(folder.join("exe"))) else {
        return String::new();
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.map_or_else(String::new, |name| name.trim_end_matches(" (deleted)").to_owned())
}

// === impl Identity ===

impl Identity {
    /// `names` have what is not known yet.
    pub(super) fn new(known: ProcessIdentity, names: Option<Arc<Late<Names>>>) -> Self {
        Self { known, names }
    }

    /// Waits until `deadline` for the names that are not there yet.
    pub fn settle(self, deadline: Instant) -> ProcessIdentity {
        let Self { mut known, names } = self;
        if let Some(names) = names.and_then(|names| names.wait(deadline)) {
            known.comm = names.comm.into();
            known.service = names.executable.into();
        }
        if known.comm.is_empty() {
            known.comm = format!("pid {}", known.pid).into();
        }
        if known.service.is_empty() {
            known.service = Arc::clone(&known.comm);
        }
        known
    }
}
