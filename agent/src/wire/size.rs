//! How much memory a batch takes: one estimate for the queue's bound, for cutting batches into
//! pieces, and for what the collector holds before its store has it.
//!
//! An upper bound rather than a measure: strings count at each place that refers to them. It also
//! bounds the batch's size on the wire in a new epoch (a test compares), so a piece below
//! `PIECE_BYTES` always fits a frame.

use crate::model::{
    batch::{Account, Batch, ProcessIdentity, SampleRow, SpanPart, TotalRow, WaitRow},
    cause::Cause,
    frame::{Frame, Stack},
    state::StateTimes,
};

/// Batches above this are cut into pieces before they get sequences.
pub const PIECE_BYTES: usize = 3 << 20;
/// A gap in the queue.
pub const GAP_BYTES: usize = 256;

/// What an allocation costs beside its content: header, reference counts, wire overhead.
const ALLOCATION: usize = 32;
/// A map's entry beside key and value.
const ENTRY: usize = 32;
/// Row of a sample, with its share of the tables' growth.
pub const SAMPLE_BYTES: usize = size_of::<SampleRow>();
/// An active interval: on the wire two varints of up to ten bytes.
const ACTIVE_BYTES: usize = 24;
/// Fixed part of a span.
pub const SPAN_BYTES: usize = size_of::<SpanPart>() + ALLOCATION;
/// Fixed part of a wait.
pub const WAIT_BYTES: usize = size_of::<WaitRow>() + ALLOCATION;
/// Fixed part of a process's totals.
pub const TOTAL_BYTES: usize = size_of::<TotalRow>() + ALLOCATION;
/// Fixed part of a frame.
pub const FRAME_BYTES: usize = size_of::<Frame>();

/// Heap of a batch on its own.
pub fn batch_bytes(batch: &Batch) -> usize {
    own_bytes(batch) + batch.stacks.iter().map(stack_bytes).sum::<usize>()
}

/// Heap of a batch without its stacks, which it may share with other batches.
pub fn own_bytes(batch: &Batch) -> usize {
    fixed_bytes(batch)
        + batch.processes.iter().map(process_bytes).sum::<usize>()
        + batch.spans.iter().map(span_bytes).sum::<usize>()
        + batch.samples.len() * SAMPLE_BYTES
        + batch.waits.iter().map(wait_bytes).sum::<usize>()
        + batch.totals.iter().map(total_bytes).sum::<usize>()
}

/// What every piece of a batch may have: itself and its account.
pub fn fixed_bytes(batch: &Batch) -> usize {
    size_of::<Batch>() + 2 * ALLOCATION + account_bytes(&batch.account)
}

/// Heap of a process.
pub fn process_bytes(process: &ProcessIdentity) -> usize {
    2 * ALLOCATION + 32 + process.comm.len() + process.service.len()
}

/// Heap of a stack.
pub fn stack_bytes(stack: &Stack) -> usize {
    let strings: usize = stack.iter().map(|frame| frame.name.len() + frame.file.len()).sum();
    ALLOCATION + stack.len() * FRAME_BYTES + strings
}

/// Heap of a span's part.
pub fn span_bytes(span: &SpanPart) -> usize {
    let loss: usize = span.loss.keys().map(|reason| ALLOCATION + ENTRY + reason.len()).sum();
    SPAN_BYTES
        + span.name.len()
        + states_bytes(&span.states)
        + span.active.len() * ACTIVE_BYTES
        + loss
}

/// Heap of a wait.
pub fn wait_bytes(wait: &WaitRow) -> usize {
    WAIT_BYTES + cause_bytes(&wait.cause)
}

/// Heap of a cause beside its row.
fn cause_bytes(cause: &Cause) -> usize {
    let span = cause.span.as_ref().map_or(0, |span| ALLOCATION + span.name.len());
    ALLOCATION + cause.name.len() + span
}

/// Heap of a process's totals.
pub fn total_bytes(total: &TotalRow) -> usize {
    TOTAL_BYTES + states_bytes(&total.states)
}

fn states_bytes(states: &StateTimes) -> usize {
    states.iter().count() * ENTRY
}

fn account_bytes(account: &Account) -> usize {
    let reason = |reason: &std::sync::Arc<str>| ALLOCATION + ENTRY + reason.len();
    let kinds: usize = (account.kinds.iter())
        .map(|(kind, account)| 2 * reason(kind) + account.lost.keys().map(reason).sum::<usize>())
        .sum();
    kinds + account.loss.keys().map(reason).sum::<usize>()
}
