//! Reads a part's dictionary: ids back to what they stand for, remembered per connection. An id that
//! leads nowhere, or back to itself, is damage.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    bytes::{Cursor, Writer, unseal},
    dictionary::{Kind, find},
    error::{Damage, PartError},
};
use crate::{
    model::{
        batch::ProcessIdentity,
        frame::{Frame, FrameKind, Stack},
    },
    store::{account::ProcessKey, rules::MAX_DEPTH},
};

/// Entries kept in memory per kind and connection.
const MAX_KNOWN: usize = 50_000;

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct Lexicon {
    texts: HashMap<i64, Arc<str>>,
    frames: HashMap<i64, Frame>,
    nodes: HashMap<i64, (i64, i64)>,
    stacks: HashMap<i64, Stack>,
    identities: HashMap<i64, ProcessKey>,
    operations: HashMap<i64, Operation>,
}

/// Name and process of spans.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub process: ProcessKey,
    pub name: Arc<str>,
}

// === impl Lexicon ===

impl Lexicon {
    pub(super) fn text(&mut self, conn: &Connection, id: i64) -> Result<Arc<str>, PartError> {
        if let Some(text) = self.texts.get(&id) {
            return Ok(Arc::clone(text));
        }
        let text = entry(conn, Kind::Text, id, |body| {
            std::str::from_utf8(body).map(Arc::from).map_err(|_| Damage("a string is not UTF-8"))
        })?;
        Ok(remember(&mut self.texts, id, text))
    }

    pub(super) fn operation(&mut self, conn: &Connection, id: i64) -> Result<Operation, PartError> {
        if let Some(operation) = self.operations.get(&id) {
            return Ok(operation.clone());
        }
        let (identity, name) = entry(conn, Kind::Operation, id, |body| pair(&mut Cursor(body)))?;
        let operation =
            Operation { process: self.identity(conn, identity)?, name: self.text(conn, name)? };
        Ok(remember(&mut self.operations, id, operation))
    }

    fn identity(&mut self, conn: &Connection, id: i64) -> Result<ProcessKey, PartError> {
        if let Some(identity) = self.identities.get(&id) {
            return Ok(identity.clone());
        }
        let (process, comm, service) = entry(conn, Kind::Identity, id, |body| {
            let mut body = Cursor(body);
            Ok((body.row()?, body.row()?, body.row()?))
        })?;
        let (boot_id, pid, since) = entry(conn, Kind::Process, process, |body| {
            let mut body = Cursor(body);
            Ok((body.row()?, body.narrow()?, body.number()?))
        })?;
        let identity = ProcessIdentity {
            pid,
            since,
            comm: self.text(conn, comm)?,
            service: self.text(conn, service)?,
        };
        let key = ProcessKey { boot_id: self.text(conn, boot_id)?, identity };
        Ok(remember(&mut self.identities, id, key))
    }

    /// The boot a process is of.
    pub(super) fn boot_id(
        &mut self,
        conn: &Connection,
        process: i64,
    ) -> Result<Arc<str>, PartError> {
        let boot_id = entry(conn, Kind::Process, process, |body| Cursor(body).row())?;
        self.text(conn, boot_id)
    }

    /// The stack whose innermost node this is.
    pub(super) fn stack(&mut self, conn: &Connection, leaf: i64) -> Result<Stack, PartError> {
        if let Some(stack) = self.stacks.get(&leaf) {
            return Ok(Arc::clone(stack));
        }
        let mut frames = Vec::new();
        let mut node = leaf;
        while node != 0 {
            let (parent, frame) = self.node(conn, node)?;
            if parent >= node || frames.len() >= MAX_DEPTH {
                return Err(Damage("a stack runs in a circle").into());
            }
            frames.push(self.frame(conn, frame)?);
            node = parent;
        }
        Ok(remember(&mut self.stacks, leaf, frames.into()))
    }

    fn node(&mut self, conn: &Connection, id: i64) -> Result<(i64, i64), PartError> {
        if let Some(&node) = self.nodes.get(&id) {
            return Ok(node);
        }
        let node = entry(conn, Kind::Node, id, |body| pair(&mut Cursor(body)))?;
        Ok(remember(&mut self.nodes, id, node))
    }

    fn frame(&mut self, conn: &Connection, id: i64) -> Result<Frame, PartError> {
        if let Some(frame) = self.frames.get(&id) {
            return Ok(frame.clone());
        }
        let (name, file, line, kind) = entry(conn, Kind::Frame, id, |body| {
            let mut body = Cursor(body);
            Ok((body.row()?, body.row()?, body.narrow()?, body.narrow()?))
        })?;
        let frame = Frame {
            name: self.text(conn, name)?,
            file: self.text(conn, file)?,
            line,
            kind: FrameKind::from_code(kind).ok_or(Damage("no such kind of frame"))?,
        };
        Ok(remember(&mut self.frames, id, frame))
    }
}

/// The entry of a process, if the part knows it.
pub(super) fn find_process(
    conn: &Connection,
    salt: u64,
    process: &ProcessKey,
) -> Result<Option<i64>, PartError> {
    let Some(boot_id) = find(conn, salt, Kind::Text, process.boot_id.as_bytes())? else {
        return Ok(None);
    };
    let mut body = Writer::default();
    body.number(boot_id as u64);
    body.number(process.identity.pid.into());
    body.number(process.identity.since);
    find(conn, salt, Kind::Process, &body.0)
}

fn entry<T>(
    conn: &Connection,
    kind: Kind,
    id: i64,
    decode: impl FnOnce(&[u8]) -> Result<T, Damage>,
) -> Result<T, PartError> {
    conn.prepare_cached("SELECT body FROM entry WHERE id = ?")?
        .query_row(params![id], |row| {
            let sealed = row.get_ref(0)?.as_blob()?;
            Ok(unseal(&[id, kind as i64], sealed).and_then(decode))
        })
        .optional()?
        .ok_or(Damage("an id leads nowhere"))?
        .map_err(PartError::from)
}

fn pair(body: &mut Cursor<'_>) -> Result<(i64, i64), Damage> {
    Ok((body.row()?, body.row()?))
}

fn remember<T: Clone>(known: &mut HashMap<i64, T>, id: i64, value: T) -> T {
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
    known.insert(id, value.clone());
    value
}
