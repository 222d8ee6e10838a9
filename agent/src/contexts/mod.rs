//! Whoever publishes the active span of a thread, each a source of markers.

pub(crate) mod lanes;
