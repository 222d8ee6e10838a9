//! The account of one resource: who holds how much.

use std::collections::HashMap;

use super::{Bound, Owner};
use crate::model::id::{Pid, Uid};

/// Who holds how much. Nobody who holds nothing is in it.
#[derive(Debug, Default)]
pub(super) struct Account {
    held: u64,
    users: HashMap<Uid, User>,
}

#[derive(Debug, Default)]
struct User {
    held: u64,
    processes: HashMap<Pid, u64>,
}

// === impl Account ===

impl Account {
    /// How much more `owner` may take.
    pub(super) fn room(&self, bound: Bound, owner: Owner) -> u64 {
        let user = self.users.get(&owner.uid);
        let (of_user, of_process) = user.map_or((0, 0), |user| (user.held, user.of(owner.pid)));
        let others = self.held - of_user;
        let user_most = part(bound.total.saturating_sub(others)).min(bound.user);
        let siblings = of_user - of_process;
        let process_most = part(user_most.saturating_sub(siblings)).min(bound.process);
        let in_user = user_most.saturating_sub(of_user);
        process_most.saturating_sub(of_process).min(in_user)
    }

    pub(super) fn take(&mut self, owner: Owner, n: u64) {
        if n == 0 {
            return;
        }
        let user = self.users.entry(owner.uid).or_default();
        *user.processes.entry(owner.pid).or_default() += n;
        user.held += n;
        self.held += n;
    }

    /// Takes back what `owner` holds, `n` of it at most.
    pub(super) fn give(&mut self, owner: Owner, n: u64) {
        let Some(user) = self.users.get_mut(&owner.uid) else { return };
        let Some(held) = user.processes.get_mut(&owner.pid) else { return };
        let n = n.min(*held);
        *held -= n;
        if *held == 0 {
            user.processes.remove(&owner.pid);
        }
        user.held -= n;
        self.held -= n;
        if user.held == 0 {
            self.users.remove(&owner.uid);
        }
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = Owner> {
        let of = |(&uid, user): (&Uid, &'_ User)| -> Vec<Owner> {
            user.processes.keys().map(|&pid| Owner { pid, uid }).collect()
        };
        self.users.iter().flat_map(of)
    }

    pub(super) fn held(&self, owner: Owner) -> u64 {
        self.users.get(&owner.uid).map_or(0, |user| user.of(owner.pid))
    }
}

// === impl User ===

impl User {
    fn of(&self, pid: Pid) -> u64 {
        self.processes.get(&pid).copied().unwrap_or(0)
    }
}

/// Of what the others have left: the rest is for who comes. Of little, all but one.
fn part(left: u64) -> u64 {
    left - left.div_ceil(5)
}
