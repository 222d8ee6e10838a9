//! A reader as the daemon has one: finds segments in `/proc/PID/maps`, maps them read-only through
//! `map_files` (which takes root), checks what it reads and drains rings.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::Ordering;

use hotspan_lanes::abi::{
    self, EVENT_WORDS, Event, LANE_MAGIC, LaneControl, SEGMENT_LEN, SEGMENT_MAGIC, SegmentHeader,
    read_slot, slot_of,
};

/// A mapped segment of another process. Stays readable after that process died.
pub(crate) struct Segment {
    base: *const u8,
}

/// What a drain of one lane found.
#[derive(Default, Debug)]
pub(crate) struct Drained {
    pub events: Vec<Event>,
    pub lost: u64,
}

/// Every segment of the process, by ordinal.
pub(crate) fn segments_of(pid: u32) -> Vec<Segment> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    let mut found: Vec<Segment> = maps
        .lines()
        .filter(|line| line.contains("/memfd:HOTSPANLANE1"))
        .map(|line| {
            assert_eq!(line.split_ascii_whitespace().nth(1), Some("rw-s"), "{line}");
            let range = line.split_ascii_whitespace().next().unwrap();
            // The kernel names these links without leading zeros.
            let ends: Vec<&str> = range.split('-').map(|end| end.trim_start_matches('0')).collect();
            Segment::map(&format!("/proc/{pid}/map_files/{}", ends.join("-")))
        })
        .collect();
    found.sort_by_key(|segment| segment.header().ordinal);
    found
}

impl Segment {
    fn map(path: &str) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{path} (needs root): {error}"));
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), SEGMENT_LEN as u64);
        // SAFETY: a fresh read-only mapping of a file that the seals checked below keep in size.
        let base = unsafe {
            let seals = libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS);
            assert_eq!(seals & 0x17, 0x17, "SEAL, SHRINK, GROW and FUTURE_WRITE");
            let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
            libc::mmap(ptr::null_mut(), SEGMENT_LEN, read, shared, file.as_raw_fd(), 0)
        };
        assert_ne!(base, libc::MAP_FAILED);
        let segment = Self { base: base.cast() };
        let header = segment.header();
        assert_eq!(header.magic, SEGMENT_MAGIC);
        assert_eq!((header.abi_major, header.abi_minor, header.header_len), (1, 0, 256));
        assert_eq!(header.seg_len, SEGMENT_LEN as u64);
        assert_eq!((header.lane_off, header.lane_stride, header.lane_cap), (528_384, 528_384, 64));
        assert_eq!((header.event_len, header.ring_log2_max, header.flags), (64, 13, 0));
        assert_eq!(header.state.load(Ordering::Acquire), abi::state::READY);
        assert_eq!((header.name_off, header.name_cap, header.name_stride), (4096, 4096, 128));
        segment
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        // SAFETY: the mapping is longer than a header and lives as long as `self`.
        unsafe { &*self.base.cast() }
    }

    pub(crate) fn lane(&self, number: usize) -> &LaneControl {
        assert!(number < abi::LANE_CAP);
        // SAFETY: the lane lies inside the mapping.
        unsafe { &*self.base.add(abi::LANE_OFF + number * abi::LANE_STRIDE).cast() }
    }

    /// Lanes that were ever used.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &LaneControl> {
        let used = self.header().lanes_high_water.load(Ordering::Acquire) as usize;
        (0..used).map(|number| self.lane(number)).filter(|lane| {
            // A lane below the mark may still be on its way.
            lane.magic.load(Ordering::Relaxed) == LANE_MAGIC
        })
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let count = self.header().name_count.load(Ordering::Acquire) as usize;
        (0..count)
            .map(|place| {
                let at = abi::NAME_OFF + place * abi::NAME_STRIDE;
                // SAFETY: the entry lies inside the mapping and does not change once counted.
                let entry = unsafe { std::slice::from_raw_parts(self.base.add(at), 128) };
                String::from_utf8_lossy(&entry[1..=usize::from(entry[0])]).into_owned()
            })
            .collect()
    }

    /// Everything from `tail` to the lane's head, in order.
    pub(crate) fn drain(&self, lane: &LaneControl, tail: u64) -> Drained {
        let head = lane.head.load(Ordering::Acquire);
        let grown_at = lane.grown_at.load(Ordering::Acquire);
        let ring = self.base.wrapping_add(lane.ring_off.load(Ordering::Relaxed) as usize);
        let log2 = u32::from(lane.ring_log2.load(Ordering::Relaxed));
        let mut drained = Drained::default();
        for index in tail..head {
            let slot = slot_of(index, log2, grown_at, abi::RING_LOG2_MAX) as usize;
            let slot =
                ring.cast::<[std::sync::atomic::AtomicU64; EVENT_WORDS]>().wrapping_add(slot);
            // SAFETY: the mask of `slot_of` keeps the slot inside the lane.
            match read_slot(unsafe { &*slot }, index) {
                Some(words) => drained.events.push(Event::from_words(&words)),
                None => drained.lost += 1,
            }
        }
        drained
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.base.cast_mut().cast(), SEGMENT_LEN) };
    }
}
