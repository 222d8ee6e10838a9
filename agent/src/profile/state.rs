//! The closed list of states (design 4) with the keys used in JSON, and sums over them.

use std::{collections::BTreeMap, fmt};

use agent_ebpf::wire;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// What a thread-instant is: exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// A state the kernel side accounts.
    Kernel(wire::State),
    /// The thread's lane could not be read, neither when it left the CPU nor when it came back.
    ContextUnreadable,
}

impl State {
    /// Every state, in the order of the design's table.
    #[cfg(test)]
    pub fn all() -> impl Iterator<Item = Self> {
        wire::State::ALL.into_iter().map(Self::Kernel).chain([Self::ContextUnreadable])
    }

    /// The key in JSON (design 4).
    pub fn key(self) -> &'static str {
        use wire::State as K;
        match self {
            Self::Kernel(K::Running) => "running",
            Self::Kernel(K::Steal) => "steal",
            Self::Kernel(K::Throttled) => "throttled",
            Self::Kernel(K::ReadyWakeup) => "ready_wakeup",
            Self::Kernel(K::ReadyPreempted) => "ready_preempted",
            Self::Kernel(K::Memory) => "memory",
            Self::Kernel(K::Lock) => "lock",
            Self::Kernel(K::Notify) => "notify",
            Self::Kernel(K::Socket) => "socket",
            Self::Kernel(K::Poll) => "poll",
            Self::Kernel(K::Disk) => "disk",
            Self::Kernel(K::Sleep) => "sleep",
            Self::Kernel(K::Child) => "child",
            Self::Kernel(K::Stopped) => "stopped",
            Self::Kernel(K::UnknownBeforeAttach) => "unknown.before_attach",
            Self::Kernel(K::UnknownEventsLost) => "unknown.events_lost",
            Self::Kernel(K::UnknownUnresolvedWait) => "unknown.unresolved_wait",
            Self::Kernel(K::UnknownKernelFeature) => "unknown.kernel_feature",
            Self::ContextUnreadable => "unknown.context_unreadable",
        }
    }

    /// Whether this is one of the `unknown.*` states.
    pub fn is_unknown(self) -> bool {
        self.key().starts_with("unknown.")
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

/// Nanoseconds per state. States without time are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateTimes(BTreeMap<State, u64>);

impl StateTimes {
    /// Adds `ns` to `state`; zero leaves no trace.
    pub fn add(&mut self, state: State, ns: u64) {
        if ns > 0 {
            *self.0.entry(state).or_default() += ns;
        }
    }

    /// Nanoseconds in `state`.
    pub fn get(&self, state: State) -> u64 {
        self.0.get(&state).copied().unwrap_or(0)
    }

    /// Sum over all states.
    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    /// The states with time, in the order of the design's table.
    pub fn iter(&self) -> impl Iterator<Item = (State, u64)> + '_ {
        self.0.iter().map(|(&state, &ns)| (state, ns))
    }
}

impl Serialize for StateTimes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (state, ns) in self.iter() {
            map.serialize_entry(state.key(), &ns)?;
        }
        map.end()
    }
}
