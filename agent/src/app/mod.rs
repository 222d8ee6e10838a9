//! Puts parts together: an agent, a collector, both. The only place that knows all of them.

mod agent;
pub mod daemon;
pub mod doctor;
mod profiler;
mod reading;
pub mod record;
pub mod service;
mod serving;
mod stop;
mod token;
mod watched;
