//! `/tmp/perf-PID.map`: lines of `START SIZE name`, numbers hexadecimal, appended by the process as it
//! compiles (linux/tools/perf/Documentation/jit-interface.txt), or written anew on demand.
//!
//! Read on from where the last reading ended, as long as what was read last is still there.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use super::{
    code_map::{Code, CodeMap},
    names::{MAX_TEXT, sanitize},
};

/// Bytes read of one file.
const MAX_FILE: u64 = 64 << 20;
/// A longer line is skipped: two numbers, and a name of which only so much is kept.
const MAX_LINE: usize = 64 + 4 * MAX_TEXT;
/// No compiler makes a larger piece, and none of a process's is above.
const MAX_CODE: u64 = 1 << 30;
const USER_END: u64 = 1 << 56;
const CHUNK: usize = 256 << 10;
/// Of what was read last, remembered to see whether it is still there.
const MARK: usize = 64;

/// One file, and how far it was read.
#[derive(Debug)]
pub(super) struct PerfMap {
    file: File,
    read: u64,
    /// The end of what was read.
    mark: Vec<u8>,
    /// In the middle of a line that is too long.
    skipping: bool,
    cut: bool,
}

impl PerfMap {
    pub(super) fn new(file: File) -> Self {
        Self { file, read: 0, mark: Vec::new(), skipping: false, cut: false }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether there is more than is read.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    /// Adds what is new to `code`, which is of this file alone.
    pub(super) fn update(&mut self, code: &mut CodeMap) -> io::Result<()> {
        let bytes = self.file.metadata()?.len();
        if bytes < self.read || !self.is_as_read()? {
            *code = CodeMap::default();
            (self.read, self.skipping) = (0, false);
            self.mark.clear();
        }
        self.cut = bytes > MAX_FILE;
        let end = bytes.min(MAX_FILE);
        let mut buffer = vec![0; CHUNK];
        while self.read < end {
            let most = usize::try_from(end - self.read).unwrap_or(CHUNK).min(CHUNK);
            let read = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.read)?;
            let chunk = buffer.get(..read).unwrap_or_default();
            let used = self.lines(chunk, code);
            if used == 0 {
                // The rest of a line that is still being written.
                return Ok(());
            }
            self.read += used as u64;
            let used = chunk.get(..used).unwrap_or_default();
            self.mark = used.get(used.len().saturating_sub(MARK)..).unwrap_or_default().to_vec();
        }
        Ok(())
    }

    fn is_as_read(&self) -> io::Result<bool> {
        let mut now = vec![0; self.mark.len()];
        let at = self.read.saturating_sub(now.len() as u64);
        match self.file.read_exact_at(&mut now, at) {
            Ok(()) => Ok(now == self.mark),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes whole lines off a chunk, and says how many bytes that is.
    fn lines(&mut self, chunk: &[u8], code: &mut CodeMap) -> usize {
        let mut used = 0;
        while let Some(rest) = chunk.get(used..)
            && let Some(bytes) = rest.iter().position(|&byte| byte == b'\n')
        {
            if !self.skipping
                && let Some((range, name)) = rest.get(..bytes).and_then(line)
            {
                let code_there = Code { name: name.into(), lines: [].into() };
                code.insert(range, Arc::new(code_there));
            }
            self.skipping = false;
            used += bytes + 1;
        }
        if chunk.len() - used > MAX_LINE {
            self.skipping = true;
        }
        if self.skipping { chunk.len() } else { used }
    }
}

/// One line, if it is one. Some writers put `0x` before the numbers.
fn line(line: &[u8]) -> Option<(Range<u64>, String)> {
    if line.len() > MAX_LINE {
        return None;
    }
    let mut words = line.splitn(3, |&byte| byte == b' ');
    let mut number = || {
        let word = words.next()?;
        let digits = word.strip_prefix(b"0x").unwrap_or(word);
        digits.first()?.is_ascii_hexdigit().then_some(())?;
        u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
    };
    let (start, bytes) = (number()?, number()?);
    let end = start.checked_add(bytes)?;
    // Code of a process, as large as code can be; what else has two numbers in front is no symbol.
    if bytes > MAX_CODE || end > USER_END {
        return None;
    }
    let name = sanitize(String::from_utf8_lossy(words.next()?).trim());
    (!name.is_empty()).then_some((start..end, name))
}

#[cfg(test)]
#[path = "perf_map_tests.rs"]
mod tests;
