//! The way out: this CPU's ring. Never wakes the daemon per event (design 3.4): only when half the
//! ring is unread or a lane runs ahead, and then at most once a millisecond per CPU.

use agent_ebpf::wire::Counter;
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_output, bpf_ringbuf_query,
    bpf_ringbuf_reserve, bpf_ringbuf_submit,
};

use crate::{
    kernel::injected,
    maps::{CPU, RINGS, count},
};

const NO_WAKEUP: u64 = 1; // BPF_RB_NO_WAKEUP
const FORCE_WAKEUP: u64 = 2; // BPF_RB_FORCE_WAKEUP
const AVAIL_DATA: u64 = 0; // BPF_RB_AVAIL_DATA
const WAKE_EVERY_NS: u64 = 1_000_000;

/// Whether the daemon should come now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// At its next round.
    Timer,
    /// At once, but not more than once a millisecond.
    Now,
    /// At once, whatever came before: for what is rare and does not wait.
    Always,
}

/// Sends the first `len` bytes of `record`. Returns whether there was room; else counts `full`.
///
/// # Safety
/// `record` must point to at least `len` readable bytes the verifier knows.
#[inline(always)]
pub(crate) unsafe fn send(record: *const u8, len: usize, urgency: Urgency, full: Counter) -> bool {
    // SAFETY: the same contract.
    let sent = unsafe { output(record, len, urgency) };
    if !sent {
        count(full);
    }
    sent
}

/// Sends the first `len` bytes of `record`. Returns whether there was room; counts nothing.
///
/// # Safety
/// As of [`send`].
#[inline(always)]
unsafe fn output(record: *const u8, len: usize, urgency: Urgency) -> bool {
    let Some(ring) = own_ring() else { return false };
    let flags = wakeup(ring, urgency);
    // SAFETY: `ring` is a ring map from the outer map; `record` holds `len` bytes by contract.
    unsafe { bpf_ringbuf_output(ring.cast(), record.cast_mut().cast(), len as u64, flags) == 0 }
}

/// Sends a record that `fill` writes straight into the ring. Returns whether there was room.
#[inline(always)]
pub(crate) fn place<T: 'static>(
    urgency: Urgency,
    full: Counter,
    fill: impl FnOnce(&mut T),
) -> bool {
    let Some(ring) = own_ring() else {
        count(full);
        return false;
    };
    let flags = wakeup(ring, urgency);
    // SAFETY: `ring` is a ring map from the outer map; the reservation is submitted below on the
    // only path it exists on, and `fill` writes every field of the plain record.
    unsafe {
        let place = bpf_ringbuf_reserve(ring.cast(), size_of::<T>() as u64, 0).cast::<T>();
        if place.is_null() {
            count(full);
            return false;
        }
        fill(&mut *place);
        bpf_ringbuf_submit(place.cast(), flags);
    }
    true
}

/// Whether half of this CPU's ring is unread.
#[inline(always)]
pub(crate) fn is_half_full() -> bool {
    let half = injected!(SETTINGS.ring_bytes) / 2;
    // SAFETY: the ring is a ring map.
    own_ring().is_none_or(|ring| unsafe { bpf_ringbuf_query(ring.cast(), AVAIL_DATA) } > half)
}

/// This CPU's ring.
#[inline(always)]
fn own_ring() -> Option<*mut u8> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    RINGS.get(cpu).map(|ring| core::ptr::from_ref(ring).cast_mut().cast())
}

/// How soon the daemon is to see a record.
#[inline(always)]
fn wakeup(ring: *mut u8, urgency: Urgency) -> u64 {
    if urgency == Urgency::Always {
        return FORCE_WAKEUP;
    }
    // SAFETY: `ring` is a ring map.
    let unread = unsafe { bpf_ringbuf_query(ring.cast(), AVAIL_DATA) };
    let wanted = urgency == Urgency::Now || unread > injected!(SETTINGS.ring_bytes) / 2;
    if wanted && may_wake() { FORCE_WAKEUP } else { NO_WAKEUP }
}

/// Takes the right to wake the daemon, at most once a millisecond per CPU.
#[inline(always)]
fn may_wake() -> bool {
    let Some(cpu) = CPU.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: per-CPU slot; the helper has no preconditions.
    unsafe {
        let now = bpf_ktime_get_ns();
        if now.wrapping_sub((*cpu).woken_at) < WAKE_EVERY_NS {
            return false;
        }
        (*cpu).woken_at = now;
    }
    true
}

/// Sends a whole record. Returns whether there was room; else counts `full`.
#[inline(always)]
pub(crate) fn record<T>(record: &T, urgency: Urgency, full: Counter) -> bool {
    // SAFETY: a reference covers its whole type.
    unsafe { send(core::ptr::from_ref(record).cast(), size_of::<T>(), urgency, full) }
}

/// Sends a whole record. Returns whether there was room: whoever has another way for it counts what
/// becomes of it.
#[inline(always)]
pub(crate) fn offer<T>(record: &T, urgency: Urgency) -> bool {
    // SAFETY: a reference covers its whole type.
    unsafe { output(core::ptr::from_ref(record).cast(), size_of::<T>(), urgency) }
}
