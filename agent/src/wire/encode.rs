//! Batches as frames: rows become packed columns against the dictionaries of an epoch.
//!
//! Invariants: a frame refers only to what it or an earlier frame of its epoch defined; the first frame
//! of an epoch stands on its own. Differences wrap, so any value comes back as it was.

use std::{collections::BTreeMap, sync::Arc};

use hotspan_ingest::v1::{self, AgentFrame, agent_frame::Frame};

use super::{
    codes::{self, EXACT, OPEN},
    encode_dictionary::Dictionary,
    item::{Content, Item, Repaired},
};
use crate::model::{
    batch::{Account, Batch, Counts, Gap, OverBudget, SpanPart},
    state::{State, StateTimes},
};

/// The encoder of one stream.
#[derive(Default)]
pub struct Encoder {
    dictionary: Dictionary,
    epoch: u32,
    /// The next batch begins an epoch.
    ended: bool,
    rows_left_out: u64,
}

// === impl Encoder ===

impl Encoder {
    /// For a new stream: its first batch opens epoch 1.
    pub fn new() -> Self {
        Self { ended: true, ..Self::default() }
    }

    /// The next batch opens an epoch.
    pub fn end_epoch(&mut self) {
        self.ended = true;
    }

    /// The epoch of the last batch, 0 before the first.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What could not be sent as it was since the last call.
    pub fn take_repaired(&mut self) -> Repaired {
        let mut repaired = self.dictionary.take_repaired();
        repaired.rows += std::mem::take(&mut self.rows_left_out);
        repaired
    }

    /// The frame of an item.
    pub fn frame(&mut self, item: &Item) -> AgentFrame {
        let frame = match &item.content {
            Content::Batch(batch) => Frame::Batch(self.batch(item.to_sequence, batch)),
            Content::Gap(gap) => Frame::Gap(encode_gap(gap)),
        };
        AgentFrame { frame: Some(frame) }
    }

    /// A batch for the wire.
    pub fn batch(&mut self, sequence: u64, batch: &Batch) -> v1::Batch {
        if self.ended || self.dictionary.is_full() {
            self.dictionary.clear();
            self.epoch += 1;
            self.ended = false;
        }
        let processes = vec![None; batch.processes.len()];
        let mut rows = Rows { batch, dictionary: &mut self.dictionary, processes, left_out: 0 };
        let (spans, indexes) = rows.spans();
        let samples = rows.samples(&indexes);
        let waits = rows.waits(&indexes);
        let totals = rows.totals();
        self.rows_left_out += rows.left_out;
        let account = (batch.account != Account::default()).then(|| encode_account(&batch.account));
        v1::Batch {
            epoch: self.epoch,
            sequence,
            from: batch.from,
            to: batch.to,
            unix_offset_ns: batch.unix_offset_ns,
            dictionary: Some(self.dictionary.take_new()),
            spans: Some(spans),
            samples: Some(samples),
            waits: Some(waits),
            totals: Some(totals),
            counts: Some(encode_counts(&batch.counts)),
            account,
        }
    }
}

/// A batch on its way into columns.
struct Rows<'a> {
    batch: &'a Batch,
    dictionary: &'a mut Dictionary,
    /// Where the batch's processes are in the dictionary, as far as rows referred to them.
    processes: Vec<Option<u32>>,
    left_out: u64,
}

// === impl Rows ===

impl Rows<'_> {
    /// The columns, and where each span of the batch went: row + 1.
    fn spans(&mut self) -> (v1::SpanColumns, Vec<u32>) {
        let mut columns = v1::SpanColumns::default();
        let base = self.batch.from.wrapping_add_signed(self.batch.unix_offset_ns);
        let mut previous = 0_u32;
        let mut indexes = Vec::with_capacity(self.batch.spans.len());
        for span in &self.batch.spans {
            let Some(process) = self.process(span.process) else {
                indexes.push(0);
                continue;
            };
            let index = self.dictionary.span(span, process, base);
            columns.span.push(index.wrapping_sub(previous).cast_signed());
            previous = index;
            self.span(&mut columns, span);
            indexes.push(columns.span.len() as u32);
        }
        (columns, indexes)
    }

    fn span(&mut self, columns: &mut v1::SpanColumns, span: &SpanPart) {
        let usual = span.start_unix_ns.0.wrapping_sub(self.batch.unix_offset_ns.cast_unsigned());
        columns.start.push(difference(span.start, usual));
        let latest = span.active.iter().map(|&(_, to)| to).max().unwrap_or(span.start);
        columns.end.push(difference(span.end, latest));
        let sum = span.states.iter().fold(0_u64, |sum, (_, ns)| sum.wrapping_add(ns));
        columns.active_ns.push(difference(span.active_ns, sum));
        columns.flags.push(u32::from(span.exact) * EXACT + u32::from(span.open) * OPEN);
        columns.part.push(span.part);
        columns.states_len.push(states(&span.states, &mut columns.state, &mut columns.state_ns));
        columns.active_len.push(span.active.len() as u32);
        let mut previous = span.start;
        for &(from, to) in &span.active {
            columns.active_gap.push(difference(from, previous));
            columns.active_for.push(to.wrapping_sub(from));
            previous = to;
        }
        columns.loss_len.push(span.loss.len() as u32);
        for (reason, &count) in &span.loss {
            columns.loss_reason.push(self.dictionary.string(reason));
            columns.loss_count.push(count);
        }
    }

    fn samples(&mut self, spans: &[u32]) -> v1::SampleColumns {
        let batch = self.batch;
        let nodes: Vec<u32> =
            batch.stacks.iter().map(|stack| self.dictionary.stack(stack)).collect();
        let mut columns = v1::SampleColumns::default();
        let mut before: BTreeMap<State, u64> = BTreeMap::new();
        let mut previous = batch.from;
        for sample in &batch.samples {
            let span = sample.span.map_or(Some(0), |row| spans.get(row as usize).copied());
            let node = sample.stack.map_or(Some(0), |row| nodes.get(row as usize).copied());
            let (Some(span), Some(node)) = (span, node) else {
                self.left_out += 1;
                continue;
            };
            let Some(process) = self.process(sample.process) else { continue };
            columns.at.push(difference(sample.at, previous));
            previous = sample.at;
            columns.thread.push(self.dictionary.thread(process, sample.tid));
            columns.span.push(span);
            columns.node.push(node);
            columns.state.push(u32::from(sample.state.code()));
            let before = before.entry(sample.state).or_default();
            columns.ns.push(difference(sample.ns, *before));
            *before = sample.ns;
        }
        columns
    }

    fn waits(&mut self, spans: &[u32]) -> v1::WaitColumns {
        let mut columns = v1::WaitColumns::default();
        for wait in &self.batch.waits {
            // 0 is a span that was left out itself.
            let span = spans.get(wait.span as usize).copied().unwrap_or(0);
            let Some(row) = span.checked_sub(1) else {
                self.left_out += 1;
                continue;
            };
            columns.span.push(row);
            columns.state.push(u32::from(wait.state.code()));
            columns.cause.push(self.dictionary.cause(&wait.cause));
            columns.ns.push(wait.ns);
            columns.count.push(wait.count);
        }
        columns
    }

    fn totals(&mut self) -> v1::TotalColumns {
        let mut columns = v1::TotalColumns::default();
        for total in &self.batch.totals {
            let Some(process) = self.process(total.process) else { continue };
            columns.process.push(process);
            columns.from.push(difference(total.from, self.batch.from));
            columns.for_ns.push(total.to.wrapping_sub(total.from));
            let len = states(&total.states, &mut columns.state, &mut columns.state_ns);
            columns.states_len.push(len);
        }
        columns
    }

    /// Index of a process in the dictionary; a row without one is left out.
    fn process(&mut self, index: u32) -> Option<u32> {
        let Some(sent) = self.processes.get_mut(index as usize) else {
            self.left_out += 1;
            return None;
        };
        let process = &self.batch.processes[index as usize];
        Some(*sent.get_or_insert_with(|| self.dictionary.process(process)))
    }
}

fn difference(to: u64, from: u64) -> i64 {
    to.wrapping_sub(from).cast_signed()
}

fn states(times: &StateTimes, codes: &mut Vec<u32>, ns: &mut Vec<u64>) -> u32 {
    let before = codes.len();
    for (state, time) in times.iter() {
        codes.push(u32::from(state.code()));
        ns.push(time);
    }
    (codes.len() - before) as u32
}

fn encode_gap(gap: &Gap) -> v1::Gap {
    v1::Gap {
        from_sequence: gap.from_sequence,
        to_sequence: gap.to_sequence,
        reason: codes::capped(&gap.reason).to_owned(),
        counts: Some(encode_counts(&gap.counts)),
        from: gap.from,
        to: gap.to,
    }
}

fn encode_counts(counts: &Counts) -> v1::Counts {
    let &Counts { samples, intervals, interval_ns, markers, stacks, spans } = counts;
    v1::Counts { samples, intervals, interval_ns, markers, stacks, spans }
}

fn encode_account(account: &Account) -> v1::Account {
    let kinds = (account.kinds.iter())
        .map(|(kind, of_kind)| v1::KindAccount {
            kind: codes::capped(kind).to_owned(),
            captured: of_kind.captured,
            linked: of_kind.linked,
            lost: encode_reasons(&of_kind.lost),
        })
        .collect();
    let cost = account.cost;
    v1::Account {
        kinds,
        loss: encode_reasons(&account.loss),
        cost: Some(v1::AgentCost {
            cpu_ns: cost.cpu_ns,
            wall_ns: cost.wall_ns,
            rss_bytes: cost.rss_bytes,
            queue_bytes: cost.queue_bytes,
        }),
        closed: account.closed,
        over: account.over.iter().map(encode_over).collect(),
    }
}

fn encode_over(over: &OverBudget) -> v1::OverBudget {
    v1::OverBudget {
        resource: codes::capped(&over.resource).to_owned(),
        pid: over.pid,
        uid: over.uid,
        comm: codes::capped(&over.comm).to_owned(),
        since_unix_ns: over.since_unix_ns,
        shed: over.shed,
    }
}

fn encode_reasons(reasons: &BTreeMap<Arc<str>, u64>) -> Vec<v1::Reason> {
    (reasons.iter())
        .map(|(reason, &count)| v1::Reason { reason: codes::capped(reason).to_owned(), count })
        .collect()
}
