//! A segment written by hand: first as a publisher would make it, then with whatever lie a case
//! wants. Only raw bytes at offsets of the ABI, because a liar keeps no types.

use std::{fs, ptr, sync::atomic::AtomicU64};

use anyhow::{Result, ensure};
use hotspan_lanes::abi::{self, event, header, lane};

/// The trace id of every lie.
const LIE: [u8; 16] = [0xEE; 16];

/// A mapped memfd of the size of a segment. Never unmapped.
pub(crate) struct Segment {
    base: *mut u8,
    fd: libc::c_int,
}

// SAFETY: the mapping lives as long as the process, and all access is through raw pointers.
unsafe impl Send for Segment {}
// SAFETY: as above; concurrent stores race on purpose and nothing is ever read through a reference.
unsafe impl Sync for Segment {}

pub(crate) fn own_tid() -> u32 {
    // SAFETY: gettid has no preconditions.
    u32::try_from(unsafe { libc::gettid() }).unwrap_or(0)
}

/// Field 22 of `/proc/self/stat`.
fn own_start() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

impl Segment {
    /// What a publisher would make, with lane 0 owned by the calling thread.
    pub(crate) fn plausible() -> Result<Self> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::memfd_create(abi::SEGMENT_NAME_NUL.as_ptr(), flags) };
        ensure!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (len, shared) = (abi::SEGMENT_LEN, libc::MAP_SHARED);
        // SAFETY: sizes a file of our own.
        let sized = unsafe { libc::ftruncate(fd, len as libc::off_t) };
        ensure!(sized == 0, "ftruncate: {}", std::io::Error::last_os_error());
        // SAFETY: a null address lets the kernel choose, so no existing mapping is touched.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, shared, fd, 0) };
        ensure!(base != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let segment = Self { base: base.cast(), fd };
        segment.bytes(header::MAGIC, &abi::SEGMENT_MAGIC);
        segment.u16(header::ABI_MAJOR, abi::ABI_MAJOR);
        segment.u32(header::HEADER_LEN, abi::HEADER_LEN);
        segment.u64(header::SEG_LEN, len as u64);
        segment.u32(header::LANE_OFF, abi::LANE_OFF as u32);
        segment.u32(header::LANE_STRIDE, abi::LANE_STRIDE as u32);
        segment.u32(header::LANE_CAP, abi::LANE_CAP as u32);
        segment.u16(header::EVENT_LEN, abi::EVENT_LEN as u16);
        segment.u16(header::RING_LOG2, abi::RING_LOG2_DEFAULT as u16);
        segment.bytes(header::RING_LOG2_MAX, &[abi::RING_LOG2_MAX as u8]);
        segment.u32(header::CREATOR_PID, std::process::id());
        segment.u64(header::CREATOR_START, own_start());
        segment.u64(header::NAME_OFF, abi::NAME_OFF as u64);
        segment.u32(header::NAME_CAP, abi::NAME_CAP as u32);
        segment.u32(header::NAME_STRIDE, abi::NAME_STRIDE as u32);
        segment.u32(header::LANES_HIGH_WATER, 1);
        segment.u32(abi::LANE_OFF + lane::MAGIC, abi::LANE_MAGIC);
        segment.u32(abi::LANE_OFF + lane::GENERATION, 1);
        segment.u32(abi::LANE_OFF + lane::OWNER_TID, own_tid());
        segment.u16(abi::LANE_OFF + lane::RING_LOG2, abi::RING_LOG2_DEFAULT as u16);
        segment.u64(abi::LANE_OFF + lane::RING_OFF, (abi::LANE_OFF + abi::RING_IN_LANE) as u64);
        segment.u32(header::STATE, abi::state::READY);
        Ok(segment)
    }

    /// The seals a publisher sets.
    pub(crate) fn seal(&self) -> Result<()> {
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: plain integers; the descriptor is open.
        let sealed = unsafe { libc::fcntl(self.fd, libc::F_ADD_SEALS, seals) };
        ensure!(sealed == 0, "F_ADD_SEALS: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Only for a segment without seals. Nobody here touches it while it is short.
    pub(crate) fn set_len(&self, len: usize) {
        // SAFETY: plain integers; the descriptor is open.
        unsafe { libc::ftruncate(self.fd, len as libc::off_t) };
    }

    /// Tells whoever watches `prctl` about lane 0.
    pub(crate) fn breadcrumb(&self) {
        let lane = self.base.wrapping_add(abi::LANE_OFF);
        let name = abi::SEGMENT_NAME_NUL.as_ptr();
        let option = abi::BREADCRUMB_OPTION as libc::c_int;
        // SAFETY: no kernel knows the option; the arguments are words.
        unsafe { libc::prctl(option, lane, 0_usize, 0_usize, name) };
    }

    /// Appends a SET of a false span, or a CLEAR now and then.
    pub(crate) fn set(&self, turn: u64) {
        self.set_named(turn, 0);
    }

    pub(crate) fn set_named(&self, turn: u64, name: u32) {
        let head = self.get(abi::LANE_OFF + lane::HEAD);
        let slot = head & ((1 << abi::RING_LOG2_DEFAULT) - 1);
        let at = abi::LANE_OFF + abi::RING_IN_LANE + slot as usize * abi::EVENT_LEN;
        self.u64(at + event::SEQ, 0);
        self.u64(at + event::TS, 0);
        self.bytes(at + event::TRACE_ID, &LIE);
        self.u64(at + event::SPAN_ID, turn | 1);
        self.u64(at + event::LOCAL_ROOT_SPAN_ID, 0);
        self.u64(at + event::PARENT_SPAN_ID, 0);
        let op = if turn % 8 == 7 { abi::op::CLEAR } else { abi::op::SET };
        self.u64(at + event::OP, u64::from(op) | u64::from(name) << 32);
        self.u64(at + event::SEQ, head.wrapping_add(1));
        self.u64(abi::LANE_OFF + lane::HEAD, head.wrapping_add(1));
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset + 8 <= abi::SEGMENT_LEN && offset.is_multiple_of(8));
        // SAFETY: inside of the mapping, which is page-aligned and never goes away; the cases that
        // shorten the file do not touch it meanwhile.
        unsafe { &*self.base.add(offset).cast::<AtomicU64>() }
    }

    fn get(&self, offset: usize) -> u64 {
        self.word(offset).load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn u64(&self, offset: usize, value: u64) {
        self.word(offset).store(value, std::sync::atomic::Ordering::Release);
    }

    pub(crate) fn u32(&self, offset: usize, value: u32) {
        self.bytes(offset, &value.to_le_bytes());
    }

    pub(crate) fn u16(&self, offset: usize, value: u16) {
        self.bytes(offset, &value.to_le_bytes());
    }

    pub(crate) fn bytes(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= abi::SEGMENT_LEN);
        for (number, byte) in bytes.iter().enumerate() {
            // SAFETY: inside of the mapping, as above.
            unsafe { self.base.add(offset + number).write_volatile(*byte) };
        }
    }
}
