//! What hotspan knows about spans, as data: the states of a thread-instant and the span document.

pub mod account;
pub mod assemble;
pub mod batch;
pub mod batcher;
pub mod document;
pub mod methods;
mod naming;
pub mod report;
pub mod state;
