//! A look at every publisher of this host that keeps none of them: what `hotspan doctor` shows.

use std::{collections::BTreeMap, fs};

use super::{
    attach::segments,
    creator::Creator,
    segment::{Refused, Segment},
};
use crate::{model::id::Pid, process::maps::ProcessMap};

/// Who publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Processes with a segment.
    pub publishers: usize,
    /// Those of which a segment cannot be read, and why.
    pub unread: BTreeMap<u32, String>,
}

// === impl Survey ===

impl Survey {
    /// Asks every process. Takes a file and a mapping at a time.
    pub(crate) fn of_host() -> Self {
        let mut survey = Self::default();
        let Ok(entries) = fs::read_dir("/proc") else { return survey };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(map) = ProcessMap::read(Pid(pid)) else { continue };
            let mut publishes = false;
            let process = Creator::new(Pid(pid));
            for mapping in segments(&map) {
                publishes = true;
                match Segment::attach(&process, mapping) {
                    // Gone in the meantime.
                    Err(Refused::Open(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(refused) => drop(survey.unread.insert(pid, refused.to_string())),
                    Ok(_) => {}
                }
            }
            survey.publishers += usize::from(publishes);
        }
        survey
    }
}
