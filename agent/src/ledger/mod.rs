//! The ledger: every counter there is, the kernel side's and the daemon's, with its key, its role and its
//! meaning (design 3.8). Conservation, losses and what is counted besides are derived from it,
//! everywhere; nobody else keeps a list.
//!
//! Nothing can be counted here without an entry: counts are kept by [`Counter`], never by a string.
//! Strings come from the wire and from stores only, of this build or another one: [`Counter::of_key`].

mod daemon;
mod kernel;
mod role;
mod sums;
mod tally;

pub use daemon::DaemonCounter;
pub use role::{Kind, Role};
pub use sums::{Conservation, Sums};
pub use tally::{AtomicTally, Tally};

use agent_ebpf::wire;

/// Any counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Counted by the kernel programs (or by the daemon, of the same thing).
    Kernel(wire::Counter),
    /// Counted by the daemon or the collector.
    Daemon(DaemonCounter),
}

/// What the table says of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What its number is in the accounts: at least one thing.
    pub roles: &'static [Role],
    /// One short line: what it means; what helps, where something does.
    pub meaning: &'static str,
}

/// What is said of a key that this build does not know.
const UNKNOWN: &str = "see `hotspan doctor` and the README";

/// One short line on a key of a report, of whatever version: what it means; what helps, where something
/// does.
pub fn meaning(key: &str) -> &'static str {
    Counter::of_key(key).map_or(UNKNOWN, |counter| counter.entry().meaning)
}

/// Whether something under this key is no loss. A key that this build does not know is taken for one.
pub fn is_information(key: &str) -> bool {
    Counter::of_key(key).is_some_and(Counter::is_information)
}

const fn entry(roles: &'static [Role], meaning: &'static str) -> Entry {
    Entry { roles, meaning }
}

// === impl Counter ===

impl From<wire::Counter> for Counter {
    fn from(counter: wire::Counter) -> Self {
        Self::Kernel(counter)
    }
}

impl From<DaemonCounter> for Counter {
    fn from(counter: DaemonCounter) -> Self {
        Self::Daemon(counter)
    }
}

impl Counter {
    /// Every one, the kernel side's first.
    pub fn all() -> impl Iterator<Item = Self> {
        let kernel = wire::Counter::ALL.iter().map(|&counter| Self::Kernel(counter));
        kernel.chain(DaemonCounter::ALL.iter().map(|&counter| Self::Daemon(counter)))
    }

    /// The one with this key.
    pub fn of_key(key: &str) -> Option<Self> {
        Self::all().find(|counter| counter.key() == key)
    }

    /// Its key in reports, on the wire and in stores: never changed, never used again.
    pub fn key(self) -> &'static str {
        match self {
            Self::Kernel(counter) => counter.key(),
            Self::Daemon(counter) => counter.key(),
        }
    }

    /// What the table says of it.
    pub fn entry(self) -> Entry {
        match self {
            Self::Kernel(counter) => kernel::entry_of(counter),
            Self::Daemon(counter) => counter.entry(),
        }
    }

    /// Whether its number says that something is missing or was disturbed.
    pub fn is_loss(self) -> bool {
        self.entry().roles.iter().any(|role| role.is_loss())
    }

    /// Whether it counts events of any thread, nobody knows whose.
    pub fn is_of_any_thread(self) -> bool {
        self.entry().roles.contains(&Role::Unseen)
    }

    /// Whether its number is worth showing, but is no loss.
    pub fn is_information(self) -> bool {
        self.entry().roles.contains(&Role::Information)
    }
}

#[cfg(test)]
mod tests;
