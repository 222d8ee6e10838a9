//! Which words of the chunks are taken: runs of units, first fit, freed ones in quarantine before they
//! are used again, because a walk in the kernel may still be on its way through them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use agent_ebpf::unwind::table::{CHUNK_WORDS, CHUNKS};

/// Words that are taken or free together.
pub(super) const UNIT: usize = 256;
/// Units of a chunk.
const CHUNK_UNITS: usize = CHUNK_WORDS / UNIT;
/// No walk takes this long.
const QUARANTINE: Duration = Duration::from_secs(1);

/// A run of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Place of its first word.
    pub place: u32,
    units: u32,
}

/// The account of all chunks.
#[derive(Debug)]
pub(super) struct Space {
    taken: Vec<bool>,
    quarantined: VecDeque<(Instant, Run)>,
    used: usize,
}

// === impl Run ===

impl Run {
    /// Units of [`UNIT`] words it has.
    pub(super) fn units(self) -> u64 {
        self.units.into()
    }

    /// Words it has room for.
    #[cfg(test)]
    fn words(self) -> usize {
        self.units as usize * UNIT
    }
}

/// Units that room for `words` takes.
pub(super) fn units(words: usize) -> u64 {
    words.div_ceil(UNIT).max(1) as u64
}

// === impl Space ===

impl Space {
    /// Everything free. The first unit is not given out: place 0 means nowhere.
    pub(super) fn new() -> Self {
        let mut taken = vec![false; CHUNKS * CHUNK_UNITS];
        taken[0] = true;
        Self { taken, quarantined: VecDeque::new(), used: 1 }
    }

    /// Room for `words`, within one chunk if asked for.
    pub(super) fn take(&mut self, words: usize, in_one_chunk: bool, now: Instant) -> Option<Run> {
        self.release(now);
        let units = words.div_ceil(UNIT).max(1);
        if in_one_chunk && units > CHUNK_UNITS {
            return None;
        }
        let mut start = 0;
        while start + units <= self.taken.len() {
            if in_one_chunk && start / CHUNK_UNITS != (start + units - 1) / CHUNK_UNITS {
                start = start.next_multiple_of(CHUNK_UNITS);
                continue;
            }
            match self.taken[start..start + units].iter().rposition(|&taken| taken) {
                Some(last) => start += last + 1,
                None => {
                    self.taken[start..start + units].fill(true);
                    self.used += units;
                    return Some(Run { place: (start * UNIT) as u32, units: units as u32 });
                }
            }
        }
        None
    }

    /// Gives a run back.
    pub(super) fn free(&mut self, run: Run, now: Instant) {
        self.used -= run.units as usize;
        self.quarantined.push_back((now, run));
    }

    /// Words in use, those in quarantine not.
    pub(super) fn used_words(&self) -> usize {
        self.used * UNIT
    }

    /// Words of everything.
    pub(super) fn all_words(&self) -> usize {
        self.taken.len() * UNIT
    }

    fn release(&mut self, now: Instant) {
        while let Some(&(since, run)) = self.quarantined.front()
            && now.duration_since(since) >= QUARANTINE
        {
            self.quarantined.pop_front();
            let start = run.place as usize / UNIT;
            self.taken[start..start + run.units as usize].fill(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_do_not_overlap_and_slabs_do_not_cross() {
        let now = Instant::now();
        let mut space = Space::new();
        let mut runs: Vec<Run> = Vec::new();
        for n in 1..200 {
            let run = space.take(n * 997 % 40_000 + 1, n % 3 == 0, now).unwrap();
            assert!(run.place > 0 && run.words() > n * 997 % 40_000);
            if n % 3 == 0 {
                let last = run.place as usize + run.words() - 1;
                assert_eq!(run.place as usize / CHUNK_WORDS, last / CHUNK_WORDS);
            }
            runs.push(run);
        }
        runs.sort_by_key(|run| run.place);
        for pair in runs.windows(2) {
            assert!(pair[0].place as usize + pair[0].words() <= pair[1].place as usize);
        }
    }

    #[test]
    fn what_is_freed_rests_and_is_used_again() {
        let now = Instant::now();
        let mut space = Space::new();
        let all = space.take(space.all_words() - UNIT, false, now).unwrap();
        assert!(space.take(1, false, now).is_none());
        space.free(all, now);
        assert!(space.take(1, false, now).is_none(), "a walk may still be there");
        assert!(space.take(1, false, now + QUARANTINE).is_some());
        assert_eq!(space.used_words(), 2 * UNIT);
    }
}
