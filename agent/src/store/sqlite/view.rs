//! One part as readers see it: a read-only connection, pinned to one state of the part while a
//! snapshot lasts, with what it remembers of the dictionary. And the sum of a span over several of them.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::{
    apply::read_span,
    bytes::{salted, unseal},
    catalogue::Catalogue,
    chunk::Rows,
    error::{PartError, StoreError},
    lexicon::Lexicon,
    part::PartName,
    schema::{self, Access, Meta},
    span_row::SpanRow,
};
use crate::{
    model::id::{SpanId, TraceId},
    store::{
        account::{ProcessKey, SpanAccount},
        rules::{MAX_FOUND, Ration, SpanKey, SpanSum, key},
    },
};

/// Rows of a trace that are looked at in one part, of an index and without their bodies.
const MAX_TRACE_ROWS: usize = 200_000;

/// One part.
pub(super) struct View {
    pub name: PartName,
    pub conn: Connection,
    pub meta: Meta,
    pub lexicon: Lexicon,
}

/// Rows of one part that may be of a trace.
#[derive(Default)]
pub(super) struct OfTrace {
    pub first: Vec<i64>,
    pub others: Vec<i64>,
    /// There may be more.
    pub truncated: bool,
}

/// Spans over parts, oldest part first.
#[derive(Default)]
pub(super) struct Tallies {
    tallies: Vec<SpanSum>,
    index: HashMap<SpanKey, usize>,
}

// === impl View ===

impl View {
    pub(super) fn open(catalogue: &Catalogue, name: PartName) -> Result<Self, StoreError> {
        let (conn, meta) = schema::open(&catalogue.dir, name, Access::Read)?;
        Ok(Self { name, conn, meta, lexicon: Lexicon::default() })
    }

    /// Holds the part still until [`Self::unpin`].
    pub(super) fn pin(&self) -> Result<(), StoreError> {
        let pinned = (|| {
            self.conn.execute_batch("BEGIN")?;
            // SQLite fixes the state of a transaction at its first read.
            self.conn.prepare_cached("SELECT 1 FROM meta LIMIT 1")?.query_row([], |_| Ok(()))
        })();
        pinned.map_err(|error| self.error(error.into()))
    }

    /// False when the connection is of no more use.
    pub(super) fn unpin(&self) -> bool {
        self.conn.execute_batch("ROLLBACK").is_ok()
    }

    pub(super) fn error(&self, error: PartError) -> StoreError {
        error.of(&self.name.to_string())
    }

    /// Rows of a span, one per process; of any trace when none is given.
    pub(super) fn spans(
        &self,
        trace_id: Option<TraceId>,
        span_id: SpanId,
    ) -> Result<Vec<(i64, SpanRow)>, PartError> {
        let span_key = salted(self.meta.salt, &span_id.0);
        let mut found = match trace_id {
            Some(trace_id) => self.rows(
                "SELECT id, operation, start, wall, body FROM span
                 WHERE span_key = ? AND trace_key = ? LIMIT 10000",
                params![span_key, salted(self.meta.salt, &trace_id.0)],
            )?,
            None => self.rows(
                "SELECT id, operation, start, wall, body FROM span WHERE span_key = ? LIMIT 10000",
                params![span_key],
            )?,
        };
        found.retain(|(_, row)| {
            row.span_id == span_id && trace_id.is_none_or(|id| row.trace_id == id)
        });
        Ok(found)
    }

    /// Numbers of the rows that may be of a trace, in the order in which they were begun: those of the
    /// process `first`, and those of others.
    pub(super) fn trace(
        &mut self,
        trace_id: TraceId,
        first: Option<&ProcessKey>,
    ) -> Result<OfTrace, PartError> {
        let mut of_first: HashMap<i64, bool> = HashMap::new();
        let mut statement = self.conn.prepare_cached(&format!(
            "SELECT id, operation FROM span WHERE trace_key = ? ORDER BY id LIMIT {}",
            MAX_TRACE_ROWS + 1
        ))?;
        let mut rows = statement.query([salted(self.meta.salt, &trace_id.0)])?;
        let mut found = OfTrace::default();
        let mut looked_at = 0;
        while let Some(row) = rows.next()? {
            looked_at += 1;
            let operation = row.get(1)?;
            let is_first = match (first, of_first.get(&operation)) {
                (None, _) => false,
                (Some(_), Some(&known)) => known,
                (Some(first), None) => {
                    let process = self.lexicon.operation(&self.conn, operation)?.process;
                    let is_first = process.is_same(first);
                    of_first.insert(operation, is_first);
                    is_first
                }
            };
            let ids = if is_first { &mut found.first } else { &mut found.others };
            match looked_at > MAX_TRACE_ROWS || ids.len() >= MAX_FOUND {
                true => found.truncated = true,
                false => ids.push(row.get(0)?),
            }
        }
        Ok(found)
    }

    /// A row, if it is of the trace: the key alone does not tell.
    pub(super) fn row_of(&self, trace: TraceId, id: i64) -> Result<Option<SpanRow>, PartError> {
        let sql = "SELECT id, operation, start, wall, body FROM span WHERE id = ?";
        let found = self.rows(sql, [id])?;
        Ok(found.into_iter().map(|(_, row)| row).find(|row| row.trace_id == trace))
    }

    fn rows(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<(i64, SpanRow)>, PartError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(parameters)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read_span(row)?);
        }
        Ok(found)
    }

    /// A row's sums, by name.
    pub(super) fn tally(&mut self, row: SpanRow) -> Result<SpanSum, PartError> {
        let operation = self.lexicon.operation(&self.conn, row.operation)?;
        Ok(row.account(operation))
    }

    /// Chunks of a process that may hold something of these minutes.
    pub(super) fn chunks(
        &self,
        process: i64,
        from_minute: u64,
        to_minute: u64,
        mut each: impl FnMut(Rows),
    ) -> Result<(), PartError> {
        let minute = |minute: u64| i64::try_from(minute).unwrap_or(i64::MAX);
        let mut statement = self.conn.prepare_cached(
            "SELECT minute, until, body FROM chunk
             WHERE process = ? AND minute <= ? AND until >= ? ORDER BY minute, id",
        )?;
        let mut rows = statement.query([process, minute(to_minute), minute(from_minute)])?;
        while let Some(row) = rows.next()? {
            let sealed = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
            each(Rows::decode(unseal(&[process, row.get(0)?, row.get(1)?], sealed)?)?);
        }
        Ok(())
    }
}

// === impl Tallies ===

impl Tallies {
    /// Adds to a span that is known already, or a new one if the ration has it; whether either was so.
    pub(super) fn add_within(&mut self, tally: SpanSum, ration: &mut Ration) -> bool {
        let fits = self.index.contains_key(&key(&tally.account)) || ration.take(&tally.account);
        if fits {
            self.add(tally);
        }
        fits
    }

    pub(super) fn add(&mut self, tally: SpanSum) {
        let index = *self.index.entry(key(&tally.account)).or_insert(self.tallies.len());
        match self.tallies.get_mut(index) {
            Some(earlier) => earlier.add(tally),
            None => self.tallies.push(tally),
        }
    }

    /// In order of start.
    pub(super) fn finish(self) -> Vec<SpanAccount> {
        let mut accounts: Vec<_> = self.tallies.into_iter().map(SpanSum::finish).collect();
        accounts.sort_by_key(|account| account.start_unix_ns);
        accounts
    }
}
