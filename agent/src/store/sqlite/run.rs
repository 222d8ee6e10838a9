//! What the store knows of each run of an agent: how far it is stored, what that held, what was given
//! up. Written in the transaction of the batches it counts, and carried from part to part, so the
//! newest part alone knows where every run goes on.

use std::{collections::BTreeMap, sync::Arc};

use rusqlite::{Connection, params};

use super::{
    bytes::{Cursor, Writer, seal, unseal},
    error::{Damage, PartError},
};
use crate::{
    model::{
        batch::{Account, AgentCost, Counts, KindAccount, Run},
        id::RunId,
    },
    store::{
        RunRecord,
        rules::{MAX_KEYS, MAX_STRING_BYTES, cap},
    },
};

/// By id.
pub(super) type Runs = BTreeMap<RunId, RunRecord>;

pub(super) fn load(conn: &Connection) -> Result<Runs, PartError> {
    let mut statement = conn.prepare_cached("SELECT id, body FROM run")?;
    let mut rows = statement.query([])?;
    let mut runs = Runs::new();
    while let Some(row) = rows.next()? {
        let id = RunId(row.get(0)?);
        let sealed = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        let mut record = RunRecord::decode(unseal(&columns(id), sealed)?)?;
        record.run.id = id;
        runs.insert(id, record);
    }
    Ok(runs)
}

pub(super) fn save(conn: &Connection, record: &RunRecord) -> Result<(), PartError> {
    let sealed = seal(&columns(record.run.id), &record.encode());
    conn.prepare_cached("INSERT OR REPLACE INTO run VALUES(?, ?)")?
        .execute(params![record.run.id.0, sealed])?;
    Ok(())
}

fn columns(id: RunId) -> [i64; 2] {
    let id = u128::from_le_bytes(id.0);
    [id as i64, (id >> 64) as i64]
}

// === impl RunRecord ===

impl RunRecord {
    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        for text in [&self.run.boot_id, &self.run.host, &self.run.version] {
            to.counted(cap(text, MAX_STRING_BYTES).as_bytes());
        }
        to.number(self.run.pid.into());
        to.number(self.run.started_unix_ns);
        to.number(self.last_sequence);
        to.number(self.last_unix_ns);
        to.number(self.last_to);
        put_counts(&mut to, &self.delivered);
        put_map(&mut to, &self.gaps, put_counts);
        put_map(&mut to, &self.account.kinds, |to, kind| {
            to.number(kind.captured);
            to.number(kind.linked);
            put_map(to, &kind.lost, |to, n| to.number(*n));
        });
        put_map(&mut to, &self.account.loss, |to, n| to.number(*n));
        let AgentCost { cpu_ns, wall_ns, rss_bytes, queue_bytes } = self.account.cost;
        for n in [cpu_ns, wall_ns, rss_bytes, queue_bytes] {
            to.number(n);
        }
        to.number(self.account.closed.into());
        to.number(self.closed.into());
        to.0
    }

    fn decode(body: &[u8]) -> Result<Self, Damage> {
        let mut from = Cursor(body);
        let record = Self {
            run: Run {
                id: RunId::default(),
                boot_id: from.text()?.into(),
                host: from.text()?.into(),
                version: from.text()?.into(),
                pid: from.narrow()?,
                started_unix_ns: from.number()?,
            },
            last_sequence: from.number()?,
            last_unix_ns: from.number()?,
            last_to: from.number()?,
            delivered: take_counts(&mut from)?,
            gaps: take_map(&mut from, take_counts)?,
            account: Account {
                kinds: take_map(&mut from, |from| {
                    Ok(KindAccount {
                        captured: from.number()?,
                        linked: from.number()?,
                        lost: take_map(from, Cursor::number)?,
                    })
                })?,
                loss: take_map(&mut from, Cursor::number)?,
                cost: AgentCost {
                    cpu_ns: from.number()?,
                    wall_ns: from.number()?,
                    rss_bytes: from.number()?,
                    queue_bytes: from.number()?,
                },
                closed: from.number()? != 0,
                over: Vec::new(),
            },
            closed: from.number()? != 0,
        };
        from.end()?;
        Ok(record)
    }
}

fn put_counts(to: &mut Writer, counts: &Counts) {
    for (_, n) in counts.iter() {
        to.number(n);
    }
}

fn take_counts(from: &mut Cursor<'_>) -> Result<Counts, Damage> {
    Ok(Counts {
        samples: from.number()?,
        intervals: from.number()?,
        interval_ns: from.number()?,
        markers: from.number()?,
        stacks: from.number()?,
        spans: from.number()?,
    })
}

fn put_map<T>(to: &mut Writer, map: &BTreeMap<Arc<str>, T>, put: impl Fn(&mut Writer, &T)) {
    to.number(map.len().min(MAX_KEYS) as u64);
    for (key, value) in map.iter().take(MAX_KEYS) {
        to.counted(cap(key, MAX_STRING_BYTES).as_bytes());
        put(to, value);
    }
}

fn take_map<'a, T>(
    from: &mut Cursor<'a>,
    take: impl Fn(&mut Cursor<'a>) -> Result<T, Damage>,
) -> Result<BTreeMap<Arc<str>, T>, Damage> {
    let mut map = BTreeMap::new();
    for _ in 0..from.count()? {
        map.insert(from.text()?.into(), take(from)?);
    }
    Ok(map)
}
