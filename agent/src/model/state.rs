//! The closed list of states (design 4) with the keys used in JSON, and sums over them.

use std::{collections::BTreeMap, fmt};

use agent_ebpf::wire;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap as _,
};

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

    /// The number that stands for it on the wire and in the store: never reused, never changed.
    pub fn code(self) -> u8 {
        match self {
            Self::Kernel(state) => state.index() as u8,
            Self::ContextUnreadable => Self::CONTEXT_UNREADABLE,
        }
    }

    /// The state of a number.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            Self::CONTEXT_UNREADABLE => Some(Self::ContextUnreadable),
            index => wire::State::from_index(index).map(Self::Kernel),
        }
    }

    /// The state of a key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::all().find(|state| state.key() == key)
    }

    const CONTEXT_UNREADABLE: u8 = 64;

    /// Whether this is one of the `unknown.*` states.
    pub fn is_unknown(self) -> bool {
        self.key().starts_with("unknown.")
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Kernel(wire::State::Running)
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

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        Self::from_key(&key).ok_or_else(|| D::Error::custom(format!("no such state: {key}")))
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

    /// Whether no time is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds another's times.
    pub fn merge(&mut self, other: &Self) {
        for (state, ns) in other.iter() {
            self.add(state, ns);
        }
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

impl<'de> Deserialize<'de> for StateTimes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut times = Self::default();
        for (state, ns) in BTreeMap::<State, u64>::deserialize(deserializer)? {
            times.add(state, ns);
        }
        Ok(times)
    }
}
