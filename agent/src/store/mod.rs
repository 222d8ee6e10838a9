//! What every store is: a [`Sink`] for what agents deliver and a [`Source`] for what is asked about
//! it. Whoever stores or asks knows these and never the store behind them.

pub mod account;
pub mod memory;
mod rules;
mod sink;
mod source;
pub mod sqlite;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod synthetic;

pub use sink::{Body, Entry, Sink, SinkError};
#[cfg(test)]
pub(crate) use source::Questions;
pub use source::{
    Found, RunRecord, SetAside, Snapshot, Sort, Source, SourceError, SpanFilter, StoreHealth,
    answer,
};
