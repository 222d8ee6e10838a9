//! hotspan: where each span's time went on a Linux host, and who made it wait. The modules in the
//! order of the data: kernel, process, lanes, unwind, symbols, link, profile, stream, collector, store, web.

pub mod cli;
pub mod collector;
mod config;
pub mod daemon;
#[cfg(fuzzing)]
pub mod fuzz;
mod heap;
pub mod kernel;
mod lanes;
mod link;
pub mod process;
pub mod profile;
mod profiler;
pub mod store;
pub mod stream;
mod symbols;
pub mod unwind;
mod web;
