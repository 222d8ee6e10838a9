//! hotspan: where each span's time went on a Linux host, and who made it wait. The modules are the
//! floors of a house, the upper ones first: each may use those below it, none those above
//! (`cargo xtask layers` checks it).

pub mod app;
mod budget;
pub mod cli;
pub mod collector;
mod config;
mod contexts;
pub mod document;
pub mod kernel;
pub mod ledger;
pub mod link;
pub mod model;
pub mod naming;
mod peers;
pub mod process;
pub mod store;
pub mod stream;
mod symbols;
pub mod unwind;
mod web;
pub mod wire;

mod heap;

#[cfg(fuzzing)]
pub mod fuzz;
