//! The vocabulary as types: what every floor above means by a process, a state, a batch. Nothing here
//! knows where such a thing comes from or where it goes.

pub mod batch;
pub mod cause;
pub mod clock;
mod coded;
pub mod frame;
pub mod id;
pub mod state;
