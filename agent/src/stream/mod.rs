//! The agent's end of the wire (design 3.9): flushes wait in a queue bounded in bytes, travel as
//! frames against the dictionaries of an epoch, and leave the queue once the collector has said that
//! they are durable.
//!
//! ```text
//!  link ──push──► Queue ──take_after──► Encoder ──frame──► connection ──► collector
//!  (thread)         ▲     (async client)                      │
//!                   └────────── release(durable) ◄─── Ack ◄───┘
//! ```
//! Invariants: pushed = delivered + in flight + dropped by reason, in `Counts`, at every instant;
//! sequences reach the collector in order and without holes, each as a batch or within a gap; what
//! was sent and not acknowledged is kept, for the collector may have it.

pub mod client;
mod connection;
pub mod queue;
pub mod status;
mod way;
