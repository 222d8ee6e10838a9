//! How the C library keeps what is freed. Its defaults favour speed: an arena for each thread, each as
//! large as its thread ever needed, and blocks of up to 32 MiB kept for a next time. hotspan's threads
//! each need much for a moment, at different moments (the tables of a compiler, the names of a batch).

/// Arenas: most threads allocate rarely, so that two of them seldom wait for each other.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Larger blocks are mapped, and returned when freed; that many free bytes at the end of the heap, too.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 128 << 10;

/// Has freed memory returned to the system. To be called before there are threads.
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, MAPPED),
        (libc::M_TRIM_THRESHOLD, MAPPED),
    ] {
        // SAFETY:
        // - there are no other threads yet, so that none is inside the allocator;
        // - both are numbers, which it checks.
        unsafe { libc::mallopt(parameter, value) };
    }
}
