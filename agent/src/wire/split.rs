//! Cuts a batch that is too large for a frame into pieces that stand on their own.
//!
//! Invariants: every row is in exactly one piece; a span, its samples and its waits stay together,
//! so no reference is lost; rows keep their order within their table; a piece has the processes and
//! stacks that its rows name, and no others; counts and account go with the last piece. A span that is too large alone stays whole: the encoder finds out whether it fits.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::size::{self, PIECE_BYTES, SAMPLE_BYTES};
use crate::model::batch::{Account, Batch, Counts, SampleRow, SpanPart, TotalRow, WaitRow};

/// The pieces of a batch: itself when it is small enough.
pub fn pieces(batch: Batch) -> Vec<Batch> {
    if size::batch_bytes(&batch) <= PIECE_BYTES {
        return vec![batch];
    }
    Splitter::new(&batch).run()
}

/// The rows of one piece, by index into the whole.
#[derive(Default)]
struct Rows {
    spans: Vec<usize>,
    samples: Vec<usize>,
    waits: Vec<usize>,
    totals: Vec<usize>,
    processes: BTreeSet<u32>,
    stacks: BTreeSet<u32>,
    bytes: usize,
}

/// Rows that must stay together.
#[derive(Default)]
struct Group {
    span: Option<usize>,
    samples: Vec<usize>,
    waits: Vec<usize>,
    total: Option<usize>,
}

struct Splitter<'a> {
    whole: &'a Batch,
    process_bytes: Vec<usize>,
    stack_bytes: Vec<usize>,
    done: Vec<Rows>,
    current: Rows,
}

// === impl Splitter ===

impl<'a> Splitter<'a> {
    fn new(whole: &'a Batch) -> Self {
        let stack_bytes = whole.stacks.iter().map(size::stack_bytes).collect();
        let process_bytes = whole.processes.iter().map(size::process_bytes).collect();
        let (done, current) = (Vec::new(), Rows::default());
        Self { whole, process_bytes, stack_bytes, done, current }
    }

    fn run(mut self) -> Vec<Batch> {
        let whole = self.whole;
        let mut groups: Vec<Group> = (0..whole.spans.len())
            .map(|span| Group { span: Some(span), ..Group::default() })
            .collect();
        let mut rest = Vec::new();
        for (row, sample) in whole.samples.iter().enumerate() {
            match sample.span.and_then(|span| groups.get_mut(span as usize)) {
                Some(group) => group.samples.push(row),
                None => rest.push(Group { samples: vec![row], ..Group::default() }),
            }
        }
        for (row, wait) in whole.waits.iter().enumerate() {
            match groups.get_mut(wait.span as usize) {
                Some(group) => group.waits.push(row),
                None => rest.push(Group { waits: vec![row], ..Group::default() }),
            }
        }
        rest.extend(
            (0..whole.totals.len()).map(|row| Group { total: Some(row), ..Group::default() }),
        );
        for group in groups.into_iter().chain(rest) {
            self.place(group);
        }
        self.done.push(std::mem::take(&mut self.current));
        let last = self.done.len() - 1;
        (self.done.iter().enumerate()).map(|(n, rows)| piece(whole, rows, n == last)).collect()
    }

    /// Puts a group into the current piece, or begins another one.
    fn place(&mut self, group: Group) {
        let mut bytes = self.bytes(&group);
        if self.current.bytes + bytes > PIECE_BYTES && self.current.bytes > 0 {
            self.done.push(std::mem::take(&mut self.current));
            // What it shares with the piece before must come again.
            bytes = self.bytes(&group);
        }
        self.current.processes.extend(group.processes(self.whole));
        self.current.stacks.extend(group.stacks(self.whole));
        if self.current.bytes == 0 {
            self.current.bytes = size::fixed_bytes(self.whole);
        }
        self.current.bytes += bytes;
        self.current.spans.extend(group.span);
        self.current.samples.extend(group.samples);
        self.current.waits.extend(group.waits);
        self.current.totals.extend(group.total);
    }

    fn bytes(&self, group: &Group) -> usize {
        let whole = self.whole;
        let stacks = new(group.stacks(whole), &self.current.stacks, &self.stack_bytes);
        let processes = new(group.processes(whole), &self.current.processes, &self.process_bytes);
        stacks
            + processes
            + group.samples.len() * SAMPLE_BYTES
            + group.span.map_or(0, |row| size::span_bytes(&whole.spans[row]))
            + group.waits.iter().map(|&row| size::wait_bytes(&whole.waits[row])).sum::<usize>()
            + group.total.map_or(0, |row| size::total_bytes(&whole.totals[row]))
    }
}

// === impl Group ===

impl Group {
    fn processes<'a>(&'a self, whole: &'a Batch) -> impl Iterator<Item = u32> + 'a {
        let span = self.span.map(|row| whole.spans[row].process);
        let total = self.total.map(|row| whole.totals[row].process);
        let samples = self.samples.iter().map(|&row| whole.samples[row].process);
        samples.chain(span).chain(total)
    }

    fn stacks<'a>(&'a self, whole: &'a Batch) -> impl Iterator<Item = u32> + 'a {
        self.samples.iter().filter_map(|&row| whole.samples[row].stack)
    }
}

/// Bytes of what is not there already.
fn new(named: impl Iterator<Item = u32>, there: &BTreeSet<u32>, bytes: &[usize]) -> usize {
    let mut seen = HashSet::new();
    let new = named.filter(|place| !there.contains(place) && seen.insert(*place));
    new.filter_map(|place| bytes.get(place as usize)).sum()
}

/// A part of a table, and where its entries are in it now. An entry that was not there has no place.
fn part<T: Clone>(table: &[T], chosen: &BTreeSet<u32>) -> (Vec<T>, HashMap<u32, u32>) {
    let there = chosen.iter().copied().filter(|&old| (old as usize) < table.len());
    let entries = there.clone().map(|old| table[old as usize].clone()).collect();
    (entries, there.zip(0..).collect())
}

/// The batch of some rows, with tables of its own.
fn piece(whole: &Batch, rows: &Rows, last: bool) -> Batch {
    // A group's rows were put side by side: the order of the tables is that of the indexes.
    let mut samples = rows.samples.clone();
    samples.sort_unstable();
    let mut waits = rows.waits.clone();
    waits.sort_unstable();
    let spans: HashMap<u32, u32> =
        rows.spans.iter().zip(0..).map(|(&old, new)| (old as u32, new)).collect();
    let (stacks, stack_at) = part(&whole.stacks, &rows.stacks);
    let (processes, process_at) = part(&whole.processes, &rows.processes);
    // One that refers to nothing stays wrong: the encoder counts it.
    let process_at = |old: u32| process_at.get(&old).copied().unwrap_or(u32::MAX);
    Batch {
        from: whole.from,
        to: whole.to,
        unix_offset_ns: whole.unix_offset_ns,
        processes,
        stacks,
        spans: (rows.spans.iter())
            .map(|&row| {
                let span = &whole.spans[row];
                SpanPart { process: process_at(span.process), ..span.clone() }
            })
            .collect(),
        samples: (samples.iter())
            .map(|&row| {
                let sample = &whole.samples[row];
                let span = sample.span.and_then(|span| spans.get(&span).copied());
                let stack = sample.stack.and_then(|stack| stack_at.get(&stack).copied());
                SampleRow { process: process_at(sample.process), span, stack, ..sample.clone() }
            })
            .collect(),
        waits: (waits.iter())
            .map(|&row| {
                let wait = &whole.waits[row];
                let span = spans.get(&wait.span).copied().unwrap_or(u32::MAX);
                WaitRow { span, ..wait.clone() }
            })
            .collect(),
        totals: (rows.totals.iter())
            .map(|&row| {
                let total = &whole.totals[row];
                TotalRow { process: process_at(total.process), ..total.clone() }
            })
            .collect(),
        counts: if last { whole.counts } else { Counts::default() },
        account: if last { whole.account.clone() } else { Account::default() },
    }
}
