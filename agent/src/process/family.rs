//! Who is whose child, as `/proc` shows it at a moment.

use std::collections::{HashMap, HashSet};

use super::procfs::Stat;
use crate::model::id::Pid;

/// A process to record, and whom with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The process.
    pub pid: Pid,
    /// Without the processes below it: neither those there are, nor those it will fork.
    pub alone: bool,
}

impl From<Pid> for Root {
    fn from(pid: Pid) -> Self {
        Self { pid, alone: false }
    }
}

/// The descendants of some processes.
#[derive(Debug, Default)]
pub struct Family {
    /// Start of every process there was.
    started: HashMap<Pid, u64>,
    below: HashMap<Pid, HashSet<Pid>>,
}

// === impl Family ===

impl Family {
    /// Whom these roots have among all processes.
    pub fn among(stats: &HashMap<Pid, Stat>, roots: impl Iterator<Item = Pid>) -> Self {
        let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
        for (&pid, stat) in stats {
            children.entry(stat.parent).or_default().push(pid);
        }
        let below = roots.map(|root| {
            let mut found = HashSet::new();
            let mut next = vec![root];
            while let Some(pid) = next.pop() {
                for &child in children.get(&pid).into_iter().flatten() {
                    // Read one after the other, parents can seem to make a circle.
                    if child != root && found.insert(child) {
                        next.push(child);
                    }
                }
            }
            (root, found)
        });
        let below = below.collect();
        Self { started: stats.iter().map(|(&pid, stat)| (pid, stat.started)).collect(), below }
    }

    /// Whether there was such a process.
    pub fn has(&self, pid: Pid) -> bool {
        self.started.contains_key(&pid)
    }

    /// Whoever is below `root` in this look or in a later one, without those whose number is
    /// another's by then. One that has ended meanwhile stays: it may have forked.
    pub fn with(&self, later: &Self, root: Pid) -> HashSet<Pid> {
        let of = |family: &Self| family.below.get(&root).cloned().unwrap_or_default();
        let mut members = of(self);
        members.retain(|pid| {
            let now = later.started.get(pid);
            now.is_none_or(|now| self.started.get(pid) == Some(now))
        });
        members.extend(of(later));
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(parent: u32, started: u64) -> Stat {
        Stat { comm: "x".into(), state: 'S', parent: Pid(parent), flags: 0, started }
    }

    fn family(processes: &[(u32, u32, u64)]) -> Family {
        let stats = processes.iter().map(|&(pid, parent, at)| (Pid(pid), stat(parent, at)));
        Family::among(&stats.collect(), [Pid(10)].into_iter())
    }

    fn with(before: &[(u32, u32, u64)], later: &[(u32, u32, u64)]) -> Vec<u32> {
        let members = family(before).with(&family(later), Pid(10));
        let mut members: Vec<u32> = members.into_iter().map(|pid| pid.0).collect();
        members.sort_unstable();
        members
    }

    #[test]
    fn a_name_may_hold_what_follows_it() {
        let text = "7 (a) S 1 (b) R 5 7 7 0 -1 2129984 0 0 0 0 1 2 0 0 20 0 1 0 4711 0 0\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.comm.as_str(), stat.state), ("a) S 1 (b", 'R'));
        assert_eq!((stat.parent, stat.started), (Pid(5), 4711));
        assert!(stat.is_kernel() && !stat.is_zombie());
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) Z 1"), None);
    }

    #[test]
    fn all_descendants_are_found_and_no_one_else() {
        let processes = [(1, 0, 0), (10, 1, 1), (11, 10, 2), (12, 11, 3), (13, 1, 4)];
        assert_eq!(with(&[], &processes), [11, 12]);
    }

    #[test]
    fn an_orphan_is_remembered_from_before() {
        // 11 ended in between, and 12 went to init.
        let before = [(10, 1, 1), (11, 10, 2), (12, 11, 3)];
        assert_eq!(with(&before, &[(10, 1, 1), (12, 1, 3)]), [11, 12]);
    }

    #[test]
    fn a_number_that_was_given_out_again_is_another_process() {
        let before = [(10, 1, 1), (11, 10, 2)];
        assert_eq!(with(&before, &[(10, 1, 1), (11, 1, 9)]), [0; 0]);
    }

    #[test]
    fn a_circle_of_parents_ends() {
        assert_eq!(with(&[], &[(10, 12, 1), (11, 10, 2), (12, 11, 3)]), [11, 12]);
    }
}
