//! Turns `.eh_frame` and `.debug_frame` into rows of rules, in order of addresses. The section comes from
//! a file that anybody may have written:
//!
//! * Work is linear in its bytes: entries do not overlap, and reading CIEs again has a budget.
//! * Memory is 24 bytes for each FDE of at least 12, and a bounded number of CIEs.
//! * Rows are fewer than bytes.
//! * A broken entry loses what it would have said, and no more.

mod cies;
mod entry;
mod expression;
mod program;
mod reader;
mod state;

use std::ops::Range;

pub use agent_ebpf::unwind::{Machine, Rule};

use cies::Cies;
use entry::{Entry, Fde, Header};
use program::End;
use reader::Reader;

/// Smaller gaps between functions are padding, and keep the rule before them.
const GAP: u64 = 16;
/// Bytes of the smallest FDE: its length, its CIE, two-byte start and length.
const SMALLEST: usize = 12;

/// Which section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `.eh_frame`, for exceptions.
    EhFrame,
    /// `.debug_frame`, for debuggers.
    DebugFrame,
}

/// A section of tables.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    /// Image address of its first byte.
    pub address: u64,
    /// Which one.
    pub kind: Kind,
    /// Whose registers it names.
    pub machine: Machine,
}

/// What was made of a section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// FDEs that were understood.
    pub entries: u64,
    /// FDEs that were not, or not to their end, or that speak of no code; each alone.
    pub refused: u64,
    /// Rows that went out.
    pub rows: u64,
    /// Those of them with [`Rule::BAD`].
    pub bad_rows: u64,
    /// The section ends within an entry: what may come behind was not read.
    pub truncated: bool,
}

/// A function, and where its FDE is.
struct Place {
    start: u64,
    end: u64,
    at: usize,
}

/// Where rows go out, each only if it says something new.
struct Rows<'s, S> {
    sink: &'s mut S,
    last: Option<Rule>,
    rows: u64,
    bad: u64,
}

// === impl Rows ===

impl<S: FnMut(u64, Rule)> Rows<'_, S> {
    fn put(&mut self, address: u64, rule: Rule) {
        if self.last == Some(rule) {
            return;
        }
        self.last = Some(rule);
        self.rows += 1;
        self.bad += u64::from(rule == Rule::BAD);
        (self.sink)(address, rule);
    }
}

/// Emits the rows of a section in ascending order: a rule holds from its address up to the next row's.
/// Behind the last function, and in gaps of at least 16 bytes, it is [`Rule::NONE`]. Consecutive rules
/// differ. `code` are the image addresses of executable segments; of functions elsewhere nothing is
/// said. Where functions overlap, the later start wins, and of equal starts the first in the section.
pub fn rows(
    section: &Section<'_>,
    code: &[Range<u64>],
    sink: &mut impl FnMut(u64, Rule),
) -> Summary {
    let mut cies = Cies::new(section);
    let mut summary = Summary::default();
    let places = places(&mut cies, &disjoint(code), &mut summary);
    let mut rows = Rows { sink, last: None, rows: 0, bad: 0 };
    let mut places = places.into_iter().peekable();
    while let Some(place) = places.next() {
        let next = places.peek().map(|next| next.start);
        let end = place.end.min(next.unwrap_or(u64::MAX));
        match of_function(&mut cies, place.at, (place.start, end), &mut rows) {
            Some(End::Whole) => summary.entries += 1,
            Some(End::Broken) => summary.refused += 1,
            // It was understood before: the budget is used up.
            None => {
                rows.put(place.start, Rule::BAD);
                summary.refused += 1;
            }
        }
        if next.is_none_or(|next| next - end >= GAP) {
            rows.put(end, Rule::NONE);
        }
    }
    Summary { rows: rows.rows, bad_rows: rows.bad, ..summary }
}

/// All functions in order of their start, no two at the same one.
fn places(cies: &mut Cies<'_, '_>, code: &[Range<u64>], summary: &mut Summary) -> Vec<Place> {
    let section = cies.section();
    let mut places = Vec::new();
    let mut at = 0;
    while at < section.bytes.len() {
        let Some(header) = Header::read(section, at) else {
            summary.truncated = true;
            break;
        };
        match header.entry {
            Entry::Cie | Entry::Empty => {}
            Entry::Broken => summary.refused += 1,
            Entry::Fde(cie) => {
                let fde = cies.get(cie).and_then(|cie| Fde::read(section, &header, &cie));
                match fde {
                    // Of what a linker removed, debug information keeps such.
                    Some(fde) if fde.length == 0 => {}
                    Some(fde) if section.kind == Kind::DebugFrame && fde.start == 0 => {}
                    Some(fde) if places.len() <= section.bytes.len() / SMALLEST => {
                        match in_code(&fde, code) {
                            Some(end) => places.push(Place { start: fde.start, end, at }),
                            None => summary.refused += 1,
                        }
                    }
                    _ => summary.refused += 1,
                }
            }
        }
        at = header.end;
    }
    places.sort_unstable_by_key(|place| (place.start, place.at));
    let all = places.len();
    places.dedup_by_key(|place| place.start);
    summary.refused += (all - places.len()) as u64;
    places
}

/// Segments in order, those that overlap as one: a file may have a thousand, and each of millions of
/// functions asks.
fn disjoint(code: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = code.iter().filter(|code| !code.is_empty()).cloned().collect();
    all.sort_unstable_by_key(|segment| segment.start);
    all.dedup_by(|later, before| {
        let overlap = later.start < before.end;
        if overlap {
            before.end = before.end.max(later.end);
        }
        overlap
    });
    all
}

/// Where a function ends in the segment that it starts in.
fn in_code(fde: &Fde, code: &[Range<u64>]) -> Option<u64> {
    let after = code.partition_point(|segment| segment.start <= fde.start);
    let segment = code.get(after.checked_sub(1)?).filter(|code| fde.start < code.end)?;
    Some(fde.start.checked_add(fde.length)?.min(segment.end))
}

fn of_function(
    cies: &mut Cies<'_, '_>,
    at: usize,
    range: (u64, u64),
    rows: &mut Rows<'_, impl FnMut(u64, Rule)>,
) -> Option<End> {
    let section = cies.section();
    let header = Header::read(section, at)?;
    let Entry::Fde(cie) = header.entry else { return None };
    let cie = cies.get(cie)?;
    if cie.signal {
        rows.put(range.0, Rule::SIGNAL);
        return Some(End::Whole);
    }
    let fde = Fde::read(section, &header, &cie)?;
    let instructions = Reader::new(section.bytes.get(..fde.end)?, fde.instructions);
    let mut put = |address, rule| rows.put(address, rule);
    Some(program::rows(section, &cie, range, instructions, &mut put))
}

#[cfg(test)]
pub mod build;
#[cfg(test)]
mod gimli_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod images;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod readelf_tests;
#[cfg(test)]
#[path = "cfi_tests.rs"]
mod tests;
