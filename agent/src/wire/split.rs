//! Cuts a batch that is too large for a frame into pieces that stand on their own.
//!
//! Invariants: every row is in exactly one piece; a span, its samples and its waits stay together,
//! so no reference is lost; rows keep their order within their table; counts and account go with the
//! last piece. A span that is too large alone stays whole: the encoder finds out whether it fits.

use std::collections::{HashMap, HashSet};

use super::size::{self, PIECE_BYTES, SAMPLE_BYTES};
use crate::model::batch::{Account, Batch, Counts, SampleRow, WaitRow};

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
    stacks: HashSet<u32>,
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
    stack_bytes: Vec<usize>,
    done: Vec<Rows>,
    current: Rows,
}

// === impl Splitter ===

impl<'a> Splitter<'a> {
    fn new(whole: &'a Batch) -> Self {
        let stack_bytes = whole.stacks.iter().map(size::stack_bytes).collect();
        Self { whole, stack_bytes, done: Vec::new(), current: Rows::default() }
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
            // Stacks shared with the piece before must come again.
            bytes = self.bytes(&group);
        }
        let stacks = group.samples.iter().filter_map(|&row| self.whole.samples[row].stack);
        self.current.stacks.extend(stacks);
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
        let mut new = HashSet::new();
        let stacks: usize = (group.samples.iter())
            .filter_map(|&row| whole.samples[row].stack)
            .filter(|stack| !self.current.stacks.contains(stack) && new.insert(*stack))
            .filter_map(|stack| self.stack_bytes.get(stack as usize))
            .sum();
        stacks
            + group.samples.len() * SAMPLE_BYTES
            + group.span.map_or(0, |row| size::span_bytes(&whole.spans[row]))
            + group.waits.iter().map(|&row| size::wait_bytes(&whole.waits[row])).sum::<usize>()
            + group.total.map_or(0, |row| size::total_bytes(&whole.totals[row]))
    }
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
    let mut stack_list: Vec<u32> = rows.stacks.iter().copied().collect();
    stack_list.sort_unstable();
    stack_list.retain(|&old| (old as usize) < whole.stacks.len());
    let stacks: HashMap<u32, u32> =
        stack_list.iter().zip(0..).map(|(&old, new)| (old, new)).collect();
    Batch {
        from: whole.from,
        to: whole.to,
        unix_offset_ns: whole.unix_offset_ns,
        processes: whole.processes.clone(),
        stacks: stack_list.iter().map(|&old| whole.stacks[old as usize].clone()).collect(),
        spans: rows.spans.iter().map(|&row| whole.spans[row].clone()).collect(),
        samples: (samples.iter())
            .map(|&row| {
                let sample = &whole.samples[row];
                let span = sample.span.and_then(|span| spans.get(&span).copied());
                let stack = sample.stack.and_then(|stack| stacks.get(&stack).copied());
                SampleRow { span, stack, ..sample.clone() }
            })
            .collect(),
        waits: (waits.iter())
            .map(|&row| {
                let wait = &whole.waits[row];
                // One that refers to no span stays wrong: the encoder counts it.
                let span = spans.get(&wait.span).copied().unwrap_or(u32::MAX);
                WaitRow { span, ..wait.clone() }
            })
            .collect(),
        totals: rows.totals.iter().map(|&row| whole.totals[row].clone()).collect(),
        counts: if last { whole.counts } else { Counts::default() },
        account: if last { whole.account.clone() } else { Account::default() },
    }
}
