//! One open segment of a process: hardened attach (design 7, context-protocols 5.5), then reads.
//!
//! Everything in it is hostile. It is read with `pread` and never mapped: looking at a hole of a sparse
//! file through a mapping would make a page there, charged to us, and tables of pages beside it. It is
//! read only when sealed against shrinking; its geometry is checked once; no pointer in it is followed;
//! every value is copied once.

use std::{
    fs::File,
    io,
    ops::Range,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
};

use hotspan_lanes::abi::{self, Event, header, lane};

use super::creator::Creator;
use crate::{
    ledger::DaemonCounter,
    process::{
        descriptors,
        maps::{Address, Mapping},
        procfs,
    },
};

/// `TMPFS_MAGIC` (include/uapi/linux/magic.h).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Why a segment was not attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Gone, or we may not look.
    #[error("cannot open: {0}")]
    Open(io::Error),
    /// Not memory of tmpfs: reads could fault or block.
    #[error("not a memfd")]
    NotMemory,
    /// Could be truncated under us.
    #[error("not sealed")]
    Unsealed,
    /// Impossible or absurd size.
    #[error("impossible size")]
    Size,
    /// Magic, version or state are not those of a ready segment of ours.
    #[error("not a ready segment of a known version")]
    Header,
    /// Not the geometry of this version.
    #[error("not the geometry of its version")]
    Geometry,
    /// Made by another process and passed on.
    #[error("made by another process")]
    Foreign,
    /// What is left of our descriptors is for ourselves.
    #[error("too many files are open")]
    Descriptors,
}

impl Refused {
    /// What it is counted as.
    pub(crate) fn counter(&self) -> DaemonCounter {
        match self {
            Self::Open(_) => DaemonCounter::SegmentUnopened,
            Self::NotMemory => DaemonCounter::SegmentNotMemory,
            Self::Unsealed => DaemonCounter::SegmentUnsealed,
            Self::Size => DaemonCounter::SegmentSize,
            Self::Header => DaemonCounter::SegmentHeader,
            Self::Geometry => DaemonCounter::SegmentGeometry,
            Self::Foreign => DaemonCounter::SegmentForeign,
            Self::Descriptors => DaemonCounter::SegmentDescriptors,
        }
    }
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    /// Where its process sees it.
    pub address: Address,
    /// What a time namespace adds to the process's monotonic clock, ns: subtracted from stamps.
    pub monotonic_offset: i64,
    /// (device, inode): one segment is attached once.
    pub identity: (u64, u64),
}

/// A lane's control line, each value copied once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    /// Whose it is; odd while owned.
    pub generation: u32,
    /// The owner in its own pid namespace.
    pub owner_tid: u32,
    /// Events ever published.
    pub head: u64,
    /// `head` when the present owner came.
    pub first_index: u64,
    /// log2 of the first ring's slots.
    pub ring_log2: u32,
    /// First index in the grown ring, 0 for none.
    pub grown_at: u64,
}

// === impl Control ===

impl Control {
    /// Slots of the ring as it is now.
    pub(crate) fn slots(&self) -> u64 {
        1 << if self.grown_at != 0 { abi::RING_LOG2_MAX } else { self.ring_log2 }
    }
}

// === impl Segment ===

impl Segment {
    /// Opens and checks the segment that a process shows at `mapping`.
    pub(crate) fn attach(process: &Creator, mapping: &Mapping) -> Result<Self, Refused> {
        let (start, end) = (mapping.start.0, mapping.end.0);
        let name = format!("map_files/{start:x}-{end:x}");
        let file = procfs::ask(process.pid, |folder| File::open(folder.join(&name)));
        let file = file.map_err(Refused::Open)?;
        if !descriptors::is_spare(&file) {
            return Err(Refused::Descriptors);
        }
        check_memory(&file)?;
        let meta = file.metadata().map_err(Refused::Open)?;
        let len = meta.len();
        if len < u64::from(abi::HEADER_LEN) || len > end - start {
            return Err(Refused::Size);
        }
        let mut bytes = [0u8; abi::HEADER_LEN as usize];
        file.read_exact_at(&mut bytes, 0).map_err(Refused::Open)?;
        let head = Words(&bytes);
        if bytes[..8] != abi::SEGMENT_MAGIC
            || head.u16(header::ABI_MAJOR) != abi::ABI_MAJOR
            || head.u32(header::HEADER_LEN) != abi::HEADER_LEN
            || head.u32(header::STATE) != abi::state::READY
        {
            return Err(Refused::Header);
        }
        head.check_geometry(len)?;
        if !process.made(head.u32(header::CREATOR_PID), head.u64(header::CREATOR_START)) {
            return Err(Refused::Foreign);
        }
        Ok(Self {
            file,
            address: mapping.start,
            monotonic_offset: process.identity().monotonic_offset,
            identity: (meta.dev(), meta.ino()),
        })
    }

    /// One of a file that a test made.
    #[cfg(test)]
    pub(super) fn of(file: File, address: Address, inode: u64) -> Self {
        Self { file, address, monotonic_offset: 0, identity: (0, inode) }
    }

    /// Lanes ever used, as far as the segment says.
    pub(crate) fn lanes_in_use(&self) -> usize {
        (u32::from_le_bytes(self.number_at(header::LANES_HIGH_WATER)) as usize).min(abi::LANE_CAP)
    }

    /// Threads that found no lane.
    pub(crate) fn threads_without_lane(&self) -> u64 {
        u64::from_le_bytes(self.number_at(header::THREADS_WITHOUT_LANE))
    }

    /// Publishes the publisher itself refused (re-entrant from a signal handler).
    pub(crate) fn publishes_refused(&self) -> u64 {
        u64::from_le_bytes(self.number_at(header::PUBLISHES_REFUSED))
    }

    /// Where the process sees lane `number`.
    pub(crate) fn lane_address(&self, number: usize) -> Address {
        Address(self.address.0 + self.lane_offset(number) as u64)
    }

    /// Copies a lane's control line.
    pub(crate) fn control(&self, number: usize) -> Control {
        let mut line = [0u8; lane::CONTROL_LEN];
        // It cannot be shorter, and what cannot be read is nobody's.
        let _ = self.file.read_exact_at(&mut line, self.lane_offset(number) as u64);
        let line = Words(&line);
        Control {
            head: line.u64(lane::HEAD),
            generation: line.u32(lane::GENERATION),
            owner_tid: line.u32(lane::OWNER_TID),
            first_index: line.u64(lane::FIRST_INDEX),
            ring_log2: (line.u32(lane::RING_LOG2) & 0xffff)
                .clamp(abi::RING_LOG2_MIN, abi::RING_LOG2_MAX),
            grown_at: line.u64(lane::GROWN_AT),
        }
    }

    /// The number of the lane that its process sees at `address`.
    pub(crate) fn number_of(&self, address: Address) -> Option<usize> {
        let inside = usize::try_from(address.0.checked_sub(self.address.0)?).ok()?;
        let from_first = inside.checked_sub(abi::LANE_OFF)?;
        let number = from_first / abi::LANE_STRIDE;
        (from_first.is_multiple_of(abi::LANE_STRIDE) && number < abi::LANE_CAP).then_some(number)
    }

    /// The events of `range` that are still there, in order.
    ///
    /// Each stretch is read twice; an event whose sequence word is right both before
    /// and after its content was copied was not being written in between (`abi::read_slot`).
    pub(crate) fn events(&self, number: usize, control: &Control, range: Range<u64>) -> Vec<Event> {
        let mut out = Vec::new();
        let ring = (self.lane_offset(number) + abi::RING_IN_LANE) as u64;
        let slot =
            |index| abi::slot_of(index, control.ring_log2, control.grown_at, abi::RING_LOG2_MAX);
        let mut from = range.start;
        while from < range.end {
            let mut to = from + 1;
            while to < range.end && slot(to) == slot(to - 1) + 1 {
                to += 1;
            }
            let len = (to - from) as usize * abi::EVENT_LEN;
            let (mut content, mut check) = (vec![0u8; len], vec![0u8; len]);
            let at = ring + slot(from) * abi::EVENT_LEN as u64;
            if self.file.read_exact_at(&mut content, at).is_err()
                || self.file.read_exact_at(&mut check, at).is_err()
            {
                break;
            }
            let pairs = content.as_chunks::<{ abi::EVENT_LEN }>().0.iter();
            let pairs = pairs.zip(check.as_chunks::<{ abi::EVENT_LEN }>().0);
            for (index, (content, check)) in (from..to).zip(pairs) {
                let seq = (index + 1).to_le_bytes();
                if content[..8] != seq || check[..8] != seq {
                    continue;
                }
                let mut words = [0u64; abi::EVENT_WORDS];
                for (word, bytes) in words.iter_mut().zip(content.as_chunks::<8>().0) {
                    *word = u64::from_le_bytes(*bytes);
                }
                let mut event = Event::from_words(&words);
                if event.ts_kind == abi::ts_kind::MONOTONIC_NS {
                    event.ts = event.ts.wrapping_sub(self.monotonic_offset as u64);
                }
                out.push(event);
            }
            from = to;
        }
        out
    }

    /// An operation name; empty when there is none. Capped, lossy.
    pub(crate) fn name(&self, id: u32) -> String {
        if id == 0 || id > abi::NAME_CAP as u32 {
            return String::new();
        }
        let mut entry = [0u8; abi::NAME_STRIDE];
        let at = (abi::NAME_OFF + (id as usize - 1) * abi::NAME_STRIDE) as u64;
        if self.file.read_exact_at(&mut entry, at).is_err() {
            return String::new();
        }
        entry_text(&entry)
    }

    fn lane_offset(&self, number: usize) -> usize {
        abi::LANE_OFF + number * abi::LANE_STRIDE
    }

    /// A number of the header, 0 when it cannot be read.
    fn number_at<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.file.read_exact_at(&mut bytes, at as u64);
        bytes
    }
}

/// An entry of a name table: one length byte, then text. Capped, lossy.
pub(crate) fn entry_text(entry: &[u8; abi::NAME_STRIDE]) -> String {
    let len = usize::from(entry[0]).min(abi::NAME_LEN_MAX);
    String::from_utf8_lossy(&entry[1..=len]).into_owned()
}

/// Bytes of which numbers are made: the header's or a control line's.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    /// Version 1 has one geometry: with any other, a small lie could make us look at a lot of memory.
    fn check_geometry(&self, len: u64) -> Result<(), Refused> {
        let right = len == abi::SEGMENT_LEN as u64
            && self.u64(header::SEG_LEN) == len
            && usize::from(self.u16(header::EVENT_LEN)) == abi::EVENT_LEN
            && u32::from(self.0[header::RING_LOG2_MAX]) == abi::RING_LOG2_MAX
            && self.u32(header::LANE_OFF) as usize == abi::LANE_OFF
            && self.u32(header::LANE_STRIDE) as usize == abi::LANE_STRIDE
            && self.u32(header::LANE_CAP) as usize == abi::LANE_CAP
            && self.u64(header::NAME_OFF) == abi::NAME_OFF as u64
            && self.u32(header::NAME_CAP) as usize == abi::NAME_CAP
            && self.u32(header::NAME_STRIDE) as usize == abi::NAME_STRIDE;
        if right { Ok(()) } else { Err(Refused::Geometry) }
    }
}

/// Memory of tmpfs that nobody can shrink: then a read within its size cannot fault.
fn check_memory(file: &File) -> Result<(), Refused> {
    // SAFETY: fstatfs fills a local struct of plain integers; fcntl takes no memory.
    let (kind, seals) = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        if libc::fstatfs(file.as_raw_fd(), &raw mut stat) != 0 {
            return Err(Refused::Open(io::Error::last_os_error()));
        }
        (stat.f_type, libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS))
    };
    if kind != TMPFS_MAGIC {
        return Err(Refused::NotMemory);
    }
    let needed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    if seals < 0 || seals & needed != needed {
        return Err(Refused::Unsealed);
    }
    Ok(())
}
