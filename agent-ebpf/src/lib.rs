//! Everything that crosses the border between hotspan's kernel programs and its daemon, and the
//! arithmetic both sides must agree on.
//!
//! * [`wire`]: the records in the ring buffers, the layout of task storage, the counters.
//! * [`account`]: what a scheduler event does to a thread's account. The kernel programs call it,
//!   the host tests drive it with generated schedules.
//! * [`sampling`]: which waits get a stack and what that stack then stands for.
//! * [`unwind`]: rules, tables and the step of unwinding.
//!
//! Nothing here allocates, locks or knows a string.
#![no_std]
#![forbid(unsafe_code)]

pub mod account;
pub mod sampling;
pub mod unwind;
pub mod wire;
