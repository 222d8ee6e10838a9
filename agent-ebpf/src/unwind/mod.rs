//! Unwinding by table, the part that the kernel programs and the daemon share.

pub mod rule;

pub use rule::{CfaRule, FrameRule, Machine, ReturnRule, Rule};
