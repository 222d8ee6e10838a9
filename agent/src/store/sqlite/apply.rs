//! Writes entries into one part, inside the caller's transaction: spans are merged into their rows,
//! samples, waits and totals become raw chunks, the run moves on. Everything is checked before the
//! first write.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    bytes::{salted, seal, unseal},
    chunk::{RAW_LEVEL, Rows, StoredCause, StoredSample, StoredTotal, StoredWait},
    dictionary::{Dictionary, ProcessIds},
    error::PartError,
    run::{self, Runs},
    schema::Meta,
    span_row::SpanRow,
};
use crate::{
    model::{
        batch::{Batch, SpanPart},
        id::{SpanId, TraceId},
    },
    store::{Body, Entry, RunRecord},
};

/// Chunks hold one of these of CLOCK_MONOTONIC.
pub(super) const NS_PER_MINUTE: u64 = 60_000_000_000;

/// What a part needs in memory to be written to.
#[derive(Debug)]
pub(super) struct Pen {
    pub meta: Meta,
    dictionary: Dictionary,
    /// States seen of each operation, as stored.
    masks: HashMap<i64, i64>,
}

// === impl Pen ===

impl Pen {
    pub(super) fn new(meta: Meta) -> Self {
        Self { meta, dictionary: Dictionary::new(meta.salt), masks: HashMap::new() }
    }

    /// After a transaction was rolled back.
    pub(super) fn forget(&mut self) {
        self.dictionary.forget();
        self.masks.clear();
    }

    /// Writes what the runs do not have yet, and moves them on.
    pub(super) fn write(
        &mut self,
        conn: &Connection,
        runs: &mut Runs,
        entries: &[Entry],
    ) -> Result<(), PartError> {
        let mut moved = BTreeMap::new();
        for entry in entries {
            let record = runs.entry(entry.run.id).or_insert_with(|| RunRecord {
                run: entry.run.as_ref().clone(),
                ..RunRecord::default()
            });
            if entry.sequence <= record.last_sequence {
                continue;
            }
            if let Body::Batch(batch) = &entry.body {
                self.write_batch(conn, &entry.run.boot_id, batch)?;
            }
            record.advance(entry);
            moved.insert(entry.run.id, ());
        }
        for id in moved.keys() {
            run::save(conn, &runs[id])?;
        }
        Ok(())
    }

    fn write_batch(
        &mut self,
        conn: &Connection,
        boot_id: &str,
        batch: &Batch,
    ) -> Result<(), PartError> {
        let mut processes = Vec::with_capacity(batch.processes.len());
        for identity in &batch.processes {
            processes.push(self.dictionary.process(conn, boot_id, identity)?);
        }
        let mut spans = Vec::with_capacity(batch.spans.len());
        for (part, minutes) in batch.spans.iter().zip(minutes_of_spans(batch)) {
            let process = processes[part.process as usize];
            spans.push((self.write_span(conn, part, process, minutes)?, process.process));
        }
        let mut stacks = Vec::with_capacity(batch.stacks.len());
        for stack in &batch.stacks {
            stacks.push(self.dictionary.stack(conn, stack)?);
        }
        let mut chunks: BTreeMap<(i64, u64), Rows> = BTreeMap::new();
        for sample in &batch.samples {
            // A span's samples are looked for with its process.
            let (span, process) = match sample.span {
                Some(span) => spans[span as usize],
                None => (0, processes[sample.process as usize].process),
            };
            let rows = chunks.entry((process, sample.at / NS_PER_MINUTE)).or_default();
            rows.samples.push(StoredSample {
                at: sample.at,
                tid: sample.tid,
                span,
                stack: sample.stack.map(|stack| stacks[stack as usize]),
                state: sample.state,
                ns: sample.ns,
            });
        }
        for wait in &batch.waits {
            let (span, process) = spans[wait.span as usize];
            let cause = &wait.cause;
            let named = match &cause.span {
                Some(of) => Some((of.trace_id, of.span_id, self.dictionary.text(conn, &of.name)?)),
                None => None,
            };
            let cause = StoredCause {
                kind: cause.kind,
                name: self.dictionary.text(conn, &cause.name)?,
                pid: cause.pid,
                tid: cause.tid,
                span: named,
            };
            let rows = chunks.entry((process, batch.from / NS_PER_MINUTE)).or_default();
            let (state, ns, count) = (wait.state, wait.ns, wait.count);
            rows.waits.push(StoredWait { span, state, cause, ns, count });
        }
        for total in &batch.totals {
            let process = processes[total.process as usize].process;
            let rows = chunks.entry((process, total.from / NS_PER_MINUTE)).or_default();
            rows.totals.push(StoredTotal {
                from: total.from,
                to: total.to,
                states: total.states.clone(),
            });
        }
        for ((process, minute), rows) in chunks {
            write_chunk(conn, process, minute as i64, rows, RAW_LEVEL)?;
        }
        Ok(())
    }

    /// The row of a span, after adding to it.
    fn write_span(
        &mut self,
        conn: &Connection,
        part: &SpanPart,
        process: ProcessIds,
        minutes: Option<(u64, u64)>,
    ) -> Result<i64, PartError> {
        let salt = self.meta.salt;
        let found = find_span(conn, salt, part.trace_id, part.span_id, process.process)?;
        let operation = match &found {
            // A publisher that names a span once need not name it again.
            Some((_, row)) if part.name.is_empty() => row.operation,
            _ => self.dictionary.operation(conn, process.identity, &part.name)?,
        };
        let (id, row) = match found {
            Some((id, mut row)) => {
                row.add(part, operation);
                (Some(id), row)
            }
            None => (None, SpanRow::new(part, process.process, operation)),
        };
        let row = match minutes {
            Some((first, last)) => {
                let mut row = row;
                row.extend_minutes(first, last);
                row
            }
            None => row,
        };
        self.mark_operation(conn, operation, row.mask())?;
        // Where it is in the indexes only: what is served is in the body.
        let start = i128::from(row.start_unix_ns.0) - i128::from(self.meta.created_unix_ns);
        let start = start.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let wall = i64::try_from(row.end.saturating_sub(row.start)).unwrap_or(i64::MAX);
        let body = row.encode();
        if let Some(id) = id {
            conn.prepare_cached(
                "UPDATE span SET operation = ?, start = ?, wall = ?, body = ? WHERE id = ?",
            )?
            .execute(params![
                operation,
                start,
                wall,
                seal(&[id, operation, start, wall], &body),
                id
            ])?;
            return Ok(id);
        }
        let id = conn
            .prepare_cached("SELECT ifnull(max(id), 0) + 1 FROM span")?
            .query_row([], |row| row.get(0))?;
        conn.prepare_cached("INSERT INTO span VALUES(?, ?, ?, ?, ?, ?, ?)")?.execute(params![
            id,
            salted(salt, &row.trace_id.0),
            salted(salt, &row.span_id.0),
            operation,
            start,
            wall,
            seal(&[id, operation, start, wall], &body)
        ])?;
        Ok(id)
    }

    fn mark_operation(
        &mut self,
        conn: &Connection,
        operation: i64,
        mask: i64,
    ) -> Result<(), PartError> {
        let stored = match self.masks.get(&operation) {
            Some(&stored) => Some(stored),
            None => conn
                .prepare_cached("SELECT mask FROM operation WHERE id = ?")?
                .query_row([operation], |row| row.get(0))
                .optional()?,
        };
        let all = stored.unwrap_or(0) | mask;
        if stored != Some(all) {
            conn.prepare_cached("INSERT OR REPLACE INTO operation VALUES(?, ?)")?
                .execute([operation, all])?;
        }
        if self.masks.len() >= 100_000 {
            self.masks.clear();
        }
        self.masks.insert(operation, all);
        Ok(())
    }
}

/// A new chunk.
pub(super) fn write_chunk(
    conn: &Connection,
    process: i64,
    minute: i64,
    rows: Rows,
    level: i32,
) -> Result<(), PartError> {
    let until = rows.totals.iter().map(|total| total.to / NS_PER_MINUTE).max().unwrap_or(0) as i64;
    let until = until.max(minute);
    let is_raw = level == RAW_LEVEL;
    let body = rows.encode(level)?;
    conn.prepare_cached(
        "INSERT INTO chunk(process, minute, until, is_raw, body) VALUES(?, ?, ?, ?, ?)",
    )?
    .execute(params![
        process,
        minute,
        until,
        is_raw,
        seal(&[process, minute, until], &body)
    ])?;
    Ok(())
}

/// A span's row in this part.
fn find_span(
    conn: &Connection,
    salt: u64,
    trace_id: TraceId,
    span_id: SpanId,
    process: i64,
) -> Result<Option<(i64, SpanRow)>, PartError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, operation, start, wall, body FROM span WHERE span_key = ? AND trace_key = ?",
    )?;
    let mut rows = statement.query([salted(salt, &span_id.0), salted(salt, &trace_id.0)])?;
    while let Some(row) = rows.next()? {
        let (id, row) = read_span(row)?;
        if (row.trace_id, row.span_id, row.process) == (trace_id, span_id, process) {
            return Ok(Some((id, row)));
        }
    }
    Ok(None)
}

/// From `id, operation, start, wall, body`.
pub(super) fn read_span(row: &rusqlite::Row<'_>) -> Result<(i64, SpanRow), PartError> {
    let (id, operation) = (row.get(0)?, row.get(1)?);
    let sealed = row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?;
    let body = unseal(&[id, operation, row.get(2)?, row.get(3)?], sealed)?;
    Ok((id, SpanRow::decode(operation, body)?))
}

/// For each span the minutes its rows in this batch go to.
fn minutes_of_spans(batch: &Batch) -> Vec<Option<(u64, u64)>> {
    let mut minutes: Vec<Option<(u64, u64)>> = vec![None; batch.spans.len()];
    let of_waits = batch.from / NS_PER_MINUTE;
    let touched = (batch.samples.iter())
        .filter_map(|sample| Some((sample.span?, sample.at / NS_PER_MINUTE)))
        .chain(batch.waits.iter().map(|wait| (wait.span, of_waits)));
    for (span, minute) in touched {
        let range = &mut minutes[span as usize];
        *range = Some(match *range {
            Some((first, last)) => (first.min(minute), last.max(minute)),
            None => (minute, minute),
        });
    }
    minutes
}
