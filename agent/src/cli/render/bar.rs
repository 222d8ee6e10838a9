//! The bar of states: cells in proportion to time, exactly as many as there is room for.

use crate::model::state::{State, StateTimes};

/// Cells per state, in the order of the states.
#[derive(Debug)]
pub(super) struct Bar {
    cells: Vec<(State, usize)>,
}

impl Bar {
    /// Shares `width` cells out by largest remainder: each state gets the whole cells its time is
    /// worth, the rest goes one by one to those that lost most by rounding down (the first of
    /// equals). So the bar is full whenever there is any time at all.
    pub(super) fn new(states: &StateTimes, width: usize) -> Self {
        let total: u128 = states.iter().map(|(_, ns)| u128::from(ns)).sum();
        if total == 0 {
            return Self { cells: Vec::new() };
        }
        let mut cells = Vec::new();
        let mut remainders = Vec::new();
        for (index, (state, ns)) in states.iter().enumerate() {
            let share = u128::from(ns) * width as u128;
            cells.push((state, usize::try_from(share / total).unwrap_or(width)));
            remainders.push((share % total, index));
        }
        remainders.sort_by_key(|&(remainder, index)| (std::cmp::Reverse(remainder), index));
        let given: usize = cells.iter().map(|&(_, cells)| cells).sum();
        for (_, index) in remainders.into_iter().take(width.saturating_sub(given)) {
            if let Some((_, cells)) = cells.get_mut(index) {
                *cells += 1;
            }
        }
        Self { cells }
    }

    pub(super) fn cells(&self) -> &[(State, usize)] {
        &self.cells
    }
}

/// What a state looks like: glyph, glyph where only ASCII is shown, terminal colour. Told apart by
/// the glyph alone: solid while running, shaded while ready to, patterned or thin while waiting.
fn look(state: State) -> (char, char, u8) {
    match state {
        State::Running => ('█', '#', 32),
        State::Steal => ('╳', 'x', 95),
        State::Throttled => ('▓', 'T', 35),
        State::ReadyWakeup => ('▒', '+', 33),
        State::ReadyPreempted => ('░', '-', 93),
        State::Memory => ('▞', 'M', 92),
        State::Lock => ('▌', 'L', 31),
        State::Notify => ('○', 'n', 91),
        State::Socket => ('≈', '~', 34),
        State::Poll => ('·', '.', 36),
        State::Disk => ('▤', 'D', 94),
        State::Sleep => ('╌', 'z', 90),
        State::Child => ('┬', 'c', 96),
        State::Stopped => ('▪', '=', 37),
        State::UnknownBeforeAttach => ('‹', '<', 90),
        State::UnknownEventsLost => ('?', '?', 90),
        State::UnknownUnresolvedWait => ('¿', 'u', 90),
        State::UnknownKernelFeature => ('¡', 'k', 90),
        State::UnknownContextUnreadable => ('%', '%', 90),
    }
}

pub(super) fn glyph_of(state: State, unicode: bool) -> char {
    let (glyph, ascii, _) = look(state);
    if unicode { glyph } else { ascii }
}

pub(super) fn colour_of(state: State) -> u8 {
    look(state).2
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_state_has_a_glyph_of_its_own() {
        for unicode in [true, false] {
            let glyphs: BTreeSet<_> = State::all().map(|state| glyph_of(state, unicode)).collect();
            assert_eq!(glyphs.len(), State::all().count());
            assert!(unicode || glyphs.iter().all(char::is_ascii_graphic));
        }
    }

    #[test]
    fn the_largest_remainders_get_the_cells_left_over() {
        let mut times = StateTimes::default();
        // Of 10 cells: 4.8, 3.4 and 1.8.
        for (state, ns) in State::all().zip([48, 34, 18]) {
            times.add(state, ns);
        }
        let cells: Vec<_> = Bar::new(&times, 10).cells().iter().map(|&(_, cells)| cells).collect();
        assert_eq!(cells, [5, 3, 2]);
    }

    #[test]
    fn no_time_is_no_bar() {
        assert!(Bar::new(&StateTimes::default(), 10).cells().is_empty());
    }

    proptest! {
        #[test]
        fn a_bar_is_exactly_full(
            ns in prop::collection::vec(0..u64::MAX / 32, 1..20),
            width in 0_usize..200,
        ) {
            let mut times = StateTimes::default();
            for (state, &ns) in State::all().zip(&ns) {
                times.add(state, ns);
            }
            let bar = Bar::new(&times, width);
            let filled: usize = bar.cells().iter().map(|&(_, cells)| cells).sum();
            prop_assert_eq!(filled, if times.sum() == 0 { 0 } else { width });
            for &(state, cells) in bar.cells() {
                let exact = times.get(state) as f64 * width as f64 / times.sum() as f64;
                prop_assert!((cells as f64 - exact).abs() < 1.001, "{state}: {cells} for {exact}");
            }
        }
    }
}
