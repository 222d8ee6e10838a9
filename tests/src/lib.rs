//! What the whole-path tests share, in the order a test uses it: [`fixture`] records a workload
//! with `hotspan record --json`; [`report`] is what hotspan said, [`truth`] what the workload knows
//! about itself; [`check`] compares the two. [`service`] does the same with `hotspan run`. [`host`] looks at the machine
//! around them. What goes wrong on purpose: [`proxy`] is the network, [`disk`] the disk, [`random`]
//! the moment; [`stream`] is an agent and a collector that meet it, [`publisher`] works meanwhile and [`accounting`] says afterwards whether all of it is
//! accounted for. [`attack`] is a hostile neighbour and an honest one beside it. Stacks: [`unwind`] runs programs whose stacks are known, [`gdb`] and [`perf`] are
//! second opinions, [`chains`] compares.

pub mod accounting;
pub mod attack;
pub mod chains;
pub mod check;
pub mod disk;
pub mod fixture;
pub mod gdb;
pub mod host;
pub mod perf;
pub mod proxy;
pub mod publisher;
pub mod random;
pub mod report;
pub mod scenario;
pub mod service;
pub mod stream;
pub mod truth;
pub mod unwind;
