//! The embedded store: what agents deliver, kept on disk until it is too old or too much.
//!
//! ```text
//!  Store (one writer) ─append─► newest part ─┐
//!     └─maintain─► compacts closed minutes,  ├─ part-20261001-00.db  part-20261002-00.db  ...
//!                  drops the oldest part,    │        ▲
//!                  verifies the others       └────────┴──── Reader (any thread): sums a span over
//!                                                           the parts that hold something of it
//! ```
//!
//! A *part* is a SQLite file with its own dictionary; it is written while it is the newest, then only
//! read, then dropped whole. Invariants:
//! - an append is one durable transaction in one part, its runs' cursors included: a crash at any
//!   instruction leaves every acknowledged batch, once, and no half one;
//! - the newest part has every run's cursor;
//! - a part that shows damage is set aside, and the others serve on;
//! - every sum is kept exactly; only what a part's loss would take away is ever missing.

mod apply;
mod bytes;
mod catalogue;
mod chunk;
mod compact;
mod dictionary;
mod error;
mod lexicon;
mod lock;
mod maintain;
mod part;
mod reader;
mod rows;
mod run;
mod schema;
mod search;
mod snapshot;
mod span_row;
mod view;
mod writer;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

pub use error::StoreError;
pub use reader::Reader;
pub use writer::Store;

/// Where to keep it, and how much.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Made with mode 0700 when missing. One store per directory.
    pub dir: PathBuf,
    /// Parts whose newest data is older go.
    pub max_age: Duration,
    /// Above it the oldest part goes, never the newest.
    pub max_bytes: u64,
}
