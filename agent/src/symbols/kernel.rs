//! Names of kernel code, programs of eBPF and modules among it.
//!
//! The list is read once. What is in the kernel image stays; programs and modules come and go, so an
//! address outside the image that was not asked for before has the list read again, though not all the
//! time: reading costs tens of milliseconds.

use std::{
    collections::HashSet,
    fs::File,
    io::BufReader,
    time::{Duration, Instant},
};

use super::{
    kallsyms::{Kallsyms, Lengths},
    readable::readable,
    texts::Texts,
};
use crate::{
    kernel::programs,
    model::frame::{Frame, FrameKind},
    process::maps::Address,
};

/// Kernel code is in the upper half; what kallsyms lists below are per-CPU offsets.
const KERNEL_START: u64 = 1 << 63;
/// The list is not read more often.
const PAUSE: Duration = Duration::from_secs(10);
/// Addresses outside the image that are known to be in the list.
const MAX_SEEN: usize = 16_384;

pub(super) struct KernelNames {
    list: Kallsyms,
    texts: Texts,
    pause: Duration,
    /// Addresses outside the image that were asked for before the list was read, and since.
    before: HashSet<Address>,
    since: HashSet<Address>,
    read: Option<Instant>,
}

impl KernelNames {
    pub(super) fn new() -> Self {
        Self {
            list: Kallsyms::default(),
            texts: Texts::new(),
            pause: PAUSE,
            before: HashSet::new(),
            since: HashSet::new(),
            read: None,
        }
    }

    /// The function at `address`.
    pub(super) fn at(&mut self, address: Address) -> Option<Vec<Frame>> {
        if address.0 < KERNEL_START {
            return None;
        }
        self.refresh(address);
        let name = self.list.at(address.0)?;
        let name = self.texts.sanitize(&readable(name));
        Some(vec![Frame { name, file: "".into(), line: 0, kind: FrameKind::Kernel }])
    }

    /// Reads the list, if that was not done yet: while our own programs are loaded, which are on top of
    /// many stacks. A recording names its stacks when they are gone.
    pub(super) fn prepare(&mut self) -> Instant {
        *self.read.get_or_insert_with(|| {
            self.list = list().unwrap_or_default();
            Instant::now()
        })
    }

    /// Reads the list, again if `address` may be younger than it.
    fn refresh(&mut self, address: Address) {
        let read = self.prepare();
        if self.list.image().contains(&address.0) || self.before.contains(&address) {
            return;
        }
        if self.since.len() >= MAX_SEEN {
            self.since.clear();
        }
        self.since.insert(address);
        if read.elapsed() >= self.pause {
            // As it was, if it cannot be read now.
            self.list = list().unwrap_or(std::mem::take(&mut self.list));
            self.read = Some(Instant::now());
            if self.before.len() >= MAX_SEEN {
                self.before.clear();
            }
            self.before.extend(self.since.drain());
        }
    }
}

fn list() -> Option<Kallsyms> {
    // Before the list: a program that is gone by then has no line.
    let lengths = programs::lengths().unwrap_or_else(|_| Lengths::new());
    Kallsyms::read(BufReader::new(File::open("/proc/kallsyms").ok()?), &lengths).ok()
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
