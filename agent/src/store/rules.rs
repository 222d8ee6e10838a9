//! What every store does with what it is given, however it keeps it: how the additions to a span and
//! the entries of a run sum up, and how much of an oversized name, stack or list is kept. A store
//! that followed its own rules here would answer differently from the others.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Body, Entry, RunRecord, Sort, SpanFilter,
    account::{ProcessKey, SpanAccount},
};
use crate::{
    ledger::DaemonCounter,
    model::{
        batch::{Account, Counts, SpanPart},
        id::{SpanId, TraceId},
        state::StateTimes,
    },
};

/// Loss of a span whose additions did not all arrive.
pub(super) const PARTS_MISSING: &str = DaemonCounter::PartsMissing.key();
/// Longer strings are cut.
pub(super) const MAX_STRING_BYTES: usize = 4096;
/// Deeper stacks lose their outermost frames.
pub(super) const MAX_DEPTH: usize = 1024;
/// Reasons and kinds kept of one run; agents have a few dozen.
pub(super) const MAX_KEYS: usize = 1024;
/// Spans one search or trace gives back.
pub(super) const MAX_FOUND: usize = 10_000;
/// Intervals of all of them together: any one may have `MAX_ACTIVE`.
const MAX_INTERVALS: usize = 1_000_000;
/// Separate intervals kept of one span before the closest are joined.
const MAX_ACTIVE: usize = 4096;
/// Reasons kept of one span.
const MAX_REASONS: usize = 64;
const MAX_REASON_BYTES: usize = 64;

/// A span of a process, whatever the process was called at the time: boot, pid, since.
pub(super) type SpanKey = (TraceId, SpanId, Arc<str>, u32, u64);

/// The additions to one span so far, in the order they came.
#[derive(Clone, Debug)]
pub(super) struct SpanSum {
    pub account: SpanAccount,
    /// Number of the first addition.
    pub first: u32,
    /// Number the next one should have.
    pub next: u32,
}

/// What one answer may still hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ration {
    spans: usize,
    intervals: usize,
}

/// What makes it the same span of the same process.
pub(super) fn key(account: &SpanAccount) -> SpanKey {
    let process = &account.process;
    (
        account.trace_id,
        account.span_id,
        Arc::clone(&process.boot_id),
        process.identity.pid,
        process.identity.since,
    )
}

// === impl Ration ===

impl Default for Ration {
    fn default() -> Self {
        Self { spans: MAX_FOUND, intervals: MAX_INTERVALS }
    }
}

impl Ration {
    /// Takes one more span; whether there was enough for it. Once there was not, there never is.
    pub(super) fn take(&mut self, account: &SpanAccount) -> bool {
        let spans = self.spans.checked_sub(1);
        let intervals = self.intervals.checked_sub(account.active.len());
        let left = spans.zip(intervals);
        let (spans, intervals) = left.unwrap_or_default();
        *self = Self { spans, intervals };
        left.is_some()
    }
}

// === impl SpanSum ===

impl SpanSum {
    /// One addition alone.
    pub(super) fn of(part: &SpanPart, process: ProcessKey) -> Self {
        let mut account = SpanAccount {
            process,
            trace_id: part.trace_id,
            span_id: part.span_id,
            parent: part.parent,
            name: capped(&part.name),
            start_unix_ns: part.start_unix_ns,
            start: part.start,
            end: part.end,
            active_ns: part.active_ns,
            states: part.states.clone(),
            active: part.active.clone(),
            exact: part.exact,
            open: part.open,
            loss: BTreeMap::new(),
        };
        join(&mut account.active);
        add_loss(&mut account.loss, &part.loss);
        Self { account, first: part.part, next: part.part.saturating_add(1) }
    }

    /// Adds what came after it.
    pub(super) fn add(&mut self, later: Self) {
        let missing = missing(self.next, later.first);
        self.next = later.next;
        let (sum_of, later) = (&mut self.account, later.account);
        sum_of.process = later.process;
        sum_of.name = if later.name.is_empty() { sum_of.name.clone() } else { later.name };
        if !later.parent.is_none() {
            sum_of.parent = later.parent;
        }
        sum_of.start = sum_of.start.min(later.start);
        sum_of.end = sum_of.end.max(later.end);
        sum_of.active_ns = sum_of.active_ns.saturating_add(later.active_ns);
        sum_of.states = sum(&sum_of.states, &later.states);
        sum_of.active.extend(later.active);
        join(&mut sum_of.active);
        sum_of.exact &= later.exact && missing == 0;
        sum_of.open = later.open;
        add_loss(&mut sum_of.loss, &later.loss);
        add_missing(&mut sum_of.loss, missing);
    }

    /// Once everything was added: what should have come before the first addition is missing.
    pub(super) fn finish(mut self) -> SpanAccount {
        self.account.exact &= self.first == 0;
        add_missing(&mut self.account.loss, self.first.into());
        self.account
    }
}

// === impl RunRecord ===

impl RunRecord {
    /// Moves the run on by what was just stored.
    pub(super) fn advance(&mut self, entry: &Entry) {
        self.last_sequence = entry.sequence;
        match &entry.body {
            Body::Gap(gap) => {
                let reason = cap(&gap.reason, MAX_STRING_BYTES);
                if self.gaps.len() < MAX_KEYS || self.gaps.contains_key(reason) {
                    add_counts(self.gaps.entry(reason.into()).or_default(), &gap.counts);
                }
            }
            Body::Batch(batch) => {
                add_counts(&mut self.delivered, &batch.counts);
                // Of a flush in pieces only the last one has the account.
                if batch.account != Account::default() {
                    self.account = batch.account.clone();
                    self.closed = batch.account.closed;
                }
                self.last_to = batch.to;
                self.last_unix_ns = batch.to.saturating_add_signed(batch.unix_offset_ns);
            }
        }
    }
}

// === impl SpanFilter ===

impl SpanFilter {
    /// Whether a whole span passes.
    pub(super) fn accepts(&self, span: &SpanAccount) -> bool {
        let process = &span.process.identity;
        self.service.as_deref().is_none_or(|service| service == &*process.service)
            && self.name.as_deref().is_none_or(|name| name == &*span.name)
            && self.pid.is_none_or(|pid| pid == process.pid)
            && self.state.is_none_or(|state| span.states.get(state) > 0)
            && self.from_unix_ns.is_none_or(|from| span.start_unix_ns >= from)
            && self.to_unix_ns.is_none_or(|to| span.start_unix_ns < to)
            && span.wall_ns() >= self.min_ns
    }

    /// Place in the order asked for: smaller comes first.
    pub(super) fn rank(&self, span: &SpanAccount) -> u64 {
        u64::MAX
            - match self.sort {
                Sort::Newest => span.start_unix_ns.0,
                Sort::Slowest => span.wall_ns(),
            }
    }
}

/// Additions that should have come before `found`. One that starts over is a restarted agent.
pub(super) fn missing(expected: u32, found: u32) -> u64 {
    u64::from(found.checked_sub(expected).unwrap_or(found))
}

pub(super) fn add_missing(loss: &mut BTreeMap<Arc<str>, u64>, missing: u64) {
    if missing > 0 {
        let n = loss.entry(PARTS_MISSING.into()).or_default();
        *n = n.saturating_add(missing);
    }
}

pub(super) fn add_loss(loss: &mut BTreeMap<Arc<str>, u64>, added: &BTreeMap<Arc<str>, u64>) {
    for (reason, ns) in added {
        let reason = cap(reason, MAX_REASON_BYTES);
        if loss.len() < MAX_REASONS || loss.contains_key(reason) {
            let n = loss.entry(reason.into()).or_default();
            *n = n.saturating_add(*ns);
        }
    }
}

/// Sums that do not overflow, whatever was sent.
pub(super) fn sum(a: &StateTimes, b: &StateTimes) -> StateTimes {
    let mut sum = StateTimes::default();
    for (state, ns) in a.iter() {
        sum.add(state, ns.saturating_add(b.get(state)));
    }
    for (state, ns) in b.iter().filter(|&(state, _)| a.get(state) == 0) {
        sum.add(state, ns);
    }
    sum
}

/// The time of a row over `[since, until]` that falls within `[from, to)`, pro rata.
pub(super) fn share(
    states: &StateTimes,
    (since, until): (u64, u64),
    (from, to): (u64, u64),
) -> StateTimes {
    let within = until.min(to).saturating_sub(since.max(from));
    let whole = until - since;
    let mut shared = StateTimes::default();
    for (state, ns) in states.iter().filter(|_| within > 0) {
        shared.add(state, (u128::from(ns) * u128::from(within) / u128::from(whole)) as u64);
    }
    shared
}

/// The union of intervals, in order; when there are too many the closest are joined too: then the
/// time on no thread is a little too small, never the active time, which is its own sum.
pub(super) fn join(active: &mut Vec<(u64, u64)>) {
    active.retain(|(from, to)| from <= to);
    active.sort_unstable();
    let mut slack = 0u64;
    loop {
        active.dedup_by(|next, last| {
            let touches = next.0 <= last.1.saturating_add(slack);
            if touches {
                last.1 = last.1.max(next.1);
            }
            touches
        });
        if active.len() <= if slack == 0 { MAX_ACTIVE } else { MAX_ACTIVE / 2 } {
            return;
        }
        slack = slack * 2 + 1_000;
    }
}

/// The longest prefix of at most `max` bytes that is whole characters.
pub(super) fn cap(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// As much of a string as is kept.
pub(super) fn capped(text: &Arc<str>) -> Arc<str> {
    match cap(text, MAX_STRING_BYTES) {
        all if all.len() == text.len() => Arc::clone(text),
        cut => cut.into(),
    }
}

/// Sums that do not overflow, whatever was sent.
fn add_counts(to: &mut Counts, added: &Counts) {
    let Counts { samples, intervals, interval_ns, markers, stacks, spans } = added;
    for (sum, n) in [
        (&mut to.samples, samples),
        (&mut to.intervals, intervals),
        (&mut to.interval_ns, interval_ns),
        (&mut to.markers, markers),
        (&mut to.stacks, stacks),
        (&mut to.spans, spans),
    ] {
        *sum = sum.saturating_add(*n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_join_and_stay_few() {
        let mut active = vec![(30, 40), (10, 20), (20, 25), (35, 50), (9, 3)];
        join(&mut active);
        assert_eq!(active, [(10, 25), (30, 50)]);
        let mut many: Vec<_> = (0..20_000).map(|i| (i * 100_000, i * 100_000 + 10)).collect();
        join(&mut many);
        assert!(many.len() <= MAX_ACTIVE / 2 && many[0].0 == 0);
    }

    #[test]
    fn a_missing_part_shows_and_a_restart_does_not() {
        assert_eq!([missing(3, 3), missing(3, 5), missing(3, 0), missing(3, 2)], [0, 2, 0, 2]);
    }
}
