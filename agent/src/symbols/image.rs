//! One file of code being read: our private copy of it, its separate debug file, and the names found
//! so far.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    debug::DebugFile,
    elf::Elf,
    names::{Answer, Names},
};
use crate::{
    process::{
        file::{self, MAX_FILE_BYTES},
        maps::FileOffset,
    },
    profile::document::FrameDocument,
};

/// Sections of debug information are unpacked up to this size, whole.
const MAX_UNPACKED: u64 = 512 << 20;

/// After so many rests the time before the next grows no more.
const MOST_DOUBLINGS: u32 = 10;

/// The parser failed on this file; asking again is pointless.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// A file that is being read.
pub(super) struct Image {
    elf: Elf,
    /// Keeps `path` alive.
    copy: File,
    pub(super) path: PathBuf,
    /// Its separate debug file, installed on this host.
    debug: Option<DebugFile>,
    /// Of all copies.
    pub(super) bytes: u64,
    pub(super) names: HashMap<FileOffset, Arc<[FrameDocument]>>,
    /// When blazesym was last asked; none while it holds nothing of the file.
    pub(super) asked: Option<Instant>,
    /// How often it was made to forget it.
    rests: u32,
}

impl Image {
    /// Copies `file`, which was mapped as `binary`, and reads its headers. All copies together stay
    /// below [`MAX_FILE_BYTES`].
    pub(super) fn read(file: &File, binary: &Path) -> Option<Self> {
        let copy = Elf::copy(file).ok()?;
        let room = MAX_FILE_BYTES.saturating_sub(copy.metadata().ok()?.len());
        let elf = Elf::disarm(&copy, room.min(MAX_UNPACKED)).ok()?;
        let bytes = copy.metadata().ok()?.len();
        let room = MAX_FILE_BYTES.saturating_sub(bytes);
        let debug = DebugFile::find(&elf, file, binary, room);
        Some(Self::new(elf, copy, bytes, debug))
    }

    /// An image that is nobody's file.
    pub(super) fn of_own(copy: File) -> Option<Self> {
        let elf = Elf::disarm(&copy, 0).ok()?;
        let bytes = copy.metadata().ok()?.len();
        Some(Self::new(elf, copy, bytes, None))
    }

    fn new(elf: Elf, copy: File, bytes: u64, debug: Option<DebugFile>) -> Self {
        let bytes = bytes + debug.as_ref().map_or(0, |debug| debug.bytes);
        let path = file::own_path(&copy);
        Self { elf, copy, path, debug, bytes, names: HashMap::new(), asked: None, rests: 0 }
    }

    /// The functions at `offset`, innermost first.
    pub(super) fn frames(
        &mut self,
        names: &mut Names,
        offset: FileOffset,
    ) -> Result<Option<Arc<[FrameDocument]>>, Broken> {
        if let Some(frames) = self.names.get(&offset) {
            return Ok((!frames.is_empty()).then(|| Arc::clone(frames)));
        }
        let Some(address) = self.elf.address(offset) else { return Ok(None) };
        let debug = self.debug.as_ref().map(|debug| &debug.path);
        let mut answer = Answer::Unknown;
        self.asked = Some(Instant::now());
        for path in debug.into_iter().chain([&self.path]) {
            answer = names.image(path, address);
            if answer != Answer::Unknown {
                break;
            }
        }
        let go = || self.elf.go.as_ref()?.frame(&self.copy, address);
        let frames: Arc<[FrameDocument]> = match answer {
            Answer::Frames(mut frames) => {
                // With symbols but without debug information Go still knows the line.
                if let [frame] = &mut *frames
                    && frame.file.is_empty()
                    && let Some(go) = go().filter(|go| go.name == frame.name)
                {
                    *frame = go;
                }
                frames.into()
            }
            Answer::Unknown if self.elf.go.is_some() => go().into_iter().collect(),
            // Remembered as well: no frames.
            Answer::Unknown => [].into(),
            Answer::Broken => return Err(Broken),
        };
        self.names.insert(offset, Arc::clone(&frames));
        Ok((!frames.is_empty()).then_some(frames))
    }

    /// Has blazesym forget the file when it was not asked for long enough: the names found stay, and
    /// what it parsed is parsed again when it is asked. `first` is long enough for the first time, and
    /// each time it takes twice as long: what is needed now and then is not parsed again and again.
    pub(super) fn rest(&mut self, names: &mut Names, first: Duration) {
        let after = first.saturating_mul(1 << self.rests.min(MOST_DOUBLINGS));
        if self.asked.is_some_and(|asked| asked.elapsed() >= after) {
            self.evict(names);
            self.asked = None;
            self.rests += 1;
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
