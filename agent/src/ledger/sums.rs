//! All counts of a run so far, and what follows from them by the table: the account of each kind, and
//! everything that was lost, disturbed or is good to know.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Counter, Kind, Role, Tally};
use crate::model::id::Pid;

/// `captured = delivered + in_flight + spooled + lost(by reason)` of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Conservation {
    /// Counted at the source, before any buffer was asked for room.
    pub captured: u64,
    /// Reached the join; of a stored run: stored.
    pub delivered: u64,
    /// What the others leave: on its way. Below zero when more was delivered than captured, which is
    /// a bug.
    pub in_flight: i64,
    /// On disk, to be delivered later.
    pub spooled: u64,
    /// By reason.
    pub lost: BTreeMap<String, u64>,
}

/// Counts of one moment. Conservation is everybody's; what was lost is that of the processes that are
/// reported, where it is known whose it was.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    all: BTreeMap<Counter, u64>,
    reported: BTreeMap<Counter, u64>,
}

// === impl Sums ===

impl Sums {
    /// Adds a count of the whole host.
    pub fn add(&mut self, counter: impl Into<Counter>, n: u64) {
        self.add_of(counter.into(), n, true);
    }

    /// Adds a count of the host that is no matter of the report's.
    pub fn add_unreported(&mut self, counter: impl Into<Counter>, n: u64) {
        self.add_of(counter.into(), n, false);
    }

    /// Adds counts, of which those of no process are the host's.
    pub fn add_tally(&mut self, tally: &Tally, is_reported: impl Fn(Pid) -> bool) {
        for (of, counter, n) in tally.iter() {
            self.add_of(counter, n, of.is_none_or(&is_reported));
        }
    }

    fn add_of(&mut self, counter: Counter, n: u64, is_reported: bool) {
        *self.all.entry(counter).or_default() += n;
        if is_reported {
            *self.reported.entry(counter).or_default() += n;
        }
    }

    /// The account of each kind, of a stream or a recording.
    pub fn conservation(&self, is_stream: bool) -> BTreeMap<&'static str, Conservation> {
        let kinds = Kind::ALL.into_iter().filter(|kind| is_stream || kind.is_of_every_run());
        let accounts = kinds.map(|kind| (kind, self.account(kind)));
        // What there is to account for shows in its time.
        let shown = accounts.filter(|(kind, it)| kind.is_of_every_run() || it.captured > 0);
        shown.map(|(kind, account)| (kind.key(), account)).collect()
    }

    fn account(&self, of: Kind) -> Conservation {
        let mut account = Conservation::default();
        let (mut delivered, mut dropped) = (0, 0);
        for (counter, &n) in &self.all {
            for role in counter.entry().roles {
                match *role {
                    Role::Captured(kind) if kind == of => account.captured += n,
                    Role::Delivered(kind) if kind == of => delivered += n,
                    Role::InFlight(kind) if kind == of => {
                        account.in_flight += i64::try_from(n).unwrap_or(i64::MAX)
                    }
                    Role::Lost(kind, reason) if kind == of => account.lose(reason, n),
                    Role::Dropped(kind, reason) if kind == of => {
                        dropped += n;
                        account.lose(reason, n);
                    }
                    _ => {}
                }
            }
        }
        account.delivered = delivered - dropped.min(delivered);
        account
    }

    /// Everything that was lost, and everything that made part of the account unknown, by key. Only
    /// what occurred.
    pub fn loss(&self) -> BTreeMap<String, u64> {
        self.keyed(Counter::is_loss)
    }

    /// What was counted besides and is no loss, likewise.
    pub fn information(&self) -> BTreeMap<String, u64> {
        self.keyed(Counter::is_information)
    }

    fn keyed(&self, wanted: impl Fn(Counter) -> bool) -> BTreeMap<String, u64> {
        let some = self.reported.iter().filter(|&(&counter, &n)| n > 0 && wanted(counter));
        some.map(|(counter, &n)| (counter.key().to_owned(), n)).collect()
    }
}

// === impl Conservation ===

impl Conservation {
    fn lose(&mut self, reason: &str, n: u64) {
        if n > 0 {
            *self.lost.entry(reason.to_owned()).or_default() += n;
        }
    }

    /// Captured minus what became of it: not zero is a bug in hotspan.
    pub fn imbalance(&self) -> i128 {
        let Self { captured, delivered, in_flight, spooled, lost } = self;
        let known = [delivered, spooled].into_iter().chain(lost.values());
        let known = known.map(|&n| i128::from(n)).sum::<i128>() + i128::from(*in_flight);
        i128::from(*captured) - known
    }
}
