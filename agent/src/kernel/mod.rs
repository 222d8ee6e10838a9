//! The kernel border: the only user of aya.

pub mod btf;
pub mod load;
pub mod offsets;
