//! Who or what a wait was for.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    batch::SpanName,
    id::{Pid, Tid},
};

/// Who or what a wait was for, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cause {
    /// What it is.
    pub kind: CauseKind,
    /// Of the thread or system call, "" for an interrupt.
    pub name: Arc<str>,
    /// Its process, 0 for none.
    pub pid: Pid,
    /// Its thread, 0 for none.
    pub tid: Tid,
    /// The span it was in.
    pub span: Option<SpanName>,
}

/// Declares the kinds once: code on the wire and in the store, key in documents.
macro_rules! cause_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal $key:literal,)+) => {
        /// What kind of cause. Codes and keys are never reused and never changed.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum CauseKind {
            $($(#[$doc])* $name = $code,)+
        }

        impl CauseKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The key in documents.
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $key,)+
                }
            }
        }
    };
}

cause_kinds! {
    /// The thread that ended the wait.
    #[default]
    Waker = 0 "waker",
    /// The thread that had the CPU meanwhile. (Its key is older than its name.)
    Preemptor = 1 "rival",
    /// An interrupt ended the wait: nobody to name.
    Interrupt = 2 "interrupt",
    /// Only the system call is known.
    Syscall = 3 "syscall",
    /// A kind that a newer hotspan added.
    Other = 63 "other",
}

// === impl CauseKind ===

impl CauseKind {
    /// The number on the wire and in the store.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a number.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| u32::from(kind.code()) == code)
    }

    /// The kind of a key; `Other` for one that this build does not know.
    pub fn from_key(key: &str) -> Self {
        Self::ALL.iter().copied().find(|kind| kind.key() == key).unwrap_or(Self::Other)
    }
}

impl Serialize for CauseKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

impl<'de> Deserialize<'de> for CauseKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_key(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_keys_are_those_of_every_version() {
        let known: Vec<(u8, &str)> =
            CauseKind::ALL.iter().map(|kind| (kind.code(), kind.key())).collect();
        let golden = [(0, "waker"), (1, "rival"), (2, "interrupt"), (3, "syscall"), (63, "other")];
        assert_eq!(known, golden);
        for &kind in CauseKind::ALL {
            assert_eq!(CauseKind::from_code(kind.code().into()), Some(kind));
            assert_eq!(CauseKind::from_key(kind.key()), kind);
        }
        assert_eq!(CauseKind::from_code(4), None);
        assert_eq!(CauseKind::from_key("moon"), CauseKind::Other);
    }
}
