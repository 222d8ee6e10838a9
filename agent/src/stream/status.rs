//! What health says about the client: one writer, any number of readers.

use crate::wire::item::Repaired;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared by the client and who asks for health.
#[derive(Debug, Default)]
pub struct ClientStatus(Mutex<ClientHealth>);

/// How the stream is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHealth {
    /// Welcomed, and nothing has ended the stream since.
    pub connected: bool,
    /// Since when it is as `connected` says, Unix time.
    pub since_unix_ns: u64,
    /// When something was last acknowledged, 0 for never.
    pub last_ack_unix_ns: u64,
    /// Why the last stream ended or did not begin.
    pub last_error: Option<String>,
    /// Streams welcomed after the first one.
    pub reconnects: u64,
    /// Attempts that did not come to a welcome.
    pub failed_attempts: u64,
    /// Version of the collector, "" before the first welcome.
    pub collector_version: String,
    /// Frames of batches and gaps sent, again after a reconnect included.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Epochs the collector asked for because it could not follow.
    pub resets: u64,
    /// Epochs begun.
    pub epochs: u64,
    /// Rows, stacks and strings the encoder could not send as they were.
    pub repaired: Repaired,
}

// === impl ClientStatus ===

impl ClientStatus {
    /// A copy of now.
    pub fn health(&self) -> ClientHealth {
        self.lock().clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut ClientHealth)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, ClientHealth> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
