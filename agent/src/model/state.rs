//! The closed list of states (design 4) with their codes and keys, and sums over them.

use std::{collections::BTreeMap, fmt};

use agent_ebpf::wire;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap as _,
};

/// Declares the states once: code on the wire and in the store, key in documents, and which of them
/// the kernel side accounts under the same name.
macro_rules! states {
    (
        kernel { $($(#[$kdoc:meta])* $kernel:ident = $kcode:literal $kkey:literal,)+ }
        daemon { $($(#[$ddoc:meta])* $daemon:ident = $dcode:literal $dkey:literal,)+ }
    ) => {
        /// What a thread-instant is: exactly one of these. Codes and keys are never reused and never
        /// changed; the order is that of the design's table.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum State {
            $($(#[$kdoc])* $kernel = $kcode,)+
            $($(#[$ddoc])* $daemon = $dcode,)+
        }

        impl State {
            /// Every state, in the order of the design's table.
            pub fn all() -> impl Iterator<Item = Self> {
                [$(Self::$kernel,)+ $(Self::$daemon,)+].into_iter()
            }

            /// The key in JSON (design 4).
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$kernel => $kkey,)+
                    $(Self::$daemon => $dkey,)+
                }
            }

            /// As the kernel side names it: where its time lies in a record's totals. `None` for a
            /// state that only the daemon knows.
            pub fn kernel(self) -> Option<wire::State> {
                match self {
                    $(Self::$kernel => Some(wire::State::$kernel),)+
                    $(Self::$daemon => None,)+
                }
            }
        }

        // By name and exhaustive: a new or moved state of the kernel side moves no stored code.
        impl From<wire::State> for State {
            fn from(state: wire::State) -> Self {
                match state {
                    $(wire::State::$kernel => Self::$kernel,)+
                }
            }
        }
    };
}

states! {
    kernel {
        /// On a CPU, user or kernel mode.
        #[default]
        Running = 0 "running",
        /// On a CPU by the kernel's view, but the CPU itself did not run (hypervisor).
        Steal = 1 "steal",
        /// Runnable, held back by a cgroup CPU quota.
        Throttled = 2 "throttled",
        /// Runnable after a wakeup (or creation), waiting for a CPU.
        ReadyWakeup = 3 "ready_wakeup",
        /// Runnable, the CPU was taken or given up.
        ReadyPreempted = 4 "ready_preempted",
        /// Page fault or reclaim.
        Memory = 5 "memory",
        /// Futex used as a lock, kernel lock, file lock.
        Lock = 6 "lock",
        /// Condvar, park, channel, eventfd, pipe, signal wait.
        Notify = 7 "notify",
        /// Socket read, write, accept, connect.
        Socket = 8 "socket",
        /// epoll, poll, select, io_uring.
        Poll = 9 "poll",
        /// File and block device I/O.
        Disk = 10 "disk",
        /// nanosleep and timers.
        Sleep = 11 "sleep",
        /// wait4, waitid, vfork.
        Child = 12 "child",
        /// Stopped by a signal, a tracer or the freezer.
        Stopped = 13 "stopped",
        /// Before the first event seen of this thread.
        UnknownBeforeAttach = 14 "unknown.before_attach",
        /// A scheduler event is missing.
        UnknownEventsLost = 15 "unknown.events_lost",
        /// A blocked wait whose kind could not be found out.
        UnknownUnresolvedWait = 16 "unknown.unresolved_wait",
        /// A kernel field needed to find out the kind is not offered by this kernel.
        UnknownKernelFeature = 17 "unknown.kernel_feature",
    }
    daemon {
        /// The thread's lane could not be read, neither when it left the CPU nor when it came back.
        UnknownContextUnreadable = 64 "unknown.context_unreadable",
    }
}

// === impl State ===

impl State {
    /// The number that stands for it on the wire and in the store.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The state of a number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::all().find(|state| state.code() == code)
    }

    /// The state of a key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::all().find(|state| state.key() == key)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_keys_are_those_of_every_version() {
        let known: Vec<(u8, &str)> =
            State::all().map(|state| (state.code(), state.key())).collect();
        let golden = [
            (0, "running"),
            (1, "steal"),
            (2, "throttled"),
            (3, "ready_wakeup"),
            (4, "ready_preempted"),
            (5, "memory"),
            (6, "lock"),
            (7, "notify"),
            (8, "socket"),
            (9, "poll"),
            (10, "disk"),
            (11, "sleep"),
            (12, "child"),
            (13, "stopped"),
            (14, "unknown.before_attach"),
            (15, "unknown.events_lost"),
            (16, "unknown.unresolved_wait"),
            (17, "unknown.kernel_feature"),
            (64, "unknown.context_unreadable"),
        ];
        assert_eq!(known, golden);
        for code in 0..=u8::MAX {
            let of_golden = golden.iter().find(|known| known.0 == code).map(|known| known.1);
            assert_eq!(State::from_code(code).map(State::key), of_golden, "{code}");
        }
        for state in State::all() {
            assert_eq!(State::from_key(state.key()), Some(state));
        }
        assert_eq!(State::from_key("moon"), None);
    }

    /// With the golden codes above: whatever the kernel side's order, a state keeps its code.
    #[test]
    fn the_kernel_side_is_matched_by_name_and_not_by_index() {
        for kernel in wire::State::ALL {
            let state = State::from(kernel);
            assert_eq!(format!("{state:?}"), format!("{kernel:?}"));
            assert_eq!(state.kernel(), Some(kernel));
        }
        let of_daemon: Vec<_> = State::all().filter(|state| state.kernel().is_none()).collect();
        assert_eq!(of_daemon, [State::UnknownContextUnreadable]);
    }
}
