//! What is handed to a store.

use std::sync::Arc;

use crate::model::{
    batch::{Batch, Gap, Run},
    id::RunId,
};

/// One thing to store.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Whose.
    pub run: Arc<Run>,
    /// Counts up within the run; of a gap its `to_sequence`.
    pub sequence: u64,
    /// What.
    pub body: Body,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "gaps are rare, and entries are few at a time")]
pub enum Body {
    /// Data.
    Batch(Batch),
    /// The lack of it.
    Gap(Gap),
}

// === impl Entry ===

impl Entry {
    /// Why it can never be stored, if so.
    pub fn contradiction(&self) -> Option<&'static str> {
        match &self.body {
            Body::Gap(gap) => (gap.to_sequence != self.sequence
                || gap.from_sequence > gap.to_sequence)
                .then_some("a gap's sequences do not fit"),
            Body::Batch(batch) => batch.contradiction(),
        }
    }
}

/// Where entries become durable.
pub trait Sink: Send + 'static {
    /// Makes entries durable, all or none. What is there already is left as it is.
    fn append(&mut self, entries: &[Entry]) -> Result<(), SinkError>;
    /// The last sequence of a run up to which everything is durable, 0 for none.
    fn durable(&self, run: RunId) -> u64;
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
