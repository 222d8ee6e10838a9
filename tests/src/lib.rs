//! What the whole-path tests share, in the order a test uses it: [`fixture`] records a workload
//! with `hotspan record --json`; [`report`] is what hotspan said, [`truth`] what the workload knows
//! about itself; [`check`] compares the two. [`service`] does the same with `hotspan run`. [`host`] looks at the machine around them.

pub mod check;
pub mod fixture;
pub mod host;
pub mod report;
pub mod scenario;
pub mod service;
pub mod truth;
