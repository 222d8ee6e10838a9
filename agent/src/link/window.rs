//! Pure arithmetic of the join: a stretch of one thread's time whose composition is known, cut by
//! the times of the markers published in it.
//!
//! ```text
//!   t0                    checkpoint (at, head)                                   t1
//!   |------ slice -------------|-----------------------------------------------|
//!   head0        ^marker 7           ^marker 8            ^marker 9              head1
//! ```
//! A marker's index says in which window, and between which checkpoints, it was published; its
//! timestamp only says where inside. So clocks can shift a cut, never move it to another window.

use crate::model::state::State;

/// Nanoseconds by state of a window; the sum is its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Composition(Vec<(State, u64)>);

// === impl Composition ===

impl Composition {
    /// Adds `ns` of `state`.
    pub fn add(&mut self, state: State, ns: u64) {
        if ns == 0 {
            return;
        }
        match self.0.iter_mut().find(|(s, _)| *s == state) {
            Some((_, sum)) => *sum += ns,
            None => self.0.push((state, ns)),
        }
    }

    /// One state alone.
    pub fn of(state: State, ns: u64) -> Self {
        let mut composition = Self::default();
        composition.add(state, ns);
        composition
    }

    /// Sum over the states.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|(_, ns)| ns).sum()
    }

    /// The parts.
    pub fn iter(&self) -> impl Iterator<Item = (State, u64)> + '_ {
        self.0.iter().copied()
    }

    /// The share of each state in `[from, to]` of a window `[0, len]`, pro rata. Shares of adjacent
    /// pieces add up exactly to the whole, and each piece's shares to its length.
    pub fn share(&self, len: u64, from: u64, to: u64) -> Self {
        let mut share = Self::default();
        if to <= from || len == 0 {
            return share;
        }
        // All states but one are rounded down at both ends of the piece, so they telescope; the
        // largest takes what is left of the piece's length.
        let Some(largest) = (0..self.0.len()).max_by_key(|&i| self.0[i].1) else {
            return share;
        };
        let up_to = |ns: u64, at: u64| (u128::from(ns) * u128::from(at) / u128::from(len)) as u64;
        let mut rest = to - from;
        for (i, &(state, ns)) in self.0.iter().enumerate() {
            if i != largest {
                let part = (up_to(ns, to) - up_to(ns, from)).min(rest);
                share.add(state, part);
                rest -= part;
            }
        }
        share.add(self.0[largest].0, rest);
        share
    }
}

/// A moment at which the lane's head is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// When, ktime.
    pub at: u64,
    /// Markers published before it.
    pub head: u64,
}

/// Places the marker with `index`, stamped `stamp`, inside a window: not before `floor` (the marker
/// before it, or the window's start), not before any checkpoint that had not yet seen it, not after
/// any that had, not after `end`.
pub fn place(
    index: u64,
    stamp: Option<u64>,
    floor: u64,
    end: u64,
    checkpoints: &[Checkpoint],
) -> u64 {
    let mut low = floor;
    let mut high = end;
    for checkpoint in checkpoints {
        if checkpoint.head <= index {
            low = low.max(checkpoint.at);
        } else {
            high = high.min(checkpoint.at);
        }
    }
    // A checkpoint that contradicts the window loses: time outside it is not this window's to give.
    let low = low.min(end.max(floor));
    let high = high.max(low).min(end.max(low));
    stamp.unwrap_or(low).clamp(low, high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUNNING: State = State::Running;
    const STEAL: State = State::Steal;
    const LOCK: State = State::Lock;

    #[test]
    fn marker_is_held_between_checkpoints() {
        let checkpoints = [Checkpoint { at: 100, head: 5 }, Checkpoint { at: 200, head: 7 }];
        assert_eq!(place(5, Some(50), 0, 300, &checkpoints), 100, "not before it was unseen");
        assert_eq!(place(5, Some(150), 0, 300, &checkpoints), 150);
        assert_eq!(place(6, Some(250), 0, 300, &checkpoints), 200, "not after it was seen");
        assert_eq!(place(7, Some(900), 0, 300, &checkpoints), 300, "not outside the window");
        assert_eq!(place(4, Some(90), 95, 300, &checkpoints), 95, "not before the one before it");
        assert_eq!(place(7, None, 0, 300, &checkpoints), 200, "without a stamp: the lower bound");
    }

    proptest! {
        /// Pieces of a window share each state exactly, and each piece's shares add up to it.
        #[test]
        fn shares_telescope(
            parts in prop::collection::vec(0u64..5_000_000_000, 1..4),
            cuts in prop::collection::vec(0.0f64..1.0, 0..8),
        ) {
            let mut composition = Composition::default();
            for (state, ns) in [RUNNING, STEAL, LOCK].into_iter().zip(parts) {
                composition.add(state, ns);
            }
            let len = composition.sum();
            let mut at: Vec<u64> = cuts.iter().map(|c| (c * len as f64) as u64).collect();
            at.push(0);
            at.push(len);
            at.sort_unstable();
            let mut total = Composition::default();
            for pair in at.windows(2) {
                let share = composition.share(len, pair[0], pair[1]);
                prop_assert_eq!(share.sum(), pair[1] - pair[0]);
                for (state, ns) in share.iter() {
                    total.add(state, ns);
                }
            }
            for (state, ns) in composition.iter() {
                let got = total.iter().find(|(s, _)| *s == state).map_or(0, |(_, ns)| ns);
                prop_assert_eq!(got, ns);
            }
        }

        /// A placed marker never leaves its window and never passes the one before it.
        #[test]
        fn placing_is_monotone(
            stamps in prop::collection::vec(any::<u64>(), 1..20),
            heads in prop::collection::vec((0u64..1500, 0u64..25), 0..5),
        ) {
            let mut checkpoints: Vec<_> =
                heads.into_iter().map(|(at, head)| Checkpoint { at, head }).collect();
            checkpoints.sort_by_key(|c| (c.at, c.head));
            let mut floor = 0;
            for (index, stamp) in stamps.into_iter().enumerate() {
                let at = place(index as u64, Some(stamp), floor, 1000, &checkpoints);
                prop_assert!(at >= floor && at <= 1000);
                floor = at;
            }
        }
    }
}
