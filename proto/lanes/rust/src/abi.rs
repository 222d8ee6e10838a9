//! The lane ABI as data: names, offsets, sizes, codes and the shape of every shared structure.
//!
//! Publishers write with it and the hotspan daemon reads with it, so nothing here touches memory
//! by itself. `SPEC.md` says in words what these numbers mean; a change here is an ABI change.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

pub use crate::event::{Event, EventWords};
pub use crate::ring::{Word, growth_index, read_slot, slot_of};

#[cfg(target_endian = "big")]
compile_error!("the lane ABI is little-endian");

/// Name of the memfd behind a segment, and of the breadcrumb left with `prctl`.
pub const SEGMENT_NAME: &str = "HOTSPANLANE1";
/// The same, as the kernel wants it.
pub const SEGMENT_NAME_NUL: &core::ffi::CStr = c"HOTSPANLANE1";
/// `prctl` option of the breadcrumb: `HSP1`, which no kernel knows.
pub const BREADCRUMB_OPTION: u32 = 0x4853_5031;
/// First eight bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"HOTSPAN1";
/// First four bytes of a lane, as a little-endian number.
pub const LANE_MAGIC: u32 = u32::from_le_bytes(*b"LANE");

pub const ABI_MAJOR: u16 = 1;
pub const ABI_MINOR: u16 = 0;
pub const HEADER_LEN: u32 = 256;
pub const PAGE: usize = 4096;

/// Bytes of one event, and log2 of it.
pub const EVENT_LEN: usize = 64;
/// 64-bit words of one event.
pub const EVENT_WORDS: usize = EVENT_LEN / 8;
pub const RING_LOG2_DEFAULT: u32 = 10;
pub const RING_LOG2_MIN: u32 = 4;
/// Size a ring grows to; a lane always reserves address space for it.
pub const RING_LOG2_MAX: u32 = 13;

pub const NAME_OFF: usize = PAGE;
pub const NAME_CAP: usize = 4096;
pub const NAME_STRIDE: usize = 128;
/// One length byte, then up to this many bytes of UTF-8.
pub const NAME_LEN_MAX: usize = NAME_STRIDE - 1;

pub const LANE_OFF: usize = NAME_OFF + NAME_CAP * NAME_STRIDE;
pub const LANE_STRIDE: usize = PAGE + (EVENT_LEN << RING_LOG2_MAX);
pub const LANE_CAP: usize = 64;
pub const SEGMENT_LEN: usize = LANE_OFF + LANE_CAP * LANE_STRIDE;
/// Where a lane's ring starts, from the lane's own start.
pub const RING_IN_LANE: usize = PAGE;
/// Segments one process may have.
pub const SEGMENTS_MAX: usize = 256;

/// A full lap faster than this asks for the larger ring.
pub const GROW_LAP_NS: u64 = 100_000_000;
/// A full lap faster than this is counted in `lap_warnings`.
pub const WARN_LAP_NS: u64 = 50_000_000;

/// Values of [`SegmentHeader::state`].
pub mod state {
    pub const INIT: u32 = 0;
    pub const READY: u32 = 1;
    pub const CLOSED: u32 = 2;
}

/// Values of the `op` byte of an event. Readers skip what they do not know.
pub mod op {
    pub const SET: u8 = 1;
    pub const CLEAR: u8 = 2;
    pub const LANE_BEGIN: u8 = 3;
    pub const LANE_END: u8 = 4;
    /// Never stored by a publisher: a reader's own note that it lost events.
    pub const GAP: u8 = 5;
}

/// Values of `ts_kind`, in the header and in every event.
pub mod ts_kind {
    pub const NONE: u8 = 0;
    pub const X86_TSC: u8 = 1;
    pub const ARM_CNTVCT: u8 = 2;
    pub const MONOTONIC_NS: u8 = 3;
}

/// Values of [`LaneControl::kind`].
pub mod lane_kind {
    pub const THREAD: u8 = 0;
    pub const CARRIER: u8 = 1;
    pub const EVENT_LOOP: u8 = 2;
}

/// Page 0 of a segment. Constant once `state` is READY, except the atomics.
#[derive(Debug)]
#[repr(C)]
pub struct SegmentHeader {
    pub magic: [u8; 8],
    pub abi_major: u16,
    pub abi_minor: u16,
    pub header_len: u32,
    pub seg_len: u64,
    pub lane_off: u32,
    pub lane_stride: u32,
    pub lane_cap: u32,
    pub event_len: u16,
    pub ring_log2: u16,
    pub ts_kind: u8,
    pub flags: u8,
    pub ring_log2_max: u8,
    pub reserved_2b: u8,
    /// In the creator's own pid namespace.
    pub creator_pid: u32,
    /// Field 22 of `/proc/self/stat`.
    pub creator_start: u64,
    pub pidns_ino: u64,
    pub instance_id: [u8; 16],
    /// The counter of `ts_kind` and `CLOCK_MONOTONIC`, read together when the segment was made.
    pub calibration_counter: u64,
    pub calibration_mono_ns: u64,
    pub state: AtomicU32,
    pub lanes_high_water: AtomicU32,
    pub threads_without_lane: AtomicU64,
    pub ordinal: u64,
    pub name_off: u64,
    pub name_cap: u32,
    pub name_stride: u32,
    pub name_count: AtomicU32,
    pub names_refused: AtomicU32,
    pub publishes_refused: AtomicU64,
    pub reserved_98: [u8; 104],
}

/// The first page of a lane: cache line 0 is the control line, then the OTEP 4947 record.
#[derive(Debug)]
#[repr(C)]
pub struct LaneControl {
    pub magic: AtomicU32,
    /// Odd while a thread owns the lane.
    pub generation: AtomicU32,
    /// The owner in the creator's pid namespace; 0 while the lane is free or changing hands.
    pub owner_tid: AtomicU32,
    /// The initial ring; a grown one shows in `grown_at` only.
    pub ring_log2: AtomicU16,
    pub kind: AtomicU8,
    pub flags: AtomicU8,
    /// Events ever published in this lane; never reset.
    pub head: AtomicU64,
    /// From the segment's start.
    pub ring_off: AtomicU64,
    pub acquire_ts: AtomicU64,
    /// `head` when the present owner came.
    pub first_index: AtomicU64,
    pub lap_warnings: AtomicU64,
    /// First index stored under the larger mask; 0 = the ring has not grown.
    pub grown_at: AtomicU64,
    pub record: ThreadRecord,
    pub thread_name: [AtomicU64; 2],
}

/// The OTEP 4947 thread context record, as the words a publisher stores.
#[derive(Debug)]
#[repr(C)]
pub struct ThreadRecord {
    pub trace_id: [AtomicU64; 2],
    pub span_id: AtomicU64,
    /// Byte 0 `valid`, byte 1 `trace_flags`, bytes 2-3 `attrs_data_size` (always 0).
    pub valid_flags_size: AtomicU32,
    pub attrs: [u8; 612],
}

/// Offsets inside [`SegmentHeader`], for readers that work on copied bytes.
pub mod header {
    pub const MAGIC: usize = 0x00;
    pub const ABI_MAJOR: usize = 0x08;
    pub const ABI_MINOR: usize = 0x0A;
    pub const HEADER_LEN: usize = 0x0C;
    pub const SEG_LEN: usize = 0x10;
    pub const LANE_OFF: usize = 0x18;
    pub const LANE_STRIDE: usize = 0x1C;
    pub const LANE_CAP: usize = 0x20;
    pub const EVENT_LEN: usize = 0x24;
    pub const RING_LOG2: usize = 0x26;
    pub const TS_KIND: usize = 0x28;
    pub const FLAGS: usize = 0x29;
    pub const RING_LOG2_MAX: usize = 0x2A;
    pub const CREATOR_PID: usize = 0x2C;
    pub const CREATOR_START: usize = 0x30;
    pub const PIDNS_INO: usize = 0x38;
    pub const INSTANCE_ID: usize = 0x40;
    pub const CALIBRATION_COUNTER: usize = 0x50;
    pub const CALIBRATION_MONO_NS: usize = 0x58;
    pub const STATE: usize = 0x60;
    pub const LANES_HIGH_WATER: usize = 0x64;
    pub const THREADS_WITHOUT_LANE: usize = 0x68;
    pub const ORDINAL: usize = 0x70;
    pub const NAME_OFF: usize = 0x78;
    pub const NAME_CAP: usize = 0x80;
    pub const NAME_STRIDE: usize = 0x84;
    pub const NAME_COUNT: usize = 0x88;
    pub const NAMES_REFUSED: usize = 0x8C;
    pub const PUBLISHES_REFUSED: usize = 0x90;
}

/// Offsets inside a lane.
pub mod lane {
    pub const MAGIC: usize = 0x00;
    pub const GENERATION: usize = 0x04;
    pub const OWNER_TID: usize = 0x08;
    pub const RING_LOG2: usize = 0x0C;
    pub const KIND: usize = 0x0E;
    pub const FLAGS: usize = 0x0F;
    pub const HEAD: usize = 0x10;
    pub const RING_OFF: usize = 0x18;
    pub const ACQUIRE_TS: usize = 0x20;
    pub const FIRST_INDEX: usize = 0x28;
    pub const LAP_WARNINGS: usize = 0x30;
    pub const GROWN_AT: usize = 0x38;
    pub const CONTROL_LEN: usize = 0x40;
    pub const RECORD: usize = 0x40;
    pub const RECORD_LEN: usize = 640;
    pub const THREAD_NAME: usize = 0x2C0;
    pub const THREAD_NAME_LEN: usize = 16;
}

/// Offsets inside the OTEP 4947 record.
pub mod record {
    pub const TRACE_ID: usize = 0;
    pub const SPAN_ID: usize = 16;
    pub const VALID: usize = 24;
    pub const TRACE_FLAGS: usize = 25;
    pub const ATTRS_DATA_SIZE: usize = 26;
}

/// Offsets inside an event.
pub mod event {
    pub const SEQ: usize = 0;
    pub const TS: usize = 8;
    pub const TRACE_ID: usize = 16;
    pub const SPAN_ID: usize = 32;
    pub const LOCAL_ROOT_SPAN_ID: usize = 40;
    pub const OP: usize = 48;
    pub const TRACE_FLAGS: usize = 49;
    pub const TS_KIND: usize = 50;
    pub const NAME_ID: usize = 52;
    pub const PARENT_SPAN_ID: usize = 56;
    /// LANE_BEGIN and LANE_END carry the owner where SET carries the trace id: u32 tid, u32 gen.
    pub const OWNER_TID: usize = 16;
    pub const OWNER_GENERATION: usize = 20;
}

const _: () = {
    assert!(size_of::<SegmentHeader>() == HEADER_LEN as usize);
    assert!(offset_of!(SegmentHeader, seg_len) == header::SEG_LEN);
    assert!(offset_of!(SegmentHeader, lane_off) == header::LANE_OFF);
    assert!(offset_of!(SegmentHeader, lane_stride) == header::LANE_STRIDE);
    assert!(offset_of!(SegmentHeader, lane_cap) == header::LANE_CAP);
    assert!(offset_of!(SegmentHeader, event_len) == header::EVENT_LEN);
    assert!(offset_of!(SegmentHeader, ring_log2) == header::RING_LOG2);
    assert!(offset_of!(SegmentHeader, ts_kind) == header::TS_KIND);
    assert!(offset_of!(SegmentHeader, ring_log2_max) == header::RING_LOG2_MAX);
    assert!(offset_of!(SegmentHeader, creator_pid) == header::CREATOR_PID);
    assert!(offset_of!(SegmentHeader, creator_start) == header::CREATOR_START);
    assert!(offset_of!(SegmentHeader, pidns_ino) == header::PIDNS_INO);
    assert!(offset_of!(SegmentHeader, instance_id) == header::INSTANCE_ID);
    assert!(offset_of!(SegmentHeader, calibration_counter) == header::CALIBRATION_COUNTER);
    assert!(offset_of!(SegmentHeader, calibration_mono_ns) == header::CALIBRATION_MONO_NS);
    assert!(offset_of!(SegmentHeader, state) == header::STATE);
    assert!(offset_of!(SegmentHeader, lanes_high_water) == header::LANES_HIGH_WATER);
    assert!(offset_of!(SegmentHeader, threads_without_lane) == header::THREADS_WITHOUT_LANE);
    assert!(offset_of!(SegmentHeader, ordinal) == header::ORDINAL);
    assert!(offset_of!(SegmentHeader, name_off) == header::NAME_OFF);
    assert!(offset_of!(SegmentHeader, name_cap) == header::NAME_CAP);
    assert!(offset_of!(SegmentHeader, name_stride) == header::NAME_STRIDE);
    assert!(offset_of!(SegmentHeader, name_count) == header::NAME_COUNT);
    assert!(offset_of!(SegmentHeader, names_refused) == header::NAMES_REFUSED);
    assert!(offset_of!(SegmentHeader, publishes_refused) == header::PUBLISHES_REFUSED);

    assert!(offset_of!(LaneControl, generation) == lane::GENERATION);
    assert!(offset_of!(LaneControl, owner_tid) == lane::OWNER_TID);
    assert!(offset_of!(LaneControl, ring_log2) == lane::RING_LOG2);
    assert!(offset_of!(LaneControl, kind) == lane::KIND);
    assert!(offset_of!(LaneControl, flags) == lane::FLAGS);
    assert!(offset_of!(LaneControl, head) == lane::HEAD);
    assert!(offset_of!(LaneControl, ring_off) == lane::RING_OFF);
    assert!(offset_of!(LaneControl, acquire_ts) == lane::ACQUIRE_TS);
    assert!(offset_of!(LaneControl, first_index) == lane::FIRST_INDEX);
    assert!(offset_of!(LaneControl, lap_warnings) == lane::LAP_WARNINGS);
    assert!(offset_of!(LaneControl, grown_at) == lane::GROWN_AT);
    assert!(offset_of!(LaneControl, record) == lane::RECORD);
    assert!(offset_of!(LaneControl, thread_name) == lane::THREAD_NAME);
    assert!(offset_of!(ThreadRecord, span_id) == record::SPAN_ID);
    assert!(offset_of!(ThreadRecord, valid_flags_size) == record::VALID);
    assert!(size_of::<ThreadRecord>() == lane::RECORD_LEN);

    assert!(LANE_OFF == 528_384 && LANE_STRIDE == 528_384 && SEGMENT_LEN == 34_344_960);
    assert!(LANE_STRIDE.is_multiple_of(PAGE) && EVENT_LEN == 64);
};
