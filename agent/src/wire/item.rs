//! What travels: a sequence with its content, and what of it the encoder could not send as it was.

use std::sync::Arc;

use crate::model::batch::{Batch, Gap};

/// A sequence, or those of a gap, to be sent.
#[derive(Clone, Debug)]
pub struct Item {
    /// Sequences, both included.
    pub from_sequence: u64,
    /// See `from_sequence`.
    pub to_sequence: u64,
    /// What has them.
    pub content: Content,
}

/// What has a sequence.
#[derive(Clone, Debug)]
pub enum Content {
    /// A flush, or a piece of one.
    Batch(Arc<Batch>),
    /// Flushes that were given up.
    Gap(Gap),
}

/// What the encoder left out or cut: not in the batch's own counts, so it is reported here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Strings cut to `codes::MAX_STRING`.
    pub strings: u64,
    /// Stacks cut to `codes::MAX_DEPTH`.
    pub stacks: u64,
    /// Rows that referred to nothing in their own batch: left out.
    pub rows: u64,
}

// === impl Repaired ===

impl Repaired {
    pub fn add(&mut self, other: Self) {
        self.strings += other.strings;
        self.stacks += other.stacks;
        self.rows += other.rows;
    }
}
