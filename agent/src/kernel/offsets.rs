//! The offsets the kernel programs need, found in BTF.

use agent_ebpf::wire::{Offsets, settings::ABSENT};

use super::btf::{Btf, BtfError};

/// Reads every offset. A field the programs can do without is [`ABSENT`]; the others are errors.
pub fn of_kernel(btf: &Btf) -> Result<Offsets, BtfError> {
    let needed = |name: &str, path: &str| btf.field(name, path).map(|f| f.byte());
    let optional = |name: &str, path: &str| btf.field(name, path).map_or(ABSENT, |f| f.byte());
    let iowait = btf.field("task_struct", "in_iowait")?;
    let frozen = btf.field("task_struct", "frozen").ok();
    let memstall = btf.field("task_struct", "in_memstall").ok();
    Ok(Offsets {
        task_pid: needed("task_struct", "pid")?,
        task_tgid: needed("task_struct", "tgid")?,
        task_flags: needed("task_struct", "flags")?,
        task_state: needed("task_struct", "__state")?,
        task_mm: needed("task_struct", "mm")?,
        task_files: needed("task_struct", "files")?,
        task_comm: needed("task_struct", "comm")?,
        task_start_boottime: needed("task_struct", "start_boottime")?,
        task_sum_exec: needed("task_struct", "se.sum_exec_runtime")?,
        task_cfs_rq: optional("task_struct", "se.cfs_rq"),
        task_run_delay: optional("task_struct", "sched_info.run_delay"),
        task_blocker: optional("task_struct", "blocker"),
        task_throttled: optional("task_struct", "throttled"),
        task_in_iowait: iowait.byte(),
        in_iowait_mask: iowait.mask(),
        task_frozen: frozen.map_or(ABSENT, |f| f.byte()),
        frozen_mask: frozen.map_or(0, |f| f.mask()),
        task_in_memstall: memstall.map_or(ABSENT, |f| f.byte()),
        in_memstall_mask: memstall.map_or(0, |f| f.mask()),
        files_fdt: needed("files_struct", "fdt")?,
        fdt_max_fds: needed("fdtable", "max_fds")?,
        fdt_fd: needed("fdtable", "fd")?,
        file_inode: needed("file", "f_inode")?,
        inode_mode: needed("inode", "i_mode")?,
        cfs_rq_rq: if btf.field("task_struct", "se.cfs_rq").is_ok() {
            optional("cfs_rq", "rq")
        } else {
            ABSENT
        },
        unmapped_length: optional("vm_unmapped_area_info", "length"),
        preempt_count_from_rq: preempt_count(btf),
    })
}

/// Distance between this CPU's preempt count and its run queue, both per-CPU variables: the run
/// queue's address is reachable from a task, so the count is too, without symbols.
fn preempt_count(btf: &Btf) -> i64 {
    let count = btf.per_cpu("__preempt_count").or_else(|| {
        // 6.2 to 6.14 keep it in a hot cache line.
        let base = btf.per_cpu("pcpu_hot")?;
        let field = btf.field("pcpu_hot", "preempt_count").ok()?;
        Some(base + field.byte())
    });
    match (count, btf.per_cpu("runqueues")) {
        (Some(count), Some(rq)) => i64::from(count) - i64::from(rq),
        _ => i64::MIN,
    }
}
