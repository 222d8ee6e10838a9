//! Which code of a just-in-time compiler is where. What was reported last wins.
//!
//! ```text
//! recorded [ a          ]        then [ b ] inside of it
//! kept     [ a ][ b ][ a]
//! ```
//! Invariant: regions do not overlap, and all that is kept stays below the bound.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// What one process may have kept of it, about: names, lines, and what holds them.
pub(super) const MAX_BYTES: usize = 48 << 20;
/// Of a region or a piece of code, besides its text and lines.
const OVERHEAD: usize = 96;

/// A line of a source file, from an offset in the code on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) offset: u64,
    pub(super) line: u32,
    pub(super) file: Arc<str>,
}

/// A piece of code.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) name: Arc<str>,
    /// By offset.
    pub(super) lines: Box<[Line]>,
}

/// Where a part of it is.
#[derive(Clone, Debug)]
struct Region {
    end: u64,
    /// Where the code begins, or would begin.
    origin: u64,
    code: Arc<Code>,
    /// Of the code: to count them takes as long as it has lines.
    bytes: usize,
}

/// All the code of one process.
#[derive(Debug, Default)]
pub(super) struct CodeMap {
    regions: BTreeMap<u64, Region>,
    bytes: usize,
    cut: bool,
}

// === impl Code ===

impl Code {
    fn bytes(&self) -> usize {
        let mut bytes = OVERHEAD + self.name.len() + self.lines.len() * size_of::<Line>();
        // Lines of one file follow one another, and share its name.
        let mut last: Option<&Arc<str>> = None;
        for line in &self.lines {
            if last.is_none_or(|last| !Arc::ptr_eq(last, &line.file)) {
                bytes += line.file.len();
            }
            last = Some(&line.file);
        }
        bytes
    }

    /// Line and file at an offset: those of the last line that begins there or before.
    fn line(&self, offset: u64) -> Option<&Line> {
        let after = self.lines.partition_point(|line| line.offset <= offset);
        self.lines.get(after.checked_sub(1)?)
    }
}

// === impl CodeMap ===

impl CodeMap {
    /// There is `code` now, which is nowhere else; false when it is more than is kept.
    pub(super) fn insert(&mut self, range: Range<u64>, code: Arc<Code>) -> bool {
        let bytes = code.bytes();
        self.put(range, code, bytes, bytes)
    }

    /// The code that begins at `from` is at `to` now.
    pub(super) fn relocate(&mut self, from: u64, to: Range<u64>) {
        let begins = self.regions.get(&from).filter(|region| region.origin == from);
        let Some((code, bytes)) = begins.map(|region| (Arc::clone(&region.code), region.bytes))
        else {
            return;
        };
        self.clear(&(from..from.saturating_add(to.end - to.start)));
        // It counts as long as a part of it is left; who holds it here is asked after.
        let is_gone = Arc::strong_count(&code) == 1;
        if is_gone {
            self.bytes -= bytes;
        }
        self.put(to, code, bytes, if is_gone { bytes } else { 0 });
    }

    /// There is code of `bytes` now, of which `more` are not counted yet.
    fn put(&mut self, range: Range<u64>, code: Arc<Code>, bytes: usize, more: usize) -> bool {
        if range.is_empty() {
            return true;
        }
        let room = MAX_BYTES.saturating_sub(self.bytes);
        // A region may be cut in two by another.
        if more + 2 * OVERHEAD > room {
            self.cut = true;
            return false;
        }
        self.clear(&range);
        self.bytes += more;
        let origin = range.start;
        self.add(range, Region { end: 0, origin, code, bytes });
        true
    }

    /// Name, and line if known, of the code at `address`.
    pub(super) fn at(&self, address: u64) -> Option<(&Arc<str>, Option<&Line>)> {
        let (_, region) = self.regions.range(..=address).next_back()?;
        let offset = address.checked_sub(region.origin)?;
        (address < region.end).then(|| (&region.code.name, region.code.line(offset)))
    }

    /// Whether something was recorded that is not kept.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything there is.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (Range<u64>, &Code)> {
        self.regions.iter().map(|(&start, region)| (start..region.end, &*region.code))
    }

    /// What a region shows, at this place.
    fn add(&mut self, range: Range<u64>, shown: Region) {
        self.bytes += OVERHEAD;
        self.regions.insert(range.start, Region { end: range.end, ..shown });
    }

    /// Takes away what is in `range`.
    fn clear(&mut self, range: &Range<u64>) {
        while let Some((&start, region)) = self.regions.range(..range.end).next_back() {
            if region.end <= range.start {
                return;
            }
            let Some(region) = self.regions.remove(&start) else { return };
            self.bytes -= OVERHEAD;
            if region.end > range.end {
                self.add(range.end..region.end, region.clone());
            }
            if start < range.start {
                self.add(start..range.start, region.clone());
            }
            if Arc::strong_count(&region.code) == 1 {
                self.bytes -= region.bytes;
            }
        }
    }
}

#[cfg(test)]
#[path = "code_map_tests.rs"]
mod tests;
