//! Who or what a wait was for.

use std::sync::Arc;

use super::{
    batch::SpanName,
    coded::coded,
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

coded! {
    /// What kind of cause. Codes and keys are never reused and never changed.
    #[derive(Default)]
    pub enum CauseKind: u8;
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
