//! Frames of stacks by name, and their kinds.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A stack by name, innermost frame first.
pub type Stack = Arc<[Frame]>;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frame {
    /// Demangled name, or `module+0xoffset`, or `[unresolved 0x..]`.
    pub name: Arc<str>,
    /// Source file, "" when not known.
    pub file: Arc<str>,
    /// Line, 0 when not known.
    pub line: u32,
    /// What it is a frame of.
    pub kind: FrameKind,
}

/// Declares the kinds once: code on the wire, key in documents and in the store.
macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal $key:literal,)+) => {
        /// What a frame is a frame of. Codes and keys are never reused and never changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum FrameKind {
            $($(#[$doc])* $name = $code,)+
        }

        impl FrameKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The key in documents and in the store.
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $key,)+
                }
            }
        }
    };
}

frame_kinds! {
    /// Machine code of a program.
    Native = 0 "native",
    /// A function that was inlined into the frame below it.
    Inlined = 1 "inlined",
    /// Kernel code.
    Kernel = 2 "kernel",
    /// No frame: a line that says why frames are missing.
    Mark = 3 "mark",
    /// Code that a runtime interprets.
    Interpreted = 4 "interpreted",
    /// A kind that a newer hotspan added.
    Other = 63 "other",
}

// === impl Frame ===

impl Frame {
    /// A frame without source position.
    pub fn named(name: impl Into<Arc<str>>, kind: FrameKind) -> Self {
        Self { name: name.into(), file: "".into(), line: 0, kind }
    }
}

// === impl FrameKind ===

impl FrameKind {
    /// The number on the wire and in the store.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The kind of a number.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }

    /// The kind of a key; `Other` for one that this build does not know.
    pub fn from_key(key: &str) -> Self {
        Self::ALL.iter().copied().find(|kind| kind.key() == key).unwrap_or(Self::Other)
    }
}

impl Serialize for FrameKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

impl<'de> Deserialize<'de> for FrameKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_key(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_keys_are_those_of_every_version() {
        let known: Vec<(u32, &str)> =
            FrameKind::ALL.iter().map(|kind| (kind.code(), kind.key())).collect();
        let golden = [
            (0, "native"),
            (1, "inlined"),
            (2, "kernel"),
            (3, "mark"),
            (4, "interpreted"),
            (63, "other"),
        ];
        assert_eq!(known, golden);
        for &kind in FrameKind::ALL {
            assert_eq!(FrameKind::from_code(kind.code()), Some(kind));
            assert_eq!(FrameKind::from_key(kind.key()), kind);
        }
        assert_eq!(FrameKind::from_code(5), None);
        assert_eq!(FrameKind::from_key("jit"), FrameKind::Other);
    }
}
