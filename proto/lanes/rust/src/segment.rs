//! One segment: a sealed memfd with a header page, a name table and 64 lanes.
//!
//! Making one never harms the host program: limits are looked at before anything is asked for,
//! and every refusal is a reason, not a signal. The descriptor is closed at once; the mapping
//! alone keeps the memory alive, and a fork child does not inherit it.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Reason;
use crate::abi::{
    ABI_MAJOR, ABI_MINOR, EVENT_LEN, HEADER_LEN, LANE_CAP, LANE_OFF, LANE_STRIDE, LaneControl,
    NAME_CAP, NAME_OFF, NAME_STRIDE, PAGE, RING_LOG2_MAX, SEGMENT_LEN, SEGMENT_MAGIC,
    SEGMENT_NAME_NUL, SegmentHeader, state,
};
use crate::config::{Clock, config, counter};
use crate::kernel::{self, Fd};

/// `F_SEAL_FUTURE_WRITE` and `MFD_NOEXEC_SEAL`, which not every libc knows.
const SEAL_FUTURE_WRITE: i32 = 0x10;
const MFD_NOEXEC_SEAL: u32 = 8;

/// A mapped segment of this process. It stays mapped as long as the process lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment(NonNull<u8>);

// === impl Segment ===

impl Segment {
    /// Makes a segment nobody knows yet.
    pub(crate) fn create(ordinal: usize) -> Result<Self, Reason> {
        leave_room()?;
        let memory = sealed_memfd()?;
        if !memory.set_len(SEGMENT_LEN) {
            return Err(Reason::MapFailed);
        }
        let base = kernel::map(SEGMENT_LEN, Some(&memory)).ok_or(Reason::MapFailed)?;
        let segment = Self(NonNull::new(base).ok_or(Reason::MapFailed)?);
        // Nobody else may ever write, shrink or grow it; our own mapping stays writable.
        let fixed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        let sealed = memory.add_seals(fixed | SEAL_FUTURE_WRITE) || memory.add_seals(fixed);
        // SAFETY: the whole mapping is ours and nobody uses it yet.
        let stays_here = unsafe { kernel::advise(base, SEGMENT_LEN, libc::MADV_DONTFORK) };
        if !sealed || !stays_here {
            segment.discard();
            return Err(Reason::SealFailed);
        }
        // SAFETY: the mapping starts with a page for the header, and no reference to it exists.
        unsafe { ptr::write(base.cast::<SegmentHeader>(), fresh_header(ordinal)) };
        segment.header().state.store(state::READY, Ordering::Release);
        Ok(segment)
    }

    /// Gives up a segment that lost the race to be published.
    pub(crate) fn discard(self) {
        // SAFETY: the segment was never published, so no other thread can know it.
        unsafe { kernel::unmap(self.0.as_ptr(), SEGMENT_LEN) };
    }

    pub(crate) fn from_base(base: *mut u8) -> Option<Self> {
        NonNull::new(base).map(Self)
    }

    pub(crate) fn base(self) -> *mut u8 {
        self.0.as_ptr()
    }

    pub(crate) fn header(self) -> &'static SegmentHeader {
        // SAFETY:
        // - the mapping is page-aligned, longer than a header, and never unmapped once published;
        // - after `create` only the atomics change, and only this process can write it.
        unsafe { self.0.cast().as_ref() }
    }

    pub(crate) fn lane(self, number: usize) -> &'static LaneControl {
        debug_assert!(number < LANE_CAP);
        // SAFETY:
        // - `number` is below LANE_CAP, so the lane lies inside the mapping, page-aligned;
        // - every field a publisher touches is an atomic, and zero pages are valid values.
        unsafe { self.0.add(LANE_OFF + number * LANE_STRIDE).cast().as_ref() }
    }

    /// The words of name `place` (from 0) in this segment's table.
    pub(crate) fn name_entry(self, place: usize) -> &'static [AtomicU64; NAME_STRIDE / 8] {
        debug_assert!(place < NAME_CAP);
        // SAFETY: `place` is below NAME_CAP, so the entry lies inside the mapping, 128-aligned.
        unsafe { self.0.add(NAME_OFF + place * NAME_STRIDE).cast().as_ref() }
    }
}

fn fresh_header(ordinal: usize) -> SegmentHeader {
    let config = config();
    let mut instance_id = [0; 16];
    kernel::random(&mut instance_id);
    let calibration_counter = if config.clock == Clock::Counter { counter() } else { 0 };
    let zero = || AtomicU64::new(0);
    SegmentHeader {
        magic: SEGMENT_MAGIC,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        header_len: HEADER_LEN,
        seg_len: SEGMENT_LEN as u64,
        lane_off: LANE_OFF as u32,
        lane_stride: LANE_STRIDE as u32,
        lane_cap: LANE_CAP as u32,
        event_len: EVENT_LEN as u16,
        ring_log2: config.ring_log2 as u16,
        ts_kind: config.clock.ts_kind(),
        flags: 0,
        ring_log2_max: RING_LOG2_MAX as u8,
        reserved_2b: 0,
        creator_pid: kernel::getpid(),
        creator_start: start_of_this_process(),
        pidns_ino: pid_namespace(),
        instance_id,
        calibration_counter,
        calibration_mono_ns: kernel::monotonic_ns(),
        state: AtomicU32::new(state::INIT),
        lanes_high_water: AtomicU32::new(0),
        threads_without_lane: zero(),
        ordinal: ordinal as u64,
        name_off: NAME_OFF as u64,
        name_cap: NAME_CAP as u32,
        name_stride: NAME_STRIDE as u32,
        name_count: AtomicU32::new(0),
        names_refused: AtomicU32::new(0),
        publishes_refused: zero(),
        reserved_98: [0; 104],
    }
}

/// Refuses where a limit stands in the way.
fn leave_room() -> Result<(), Reason> {
    // Growing a file over RLIMIT_FSIZE kills the program by SIGXFSZ.
    if kernel::soft_limit(libc::RLIMIT_FSIZE).is_some_and(|limit| limit < SEGMENT_LEN as u64) {
        return Err(Reason::FileSizeLimit);
    }
    // Where the kernel never overcommits, a page it refuses to shared memory is a SIGBUS.
    let mut mode = [0; 4];
    if kernel::read_file(c"/proc/sys/vm/overcommit_memory", &mut mode).trim_ascii() == b"2" {
        return Err(Reason::CommitLimit);
    }
    if let Some(limit) = kernel::soft_limit(libc::RLIMIT_AS) {
        let mut text = [0; 32];
        let pages = first_number(kernel::read_file(c"/proc/self/statm", &mut text));
        let rest = limit.saturating_sub(pages.unwrap_or(u64::MAX / PAGE as u64) * PAGE as u64);
        // The program set this limit for its own needs: never take more than half of the rest.
        if (SEGMENT_LEN as u64) > rest / 2 {
            return Err(Reason::AddressSpaceLimit);
        }
    }
    Ok(())
}

fn sealed_memfd() -> Result<Fd, Reason> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Older kernels refuse the unknown flag; with vm.memfd_noexec=2 newer ones insist on it.
    kernel::memfd_create(SEGMENT_NAME_NUL, flags | MFD_NOEXEC_SEAL)
        .or_else(|| kernel::memfd_create(SEGMENT_NAME_NUL, flags))
        .ok_or(Reason::MemfdDenied)
}

/// Field 22 of `/proc/self/stat`; 0 without `/proc`.
fn start_of_this_process() -> u64 {
    let mut text = [0; 512];
    start_field(kernel::read_file(c"/proc/self/stat", &mut text)).unwrap_or(0)
}

/// The command name may hold spaces and parentheses, so count from the last parenthesis.
fn start_field(stat: &[u8]) -> Option<u64> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    // What follows is field 3.
    stat[end_of_name + 1..].trim_ascii().split(|byte| *byte == b' ').nth(19).and_then(first_number)
}

/// The inode in `pid:[4026531836]`.
fn pid_namespace() -> u64 {
    let mut text = [0; 32];
    let link = kernel::read_link(c"/proc/self/ns/pid", &mut text);
    link.strip_prefix(b"pid:[").and_then(first_number).unwrap_or(0)
}

fn first_number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    text[..digits]
        .iter()
        .try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_field_survives_any_command_name() {
        let rest: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = format!("12 (a) b) c) S {}\n", rest.join(" "));
        assert_eq!(start_field(stat.as_bytes()), Some(22));
        assert_eq!(start_field(b"12 (a"), None);
    }

    #[test]
    fn numbers_end_where_digits_end() {
        assert_eq!(first_number(b"4026531836]"), Some(4_026_531_836));
        assert_eq!(first_number(b"x"), None);
        assert_eq!(first_number(b"99999999999999999999"), None);
    }
}
