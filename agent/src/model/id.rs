//! Process ids as a type: a thread's id never lands where a process's is meant. They are ids of the
//! initial pid namespace (design 7).

use std::fmt;

/// A process (the kernel's tgid).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('?'));
        }
        text
    })
}

/// An id in hex, "" for the one that means none.
pub fn hex_or_none(id: &[u8]) -> String {
    if id.iter().all(|&byte| byte == 0) { String::new() } else { hex(id) }
}
