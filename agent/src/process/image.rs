//! What is known of one process.

use std::sync::Arc;

use agent_ebpf::wire::RawFrame;

use super::{
    maps::{Address, ProcessMap},
    names::Names,
};
use crate::model::id::Pid;

/// A process that keeps mapping new code is not asked for ever.
const MAX_REREADS: u32 = 64;

/// One process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Name of its main thread.
    pub comm: String,
    /// Name of its executable, without directory.
    pub executable: String,
    /// Its mappings when a stack of it was last looked at.
    pub map: Option<Arc<ProcessMap>>,
    /// When this image began, ktime; 0 when it is older than the agent.
    pub(super) since: u64,
    /// Times the map was read again because an address was not in it.
    pub(super) rereads: u32,
    /// It is being read.
    pub(super) is_mapping: bool,
    /// It has ended.
    pub(super) is_over: bool,
    /// When code was mapped last, ktime, as far as it was reported.
    pub(super) remapped_at: u64,
}

// === impl Process ===

impl Process {
    /// Takes over the names that are not known yet; something is known of each from then on.
    pub(super) fn name(&mut self, pid: Pid, names: Names) {
        if self.comm.is_empty() {
            self.comm = names.comm;
        }
        if self.comm.is_empty() {
            self.comm = format!("pid {pid}");
        }
        if self.executable.is_empty() {
            self.executable = names.executable;
        }
        if self.executable.is_empty() {
            self.executable.clone_from(&self.comm);
        }
    }

    pub(super) fn is_stale_for(&self, frames: &[RawFrame], after: Option<u64>) -> bool {
        let Some(map) = &self.map else { return true };
        let mut addresses = frames.iter().filter_map(|frame| frame.native());
        map.read_at() < self.remapped_at
            || after.is_some_and(|after| map.read_at() < after)
            || self.rereads < MAX_REREADS
                && addresses.any(|address| map.lookup(Address(address.get())).is_none())
    }
}
