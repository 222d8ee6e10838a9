//! How much is kept of files and their names, and how long naming may take.

use std::time::Duration;

use crate::process::{descriptors, file};

/// Upper bounds of what is kept, and of how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Files held open.
    pub(super) modules: usize,
    /// Of these, how many a child may hold a private copy and parsed tables of.
    pub(super) images: usize,
    /// Bytes of one child's copies.
    pub(super) bytes: u64,
    /// Addresses with known names, from one batch to the next.
    pub(super) names: usize,
    /// How often is looked after what is not needed any more, while nothing is asked.
    pub(super) idle: Duration,
    /// After this at the latest, the remaining addresses of a batch stay without a name.
    pub(super) batch: Duration,
    /// After this, a caller goes on without an answer.
    pub(super) patience: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        // A small limit of open files is shared with everything else.
        let files = usize::try_from(descriptors::limit()).unwrap_or(usize::MAX);
        Self {
            modules: 256.min(files / 4),
            images: 48.min(files / 16),
            bytes: file::MAX_FILE_BYTES,
            names: 65_536,
            idle: Duration::from_secs(10),
            batch: Duration::from_secs(20),
            patience: Duration::from_secs(60),
        }
    }
}
