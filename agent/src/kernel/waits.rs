//! The kernel's functions that block, and what a thread waits for in each: found in kallsyms once at
//! start, injected for the waits that only the kernel stack can tell (`agent-ebpf/src/blocked_in.rs`).
//!
//! A function that this kernel lacks, or that its compiler put into another, is no loss where a caller
//! is listed too. Names are those of 6.1 to 6.18; the part behind a dot (`.constprop.0`) is the
//! compiler's.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
};

use agent_ebpf::wire::{
    State, WaitFunction, WaitFunctions,
    waits::{FUTEX, POLL, STORAGE, STRONG, WAIT_FUNCTIONS, WEAK, meaning},
};

use super::kallsyms::Symbol;

/// The meanings, and the functions that have them.
const MEANINGS: [(u32, &str); 14] = [
    // mutex, semaphore, rwsem (the lock of an address space is one), per-CPU rwsem, lock of a socket,
    // of one mapping, of files.
    (
        meaning(STRONG, State::Lock),
        "__mutex_lock __mutex_lock_slowpath __mutex_lock_killable_slowpath \
         __mutex_lock_interruptible_slowpath __ww_mutex_lock __ww_mutex_lock_slowpath \
         __ww_mutex_lock_interruptible_slowpath __down __down_common __down_interruptible \
         __down_killable __down_timeout rwsem_down_read_slowpath rwsem_down_write_slowpath \
         rwbase_read_lock rwbase_write_lock percpu_rwsem_wait __percpu_down_read percpu_down_write \
         rt_mutex_slowlock __rt_mutex_slowlock rt_mutex_slowlock_block rtlock_slowlock_locked \
         __lock_sock __vma_enter_locked __vma_start_write __break_lease locks_lock_inode_wait \
         posix_lock_inode_wait flock_lock_inode_wait fcntl_setlk futex_lock_pi \
         futex_wait_requeue_pi",
    ),
    (FUTEX | STRONG, "futex_wait __futex_wait futex_do_wait futex_wait_queue futex_wait_restart"),
    (meaning(STRONG, State::Notify), "futex_wait_multiple"),
    (
        POLL | STRONG,
        "do_sys_poll do_poll do_restart_poll core_sys_select do_select do_epoll_wait ep_poll \
         io_cqring_wait read_events",
    ),
    // A page fault, in a system call too; a page of a process that fills its own; reclaim.
    (
        meaning(STRONG, State::Memory),
        "handle_mm_fault handle_userfault migration_entry_wait \
         __migration_entry_wait try_to_free_pages try_to_free_mem_cgroup_pages reclaim_throttle \
         shrink_node balance_pgdat __alloc_pages_slowpath compact_zone out_of_memory \
         mem_cgroup_oom_synchronize mem_cgroup_handle_over_high __mem_cgroup_handle_over_high",
    ),
    (
        meaning(STRONG, State::Sleep),
        "do_nanosleep hrtimer_nanosleep hrtimer_nanosleep_restart alarmtimer_do_nsleep \
         alarm_timer_nsleep_restart alarm_timer_nsleep do_cpu_nanosleep posix_cpu_nsleep \
         posix_cpu_nsleep_restart timerfd_read timerfd_read_iter",
    ),
    (
        meaning(STRONG, State::Child),
        "do_wait __do_wait kernel_wait4 kernel_waitid wait_for_vfork_done zap_pid_ns_processes",
    ),
    // On the way back from a fault other things happen.
    (meaning(WEAK, State::Memory), "exc_page_fault do_user_addr_fault"),
    // Somebody has to act: at the other end of a pipe or terminal, on an event file, a queue, with a
    // signal, as the judge of a system call, by ending (the siblings of a thread in exec).
    (
        meaning(STRONG, State::Notify),
        "pipe_read anon_pipe_read pipe_write anon_pipe_write fifo_open wait_for_partner \
         pipe_wait_readable pipe_wait_writable wait_for_space eventfd_read eventfd_write \
         signalfd_read signalfd_read_iter inotify_read fanotify_read fanotify_handle_event \
         userfaultfd_read userfaultfd_read_iter do_sigtimedwait sigsuspend do_msgrcv do_msgsnd \
         do_semtimedop __do_semtimedop wq_sleep n_tty_read n_tty_write tty_wait_until_sent \
         tty_port_block_til_ready wait_for_random_bytes __seccomp_filter \
         seccomp_do_user_notification ptrace_attach wait_task_inactive de_thread coredump_wait \
         do_syslog ring_buffer_wait",
    ),
    (
        meaning(STRONG, State::Socket),
        "__skb_wait_for_more_packets sk_wait_data sk_stream_wait_memory sk_stream_wait_connect \
         sk_stream_wait_close sock_alloc_send_pskb sock_wait_for_wmem inet_csk_accept \
         inet_csk_wait_for_connect __inet_stream_connect unix_wait_for_peer \
         unix_stream_read_generic unix_stream_data_wait unix_stream_connect unix_stream_sendmsg \
         unix_dgram_sendmsg __unix_dgram_recvmsg unix_accept __skb_recv_datagram __skb_recv_udp \
         tcp_recvmsg_locked tcp_sendmsg_locked tcp_splice_read udp_recvmsg netlink_attachskb \
         vsock_connect vsock_accept vsock_connectible_recvmsg vsock_connectible_sendmsg",
    ),
    // Held after a fatal signal until the core of its process is written.
    (meaning(STRONG, State::Stopped), "coredump_task_exit"),
    (meaning(WEAK, State::Stopped), "do_exit"),
    // For these the caller matters: a page fault waits for storage, too.
    (
        meaning(STORAGE, State::Disk),
        "io_schedule io_schedule_timeout bit_wait_io folio_wait_bit_common folio_wait_bit \
         folio_wait_writeback __wait_on_buffer submit_bio_wait blk_execute_rq blk_mq_get_tag \
         rq_qos_wait blk_mq_freeze_queue_wait __blk_mq_sub_tag_busy wbt_wait \
         jbd2_log_wait_commit wait_transaction_locked start_this_handle add_transaction_credits \
         balance_dirty_pages balance_dirty_pages_ratelimited_flags wb_wait_for_completion \
         sync_inodes_sb request_wait_answer fuse_get_req __fuse_request_send \
         __fuse_simple_request rpc_wait_bit_killable nfs_wait_bit_killable xlog_wait_on_iclog \
         xfs_log_force xfs_buf_iowait __iomap_dio_rw __wait_on_freeing_inode \
         inode_wait_for_writeback inode_sleep_on_writeback btrfs_wait_ordered_range",
    ),
    // Work of the kernel for this thread: the end of an RCU period, of queued work, of a helper; in
    // exec, of the siblings.
    (
        meaning(WEAK, State::Notify),
        "wait_for_completion wait_for_completion_state wait_for_completion_killable \
         wait_for_completion_killable_timeout wait_for_completion_interruptible \
         wait_for_completion_interruptible_timeout wait_for_completion_timeout \
         synchronize_rcu synchronize_rcu_normal synchronize_rcu_expedited __wait_rcu_gp \
         __synchronize_srcu rcu_barrier __flush_work __flush_workqueue kthread_stop \
         call_usermodehelper_exec io_uring_cancel_generic begin_new_exec vfs_coredump \
         do_coredump",
    ),
];

/// Finds the functions of the running kernel. Where it keeps its addresses to itself there are none,
/// and the waits that need them stay `unknown.unresolved_wait`.
pub fn of_kernel() -> WaitFunctions {
    match File::open("/proc/kallsyms").and_then(|file| among(BufReader::new(file))) {
        Ok(functions) => functions,
        Err(error) => {
            tracing::warn!(%error, "cannot read /proc/kallsyms: some waits stay unresolved");
            WaitFunctions::NONE
        }
    }
}

/// Finds the functions in a list as kallsyms has it: address, type, name, module.
fn among(list: impl BufRead) -> io::Result<WaitFunctions> {
    let wanted: HashMap<&str, u32> = MEANINGS
        .iter()
        .flat_map(|&(meaning, names)| names.split_whitespace().map(move |name| (name, meaning)))
        .collect();
    let mut symbols = Vec::new();
    let mut found = Vec::new();
    for line in list.lines() {
        let line = line?;
        let Some(Symbol { address, is_code, name, .. }) = Symbol::parse(&line) else { continue };
        symbols.push(address);
        if !is_code {
            continue;
        }
        let name = name.split_once('.').map_or(name, |(name, _)| name);
        if let Some(&meaning) = wanted.get(name) {
            found.push((address, meaning));
        }
    }
    symbols.sort_unstable();
    found.sort_unstable();
    found.dedup_by_key(|&mut (address, _)| address);
    if found.len() > WAIT_FUNCTIONS {
        tracing::warn!(found = found.len(), "too many functions that block: some are left out");
    }
    if found.is_empty() {
        tracing::warn!("/proc/kallsyms hides addresses: some waits stay unresolved");
    }
    let mut functions = WaitFunctions::NONE;
    for (slot, &(start, meaning)) in functions.functions.iter_mut().zip(&found) {
        let next = symbols.partition_point(|&address| address <= start);
        // kallsyms has no sizes; the last function of a list is as long as any may be.
        let len = symbols.get(next).map_or(LONGEST, |next| (next - start).min(LONGEST));
        *slot = WaitFunction { start, len: len as u32, meaning };
    }
    Ok(functions)
}

/// Bytes a function may have: between the kernel and its modules lies nothing.
const LONGEST: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use agent_ebpf::wire::waits::find;

    use super::*;

    fn look(functions: &WaitFunctions, address: u64) -> u32 {
        find(address, |slot| functions.functions[slot])
    }

    #[test]
    fn takes_names_with_the_compilers_suffix_up_to_the_next_symbol() {
        let list = "\
            ffffffff81000100 t rwsem_down_write_slowpath\n\
            ffffffff81000180 T next\n\
            ffffffff81000200 t __mutex_lock.constprop.0\n\
            ffffffff81000240 t __mutex_lock.constprop.1\n\
            ffffffff81000300 d do_wait\n\
            ffffffff81000400 t do_nanosleep_other\n\
            ffffffffa0000000 t request_wait_answer\t[fuse]\n\
            0000000000000000 T futex_wait\n\
            nonsense\n";
        let functions = among(list.as_bytes()).unwrap();
        let lock = meaning(STRONG, State::Lock);
        assert_eq!(look(&functions, 0xffff_ffff_8100_0100), lock);
        assert_eq!(look(&functions, 0xffff_ffff_8100_017f), lock);
        assert_eq!(look(&functions, 0xffff_ffff_8100_0180), 0);
        assert_eq!(look(&functions, 0xffff_ffff_8100_0244), lock);
        assert_eq!(look(&functions, 0xffff_ffff_8100_0304), 0);
        assert_eq!(look(&functions, 0xffff_ffff_8100_0404), 0);
        assert_eq!(look(&functions, 0xffff_ffff_a000_0010), meaning(STORAGE, State::Disk));
        assert_eq!(look(&functions, 0xffff_ffff_a000_0010 + LONGEST), 0);
        assert_eq!(look(&functions, 0), 0);
    }

    #[test]
    fn no_function_is_listed_twice_and_there_is_room_for_copies() {
        let names: Vec<&str> =
            MEANINGS.iter().flat_map(|(_, names)| names.split_whitespace()).collect();
        let unique: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(unique.len(), names.len());
        assert!(names.len() < WAIT_FUNCTIONS * 9 / 10, "{} names", names.len());
    }

    #[test]
    fn the_running_kernel_has_the_ones_everything_rests_on() {
        let functions = of_kernel();
        let used = functions.functions.iter().filter(|function| function.len > 0);
        let meanings: BTreeSet<u32> = used.map(|function| function.meaning).collect();
        if meanings.is_empty() {
            eprintln!("skipped: this user cannot read addresses in /proc/kallsyms");
            return;
        }
        for state in [State::Lock, State::Memory, State::Sleep, State::Child, State::Socket] {
            assert!(meanings.contains(&meaning(STRONG, state)), "no function of {state:?}");
        }
        assert!(meanings.contains(&(FUTEX | STRONG)) && meanings.contains(&(POLL | STRONG)));
    }
}
