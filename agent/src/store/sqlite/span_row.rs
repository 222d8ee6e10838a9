//! A span as one part holds it: the sums of what was added there, and how many of the publisher's
//! additions that were, so that a missing one shows. Rows of one span in several parts add up the
//! same way.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    bytes::{Cursor, Writer},
    error::Damage,
    lexicon::Operation,
};
use crate::{
    model::{
        batch::SpanPart,
        clock::UnixNs,
        id::{SpanId, TraceId},
        state::{State, StateTimes},
    },
    store::{
        account::SpanAccount,
        rules::{SpanSum, add_loss, add_missing, join, missing, sum},
    },
};

/// One row; ids are those of its part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SpanRow {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub parent: SpanId,
    /// Entry of the process that published it.
    pub process: i64,
    /// Entry of its latest identity and name.
    pub operation: i64,
    pub start_unix_ns: UnixNs,
    pub start: u64,
    pub end: u64,
    pub active_ns: u64,
    pub states: StateTimes,
    pub active: Vec<(u64, u64)>,
    pub exact: bool,
    pub open: bool,
    pub loss: BTreeMap<Arc<str>, u64>,
    /// Number of the first addition that came here.
    pub first: u32,
    /// Number the next one should have.
    pub next: u32,
    /// Minutes whose chunks hold its rows, both included.
    pub minutes: Option<(u64, u64)>,
}

// === impl SpanRow ===

impl SpanRow {
    /// From the first addition that came.
    pub(super) fn new(part: &SpanPart, process: i64, operation: i64) -> Self {
        let mut row = Self {
            trace_id: part.trace_id,
            span_id: part.span_id,
            parent: part.parent,
            process,
            operation,
            start_unix_ns: part.start_unix_ns,
            start: part.start,
            end: part.end,
            active_ns: 0,
            states: StateTimes::default(),
            active: Vec::new(),
            exact: true,
            open: part.open,
            loss: BTreeMap::new(),
            first: part.part,
            next: part.part,
            minutes: None,
        };
        row.add(part, operation);
        row
    }

    /// A later addition.
    pub(super) fn add(&mut self, part: &SpanPart, operation: i64) {
        let missing = missing(self.next, part.part);
        self.next = part.part.saturating_add(1);
        self.operation = operation;
        if !part.parent.is_none() {
            self.parent = part.parent;
        }
        self.start = self.start.min(part.start);
        self.end = self.end.max(part.end);
        self.active_ns = self.active_ns.saturating_add(part.active_ns);
        self.states = sum(&self.states, &part.states);
        self.active.extend(&part.active);
        join(&mut self.active);
        self.exact &= part.exact && missing == 0;
        self.open = part.open;
        add_loss(&mut self.loss, &part.loss);
        add_missing(&mut self.loss, missing);
    }

    /// Its rows are in the chunks of these minutes too.
    pub(super) fn extend_minutes(&mut self, from: u64, to: u64) {
        self.minutes = Some(match self.minutes {
            Some((first, last)) => (first.min(from), last.max(to)),
            None => (from, to),
        });
    }

    /// One bit per state it has time in.
    pub(super) fn mask(&self) -> i64 {
        self.states.iter().fold(0, |mask, (state, _)| mask | mask_of(state))
    }

    /// As accounts have it; what came before `first` is not looked at yet.
    pub(super) fn account(self, of: Operation) -> SpanSum {
        let account = SpanAccount {
            process: of.process,
            trace_id: self.trace_id,
            span_id: self.span_id,
            parent: self.parent,
            name: of.name,
            start_unix_ns: self.start_unix_ns,
            start: self.start,
            end: self.end,
            active_ns: self.active_ns,
            states: self.states,
            active: self.active,
            exact: self.exact,
            open: self.open,
            loss: self.loss,
        };
        SpanSum { account, first: self.first, next: self.next }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        let whole = self.active == [(self.start, self.end)];
        let has_parent = !self.parent.is_none();
        to.0.push(
            u8::from(self.exact)
                | u8::from(self.open) << 1
                | u8::from(whole) << 2
                | u8::from(has_parent) << 3
                | u8::from(self.minutes.is_some()) << 4,
        );
        to.bytes(&self.trace_id.0);
        to.bytes(&self.span_id.0);
        if has_parent {
            to.bytes(&self.parent.0);
        }
        to.number(self.process as u64);
        to.number(self.start);
        to.number(self.start_unix_ns.0);
        to.signed(self.end.wrapping_sub(self.start) as i64);
        to.number(self.active_ns);
        to.number(self.states.iter().count() as u64);
        for (state, ns) in self.states.iter() {
            to.0.push(state.code());
            to.number(ns);
        }
        if !whole {
            to.number(self.active.len() as u64);
            let mut reached = self.start;
            for &(from, end) in &self.active {
                to.signed(from.wrapping_sub(reached) as i64);
                to.number(end.wrapping_sub(from));
                reached = end;
            }
        }
        to.number(self.loss.len() as u64);
        for (reason, n) in &self.loss {
            to.counted(reason.as_bytes());
            to.number(*n);
        }
        to.number(self.first.into());
        to.signed(i64::from(self.next) - i64::from(self.first));
        if let Some((first, last)) = self.minutes {
            to.number(first);
            to.number(last - first);
        }
        to.0
    }

    pub(super) fn decode(operation: i64, body: &[u8]) -> Result<Self, Damage> {
        let mut from = Cursor(body);
        let flags = from.take(1)?[0];
        let (trace_id, span_id) = (TraceId(from.array()?), SpanId(from.array()?));
        let parent = if flags & 8 != 0 { SpanId(from.array()?) } else { SpanId::NONE };
        let process = from.row()?;
        let (start, start_unix_ns) = (from.number()?, UnixNs(from.number()?));
        let end = start.wrapping_add(from.signed()? as u64);
        let active_ns = from.number()?;
        let mut states = StateTimes::default();
        for _ in 0..from.count()? {
            let state = State::from_code(from.take(1)?[0]).ok_or(Damage("no such state"))?;
            if states.get(state) > 0 {
                return Err(Damage("a state is there twice"));
            }
            states.add(state, from.number()?);
        }
        let mut active = vec![(start, end)];
        if flags & 4 == 0 {
            active.clear();
            let mut reached = start;
            for _ in 0..from.count()? {
                let since = reached.wrapping_add(from.signed()? as u64);
                reached = since.wrapping_add(from.number()?);
                active.push((since, reached));
            }
        }
        let mut loss = BTreeMap::new();
        for _ in 0..from.count()? {
            loss.insert(from.text()?.into(), from.number()?);
        }
        let first = from.narrow()?;
        let next = u32::try_from(i64::from(first).saturating_add(from.signed()?))
            .map_err(|_| Damage("a number is too large"))?;
        let mut minutes = None;
        if flags & 16 != 0 {
            let minute = from.number()?;
            minutes = Some((minute, minute.saturating_add(from.number()?)));
        }
        from.end()?;
        Ok(Self {
            trace_id,
            span_id,
            parent,
            process,
            operation,
            start_unix_ns,
            start,
            end,
            active_ns,
            states,
            active,
            exact: flags & 1 != 0,
            open: flags & 2 != 0,
            loss,
            first,
            next,
            minutes,
        })
    }
}

/// The bit of a state in masks.
pub(super) fn mask_of(state: State) -> i64 {
    // The codes of the kernel's states are below 32, those of the daemon's own from 64 on.
    1 << (state.code() % 64 + if state.code() >= 64 { 32 } else { 0 })
}

#[cfg(test)]
#[path = "span_row_tests.rs"]
mod tests;
