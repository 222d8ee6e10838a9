//! Numbers and limits of the wire that both ends must agree on. A number is never reused: a new
//! meaning is a new number and a new version of the protocol.

use crate::profile::batch::CauseKind;

/// Longest string, bytes: what is longer is cut, and counted.
pub const MAX_STRING: usize = 4 << 10;
/// Deepest stack, frames: the encoder keeps the innermost, the decoder refuses deeper ones.
pub const MAX_DEPTH: usize = 1024;
/// `SpanColumns.flags`: every state so far is exact.
pub const EXACT: u32 = 1;
/// `SpanColumns.flags`: still active.
pub const OPEN: u32 = 2;

/// Kinds of frames, by number.
const FRAME_KINDS: [&str; 4] = ["native", "inlined", "kernel", "mark"];

/// The number of a kind of frame; one without a number travels as `native`.
pub fn frame_kind_code(kind: &str) -> u32 {
    FRAME_KINDS.iter().position(|&known| known == kind).unwrap_or(0) as u32
}

/// The kind of frame of a number.
pub fn frame_kind(code: u32) -> Option<&'static str> {
    FRAME_KINDS.get(usize::try_from(code).ok()?).copied()
}

/// The kind of cause of a number.
pub fn cause_kind(code: u32) -> Option<CauseKind> {
    [CauseKind::Waker, CauseKind::Rival, CauseKind::Interrupt, CauseKind::Syscall]
        .into_iter()
        .find(|&kind| kind as u32 == code)
}

/// The longest start of a string that may travel.
pub fn capped(string: &str) -> &str {
    &string[..string.floor_char_boundary(MAX_STRING)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back() {
        for kind in FRAME_KINDS {
            assert_eq!(frame_kind(frame_kind_code(kind)), Some(kind));
        }
        assert_eq!(frame_kind(FRAME_KINDS.len() as u32), None);
        assert_eq!(cause_kind(CauseKind::Syscall as u32), Some(CauseKind::Syscall));
        assert_eq!(cause_kind(4), None);
    }

    #[test]
    fn strings_are_cut_between_characters() {
        let long = "ü".repeat(MAX_STRING);
        assert_eq!(capped(&long).len(), MAX_STRING);
        let odd = format!("x{long}");
        assert_eq!(capped(&odd).len(), MAX_STRING - 1);
        assert_eq!(capped("short"), "short");
    }
}
