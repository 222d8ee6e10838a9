//! What rows of a part refer to by id: strings, frames, stacks, processes, operations. Entries are
//! never changed or removed, so an id means the same as long as its part exists. A stack is its
//! outermost node's child's child...: a tree of (parent, frame), whose parents have smaller ids.
//!
//! Strings are capped and stacks cut here, whoever sent them.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, Hasher, RandomState},
};

use rusqlite::{Connection, params};

use super::{
    bytes::{Writer, salted, seal, unseal},
    error::PartError,
};
use crate::{
    model::{
        batch::ProcessIdentity,
        frame::{Frame, Stack},
    },
    store::rules::{MAX_DEPTH, MAX_STRING_BYTES, cap},
};

/// Known ids kept in memory: about 32 bytes each.
const MAX_KNOWN: usize = 500_000;

/// What an entry is. Zero and one take no byte in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    /// parent node or 0, frame
    Node = 0,
    /// UTF-8
    Text = 1,
    /// name, file, line, kind
    Frame = 2,
    /// boot id, pid, since: what makes it the same process
    Process = 3,
    /// process, comm, service: how it called itself
    Identity = 4,
    /// identity, name of spans
    Operation = 5,
}

/// Finds or makes entries, within the writer's transaction.
#[derive(Debug)]
pub(super) struct Dictionary {
    salt: u64,
    /// By a hash nobody outside can predict, a checksum and the length: 128 bits that do not collide
    /// by accident.
    known: HashMap<u128, i64>,
    hasher: RandomState,
    /// What is hashed, in one piece: stacks are kilobytes in small pieces.
    hashed: Bytes,
}

/// Keeps what is to be hashed.
#[derive(Debug, Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// A process's entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessIds {
    pub process: i64,
    pub identity: i64,
}

// === impl Dictionary ===

impl Dictionary {
    pub(super) fn new(salt: u64) -> Self {
        let (known, hasher, hashed) = (HashMap::new(), RandomState::new(), Bytes::default());
        Self { salt, known, hasher, hashed }
    }

    /// After a transaction that made entries was rolled back.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    pub(super) fn text(&mut self, conn: &Connection, text: &str) -> Result<i64, PartError> {
        self.find_or_insert(conn, Kind::Text, cap(text, MAX_STRING_BYTES).as_bytes())
    }

    pub(super) fn process(
        &mut self,
        conn: &Connection,
        boot_id: &str,
        identity: &ProcessIdentity,
    ) -> Result<ProcessIds, PartError> {
        let mut body = Writer::default();
        body.number(self.text(conn, boot_id)? as u64);
        body.number(identity.pid.into());
        body.number(identity.since);
        let process = self.find_or_insert(conn, Kind::Process, &body.0)?;
        let mut body = Writer::default();
        body.number(process as u64);
        body.number(self.text(conn, &identity.comm)? as u64);
        body.number(self.text(conn, &identity.service)? as u64);
        let identity = self.find_or_insert(conn, Kind::Identity, &body.0)?;
        Ok(ProcessIds { process, identity })
    }

    pub(super) fn operation(
        &mut self,
        conn: &Connection,
        identity: i64,
        name: &str,
    ) -> Result<i64, PartError> {
        let mut body = Writer::default();
        body.number(identity as u64);
        body.number(self.text(conn, name)? as u64);
        self.find_or_insert(conn, Kind::Operation, &body.0)
    }

    /// The innermost node of a stack, 0 for an empty one.
    pub(super) fn stack(&mut self, conn: &Connection, stack: &Stack) -> Result<i64, PartError> {
        let key = self.key(stack);
        if let Some(&id) = self.known.get(&key) {
            return Ok(id);
        }
        let mut node = 0;
        for frame in stack[..stack.len().min(MAX_DEPTH)].iter().rev() {
            let mut body = Writer::default();
            body.number(node as u64);
            body.number(self.frame(conn, frame)? as u64);
            node = self.find_or_insert(conn, Kind::Node, &body.0)?;
        }
        self.remember(key, node);
        Ok(node)
    }

    fn frame(&mut self, conn: &Connection, frame: &Frame) -> Result<i64, PartError> {
        let mut body = Writer::default();
        body.number(self.text(conn, &frame.name)? as u64);
        body.number(self.text(conn, &frame.file)? as u64);
        body.number(frame.line.into());
        body.number(frame.kind.code().into());
        self.find_or_insert(conn, Kind::Frame, &body.0)
    }

    fn find_or_insert(
        &mut self,
        conn: &Connection,
        kind: Kind,
        body: &[u8],
    ) -> Result<i64, PartError> {
        let key = self.key(&(kind, body));
        if let Some(&id) = self.known.get(&key) {
            return Ok(id);
        }
        let id = match find(conn, self.salt, kind, body)? {
            Some(id) => id,
            None => {
                // The id is part of what is sealed.
                let id = conn
                    .prepare_cached("SELECT ifnull(max(id), 0) + 1 FROM entry")?
                    .query_row([], |row| row.get(0))?;
                conn.prepare_cached("INSERT INTO entry VALUES(?, ?, ?, ?)")?.execute(params![
                    id,
                    kind as u8,
                    salted(self.salt, body),
                    seal(&[id, kind as i64], body)
                ])?;
                id
            }
        };
        self.remember(key, id);
        Ok(id)
    }

    fn remember(&mut self, key: u128, id: i64) {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(key, id);
    }

    fn key(&mut self, value: &impl Hash) -> u128 {
        self.hashed.0.clear();
        value.hash(&mut self.hashed);
        let bytes = &self.hashed.0[..];
        u128::from(self.hasher.hash_one(bytes)) << 64
            | u128::from(crc32c::crc32c(bytes)) << 32
            | u128::from(bytes.len() as u32)
    }
}

/// The entry with this body.
pub(super) fn find(
    conn: &Connection,
    salt: u64,
    kind: Kind,
    body: &[u8],
) -> Result<Option<i64>, PartError> {
    let mut statement =
        conn.prepare_cached("SELECT id, body FROM entry WHERE kind = ? AND hash = ?")?;
    let mut rows = statement.query(params![kind as u8, salted(salt, body)])?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let sealed = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        if unseal(&[id, kind as i64], sealed)? == body {
            return Ok(Some(id));
        }
    }
    Ok(None)
}
