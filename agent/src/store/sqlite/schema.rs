//! A part's tables, and how its file is made and opened.
//!
//! - A file that has a part's name is whole: it is made under another name, with everything that is
//!   carried forward, and renamed when it is on the disk.
//! - `PRAGMA user_version` is the version of the schema. A change of tables or of byte forms is a new
//!   version; an older part is brought up to date step by step by [`MIGRATIONS`], each step in one
//!   transaction, when it is opened for writing. A newer one is refused.
//! - Nothing is mapped into memory: a file truncated under us would kill the process.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::{
    error::{Damage, PartError, StoreError},
    part::PartName,
};

/// What this code writes.
pub(super) const VERSION: u32 = 1;

/// Step `i` brings a part from version `i + 1` to `i + 2`.
const MIGRATIONS: [fn(&Connection) -> rusqlite::Result<()>; VERSION as usize - 1] = [];

/// "HSPN"
const APPLICATION: u32 = 0x4853_504e;

/// Ids are dense and rows are never deleted, except chunks. Every `body` begins with a CRC over
/// itself and its row's other columns.
const TABLES: &str = "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
    -- One row per run ever seen, carried forward from part to part: `run`.
    CREATE TABLE run(id BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
    -- Strings, frames, stack nodes, processes, operations: `dictionary`.
    CREATE TABLE entry(id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, hash INTEGER NOT NULL,
        body BLOB NOT NULL);
    CREATE INDEX entry_hash ON entry(kind, hash);
    -- Of each operation, the states its spans had time in, one bit each: `search`.
    CREATE TABLE operation(id INTEGER PRIMARY KEY, mask INTEGER NOT NULL);
    -- `start` counts from meta.created: six bytes instead of eight.
    CREATE TABLE span(id INTEGER PRIMARY KEY, trace_key INTEGER NOT NULL, span_key INTEGER NOT NULL,
        operation INTEGER NOT NULL, start INTEGER NOT NULL, wall INTEGER NOT NULL,
        body BLOB NOT NULL);
    CREATE INDEX span_ids ON span(span_key, trace_key);
    CREATE INDEX span_trace ON span(trace_key);
    CREATE INDEX span_start ON span(start);
    CREATE INDEX span_operation_start ON span(operation, start);
    CREATE INDEX span_wall_operation ON span(wall, operation);
    -- Rows of a process and minute, up to minute `until`: `chunk`.
    CREATE TABLE chunk(id INTEGER PRIMARY KEY, process INTEGER NOT NULL, minute INTEGER NOT NULL,
        until INTEGER NOT NULL, is_raw INTEGER NOT NULL, body BLOB NOT NULL);
    CREATE INDEX chunk_minute ON chunk(process, minute, until);
    CREATE INDEX chunk_raw ON chunk(minute, process) WHERE is_raw;
";

/// What a part says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    /// When it was begun, by the store's clock.
    pub created_unix_ns: u64,
    /// Of its hashes.
    pub salt: u64,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Makes an empty part; `fill` writes what it begins with.
pub(super) fn create(
    dir: &Path,
    name: PartName,
    created_unix_ns: u64,
    fill: impl FnOnce(&Connection) -> Result<(), PartError>,
) -> Result<(), StoreError> {
    let unborn = dir.join(format!("{name}.new"));
    let _ = fs::remove_file(&unborn);
    // Made here for its mode, which SQLite gives to the files it puts beside it.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unborn)
        .map_err(StoreError::io(&unborn))?;
    let made = (|| {
        let mut conn = Connection::open_with_flags(&unborn, flags(Access::Write))?;
        conn.execute_batch(&format!(
            "PRAGMA synchronous = FULL; PRAGMA application_id = {APPLICATION}; \
             PRAGMA user_version = {VERSION};"
        ))?;
        let transaction = conn.transaction()?;
        transaction.execute_batch(TABLES)?;
        let salt = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), name) as i64;
        let created = created_unix_ns as i64;
        for (key, value) in [
            ("version", i64::from(VERSION)),
            ("created", created),
            ("salt", salt),
            ("check", meta_check(created, salt)),
        ] {
            transaction.execute("INSERT INTO meta VALUES(?, ?)", params![key, value])?;
        }
        fill(&transaction)?;
        transaction.commit()?;
        // Kept in the file's header.
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        conn.close().map_err(|(_, error)| error)?;
        Ok(())
    })();
    made.map_err(|error: PartError| error.of(&name.to_string()))
        .and_then(|()| {
            // Left by a part of this name that went: SQLite would take it for ours.
            for leftover in &name.files()[1..] {
                let _ = fs::remove_file(dir.join(leftover));
            }
            fs::rename(&unborn, name.path(dir)).map_err(StoreError::io(name.path(dir)))?;
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io(dir))
        })
        .inspect_err(|_| {
            for file in [unborn.clone(), unborn.with_extension("new-journal")] {
                let _ = fs::remove_file(file);
            }
        })
}

/// Opens an existing part.
pub(super) fn open(
    dir: &Path,
    name: PartName,
    access: Access,
) -> Result<(Connection, Meta), StoreError> {
    let path = name.path(dir);
    if let Err(error) = path.metadata()
        && error.kind() == std::io::ErrorKind::NotFound
    {
        return Err(PartError::Damage(Damage("the file is gone")).of(&name.to_string()));
    }
    open_file(&path, access).map_err(|error| error.of(&name.to_string()))
}

fn open_file(path: &Path, access: Access) -> Result<(Connection, Meta), PartError> {
    let conn = Connection::open_with_flags(path, flags(access))?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.set_prepared_statement_cache_capacity(64);
    // `cell_size_check` notices a broken page when it is read, not when it breaks something.
    conn.execute_batch(
        "PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF;",
    )?;
    match access {
        // Durable when committed. The WAL is cut at checkpoints, so a burst does not keep its size.
        Access::Write => conn.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; \
             PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = 8388608;",
        )?,
        Access::Read => conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096;")?,
    }
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Damage("it is not in WAL mode").into());
    }
    if access == Access::Write {
        migrate(&conn)?;
    }
    let number = |key: &str| -> rusqlite::Result<i64> {
        conn.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0))
    };
    let (created, salt) = (number("created")?, number("salt")?);
    if number("check")? != meta_check(created, salt) {
        return Err(Damage("its salt or date of creation changed").into());
    }
    Ok((conn, Meta { created_unix_ns: created as u64, salt: salt as u64 }))
}

fn meta_check(created: i64, salt: i64) -> i64 {
    let of_created = crc32c::crc32c(&created.to_le_bytes());
    i64::from(crc32c::crc32c_append(of_created, &salt.to_le_bytes()))
}

fn migrate(conn: &Connection) -> Result<(), PartError> {
    let from: u32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let steps = MIGRATIONS.get((from as usize).saturating_sub(1)..).unwrap_or_default();
    for (step, to) in steps.iter().zip(from + 1..) {
        let transaction = conn.unchecked_transaction()?;
        step(&transaction)?;
        transaction.execute_batch(&format!("PRAGMA user_version = {to}"))?;
        transaction.execute("UPDATE meta SET value = ? WHERE key = 'version'", [to])?;
        transaction.commit()?;
    }
    Ok(())
}

/// Looks at a part's header without SQLite. Only while nobody has the file open: closing it gives up
/// the locks SQLite holds in this process.
pub(super) fn check_header(dir: &Path, name: PartName) -> Result<(), StoreError> {
    let file = name.to_string();
    let damaged = |why: &'static str| PartError::Damage(Damage(why)).of(&file);
    let path = name.path(dir);
    let mut header = [0; 100];
    File::open(&path).map_err(StoreError::io(&path))?.read_exact(&mut header).map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("it ends within its header"),
            _ => damaged("its header cannot be read"),
        }
    })?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if !header.starts_with(b"SQLite format 3\0") || word(68) != APPLICATION || word(60) == 0 {
        return Err(damaged("its header is not a part's"));
    }
    let found = word(60);
    if found > VERSION {
        // Every version keeps its number in `meta` too: a flipped bit is no newer hotspan.
        let recorded = Connection::open_with_flags(&path, flags(Access::Read))
            .and_then(|conn| {
                conn.query_row("SELECT value FROM meta WHERE key = 'version'", [], |row| {
                    row.get::<_, u32>(0)
                })
                .optional()
            })
            .ok()
            .flatten();
        if recorded.is_some_and(|recorded| recorded != found) {
            return Err(damaged("its header contradicts its contents"));
        }
        return Err(StoreError::Newer { file, found, known: VERSION });
    }
    Ok(())
}

fn flags(access: Access) -> OpenFlags {
    // A connection is used by one thread at a time.
    let mode = match access {
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    mode | OpenFlags::SQLITE_OPEN_NO_MUTEX
}
