//! What the collector hands to its store, and what it asks of one.

pub use crate::store::{Body, Entry, contradiction};

/// Where entries become durable.
pub trait Sink: Send + 'static {
    /// Makes entries durable, all or none. What is there already is left as it is.
    fn append(&mut self, entries: &[Entry]) -> Result<(), SinkError>;
    /// The last sequence of a run up to which everything is durable, 0 for none.
    fn durable(&self, run: &[u8; 16]) -> u64;
    /// What has to be done from time to time.
    fn maintain(&mut self);
}

/// Why entries are not durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// No room: waiting may help.
    #[error("the store is full: {0}")]
    Full(String),
    /// Something else.
    #[error("the store failed: {0}")]
    Other(String),
}
