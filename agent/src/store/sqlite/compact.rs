//! Merges the small chunks batches made into one per process and minute, once no more are expected.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};

use super::{
    apply::{NS_PER_MINUTE, write_chunk},
    bytes::unseal,
    chunk::{CLOSED_LEVEL, Rows, StoredWait},
    error::PartError,
    lexicon::Lexicon,
    run::Runs,
};

/// What is merged at once, as stored: a minute of a busy process is far below.
const MAX_MERGED_BYTES: usize = 2 << 20;
/// A batch may still bring rows of a minute for so long.
const SLACK_NS: u64 = 15_000_000_000;
/// A run that is silent for so long brings no more.
const SILENT_NS: u64 = 120_000_000_000;

/// Works for about `time`; true when nothing is left to do. `runs` tell which minutes are closed;
/// without them all are.
pub(super) fn compact(
    conn: &mut Connection,
    lexicon: &mut Lexicon,
    runs: Option<(&Runs, u64)>,
    time: Duration,
) -> Result<bool, PartError> {
    let begun = Instant::now();
    let transaction = conn.transaction()?;
    let mut groups = Vec::new();
    {
        let mut statement = transaction
            .prepare_cached("SELECT minute, process FROM chunk WHERE is_raw GROUP BY 1, 2")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            groups.push((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        }
    }
    let closed = runs.map(|(runs, now)| closed_minutes(runs, now));
    let mut is_done = true;
    let mut boots = BTreeMap::new();
    for (minute, process) in groups {
        if let Some(closed) = &closed {
            let boot_id = match boots.get(&process) {
                Some(boot_id) => std::sync::Arc::clone(boot_id),
                None => {
                    let boot_id = lexicon.boot_id(&transaction, process)?;
                    boots.insert(process, std::sync::Arc::clone(&boot_id));
                    boot_id
                }
            };
            let first_open = closed.get(&*boot_id).copied().unwrap_or(i64::MAX);
            if minute >= first_open {
                continue;
            }
        }
        if begun.elapsed() >= time {
            is_done = false;
            break;
        }
        merge(&transaction, process, minute)?;
    }
    transaction.commit()?;
    Ok(is_done)
}

/// Per boot the first minute that may still get rows.
fn closed_minutes(runs: &Runs, now: u64) -> BTreeMap<&str, i64> {
    let mut open = BTreeMap::new();
    for record in runs.values() {
        let is_silent = record.closed || now.saturating_sub(record.last_unix_ns) > SILENT_NS;
        let first = match is_silent {
            true => i64::MAX,
            false => (record.last_to.saturating_sub(SLACK_NS) / NS_PER_MINUTE) as i64,
        };
        let of_boot = open.entry(record.run.boot_id.as_str()).or_insert(i64::MAX);
        *of_boot = first.min(*of_boot);
    }
    open
}

fn merge(conn: &Connection, process: i64, minute: i64) -> Result<(), PartError> {
    let mut merged = Rows::default();
    let mut ids = Vec::new();
    {
        let mut statement = conn.prepare_cached(
            "SELECT id, until, body FROM chunk WHERE process = ? AND minute = ? \
             ORDER BY is_raw DESC, id",
        )?;
        let mut rows = statement.query([process, minute])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let sealed = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
            bytes += sealed.len();
            // What is left is merged another time; a chunk that is large already stays as it is.
            if bytes > MAX_MERGED_BYTES && !ids.is_empty() {
                break;
            }
            merged.append(Rows::decode(unseal(&[process, minute, row.get(1)?], sealed)?)?);
            ids.push(row.get::<_, i64>(0)?);
        }
    }
    for id in ids {
        conn.prepare_cached("DELETE FROM chunk WHERE id = ?")?.execute(params![id])?;
    }
    merged.waits = sum_waits(merged.waits);
    write_chunk(conn, process, minute, merged, CLOSED_LEVEL)
}

/// One row per span, state and cause.
fn sum_waits(waits: Vec<StoredWait>) -> Vec<StoredWait> {
    let mut sums: BTreeMap<_, StoredWait> = BTreeMap::new();
    for wait in waits {
        let cause = wait.cause;
        let key = (wait.span, wait.state, cause.kind, cause.name, cause.pid, cause.tid, cause.span);
        match sums.get_mut(&key) {
            Some(sum) => {
                sum.ns = sum.ns.saturating_add(wait.ns);
                sum.count = sum.count.saturating_add(wait.count);
            }
            None => {
                sums.insert(key, wait);
            }
        }
    }
    sums.into_values().collect()
}
