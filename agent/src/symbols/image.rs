//! One file of code being read, in the child that parses: our private copy of it, and its separate
//! debug file.

use std::{
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    debug::DebugFile,
    elf::{Elf, ImageAddress},
    names::{Broken, Names},
    plt::Callee,
};
use crate::{
    model::frame::{Frame, FrameKind},
    process::{
        file::{self, MAX_FILE_BYTES},
        maps::FileOffset,
    },
};

/// Sections of debug information are unpacked up to this size, whole.
const MAX_UNPACKED: u64 = 512 << 20;

/// After so many evictions the time before the next grows no more.
const MOST_DOUBLINGS: u32 = 10;

/// A file that is being read.
pub(super) struct Image {
    elf: Elf,
    /// Keeps `path` alive.
    copy: File,
    pub(super) path: PathBuf,
    /// Its separate debug file, installed on this host.
    debug: Option<DebugFile>,
    /// When blazesym was last asked; none while it holds nothing of the file.
    pub(super) asked: Option<Instant>,
    /// How often it was made to forget it.
    evictions: u32,
}

impl Image {
    /// Copies `file` into `room`, an empty file of ours, and reads its headers. Unpacked it may have
    /// `most` bytes more.
    pub(super) fn read(file: &File, room: File, most: u64) -> Option<Self> {
        let copy = Elf::copy_to(room, file).ok()?;
        let left = MAX_FILE_BYTES.saturating_sub(copy.metadata().ok()?.len());
        let elf = Elf::disarm(&copy, left.min(MAX_UNPACKED).min(most)).ok()?;
        let path = file::own_path(&copy);
        Some(Self { elf, copy, path, debug: None, asked: None, evictions: 0 })
    }

    /// The rest of what there is to know of it.
    pub(super) fn set_debug(&mut self, debug: DebugFile) {
        self.debug = Some(debug);
    }

    /// The functions at `offset`, innermost first; none when nothing is known.
    pub(super) fn frames(
        &mut self,
        names: &mut Names,
        offset: FileOffset,
    ) -> Result<Vec<Frame>, Broken> {
        let Some(address) = self.elf.address(offset) else { return Ok(Vec::new()) };
        let stub = self.stub(names, address)?;
        let known = if stub.is_some() { stub } else { self.known(names, address)? };
        let go = || self.elf.go.as_ref()?.frame(&self.copy, address);
        Ok(match known {
            Some(mut frames) => {
                // With symbols but without debug information Go still knows the line.
                if let [frame] = &mut *frames
                    && frame.file.is_empty()
                    && let Some(go) = go().filter(|go| go.name == frame.name)
                {
                    *frame = go;
                }
                frames
            }
            None => go().into_iter().collect(),
        })
    }

    /// What symbols and debug information say.
    fn known(
        &mut self,
        names: &mut Names,
        address: ImageAddress,
    ) -> Result<Option<Vec<Frame>>, Broken> {
        self.asked = Some(Instant::now());
        let debug = self.debug.as_ref().map(|debug| &debug.path);
        for path in debug.into_iter().chain([&self.path]) {
            let found = names.image(path, address, &self.elf.sections)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The stub through which a function of a library is called: `function@plt`.
    fn stub(
        &mut self,
        names: &mut Names,
        address: ImageAddress,
    ) -> Result<Option<Vec<Frame>>, Broken> {
        let callee = self.elf.plt.as_ref().and_then(|plt| plt.callee(&self.copy, address));
        let function = match callee {
            Some(Callee::Named(name)) => Some(names.readable(&String::from_utf8_lossy(&name))?),
            Some(Callee::Resolved(resolver)) => {
                let found = self.known(names, resolver)?;
                found.and_then(|frames| frames.last().map(|frame| Arc::clone(&frame.name)))
            }
            None => None,
        };
        Ok(function
            .map(|function| vec![Frame::named(format!("{function}@plt"), FrameKind::Native)]))
    }

    /// Has blazesym forget the file when it was not asked for long enough: the names found stay, and
    /// what it parsed is parsed again when it is asked. `first` is long enough for the first time, and
    /// each time it takes twice as long: what is needed now and then is not parsed again and again.
    pub(super) fn evict_idle(&mut self, names: &mut Names, first: Duration) {
        let after = first.saturating_mul(1 << self.evictions.min(MOST_DOUBLINGS));
        if self.asked.is_some_and(|asked| asked.elapsed() >= after) {
            self.evict(names);
            self.asked = None;
            self.evictions += 1;
        }
    }

    /// Before the descriptor closes and its number, hence the path, is used again.
    pub(super) fn evict(&self, names: &mut Names) {
        names.evict(&self.path);
        if let Some(debug) = &self.debug {
            names.evict(&debug.path);
        }
    }
}
