//! Access to a thread's account in task storage, under its sequence lock.

use core::ptr::null_mut;

use agent_ebpf::{
    account,
    wire::{Counter, Thread, thread::KERNEL_THREAD},
};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_task_storage_get};

use crate::{
    kernel::Task,
    maps::{CPU, THREADS, count},
};

/// `BPF_LOCAL_STORAGE_GET_F_CREATE`
const CREATE: u64 = 1;

/// Keeps the compiler from moving memory accesses across it. The readers are on other CPUs and
/// check `guard` before and after; x86 keeps stores in order.
#[inline(always)]
fn barrier() {
    // SAFETY: an empty instruction.
    unsafe { core::arch::asm!("", options(nostack, preserves_flags)) };
}

/// The account of `task`, if it has one.
#[inline(always)]
pub(crate) fn find(task: Task) -> Option<&'static mut Thread> {
    // SAFETY: map and task are what the helper demands; the value lives as long as the task, which
    // is alive while this program runs, and is only written by programs ordered by the scheduler.
    unsafe {
        bpf_task_storage_get((&raw const THREADS).cast_mut().cast(), task.as_ptr(), null_mut(), 0)
            .cast::<Thread>()
            .as_mut()
    }
}

/// The account of `task`, made when there is none. `None` is counted.
#[inline(always)]
pub(crate) fn find_or_create(task: Task) -> Option<&'static mut Thread> {
    // SAFETY: as in `find`.
    let thread = unsafe {
        bpf_task_storage_get(
            (&raw const THREADS).cast_mut().cast(),
            task.as_ptr(),
            null_mut(),
            CREATE,
        )
        .cast::<Thread>()
        .as_mut()
    };
    let Some(thread) = thread else {
        count(Counter::StorageMissing);
        return None;
    };
    if thread.serial == 0 {
        thread.serial = next_serial();
        thread.syscall = -1;
        thread.fd = -1;
        if task.is_kernel_thread() {
            thread.flags |= KERNEL_THREAD;
        }
    }
    Some(thread)
}

/// A number no other thread of this run has: CPU in the upper bits, a count below.
#[inline(always)]
fn next_serial() -> u64 {
    let Some(cpu) = CPU.get_ptr_mut(0) else {
        return 0;
    };
    let mut n = 1u64;
    // One instruction: an iterator creates with interrupts on, and samples nest over everything.
    // SAFETY: per-CPU slot, 8-aligned; the register comes back with the value before the add.
    unsafe {
        core::arch::asm!(
            "{0} = atomic_fetch_add((u64 *)({1} + 0), {0})",
            inout(reg) n,
            in(reg) &raw mut (*cpu).serial,
        );
    }
    n += 1;
    // SAFETY: the helper has no preconditions.
    ((u64::from(unsafe { bpf_get_smp_processor_id() }) + 1) << 44) | n
}

/// Runs `change` on the account with `guard` odd. Should two writers ever meet (a wakeup that was
/// let through while its thread runs), the parity is right again after the later one.
#[inline(always)]
pub(crate) fn guarded<R>(thread: &mut Thread, change: impl FnOnce(&mut Thread) -> R) -> R {
    thread.guard = thread.guard.wrapping_add(1) | 1;
    barrier();
    let result = change(thread);
    barrier();
    thread.guard = (thread.guard | 1).wrapping_add(1);
    result
}

/// Counts what a transition noticed.
#[inline(always)]
pub(crate) fn notice(noticed: account::Noticed) {
    if noticed.switch_out_missed {
        count(Counter::SwitchOutMissed);
    }
    if noticed.double_switch_out {
        count(Counter::DoubleSwitchOut);
    }
    if noticed.wakeup_missing {
        count(Counter::WakeupMissing);
    }
    if noticed.negative {
        count(Counter::NegativeClamped);
    }
}
