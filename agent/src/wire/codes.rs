//! Numbers and limits of the wire that both ends must agree on. A number is never reused: a new
//! meaning is a new number and a new version of the protocol.

/// Longest string, bytes: what is longer is cut, and counted.
pub const MAX_STRING: usize = 4 << 10;
/// Deepest stack, frames: the encoder keeps the innermost, the decoder refuses deeper ones.
pub const MAX_DEPTH: usize = 1024;
/// `SpanColumns.flags`: every state so far is exact.
pub const EXACT: u32 = 1;
/// `SpanColumns.flags`: still active.
pub const OPEN: u32 = 2;

/// The longest start of a string that may travel.
pub fn capped(string: &str) -> &str {
    &string[..string.floor_char_boundary(MAX_STRING)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_cut_between_characters() {
        let long = "ü".repeat(MAX_STRING);
        assert_eq!(capped(&long).len(), MAX_STRING);
        let odd = format!("x{long}");
        assert_eq!(capped(&odd).len(), MAX_STRING - 1);
        assert_eq!(capped("short"), "short");
    }
}
