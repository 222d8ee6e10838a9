//! Who is over its share of what, and since when.

use std::collections::HashMap;

use super::{Owner, Resource};

/// Who has lost nothing for so long is not over any more, ns.
const QUIET_NS: u64 = 60_000_000_000;
/// Owners that are remembered. Of more, those that lost least go.
const MAX_KEPT: usize = 256;
/// Owners that are reported.
const MAX_REPORTED: usize = 32;

/// An owner that is over its share of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// Of what.
    pub resource: Resource,
    /// Who.
    pub owner: Owner,
    /// The report in which it was there first, ktime.
    pub since: u64,
    /// How much it has lost since.
    pub shed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Overs(HashMap<(Resource, Owner), State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// First and last report with something lost.
    since: Option<u64>,
    last: u64,
    shed: u64,
    /// Something was lost since the last report.
    is_new: bool,
}

// === impl Overs ===

impl Overs {
    pub(super) fn add(&mut self, resource: Resource, owner: Owner, n: u64) {
        if n == 0 {
            return;
        }
        if self.0.len() >= MAX_KEPT
            && !self.0.contains_key(&(resource, owner))
            && let Some(least) = self.0.iter().min_by_key(|(_, state)| state.shed)
        {
            let least = *least.0;
            self.0.remove(&least);
        }
        let state = self.0.entry((resource, owner)).or_default();
        state.shed += n;
        state.is_new = true;
    }

    pub(super) fn report(&mut self, now: u64) -> Vec<Over> {
        self.0.retain(|_, state| {
            if std::mem::take(&mut state.is_new) {
                state.last = now;
            }
            state.since.get_or_insert(now);
            now.saturating_sub(state.last) < QUIET_NS
        });
        let mut over: Vec<Over> = (self.0.iter())
            .map(|(&(resource, owner), state)| Over {
                resource,
                owner,
                since: state.since.unwrap_or(now),
                shed: state.shed,
            })
            .collect();
        over.sort_by_key(|over| (std::cmp::Reverse(over.shed), over.resource, over.owner));
        over.truncate(MAX_REPORTED);
        over
    }
}
