//! Frames of stacks by name, and their kinds.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::coded::coded;

/// A stack by name, innermost frame first.
pub type Stack = Arc<[Frame]>;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frame {
    /// Demangled name, or `module+0xoffset`, or `[anonymous]+0xoffset`, or `[unresolved]`.
    pub name: Arc<str>,
    /// Source file, "" when not known.
    pub file: Arc<str>,
    /// Line, 0 when not known.
    pub line: u32,
    /// What it is a frame of.
    pub kind: FrameKind,
}

coded! {
    /// What a frame is a frame of. Codes and keys are never reused and never changed.
    pub enum FrameKind: u32;
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
