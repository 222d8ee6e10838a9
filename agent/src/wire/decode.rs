//! Frames as batches. Everything that comes in is hostile: nothing is allocated by a claimed length,
//! nothing is indexed unchecked, and a batch that would take more memory than an honest one is
//! refused before it is built.
//!
//! Invariant: after a `Violation` the tables are empty, and only a batch of a later epoch is taken.

use std::collections::{BTreeMap, HashMap};

use hotspan_ingest::v1;

use super::{
    codes::{EXACT, OPEN},
    decode_account::{bounded, decode_account, decode_counts},
    decode_dictionary::{Dictionary, columns, number},
    size::{PIECE_BYTES, SAMPLE_BYTES, SPAN_BYTES, TOTAL_BYTES, WAIT_BYTES},
    violation::Violation,
};
use crate::model::{
    batch::{Batch, SampleRow, SpanPart, TotalRow, WaitRow},
    state::{State, StateTimes},
};

/// What one batch may take on the heap: agents cut at `PIECE_BYTES`, but for a span that is large
/// alone.
const MOST_BATCH_BYTES: usize = 8 * PIECE_BYTES;

/// The decoder of one stream.
#[derive(Default)]
pub struct Decoder {
    dictionary: Dictionary,
    epoch: u32,
    /// No batch of `epoch` can be followed any more.
    lost: bool,
}

// === impl Decoder ===

impl Decoder {
    /// The batch of a frame.
    pub fn batch(&mut self, wire: &v1::Batch) -> Result<Batch, Violation> {
        let decoded = self.try_batch(wire);
        if decoded.is_err() {
            self.dictionary = Dictionary::default();
            self.lost = true;
        }
        decoded
    }

    /// The epoch of the last batch, 0 before the first.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Strings cut since the last call.
    pub fn take_cut_strings(&mut self) -> u64 {
        self.dictionary.take_cut_strings()
    }

    fn try_batch(&mut self, wire: &v1::Batch) -> Result<Batch, Violation> {
        if wire.epoch > self.epoch {
            self.epoch = wire.epoch;
            self.dictionary = Dictionary::default();
            self.lost = false;
        } else if self.lost || wire.epoch < self.epoch || wire.epoch == 0 {
            return Err(Violation::Epoch { got: wire.epoch, have: self.epoch });
        }
        if let Some(new) = &wire.dictionary {
            let base = wire.from.wrapping_add_signed(wire.unix_offset_ns);
            self.dictionary.extend(new, base)?;
        }
        let mut rows = Rows {
            dictionary: &self.dictionary,
            batch: Batch {
                from: wire.from,
                to: wire.to,
                unix_offset_ns: wire.unix_offset_ns,
                counts: decode_counts(wire.counts.as_ref())?,
                account: decode_account(wire.account.as_ref())?,
                ..Batch::default()
            },
            processes: HashMap::new(),
            stacks: HashMap::new(),
            bytes: 0,
        };
        if let Some(spans) = &wire.spans {
            rows.spans(spans)?;
        }
        if let Some(samples) = &wire.samples {
            rows.samples(samples)?;
        }
        if let Some(waits) = &wire.waits {
            rows.waits(waits)?;
        }
        if let Some(totals) = &wire.totals {
            rows.totals(totals)?;
        }
        match rows.batch.contradiction() {
            Some(why) => Err(Violation::Contradiction(why)),
            None => Ok(rows.batch),
        }
    }
}

/// A batch on its way out of columns.
struct Rows<'a> {
    dictionary: &'a Dictionary,
    batch: Batch,
    /// Where entries of the dictionary went in the batch's tables.
    processes: HashMap<u32, u32>,
    stacks: HashMap<u32, u32>,
    bytes: usize,
}

// === impl Rows ===

impl Rows<'_> {
    fn spans(&mut self, wire: &v1::SpanColumns) -> Result<(), Violation> {
        let len = wire.span.len();
        columns(
            "span rows",
            len,
            &[
                ("start", wire.start.len()),
                ("end", wire.end.len()),
                ("active_ns", wire.active_ns.len()),
                ("flags", wire.flags.len()),
                ("part", wire.part.len()),
                ("states_len", wire.states_len.len()),
                ("active_len", wire.active_len.len()),
                ("loss_len", wire.loss_len.len()),
            ],
        )?;
        columns("states", wire.state.len(), &[("ns", wire.state_ns.len())])?;
        columns("active", wire.active_gap.len(), &[("for", wire.active_for.len())])?;
        columns("loss", wire.loss_reason.len(), &[("count", wire.loss_count.len())])?;
        let lists = wire.state.len() + wire.active_gap.len() + wire.loss_reason.len();
        self.take(len * SPAN_BYTES + lists * 48)?;
        let mut index = 0_u32;
        let mut states = Lists::new("states", wire.state.len());
        let mut active = Lists::new("active", wire.active_gap.len());
        let mut losses = Lists::new("loss", wire.loss_reason.len());
        for row in 0..len {
            index = index.wrapping_add_signed(wire.span[row]);
            let identity = self.dictionary.span(index)?;
            let offset = self.batch.unix_offset_ns.cast_unsigned();
            let usual = identity.start_unix_ns.0.wrapping_sub(offset);
            let start = usual.wrapping_add_signed(wire.start[row]);
            let flags = wire.flags[row];
            if flags & !(EXACT | OPEN) != 0 {
                return Err(number("flags of a span", flags));
            }
            let range = states.next(wire.states_len[row])?;
            let span_states = decode_states(&wire.state[range.clone()], &wire.state_ns[range])?;
            let mut previous = start;
            let intervals = active.next(wire.active_len[row])?.map(|n| {
                let from = previous.wrapping_add_signed(wire.active_gap[n]);
                previous = from.wrapping_add(wire.active_for[n]);
                (from, previous)
            });
            let intervals: Vec<(u64, u64)> = intervals.collect();
            let latest = intervals.iter().map(|&(_, to)| to).max().unwrap_or(start);
            let active_ns = span_states.sum().wrapping_add_signed(wire.active_ns[row]);
            let mut loss = BTreeMap::new();
            for n in losses.next(wire.loss_len[row])? {
                let reason = self.dictionary.string(wire.loss_reason[n])?;
                let count = bounded("loss of a span", wire.loss_count[n])?;
                if loss.insert(reason, count).is_some() {
                    return Err(Violation::Twice("a loss"));
                }
            }
            let part = SpanPart {
                trace_id: identity.trace_id,
                span_id: identity.span_id,
                parent: identity.parent,
                name: identity.name.clone(),
                process: self.process(identity.process)?,
                start_unix_ns: identity.start_unix_ns,
                start,
                end: latest.wrapping_add_signed(wire.end[row]),
                active_ns: bounded("active time", active_ns)?,
                states: span_states,
                active: intervals,
                exact: flags & EXACT != 0,
                open: flags & OPEN != 0,
                part: wire.part[row],
                loss,
            };
            self.batch.spans.push(part);
        }
        states.end()?;
        active.end()?;
        losses.end()
    }

    fn samples(&mut self, wire: &v1::SampleColumns) -> Result<(), Violation> {
        let len = wire.at.len();
        columns(
            "samples",
            len,
            &[
                ("thread", wire.thread.len()),
                ("span", wire.span.len()),
                ("node", wire.node.len()),
                ("state", wire.state.len()),
                ("ns", wire.ns.len()),
            ],
        )?;
        self.take(len * SAMPLE_BYTES)?;
        let mut at = self.batch.from;
        let mut before: BTreeMap<State, u64> = BTreeMap::new();
        for row in 0..len {
            at = at.wrapping_add_signed(wire.at[row]);
            let span = wire.span[row].checked_sub(1);
            span.map(|span| self.span_row(span)).transpose()?;
            let thread = self.dictionary.thread(wire.thread[row])?;
            let state = decode_state(wire.state[row])?;
            let before = before.entry(state).or_default();
            *before = bounded("time of a sample", before.wrapping_add_signed(wire.ns[row]))?;
            let ns = *before;
            let sample = SampleRow {
                at,
                process: self.process(thread.process)?,
                tid: thread.tid,
                span,
                stack: self.stack(wire.node[row])?,
                state,
                ns,
            };
            self.batch.samples.push(sample);
        }
        Ok(())
    }

    fn waits(&mut self, wire: &v1::WaitColumns) -> Result<(), Violation> {
        let len = wire.span.len();
        columns(
            "waits",
            len,
            &[
                ("state", wire.state.len()),
                ("cause", wire.cause.len()),
                ("ns", wire.ns.len()),
                ("count", wire.count.len()),
            ],
        )?;
        self.take(len * WAIT_BYTES)?;
        for row in 0..len {
            let wait = WaitRow {
                span: self.span_row(wire.span[row])?,
                state: decode_state(wire.state[row])?,
                cause: self.dictionary.cause(wire.cause[row])?.clone(),
                ns: bounded("time of a wait", wire.ns[row])?,
                count: bounded("count of a wait", wire.count[row])?,
            };
            self.batch.waits.push(wait);
        }
        Ok(())
    }

    fn totals(&mut self, wire: &v1::TotalColumns) -> Result<(), Violation> {
        let len = wire.process.len();
        columns(
            "totals",
            len,
            &[
                ("from", wire.from.len()),
                ("for_ns", wire.for_ns.len()),
                ("states_len", wire.states_len.len()),
            ],
        )?;
        columns("states", wire.state.len(), &[("ns", wire.state_ns.len())])?;
        self.take(len * TOTAL_BYTES + wire.state.len() * 48)?;
        let mut lists = Lists::new("states", wire.state.len());
        for row in 0..len {
            let from = self.batch.from.wrapping_add_signed(wire.from[row]);
            let range = lists.next(wire.states_len[row])?;
            let total = TotalRow {
                process: self.process(wire.process[row])?,
                from,
                to: from.wrapping_add(wire.for_ns[row]),
                states: decode_states(&wire.state[range.clone()], &wire.state_ns[range])?,
            };
            self.batch.totals.push(total);
        }
        lists.end()
    }

    /// Counts memory that is about to be used.
    fn take(&mut self, bytes: usize) -> Result<(), Violation> {
        self.bytes += bytes;
        match self.bytes > MOST_BATCH_BYTES {
            true => Err(Violation::Memory { what: "rows of a batch", limit: MOST_BATCH_BYTES }),
            false => Ok(()),
        }
    }

    fn span_row(&self, row: u32) -> Result<u32, Violation> {
        let len = self.batch.spans.len();
        match (row as usize) < len {
            true => Ok(row),
            false => Err(Violation::Index { table: "span rows", index: row.into(), len }),
        }
    }

    fn process(&mut self, index: u32) -> Result<u32, Violation> {
        if let Some(&row) = self.processes.get(&index) {
            return Ok(row);
        }
        let process = self.dictionary.process(index)?.clone();
        let row = self.batch.processes.len() as u32;
        self.batch.processes.push(process);
        self.processes.insert(index, row);
        Ok(row)
    }

    fn stack(&mut self, node: u32) -> Result<Option<u32>, Violation> {
        if node == 0 {
            return Ok(None);
        }
        if let Some(&row) = self.stacks.get(&node) {
            return Ok(Some(row));
        }
        self.take(self.dictionary.stack_bytes(node)?)?;
        let row = self.batch.stacks.len() as u32;
        self.batch.stacks.push(self.dictionary.stack(node)?);
        self.stacks.insert(node, row);
        Ok(Some(row))
    }
}

/// Lists of rows, flattened behind their lengths.
struct Lists {
    table: &'static str,
    at: usize,
    len: usize,
}

// === impl Lists ===

impl Lists {
    fn new(table: &'static str, len: usize) -> Self {
        Self { table, at: 0, len }
    }

    fn next(&mut self, len: u32) -> Result<std::ops::Range<usize>, Violation> {
        let from = self.at;
        let to = from.saturating_add(len as usize);
        if to > self.len {
            let (table, len) = (self.table, self.len);
            return Err(Violation::Index { table, index: to as u64, len });
        }
        self.at = to;
        Ok(from..to)
    }

    fn end(self) -> Result<(), Violation> {
        columns(self.table, self.at, &[("all", self.len)])
    }
}

fn decode_state(code: u32) -> Result<State, Violation> {
    let state = u8::try_from(code).ok().and_then(State::from_code);
    state.ok_or(number("state", code))
}

fn decode_states(codes: &[u32], ns: &[u64]) -> Result<StateTimes, Violation> {
    let mut times = StateTimes::default();
    for (&code, &ns) in codes.iter().zip(ns) {
        let state = decode_state(code)?;
        if times.get(state) > 0 {
            return Err(Violation::Twice("a state"));
        }
        times.add(state, bounded("time of a state", ns)?);
    }
    Ok(times)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
