//! Unwinding by table, the part that the kernel programs and the daemon share: what a rule says
//! ([`rule`]), where the rule of an address is found ([`table`]), and the step from a frame to its
//! caller ([`step`]). The daemon makes the tables, walks copies of stacks the kernel side had no tables
//! for, and tests on the host what runs in the kernel.

pub mod rule;
pub mod step;
pub mod table;

pub use rule::{CfaRule, FrameRule, Machine, ReturnRule, Rule};
pub use step::{Cursor, Memory, Stop};
pub use table::{Code, Exe, ProcessCode};
