//! Budgets: what others can make us spend, and how much of it one of them may have. Whatever a stranger's
//! program costs (memory, descriptors, time of a thread, places in a queue) is taken here first, in the
//! name of its *owner*: a process, and the user the kernel says it runs as. Beyond its bound an owner's
//! own data is shed and counted under its name; everybody else is served as before.
//!
//! A bound is no first come, first served: an owner never gets the last of anything. Of what the others
//! have left of all, a user may hold four fifths; of what the user's other processes have left of that,
//! a process may hold four fifths. Whoever comes finds something, and where things turn over, as spans
//! and queues do, greedy owners end with equal parts.
//!
//! [`Resource`] is the table of all of them; nobody else keeps a bound on what strangers spend in common.

mod account;
mod over;
mod table;
mod users;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use over::Over;
pub(crate) use table::{Bound, Resource};

use crate::{
    ledger::{DaemonCounter, Tally},
    model::id::{Pid, Uid},
};
use account::Account;
use over::Overs;
use users::Users;

/// In whose name something is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The process.
    pub pid: Pid,
    /// The user it runs as.
    pub uid: Uid,
}

/// The accounts of all resources. A clone is another hand on the same accounts: threads share them.
#[derive(Clone, Debug, Default)]
pub struct Budgets(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    accounts: [Account; Resource::ALL.len()],
    users: Users,
    overs: Overs,
    /// What was shed, by process.
    counts: Tally,
}

// === impl Budgets ===

impl Budgets {
    /// Whose a process is.
    pub fn owner(&self, pid: Pid) -> Owner {
        self.inner().users.owner(pid)
    }

    /// `parent` forked `child`.
    pub fn forked(&self, parent: Pid, child: Pid) {
        self.inner().users.forked(parent, child);
    }

    /// A process that is none, as if it were this user's.
    #[cfg(test)]
    pub fn set_user(&self, pid: Pid, uid: Uid) {
        self.inner().users.insert(pid, uid);
    }

    /// `pid` runs another program: perhaps as another user.
    pub fn execed(&self, pid: Pid) {
        self.inner().users.forget(pid);
    }

    /// Takes `n`, all or nothing. What is refused is shed: it is counted.
    #[must_use]
    pub fn take(&self, of: Resource, owner: Owner, n: u64) -> bool {
        let takes = self.try_take(of, owner, n);
        if !takes {
            self.shed(of, owner, n);
        }
        takes
    }

    /// The same, but nothing is counted.
    #[must_use]
    pub fn try_take(&self, of: Resource, owner: Owner, n: u64) -> bool {
        let account = &mut self.inner().accounts[of as usize];
        let takes = account.room(of.bound(), owner) >= n;
        if takes {
            account.take(owner, n);
        }
        takes
    }

    /// Takes as much of `n` as there is room for, and says how much that is. Nothing is counted: the rest
    /// may only be late.
    #[must_use]
    pub fn take_up_to(&self, of: Resource, owner: Owner, n: u64) -> u64 {
        let mut inner = self.inner();
        let taken = inner.accounts[of as usize].room(of.bound(), owner).min(n);
        inner.accounts[of as usize].take(owner, taken);
        taken
    }

    /// Takes `n` whether there is room or not: what is there already and only changes its form.
    pub fn force(&self, of: Resource, owner: Owner, n: u64) {
        self.inner().accounts[of as usize].take(owner, n);
    }

    /// How much the owner could take now.
    pub fn room(&self, of: Resource, owner: Owner) -> u64 {
        self.inner().accounts[of as usize].room(of.bound(), owner)
    }

    /// Gives `n` back.
    pub fn give(&self, of: Resource, owner: Owner, n: u64) {
        self.inner().accounts[of as usize].give(owner, n);
    }

    /// What a process holds.
    pub fn held(&self, of: Resource, owner: Owner) -> u64 {
        self.inner().accounts[of as usize].held(owner)
    }

    /// A new period of what is bounded by period: everybody starts from nothing.
    pub fn begin(&self, of: Resource) {
        self.inner().accounts[of as usize] = Account::default();
    }

    /// Counts `n` that an owner's data lost because its share was used up.
    pub fn shed(&self, of: Resource, owner: Owner, n: u64) {
        self.inner().shed(of, owner, n);
    }

    /// Notes that an owner's data lost `n` which are counted elsewhere.
    pub fn remark(&self, of: Resource, owner: Owner, n: u64) {
        self.inner().overs.add(of, owner, n);
    }

    /// Counts it under another name than its usual one.
    pub fn shed_as(&self, of: Resource, owner: Owner, counter: DaemonCounter, n: u64) {
        let mut inner = self.inner();
        inner.counts.add(owner.pid, counter, n);
        inner.overs.add(of, owner, n);
    }

    /// Who holds more of it than it could still take.
    pub fn pressed(&self, of: Resource) -> Vec<Owner> {
        let inner = self.inner();
        let account = &inner.accounts[of as usize];
        account.owners().filter(|&it| account.held(it) > account.room(of.bound(), it)).collect()
    }

    /// Who was over its share in the last minute, ktime `now`, those that lost most first.
    pub fn over(&self, now: u64) -> Vec<Over> {
        self.inner().overs.report(now)
    }

    /// What was shed, by process and counter.
    pub fn counts(&self) -> Tally {
        self.inner().counts.clone()
    }

    /// Forgets whose the counts were: by process they would grow with every one that ever ran.
    pub fn fold(&self) {
        self.inner().counts.fold();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Default for Inner {
    fn default() -> Self {
        Self {
            accounts: std::array::from_fn(|_| Account::default()),
            users: Users::default(),
            overs: Overs::default(),
            counts: Tally::default(),
        }
    }
}

impl Inner {
    fn shed(&mut self, of: Resource, owner: Owner, n: u64) {
        self.counts.add(owner.pid, of.counter(), of.events(n));
        self.overs.add(of, owner, of.events(n));
    }
}

#[cfg(test)]
mod tests;
