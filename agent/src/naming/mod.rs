//! A flush of the join becomes a batch: addresses, ids and numbers get their names here.

pub mod batcher;
pub mod stacks;
pub mod syscalls;
