//! A copy of a thread's stack, for a process or a file the daemon has not looked at yet: the daemon
//! walks it when it has, so the first stacks of a process are reported late and not lost.

use core::ffi::c_void;

use agent_ebpf::wire::{
    Counter, RecordKind, StackCopy,
    stack::{COPY_HEADER_LEN, COPY_PAGES, COPY_REGISTERS, PAGE},
};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user};

use crate::{
    emit::{self, Urgency},
    maps::{COPIES, count},
};

/// Sends registers and stack. Returns whether there was room. `entry` is the address of the thread's
/// `pt_regs`, `sp` its stack pointer.
#[inline(always)]
pub(crate) fn send(slot: u32, tgid: u32, hash: u64, entry: u64, sp: u64, exact: bool) -> bool {
    let Some(copy) = COPIES.get_ptr_mut(slot) else {
        return false;
    };
    // SAFETY: per-CPU scratch of this kind of program.
    let copy: &mut StackCopy = unsafe { &mut *copy };
    copy.kind = RecordKind::StackCopy as u32;
    copy.tgid = tgid;
    copy.hash = hash;
    copy.exact = u32::from(exact);
    // SAFETY: the helper has no preconditions.
    copy.at = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the helper writes exactly the registers, zeros on a fault.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut copy.registers).cast(),
            (COPY_REGISTERS * 8) as u32,
            entry as *const c_void,
        );
    }
    // Whole pages, so that each read has a constant place and size: half a stack in memory is no
    // reason to have none of it.
    let from = sp & !(PAGE as u64 - 1);
    let mut pages = 0u32;
    for page in 0..COPY_PAGES {
        // SAFETY: the helper writes one page of the buffer, which has COPY_PAGES of them.
        let failed = unsafe {
            bpf_probe_read_user(
                (&raw mut copy.bytes).cast::<u8>().add(page * PAGE).cast(),
                PAGE as u32,
                from.wrapping_add((page * PAGE) as u64) as *const c_void,
            )
        };
        if failed != 0 {
            break;
        }
        pages += 1;
    }
    if pages == 0 {
        return false;
    }
    copy.pages = pages;
    count(Counter::StackCopiesCaptured);
    let bytes = COPY_HEADER_LEN + (pages as usize & 7) * PAGE;
    // SAFETY: `pages` is at most COPY_PAGES, so `bytes` at most the size of the copy.
    unsafe {
        emit::send(
            core::ptr::from_ref(copy).cast(),
            bytes,
            Urgency::Now,
            Counter::StackCopiesRingFull,
        )
    }
}
