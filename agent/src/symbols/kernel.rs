//! Names of kernel code from kallsyms, programs of eBPF and modules among it.
//!
//! blazesym reads the list once. What is in the kernel image stays; programs and modules come and go,
//! and because the list has no sizes, an address of a new one would get the name of its neighbour.
//! So an address outside the image that was not asked for before has the list read again, though not
//! all the time: reading costs tens of milliseconds.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead as _, BufReader},
    ops::Range,
    time::{Duration, Instant},
};

use blazesym::{
    MaybeDefault,
    symbolize::{
        Input, Sym,
        source::{Kernel, Source},
    },
};

use super::{
    names::{Answer, Names, frame},
    texts::Texts,
};
use crate::{process::maps::Address, profile::document::FrameDocument};

/// Kernel code is in the upper half; what kallsyms lists below are per-CPU offsets.
const KERNEL_START: u64 = 1 << 63;
/// kallsyms has no sizes: an address further from the nearest symbol lies in nothing it lists.
const MAX_FUNCTION: usize = 1 << 20;
/// The list is not read more often.
const PAUSE: Duration = Duration::from_secs(10);
/// Addresses outside the image that are known to be in the list.
const MAX_SEEN: usize = 16_384;

pub(super) struct KernelNames {
    names: Names,
    source: Source<'static>,
    pause: Duration,
    /// Code of the image itself, which does not change; empty until the list was read.
    image: Range<u64>,
    /// Addresses outside it that were asked for before the list was read, and since.
    before: HashSet<Address>,
    since: HashSet<Address>,
    read: Option<Instant>,
}

impl KernelNames {
    pub(super) fn new() -> Self {
        // vmlinux is searched all over the file system and costs hundreds of MB: kallsyms names
        // every function.
        let kernel = Kernel {
            vmlinux: MaybeDefault::None,
            kallsyms: MaybeDefault::Default,
            debug_syms: false,
            ..Kernel::default()
        };
        Self {
            names: Names::new(),
            source: Source::Kernel(kernel),
            pause: PAUSE,
            image: 0..0,
            before: HashSet::new(),
            since: HashSet::new(),
            read: None,
        }
    }

    /// The function at `address`.
    pub(super) fn at(&mut self, address: Address) -> Option<Vec<FrameDocument>> {
        if address.0 < KERNEL_START {
            return None;
        }
        self.refresh(address);
        let convert = |sym: &Sym<'_>, texts: &mut Texts| {
            (sym.offset < MAX_FUNCTION).then(|| vec![frame(texts, &sym.name, None, "kernel")])
        };
        match self.names.ask(&self.source, Input::AbsAddr(address.0), convert) {
            Answer::Frames(frames) => Some(frames),
            Answer::Unknown | Answer::Broken => None,
        }
    }

    /// Forgets the list if `address` may be younger than it.
    fn refresh(&mut self, address: Address) {
        let Some(read) = self.read else {
            self.image = image().unwrap_or(0..0);
            self.read = Some(Instant::now());
            return self.refresh(address);
        };
        if self.image.contains(&address.0) || self.before.contains(&address) {
            return;
        }
        if self.since.len() >= MAX_SEEN {
            self.since.clear();
        }
        self.since.insert(address);
        if read.elapsed() >= self.pause {
            self.names = Names::new();
            self.read = Some(Instant::now());
            if self.before.len() >= MAX_SEEN {
                self.before.clear();
            }
            self.before.extend(self.since.drain());
        }
    }
}

/// The code of the kernel image, by the symbols that the linker script puts around it.
fn image() -> Option<Range<u64>> {
    let (mut start, mut end) = (None, None);
    for line in BufReader::new(File::open("/proc/kallsyms").ok()?).lines() {
        let line = line.ok()?;
        let mut words = line.split_ascii_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        match words.nth(1)? {
            "_stext" => start = Some(address),
            "_etext" => end = Some(address),
            _ => {}
        }
        if let (Some(start), Some(end)) = (start, end) {
            return Some(start..end);
        }
    }
    None
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
