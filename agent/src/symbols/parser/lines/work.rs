//! A file that is being asked about: how far that is, and what comes next.

use std::{
    fs::File,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use super::{
    super::{
        Parser, Silence,
        wire::{Named, Question},
    },
    Asked,
    allowance::Allowance,
};
use crate::process::{file, maps::FileOffset};

/// A file that is being asked about.
pub(super) struct Work {
    pub(super) asked: Asked,
    pub(super) offsets: Vec<FileOffset>,
    pub(super) named: Vec<(FileOffset, Vec<Named>)>,
    pub(super) step: Step,
    /// The child had read nothing else before.
    pub(super) is_alone: bool,
    pub(super) began: Instant,
    /// CPU time of the child before.
    pub(super) used: Duration,
    pub(super) build_id: Option<Vec<u8>>,
    pub(super) debug: Option<File>,
    pub(super) copy: Option<File>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begin,
    Identify,
    Read(u32),
    Debug(u32),
    Name,
}

// === impl Work ===

impl Work {
    pub(super) fn new(asked: Asked, offsets: Vec<FileOffset>) -> Self {
        Self {
            asked,
            offsets,
            named: Vec::new(),
            step: Step::Begin,
            is_alone: false,
            began: Instant::now(),
            used: Duration::ZERO,
            build_id: None,
            debug: None,
            copy: None,
        }
    }

    pub(super) fn ask_to_read(
        &mut self,
        parser: &Parser,
        key: u32,
        copy: File,
    ) -> Result<(), Silence> {
        self.step = Step::Read(key);
        let (room, copy) = (file::MAX_FILE_BYTES, self.copy.insert(copy));
        parser.ask(&Question::Read { key, room }, &[&self.asked.file, copy])
    }

    /// The file with its debug information.
    pub(super) fn ask_to_read_debug(
        &mut self,
        parser: &Parser,
        key: u32,
        copy: File,
    ) -> Result<(), Silence> {
        self.step = Step::Debug(key);
        let (room, copy) = (file::MAX_FILE_BYTES, self.copy.insert(copy));
        let Some(debug) = &self.debug else { return Err(Silence::Dead) };
        parser.ask(&Question::Debug { key, room }, &[debug, copy])
    }

    pub(super) fn ask_names(&mut self, parser: &Parser, key: u32) -> Result<(), Silence> {
        self.step = Step::Name;
        parser.ask(&Question::Name { key, offsets: self.offsets.clone() }, &[])
    }

    /// Bytes of the copy that was made last. The child holds it from here on.
    pub(super) fn copied(&mut self, allowance: &mut Allowance) -> u64 {
        let copy = self.copy.take().and_then(|copy| copy.metadata().ok());
        let Some(copy) = copy else { return 0 };
        allowance.take_bytes(copy.blocks() * 512);
        copy.len()
    }
}
