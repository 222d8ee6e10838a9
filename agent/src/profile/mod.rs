//! What hotspan knows about spans, as data: the states of a thread-instant and the span document.

pub mod document;
mod methods;
pub mod report;
pub mod state;
