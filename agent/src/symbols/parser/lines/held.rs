//! Which files a child holds a copy of.

use std::collections::HashMap;

use crate::process::maps::FileId;

#[derive(Debug, Default)]
pub(super) struct Held {
    files: HashMap<FileId, File>,
    clock: u64,
}

#[derive(Debug)]
struct File {
    key: u32,
    bytes: u64,
    last_use: u64,
}

// === impl Held ===

impl Held {
    /// How the child calls it.
    pub(super) fn key(&mut self, id: FileId) -> Option<u32> {
        self.clock += 1;
        let file = self.files.get_mut(&id)?;
        file.last_use = self.clock;
        Some(file.key)
    }

    pub(super) fn add(&mut self, id: FileId, key: u32, bytes: u64) {
        self.clock += 1;
        self.files.insert(id, File { key, bytes, last_use: self.clock });
    }

    /// It has so many bytes more.
    pub(super) fn grow(&mut self, id: FileId, bytes: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.bytes += bytes;
        }
    }

    pub(super) fn remove(&mut self, id: FileId) -> Option<u32> {
        self.files.remove(&id).map(|file| file.key)
    }

    pub(super) fn clear(&mut self) {
        self.files.clear();
    }

    /// Whether there is no other.
    pub(super) fn is_empty_but(&self, id: FileId) -> bool {
        self.files.keys().all(|&other| other == id)
    }

    /// Takes out what was unused for longest, but not `current`, until there are no more files and bytes
    /// than may be.
    pub(super) fn over(&mut self, bounds: (usize, u64), current: FileId) -> Vec<u32> {
        let mut out = Vec::new();
        loop {
            let (files, bytes) = self.sizes();
            if files <= bounds.0 && bytes <= bounds.1 {
                return out;
            }
            let others = self.files.iter().filter(|&(&id, _)| id != current);
            let oldest = others.min_by_key(|(_, file)| file.last_use).map(|(&id, _)| id);
            let Some(oldest) = oldest else { return out };
            out.extend(self.remove(oldest));
        }
    }

    /// Files and bytes.
    pub(super) fn sizes(&self) -> (usize, u64) {
        (self.files.len(), self.files.values().map(|file| file.bytes).sum())
    }
}
