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
