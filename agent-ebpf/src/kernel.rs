//! Injected offsets and the few typed reads of kernel objects that use them.

use core::{ffi::c_void, mem::MaybeUninit};

use agent_ebpf::wire::{Offsets, Settings, WaitFunctions, settings::ABSENT};
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};

/// Field offsets of this kernel, set by the loader.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::UNKNOWN;

/// The daemon's settings, set by the loader.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings = Settings::UNSET;

/// The functions in which threads block, set by the loader.
#[unsafe(no_mangle)]
pub(crate) static WAITS: WaitFunctions = WaitFunctions::NONE;

/// Reads one injected value. Volatile, because the compiler would use the built-in one.
macro_rules! injected {
    ($global:ident . $field:ident) => {{
        // SAFETY: the static is initialised read-only data of the right type.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::$global.$field) }
    }};
}
pub(crate) use injected;

/// Whether this kernel has the field.
#[inline(always)]
pub(crate) const fn present(offset: u32) -> bool {
    offset != ABSENT
}

/// A BTF-typed pointer the verifier knows: a `task_struct` from a tracepoint argument or helper.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const c_void);

impl Task {
    /// Wraps a tracepoint argument.
    #[inline(always)]
    pub(crate) fn new(task: *const c_void) -> Self {
        Self(task)
    }

    /// The thread this program runs in.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: the helper has no preconditions.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// The pointer as helpers take it.
    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *mut aya_ebpf::bindings::task_struct {
        self.0.cast_mut().cast()
    }

    /// Loads a field. The verifier checks type and offset against BTF.
    #[inline(always)]
    fn load<T: Copy>(self, offset: u32) -> T {
        // SAFETY: a BTF pointer may be read at any offset the verifier accepted; faults read zero.
        unsafe { core::ptr::read_volatile(self.0.byte_add(offset as usize).cast::<T>()) }
    }

    /// Thread id in the initial pid namespace.
    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        self.load(injected!(OFFSETS.task_pid))
    }

    /// Process id in the initial pid namespace.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.load(injected!(OFFSETS.task_tgid))
    }

    /// `flags`: the PF_ bits.
    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        self.load(injected!(OFFSETS.task_flags))
    }

    /// PF_KTHREAD (include/linux/sched.h).
    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        self.flags() & 0x0020_0000 != 0
    }

    /// `__state`.
    #[inline(always)]
    pub(crate) fn state(self) -> u32 {
        self.load(injected!(OFFSETS.task_state))
    }

    /// Whether there are user registers and memory of the thread's own now.
    #[inline(always)]
    pub(crate) fn is_user(self) -> bool {
        self.has_mm() && !self.is_kernel_thread()
    }

    /// Whether the thread has user memory now.
    #[inline(always)]
    pub(crate) fn has_mm(self) -> bool {
        self.load::<u64>(injected!(OFFSETS.task_mm)) != 0
    }

    /// Start of the thread, ns since boot.
    #[inline(always)]
    pub(crate) fn start_boottime(self) -> u64 {
        self.load(injected!(OFFSETS.task_start_boottime))
    }

    /// The kernel's own CPU account, ns; up to date at switches, a tick late in between.
    #[inline(always)]
    pub(crate) fn sum_exec(self) -> u64 {
        self.load(injected!(OFFSETS.task_sum_exec))
    }

    /// The kernel's own run-queue account, ns; 0 where it keeps none.
    #[inline(always)]
    pub(crate) fn run_delay(self) -> u64 {
        let offset = injected!(OFFSETS.task_run_delay);
        if present(offset) { self.load(offset) } else { 0 }
    }

    /// Waits for I/O by the kernel's own mark.
    #[inline(always)]
    pub(crate) fn in_iowait(self) -> bool {
        let byte: u8 = self.load(injected!(OFFSETS.task_in_iowait));
        u32::from(byte) & injected!(OFFSETS.in_iowait_mask) != 0
    }

    /// Frozen by its cgroup (v2), by the kernel's own mark: also in a stop and in vfork.
    #[inline(always)]
    pub(crate) fn is_frozen(self) -> bool {
        let offset = injected!(OFFSETS.task_frozen);
        if !present(offset) {
            return false;
        }
        let byte: u8 = self.load(offset);
        u32::from(byte) & injected!(OFFSETS.frozen_mask) != 0
    }

    /// Stalls on memory by the kernel's own mark.
    #[inline(always)]
    pub(crate) fn in_memstall(self) -> bool {
        let offset = injected!(OFFSETS.task_in_memstall);
        if !present(offset) {
            return false;
        }
        let byte: u8 = self.load(offset);
        u32::from(byte) & injected!(OFFSETS.in_memstall_mask) != 0
    }

    /// Waits for a kernel mutex, semaphore or rwsem (CONFIG_DETECT_HUNG_TASK_BLOCKER).
    #[inline(always)]
    pub(crate) fn has_blocker(self) -> bool {
        let offset = injected!(OFFSETS.task_blocker);
        present(offset) && self.load::<u64>(offset) != 0
    }

    /// Held back by a CPU quota (6.18+; before that throttling looks like run-queue time).
    #[inline(always)]
    pub(crate) fn is_throttled(self) -> bool {
        let offset = injected!(OFFSETS.task_throttled);
        present(offset) && self.load::<u8>(offset) != 0
    }

    /// Name, as two words.
    #[inline(always)]
    pub(crate) fn comm(self) -> [u8; 16] {
        let offset = injected!(OFFSETS.task_comm);
        // Words, because a byte array would be cleared byte by byte.
        let mut comm = [0u64; 2];
        // SAFETY: reads 16 bytes of the task into 16 bytes of ours; a fault leaves zeros.
        unsafe {
            aya_ebpf::helpers::generated::bpf_probe_read_kernel(
                comm.as_mut_ptr().cast(),
                16,
                self.0.byte_add(offset as usize),
            );
            core::mem::transmute::<[u64; 2], [u8; 16]>(comm)
        }
    }

    /// The registers with which the thread entered the kernel.
    #[inline(always)]
    pub(crate) fn user_regs(self) -> Regs {
        // SAFETY: the argument is a BTF task pointer, as the helper demands.
        Regs(unsafe { bpf_task_pt_regs(self.as_ptr()) } as *const u64)
    }

    /// The thread's file table: number of slots and address of the array. Loads along BTF pointers,
    /// a fraction of a helper call each.
    #[inline(always)]
    pub(crate) fn file_table(self) -> Option<(u32, u64)> {
        let files: *const c_void = self.load(injected!(OFFSETS.task_files));
        if files.is_null() {
            return None;
        }
        let table: *const c_void = Self(files).load(injected!(OFFSETS.files_fdt));
        if table.is_null() {
            return None;
        }
        let slots: u32 = Self(table).load(injected!(OFFSETS.fdt_max_fds));
        let array: u64 = Self(table).load(injected!(OFFSETS.fdt_fd));
        Some((slots, array))
    }

    /// Address of this CPU's run queue, for a thread running here. `se.cfs_rq->rq`.
    #[inline(always)]
    pub(crate) fn run_queue(self) -> u64 {
        let offset = injected!(OFFSETS.cfs_rq_rq);
        if !present(offset) {
            return 0;
        }
        let cfs_rq: *const c_void = self.load(injected!(OFFSETS.task_cfs_rq));
        if cfs_rq.is_null() {
            return 0;
        }
        Self(cfs_rq).load(offset)
    }
}

/// User registers, x86-64 `struct pt_regs` (arch/x86/include/uapi/asm/ptrace.h), in words.
#[derive(Clone, Copy)]
pub(crate) struct Regs(*const u64);

impl Regs {
    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        // SAFETY: BTF pointer to pt_regs; the index is one of the constants below.
        unsafe { core::ptr::read_volatile(self.0.add(index)) }
    }

    /// Address of the registers, for reads that are not typed.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// Stack pointer.
    #[inline(always)]
    pub(crate) fn sp(self) -> u64 {
        self.word(19)
    }

    /// Frame pointer.
    #[inline(always)]
    pub(crate) fn bp(self) -> u64 {
        self.word(4)
    }

    /// Instruction pointer.
    #[inline(always)]
    pub(crate) fn ip(self) -> u64 {
        self.word(16)
    }

    /// Code segment: tells 32-bit code apart.
    #[inline(always)]
    pub(crate) fn cs(self) -> u64 {
        self.word(17)
    }

    /// Second argument of a 32-bit system call (ecx); its third is where that of a 64-bit one is.
    #[inline(always)]
    pub(crate) fn compat_arg1(self) -> u64 {
        self.word(11) & 0xffff_ffff
    }

    /// System call number, -1 outside of one.
    #[inline(always)]
    pub(crate) fn syscall(self) -> i64 {
        self.word(15) as i64
    }

    /// First system call argument.
    #[inline(always)]
    pub(crate) fn arg0(self) -> u64 {
        self.word(14)
    }

    /// Second.
    #[inline(always)]
    pub(crate) fn arg1(self) -> u64 {
        self.word(13)
    }

    /// Third.
    #[inline(always)]
    pub(crate) fn arg2(self) -> u64 {
        self.word(12)
    }
}

/// What an mmap asked for: `struct vm_unmapped_area_info`.
#[derive(Clone, Copy)]
pub(crate) struct UnmappedArea(Task);

impl UnmappedArea {
    /// Wraps a tracepoint argument.
    #[inline(always)]
    pub(crate) fn new(info: *const c_void) -> Self {
        Self(Task(info))
    }

    /// Bytes.
    #[inline(always)]
    pub(crate) fn length(self) -> u64 {
        self.0.load(injected!(OFFSETS.unmapped_length))
    }
}

/// Reads kernel memory by address; `None` on a fault. The target is not cleared first: the helper
/// writes it whole, zeros on a fault, and a clearing loop costs the verifier dearly.
#[inline(always)]
pub(crate) fn read_kernel<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes size_of::<T>() bytes to `value` whether it fails or not; T is a
    // plain integer type, valid for any bytes; any address is allowed, faults are reported.
    unsafe {
        let failed = aya_ebpf::helpers::generated::bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        );
        if failed == 0 { Some(value.assume_init()) } else { None }
    }
}

/// Reads user memory of the current thread; `None` on a fault. Never sleeps, never faults pages in.
#[inline(always)]
pub(crate) fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as in `read_kernel`.
    unsafe {
        let failed = aya_ebpf::helpers::generated::bpf_probe_read_user(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        );
        if failed == 0 { Some(value.assume_init()) } else { None }
    }
}

/// Reads user memory of the current thread straight into place. Returns whether it could.
#[inline(always)]
pub(crate) fn read_user_into<T: Copy>(value: &mut T, address: u64) -> bool {
    // SAFETY: as in `read_kernel`.
    unsafe {
        aya_ebpf::helpers::generated::bpf_probe_read_user(
            (&raw mut *value).cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        ) == 0
    }
}

/// Whether the current context is an interrupt, NMI or softirq, in which `current` is a bystander.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    /// A thread's own.
    Thread,
    /// Softirq: its own work if it runs on the way out of a system call, else a bystander.
    Softirq,
    /// Interrupt or NMI, or the idle task.
    Interrupt,
}

/// Reads the preempt count of this CPU (include/linux/preempt.h: softirq being served is bit 8,
/// hard interrupts bits 16-19, NMI bits 20-23).
#[inline(always)]
pub(crate) fn context_of(current: Task) -> Context {
    let from_rq = injected!(OFFSETS.preempt_count_from_rq);
    if from_rq == i64::MIN {
        return Context::Thread;
    }
    let rq = current.run_queue();
    if rq == 0 {
        return Context::Thread;
    }
    match read_kernel::<u32>(rq.wrapping_add(from_rq as u64)) {
        Some(count) if count & 0x00ff_0000 != 0 => Context::Interrupt,
        Some(count) if count & 0x0000_0100 != 0 => Context::Softirq,
        _ => Context::Thread,
    }
}
