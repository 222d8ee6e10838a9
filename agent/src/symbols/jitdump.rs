//! `jit-PID.dump`: what a compiler records about its code as it makes it, with source lines
//! (linux/tools/perf/Documentation/jitdump-specification.txt). Little-endian, as everything here.
//!
//! ```text
//! file   = magic, version, size of this header, ...     record, record, ...
//! record = kind, size with this header, time            its body
//! ```
//! Read on from where the last reading ended; the bytes of the code are passed over. A record that
//! cannot be true ends the reading for good: where the next one begins is not known.
//!
//! Not left to the crate `linux-perf-data` (0.13): it reserves memory for as many lines as a record claims
//! (2^64 of them end the program), takes the header's size off a record without looking whether it is that
//! large, and holds each record whole, with its code, of up to 4 GiB. None of that can be bounded from
//! outside.

use std::{collections::HashMap, fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use super::{
    code_map::{Code, CodeMap, Line},
    names::{MAX_TEXT, sanitize},
};
use crate::process::bytes::{u32_at, u64_at};

const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
/// `struct jitheader`, and the header of a record.
const HEADER: u64 = 40;
const RECORD: u64 = 16;
/// Kinds of records.
const LOAD: u32 = 0;
const MOVE: u32 = 1;
const DEBUG_INFO: u32 = 2;
const CLOSE: u32 = 3;
/// Bytes looked at of one record: lines, or a name, which is short but for few.
const MAX_BODY: u64 = 1 << 20;
const SHORT_NAME: u64 = 256;
/// Records looked at, and bytes read of one file.
const MAX_RECORDS: u32 = 1 << 20;
const MAX_READ: u64 = 256 << 20;
/// Lines and files of one function.
const MAX_LINES: usize = 65_536;
/// Lines recorded for code that is not there yet.
const MAX_WAITING: usize = 16;
/// `perf inject` puts the code after an ELF header; some writers (V8, LLVM) count lines from there.
const ELF_HEADER: u64 = 64;

/// One file, and how far it was read.
#[derive(Debug)]
pub(super) struct JitDump {
    file: File,
    /// Where the next record begins.
    next: u64,
    records: u32,
    read: u64,
    /// Nothing more is read.
    ended: bool,
    cut: bool,
    /// Lines come before their code.
    waiting: HashMap<u64, Vec<(u64, u32, Arc<str>)>>,
}

/// What is left of a record's body.
struct Body<'a>(&'a [u8]);

// === impl JitDump ===

impl JitDump {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            next: 0,
            records: 0,
            read: 0,
            ended: false,
            cut: false,
            waiting: HashMap::new(),
        }
    }

    /// Whether there is more than is read.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    /// Adds what is new to `code`.
    pub(super) fn update(&mut self, code: &mut CodeMap) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        if end < self.next {
            // What was read is gone: it was no log.
            self.ended = true;
        }
        if self.next == 0 && end >= HEADER && !self.ended {
            let header = self.fetch(0, HEADER)?;
            let mut header = Body(&header);
            let (magic, version, bytes) = (header.u32(), header.u32(), header.u32());
            let bytes = bytes.map_or(0, u64::from);
            self.ended = magic != Some(MAGIC) || version != Some(VERSION) || bytes < HEADER;
            self.next = bytes;
        }
        while !self.ended && self.next >= HEADER && end.saturating_sub(self.next) >= RECORD {
            let header = self.fetch(self.next, RECORD)?;
            let mut header = Body(&header);
            let Some((kind, bytes)) = header.u32().zip(header.u32()) else { break };
            let bytes = u64::from(bytes);
            if bytes < RECORD {
                self.ended = true;
            } else if end - self.next < bytes {
                // Still being written.
                break;
            } else {
                self.record(kind, self.next + RECORD, bytes - RECORD, code)?;
                self.next += bytes;
            }
        }
        Ok(())
    }

    fn record(&mut self, kind: u32, at: u64, bytes: u64, code: &mut CodeMap) -> io::Result<()> {
        self.records += 1;
        if self.records >= MAX_RECORDS || self.read >= MAX_READ {
            (self.cut, self.ended) = (true, true);
            return Ok(());
        }
        let most = match kind {
            // The code itself, behind the name, is not looked at.
            LOAD => 40 + SHORT_NAME,
            MOVE => 48,
            DEBUG_INFO => MAX_BODY,
            CLOSE => {
                self.ended = true;
                return Ok(());
            }
            _ => return Ok(()),
        };
        let mut body = self.fetch(at, bytes.min(most))?;
        if kind == LOAD && body.get(40..).is_some_and(|name| !name.contains(&0)) {
            body = self.fetch(at, bytes.min(40 + 4 * MAX_TEXT as u64))?;
        }
        // Bodies that end early say nothing.
        let _: Option<()> = match kind {
            LOAD => self.load(Body(&body), code),
            MOVE => relocate(Body(&body), code),
            _ => self.lines(Body(&body)),
        };
        Ok(())
    }

    fn load(&mut self, mut body: Body<'_>, code: &mut CodeMap) -> Option<()> {
        // Process, thread, and the address within its mapping.
        body.skip(16)?;
        let (start, bytes) = (body.u64()?, body.u64()?);
        body.skip(8)?;
        let name = sanitize(&String::from_utf8_lossy(body.text()));
        let end = start.checked_add(bytes)?;
        let lines = self.waiting.remove(&start).unwrap_or_default();
        let lines = lines_of(start..end, lines);
        code.insert(start..end, Arc::new(Code { name: name.into(), lines }));
        Some(())
    }

    fn lines(&mut self, mut body: Body<'_>) -> Option<()> {
        let (start, count) = (body.u64()?, body.u64()?);
        let count = usize::try_from(count).unwrap_or(MAX_LINES).min(MAX_LINES);
        let mut lines = Vec::new();
        let mut file: Arc<str> = Arc::from("");
        for _ in 0..count {
            let Some((address, (line, _))) = body.u64().zip(body.u32().zip(body.u32())) else {
                break;
            };
            match body.text() {
                // "The same as before."
                b"\xff" => {}
                // V8 of node 20 writes what it has freed in place of some names.
                name => match str::from_utf8(name).ok().filter(|name| sanitize(name) == **name) {
                    Some(name) if *name == *file => {}
                    Some(name) => file = name.into(),
                    None => file = Arc::from(""),
                },
            }
            let line = if file.is_empty() { 0 } else { line };
            lines.push((address, line, Arc::clone(&file)));
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.clear();
        }
        self.waiting.insert(start, lines);
        Some(())
    }

    fn fetch(&mut self, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(bytes.min(MAX_BODY)).unwrap_or_default();
        let mut content = vec![0; bytes];
        self.file.read_exact_at(&mut content, at)?;
        self.read += bytes as u64;
        Ok(content)
    }
}

fn relocate(mut body: Body<'_>, code: &mut CodeMap) -> Option<()> {
    body.skip(16)?;
    let (from, to, bytes) = (body.u64()?, body.u64()?, body.u64()?);
    code.relocate(from, to..to.checked_add(bytes)?);
    Some(())
}

/// Lines by offset in this code. Where a writer put nonsense, addresses are elsewhere.
fn lines_of(code: Range<u64>, mut lines: Vec<(u64, u32, Arc<str>)>) -> Box<[Line]> {
    let end = code.end.saturating_add(ELF_HEADER);
    lines.retain(|line| (code.start..end).contains(&line.0));
    let first = lines.iter().map(|line| line.0).min().unwrap_or(code.start);
    // A compiler knows the line of what it begins with.
    let behind = code.start.saturating_add(ELF_HEADER);
    let origin = if first >= behind { behind } else { code.start };
    let mut lines: Vec<Line> = lines
        .into_iter()
        .map(|(address, line, file)| Line { offset: address.saturating_sub(origin), line, file })
        .collect();
    lines.sort_by_key(|line| line.offset);
    lines.into()
}

// === impl Body ===

impl Body<'_> {
    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn u32(&mut self) -> Option<u32> {
        let number = u32_at(self.0, 0)?;
        self.skip(4)?;
        Some(number)
    }

    fn u64(&mut self) -> Option<u64> {
        let number = u64_at(self.0, 0)?;
        self.skip(8)?;
        Some(number)
    }

    /// Up to a zero, or all that is left.
    fn text(&mut self) -> &[u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        let text = self.0.get(..end).unwrap_or_default();
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        text
    }
}

#[cfg(test)]
#[path = "jitdump_tests.rs"]
mod tests;
