//! What the loader injects into the kernel programs before they are verified: field offsets of this
//! very kernel (Rust has no CO-RE, so the daemon reads them from BTF) and the daemon's settings.
//! Both lie in read-only data, so the verifier knows the values and drops what they rule out.

/// An offset this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets of kernel fields.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `task_struct.__state`
    pub task_state: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.files`
    pub task_files: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.start_boottime`
    pub task_start_boottime: u32,
    /// `task_struct.se.sum_exec_runtime`
    pub task_sum_exec: u32,
    /// `task_struct.se.cfs_rq`
    pub task_cfs_rq: u32,
    /// `task_struct.sched_info.run_delay`, or ABSENT
    pub task_run_delay: u32,
    /// `task_struct.blocker`, or ABSENT
    pub task_blocker: u32,
    /// `task_struct.throttled`, or ABSENT
    pub task_throttled: u32,
    /// Byte holding bit field `task_struct.in_iowait`
    pub task_in_iowait: u32,
    /// Its mask in that byte
    pub in_iowait_mask: u32,
    /// Byte holding bit field `task_struct.frozen`, or ABSENT
    pub task_frozen: u32,
    /// Its mask in that byte
    pub frozen_mask: u32,
    /// Byte holding bit field `task_struct.in_memstall`, or ABSENT
    pub task_in_memstall: u32,
    /// Its mask in that byte
    pub in_memstall_mask: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.max_fds`
    pub fdt_max_fds: u32,
    /// `fdtable.fd`
    pub fdt_fd: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `inode.i_mode`
    pub inode_mode: u32,
    /// `cfs_rq.rq`, or ABSENT
    pub cfs_rq_rq: u32,
    /// `vm_unmapped_area_info.length`, or ABSENT
    pub unmapped_length: u32,
    /// Address of the per-CPU `__preempt_count` minus that of `runqueues`; `i64::MIN` when unknown.
    pub preempt_count_from_rq: i64,
}
const _: () = assert!(size_of::<Offsets>() == 26 * 4 + 8);

impl Offsets {
    /// No field known: what the programs are built with.
    pub const UNKNOWN: Self = Self {
        task_pid: ABSENT,
        task_tgid: ABSENT,
        task_flags: ABSENT,
        task_state: ABSENT,
        task_mm: ABSENT,
        task_files: ABSENT,
        task_comm: ABSENT,
        task_start_boottime: ABSENT,
        task_sum_exec: ABSENT,
        task_cfs_rq: ABSENT,
        task_run_delay: ABSENT,
        task_blocker: ABSENT,
        task_throttled: ABSENT,
        task_in_iowait: ABSENT,
        in_iowait_mask: 0,
        task_frozen: ABSENT,
        frozen_mask: 0,
        task_in_memstall: ABSENT,
        in_memstall_mask: 0,
        files_fdt: ABSENT,
        fdt_max_fds: ABSENT,
        fdt_fd: ABSENT,
        file_inode: ABSENT,
        inode_mode: ABSENT,
        cfs_rq_rq: ABSENT,
        unmapped_length: ABSENT,
        preempt_count_from_rq: i64::MIN,
    };
}

/// What the daemon asks of the programs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Settings {
    /// The daemon's own process: never sampled.
    pub agent_tgid: u32,
    /// 1 when `sched_exit_tp` runs: records and stacks of a wait are taken there.
    pub has_exit_tp: u32,
    /// X of the stack choice (`sampling::probability`) for waits inside a lane's thread, ns.
    pub wait_scale_ns: u64,
    /// Refill time one wait stack costs, ns: the inverse of the per-CPU rate limit.
    pub stack_cost_ns: u64,
    /// Most refill time a CPU can save up, ns.
    pub stack_burst_ns: u64,
    /// Bytes of each per-CPU ring: half of it unread forces a wakeup of the daemon.
    pub ring_bytes: u64,
}
const _: () = assert!(size_of::<Settings>() == 40);

impl Settings {
    /// What the programs are built with.
    pub const UNSET: Self = Self {
        agent_tgid: 0,
        has_exit_tp: 0,
        wait_scale_ns: 1_000_000,
        stack_cost_ns: 1_000_000,
        stack_burst_ns: 100_000_000,
        ring_bytes: 1 << 20,
    };
}

/// What the daemon changes while the programs run: the one element of the `LIVE` map.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Live {
    /// Changes when `LANES` changed: threads ask it again.
    pub lane_epoch: u32,
    /// Generation of stack definitions: stacks are sent again in a new one.
    pub stack_generation: u32,
    /// The daemon's drain round.
    pub round: u32,
    /// 0
    pub pad: u32,
}
const _: () = assert!(size_of::<Live>() == 16);
