//! What is asked of processes, and what is made of the answers.

use std::sync::Arc;

use agent_ebpf::wire::RawFrame;

use super::{
    Change, Mapped, Process, Processes,
    ask::{Answer, Ask},
    late::Late,
    maps::ProcessMap,
    names::Names,
};
use crate::model::id::Pid;

impl Processes {
    /// Asks who is over of those whose main thread ended. One that ends before the others leaves its
    /// process alive: that one is asked about again. So is one whose main thread gave way to an exec by
    /// another thread, or whose number was given out again.
    pub fn ask_who_is_over(&mut self) {
        for ended in self.dead.iter_mut().filter(|ended| !ended.is_asked) {
            ended.is_asked = true;
            self.asks.push(Ask::Life(ended.pid));
        }
    }

    /// Questions for the reader, each once.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// What came of a question; nothing when the process could not be read.
    pub fn answered(&mut self, ask: Ask, answer: Option<Answer>) -> Option<Change> {
        match (ask, answer) {
            (Ask::Map(pid), answer) => {
                let map = match answer {
                    Some(Answer::Map(map)) => map,
                    _ => None,
                };
                Some(Change::Mapped { pid, map: self.mapped(pid, map) })
            }
            (Ask::Names { pid, since }, answer) => {
                let names = match answer {
                    Some(Answer::Names(names)) => Some(names),
                    _ => None,
                };
                self.names_answered(pid, since, names);
                None
            }
            (Ask::Life(pid), Some(Answer::Life(false))) => {
                let over = self.dead.extract_if(.., |ended| ended.pid == pid);
                let at = over.map(|ended| ended.at).max()?;
                self.remembered.push((pid, at));
                if let Some(process) = self.known.get_mut(&pid) {
                    process.is_over = true;
                }
                Some(Change::Over { pid, at })
            }
            // Of nobody these accounts ask that.
            (Ask::Stat(_), _) => None,
            (Ask::Life(pid), _) => {
                let lives = self.dead.iter_mut().filter(|ended| ended.pid == pid);
                lives.for_each(|ended| ended.is_asked = false);
                None
            }
        }
    }

    fn mapped(&mut self, pid: Pid, map: Option<ProcessMap>) -> Option<Arc<ProcessMap>> {
        let process = self.known.entry(pid).or_default();
        process.is_mapping = false;
        let map = map?;
        if map.is_truncated() || map.skipped() > 0 {
            let skipped = map.skipped();
            tracing::debug!(%pid, skipped, "mappings not understood");
        }
        let map = Arc::new(map);
        self.fresh_maps.push(map.clone());
        // Else it is of an image that is gone by now.
        if map.read_at() >= process.since {
            process.map = Some(map.clone());
        }
        Some(map)
    }

    /// Asks what an image is called. Returns where the answer will be.
    pub(super) fn ask_names(&mut self, pid: Pid, since: u64) -> Arc<Late<Names>> {
        let asks = &mut self.asks;
        let place = self.named.entry((pid, since)).or_insert_with(|| {
            asks.push(Ask::Names { pid, since });
            Arc::default()
        });
        Arc::clone(place)
    }

    fn names_answered(&mut self, pid: Pid, since: u64, names: Option<Names>) {
        let process = self.known.get_mut(&pid).filter(|process| process.since == since);
        let names = process.zip(names).map(|(process, names)| {
            process.name(pid, names);
            Names { comm: process.comm.clone(), executable: process.executable.clone() }
        });
        if let Some(place) = self.named.remove(&(pid, since)) {
            place.set(names);
        }
    }

    /// A stack of `pid` was seen: its mappings must be known while it lives. A stack taken `after` a
    /// moment, ktime, is not read by mappings that are older.
    pub fn saw_stack(&mut self, pid: Pid, frames: &[RawFrame], after: Option<u64>) -> Mapped {
        let process = self.known.entry(pid).or_default();
        if !process.is_stale_for(frames, after) {
            return Mapped::Known(process.map.clone());
        }
        self.ask_map(pid);
        Mapped::Awaited
    }

    /// Whether `map`, which was just read, is good for a stack that waited for it since `seen_at`. It is
    /// when it was read later, whatever it lacks: then nothing later has more.
    pub fn suffices(
        &self,
        pid: Pid,
        map: &ProcessMap,
        frames: &[RawFrame],
        after: Option<u64>,
        seen_at: u64,
    ) -> bool {
        let stale = |process: &Process| process.is_stale_for(frames, after);
        map.read_at() >= seen_at || !self.known.get(&pid).is_some_and(stale)
    }

    /// Has the map of `pid` read again.
    pub fn ask_map(&mut self, pid: Pid) {
        let process = self.known.entry(pid).or_default();
        if !process.is_mapping {
            process.is_mapping = true;
            process.rereads += 1;
            self.asks.push(Ask::Map(pid));
        }
    }
}
