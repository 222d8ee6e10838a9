//! Tables of large files on disk, so that a restart does not parse them again.
//!
//! ```text
//! CONTENT.table: magic, version │ base, counts of index, rows, rules │ these │ CRC-32C of all before
//! ```
//! The folder is ours alone and so is each file that is read; it may still be cut or flipped, so it is
//! checked like any other. What cannot be written is not: the cache is never needed.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::PathBuf,
    time::SystemTime,
};

use agent_ebpf::unwind::Rule;
use rustix::fs::{AtFlags, renameat, unlinkat};

use super::{image::Content, table::Table};
use crate::process::own::{Access, OwnDirectory};

/// Changes with the format of tables, and with what the parser makes of a file.
pub(super) const MAGIC: [u8; 8] = *b"HSTABLE2";
/// Files smaller than this are parsed faster than they are worth keeping, in words of table.
const MIN_WORDS: usize = 32 << 10;
/// Bytes of all files together; the oldest go.
const MAX_BYTES: u64 = 256 << 20;
/// Bytes of one file that are read.
const MAX_FILE: u64 = 64 << 20;

/// The folder.
#[derive(Debug)]
pub struct Cache {
    folder: OwnDirectory,
}

// === impl Cache ===

impl Cache {
    /// Uses a folder, which is made if need be; `None` when it cannot be, or is not ours alone.
    pub fn open(folder: PathBuf) -> Option<Self> {
        match OwnDirectory::make(&folder) {
            Ok(folder) => Some(Self { folder }),
            Err(error) => {
                tracing::debug!(%error, "no cache of unwind tables");
                None
            }
        }
    }

    /// The table of a content. A damaged file is removed.
    pub fn get(&self, content: &Content) -> Option<Table> {
        let name = name(content);
        let file = match self.folder.file(&name, Access::Read) {
            Ok(file) => file?,
            Err(error) => {
                tracing::debug!(%error, "a cached unwind table is not used");
                return None;
            }
        };
        if file.metadata().ok()?.len() > MAX_FILE {
            return None;
        }
        let mut bytes = Vec::new();
        let table = file.take(MAX_FILE).read_to_end(&mut bytes).ok().and_then(|_| decode(&bytes));
        if table.is_none() {
            self.remove(&name);
        }
        table
    }

    /// Keeps a table that took long to make.
    pub fn put(&self, content: &Content, table: &Table) {
        if table.rows.len() < MIN_WORDS {
            return;
        }
        if let Err(error) = self.write(content, &encode(table)) {
            tracing::debug!(%error, "an unwind table is not cached");
        }
    }

    fn write(&self, content: &Content, bytes: &[u8]) -> io::Result<()> {
        self.keep_bound(bytes.len() as u64);
        let name = name(content);
        let part = format!("{name}.part");
        // Left where a writing was cut short.
        self.remove(&part);
        let file: Option<File> = self.folder.file(&part, Access::New).map_err(io::Error::other)?;
        let written = file
            .map_or(Ok(()), |mut file| file.write_all(bytes))
            .and_then(|()| Ok(renameat(&self.folder, &part, &self.folder, &name)?));
        if written.is_err() {
            self.remove(&part);
        }
        written
    }

    /// It may be gone already; failing to remove it changes nothing.
    fn remove(&self, name: &str) {
        let _ = unlinkat(&self.folder, name, AtFlags::empty());
    }

    /// Makes room for `more` bytes.
    fn keep_bound(&self, more: u64) {
        let Ok(entries) = fs::read_dir(self.folder.path()) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, len, path) in files {
            if bytes + more <= MAX_BYTES {
                break;
            }
            // One that cannot be removed counts as gone: the next is tried.
            let _ = fs::remove_file(path);
            bytes -= len;
        }
    }
}

fn name(content: &Content) -> String {
    let name: String = content.0.iter().map(|byte| format!("{byte:02x}")).collect();
    name + ".table"
}

pub(super) fn encode(table: &Table) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(table.base.to_le_bytes());
    for len in [table.index.len(), table.rows.len(), table.rules.len()] {
        bytes.extend((len as u64).to_le_bytes());
    }
    for word in table.index.iter().chain(&table.rows) {
        bytes.extend(word.to_le_bytes());
    }
    for rule in &table.rules {
        bytes.extend(rule.0.to_le_bytes());
    }
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Option<Table> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let body = body.strip_prefix(&MAGIC)?;
    let (head, mut rest) = body.split_first_chunk::<32>()?;
    let head: Vec<u64> = head.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let mut take = |count: u64, size: usize| {
        let bytes = usize::try_from(count).ok()?.checked_mul(size)?;
        let (taken, left) = rest.split_at_checked(bytes)?;
        rest = left;
        Some(taken)
    };
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    };
    let index = words(take(head[1], 4)?);
    let rows = words(take(head[2], 4)?);
    let rules = take(head[3], 8)?.as_chunks::<8>().0;
    let rules = rules.iter().map(|b| Rule(u64::from_le_bytes(*b))).collect();
    let table = Table { base: head[0], index, rows, rules };
    (rest.is_empty() && table.is_sound()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::{super::table::Builder, *};
    use crate::process::fixture::Directory;

    fn table(rows: u64) -> Table {
        let mut builder = Builder::default();
        for n in 0..rows {
            builder.row(0x1000 + n * 16, Rule((n % 50) << 16 | 1));
        }
        builder.finish().unwrap()
    }

    #[test]
    fn a_table_comes_back_or_not_at_all() {
        let table = table(2000);
        let bytes = encode(&table);
        assert_eq!(decode(&bytes), Some(table));
        for cut in (0..bytes.len()).step_by(61) {
            assert_eq!(decode(&bytes[..cut]), None);
        }
        for at in (0..bytes.len()).step_by(61) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert_eq!(decode(&flipped), None, "byte {at}");
        }
    }

    #[test]
    fn large_tables_are_kept_and_damaged_ones_go() {
        let directory = Directory::new("tables");
        let cache = Cache::open(directory.path("cache")).unwrap();
        let (small, large) = (Content([1; 16]), Content([2; 16]));
        cache.put(&small, &table(100));
        assert_eq!(cache.get(&small), None);
        let kept = table(MIN_WORDS as u64 + 10);
        cache.put(&large, &kept);
        assert_eq!(cache.get(&large), Some(kept));
        let path = cache.folder.path().join(name(&large));
        fs::write(&path, b"HSTABLE2 and then nothing").unwrap();
        assert_eq!(cache.get(&large), None);
        assert!(!path.exists());
    }
}
