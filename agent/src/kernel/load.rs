//! Loads the kernel programs: offsets and settings in, maps out, programs attached, sampler last.
//! Every object belongs to this process's file descriptors, so nothing outlives it.

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use agent_ebpf::wire::{Offsets, Settings, WaitFunctions};
use aya::{
    Btf as AyaBtf, Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, MapError, RingBuf},
    programs::{BtfTracePoint, Iter, PerfEvent, ProgramError, TracePoint},
    util::online_cpus,
};

use super::{
    btf::{Btf, BtfError},
    offsets,
    timer::{TimerError, Timers},
    waits,
};

/// The programs, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-ebpf"));

/// Why the kernel side could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Kernel types.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// Kernel types, as aya reads them.
    #[error("cannot read the kernel's types: {0}")]
    AyaBtf(#[from] aya::BtfError),
    /// The object was refused.
    #[error("cannot load the kernel programs: {0}")]
    Object(#[from] EbpfError),
    /// A program was refused.
    #[error("the kernel refused program {name}: {source}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why; holds the verifier's log.
        source: ProgramError,
    },
    /// A map is missing or was refused.
    #[error("map {name}: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// Something that must be in the object is not.
    #[error("the built-in object lacks {0}: rebuild hotspan")]
    Missing(&'static str),
    /// CPUs.
    #[error("cannot list the CPUs: {0}")]
    Cpus(io::Error),
    /// The timers.
    #[error(transparent)]
    Timer(#[from] TimerError),
}

/// What to load with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Timer samples per second and CPU.
    pub hz: u64,
    /// Bytes of each per-CPU ring, a power of two.
    pub ring_bytes: u32,
    /// Waits longer than about this get a stack, ns.
    pub wait_scale_ns: u64,
    /// Where unwind tables of large files are kept between runs; none: nowhere.
    pub table_cache: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { hz: 99, ring_bytes: 1 << 20, wait_scale_ns: 1_000_000, table_cache: None }
    }
}

/// The loaded kernel side.
pub struct Loaded {
    /// Programs, links and maps; dropping it takes all out of the kernel.
    pub ebpf: Ebpf,
    /// One ring for each CPU that was ever online.
    pub rings: BTreeMap<u32, RingBuf<MapData>>,
    /// Whether stacks of waits are taken in the resumed thread's context.
    pub has_exit_tp: bool,
    /// Whether new lanes announce themselves; else only the sweep finds them.
    pub has_breadcrumb: bool,
}

/// Loads and attaches everything but the timer, which [`start_timers`] adds last.
pub fn load(config: &Config) -> Result<Loaded, LoadError> {
    let btf = Btf::of_kernel()?;
    let offsets = offsets::of_kernel(&btf)?;
    let has_exit_tp = btf.has("btf_trace_sched_exit_tp");
    let settings = Settings {
        agent_tgid: std::process::id(),
        has_exit_tp: u32::from(has_exit_tp),
        wait_scale_ns: config.wait_scale_ns,
        ring_bytes: u64::from(config.ring_bytes),
        ..Settings::UNSET
    };
    let aya_btf = AyaBtf::from_sys_fs()?;
    let mut ebpf = open(&aya_btf, &offsets, &settings, &waits::of_kernel())?;
    let rings = make_rings(&mut ebpf, config.ring_bytes)?;

    for (program, point) in [
        // Exit and fork first: a thread that comes or goes meanwhile is then accounted whole.
        ("sched_process_fork", "sched_process_fork"),
        ("sched_process_exec", "sched_process_exec"),
        ("sched_process_exit", "sched_process_exit"),
        ("sched_wakeup_new", "sched_wakeup_new"),
        ("sched_wakeup", "sched_wakeup"),
        ("sched_waking", "sched_waking"),
        ("sched_switch", "sched_switch"),
    ] {
        attach_tracepoint(&mut ebpf, program, point, &aya_btf)?;
    }
    if has_exit_tp {
        attach_tracepoint(&mut ebpf, "sched_exit_tp", "sched_exit_tp", &aya_btf)?;
    }
    if btf.has("btf_trace_sched_prepare_exec") {
        attach_tracepoint(&mut ebpf, "sched_prepare_exec", "sched_prepare_exec", &aya_btf)?;
    }
    let has_breadcrumb = attach_breadcrumb(&mut ebpf, &btf, &aya_btf);
    attach_mapping(&mut ebpf, &btf, &aya_btf);
    load_totals(&mut ebpf, &aya_btf)?;
    Ok(Loaded { ebpf, rings, has_exit_tp, has_breadcrumb })
}

fn open(
    btf: &AyaBtf,
    offsets: &Offsets,
    settings: &Settings,
    waits: &WaitFunctions,
) -> Result<Ebpf, LoadError> {
    let offsets = Injected(*offsets);
    let settings = Injected(*settings);
    let waits = Injected(*waits);
    Ok(EbpfLoader::new()
        .btf(Some(btf))
        // Task storage is not among aya's map types; the programs alone use it.
        .allow_unsupported_maps()
        .override_global("OFFSETS", &offsets, true)
        .override_global("SETTINGS", &settings, true)
        .override_global("WAITS", &waits, true)
        .load(OBJECT)?)
}

/// A read-only global of the programs.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Injected<T>(T);

// SAFETY: `Offsets`, `Settings` and `WaitFunctions` are repr(C) structs of integers without padding (sizes asserted
// beside them), valid for any bytes.
unsafe impl aya::Pod for Injected<Offsets> {}
// SAFETY: as above.
unsafe impl aya::Pod for Injected<Settings> {}
// SAFETY: as above.
unsafe impl aya::Pod for Injected<WaitFunctions> {}

fn make_rings(ebpf: &mut Ebpf, bytes: u32) -> Result<BTreeMap<u32, RingBuf<MapData>>, LoadError> {
    let cpus = online_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
    let ring = |cpu| Ok((cpu, add_ring(ebpf, cpu, bytes)?));
    cpus.into_iter().map(ring).collect()
}

/// Gives a CPU its ring. What the programs had to send from there before is counted as lost.
pub fn add_ring(ebpf: &mut Ebpf, cpu: u32, bytes: u32) -> Result<RingBuf<MapData>, LoadError> {
    const NAME: &str = "RINGS";
    let failed = |source| LoadError::Map { name: NAME, source };
    let outer = ebpf.map_mut(NAME).ok_or(LoadError::Missing(NAME))?;
    let mut outer: aya::maps::ArrayOfMaps<&mut MapData, RingBuf<MapData>> =
        outer.try_into().map_err(failed)?;
    let ring = new_ring(bytes).map_err(failed)?;
    outer.set(cpu, &ring, 0).map_err(failed)?;
    Ok(ring)
}

/// One ring buffer map (uapi bpf.h: BPF_MAP_TYPE_RINGBUF = 27; key and value size zero).
fn new_ring(bytes: u32) -> Result<RingBuf<MapData>, MapError> {
    const RINGBUF: u32 = 27;
    let definition = aya_obj::Map::new_from_params(RINGBUF, 0, 0, bytes, 0);
    let data = MapData::create(definition, "hotspan_ring", None)?;
    Map::RingBuf(data).try_into()
}

fn attach_tracepoint(
    ebpf: &mut Ebpf,
    name: &'static str,
    point: &str,
    btf: &AyaBtf,
) -> Result<(), LoadError> {
    let failed = |source| LoadError::Program { name, source };
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
    program.load(point, btf).map_err(failed)?;
    program.attach().map_err(failed)?;
    Ok(())
}

/// The breadcrumb hook is worth having but not needed: without it the sweep finds lanes.
///
/// The second choice's number is read from tracefs: see [`see_tracefs`].
fn attach_breadcrumb(ebpf: &mut Ebpf, btf: &Btf, aya_btf: &AyaBtf) -> bool {
    if btf.has("btf_trace_task_prctl_unknown")
        && attach_tracepoint(ebpf, "lane_breadcrumb", "task_prctl_unknown", aya_btf).is_ok()
    {
        return true;
    }
    let Some(program) = ebpf.program_mut("lane_breadcrumb_syscall") else {
        return false;
    };
    let mut attach = || -> Result<(), ProgramError> {
        let program: &mut TracePoint = (&mut *program).try_into()?;
        program.load()?;
        program.attach("syscalls", "sys_enter_prctl")?;
        Ok(())
    };
    let attached = attach();
    if let Err(error) = &attached {
        tracing::warn!(%error, "no hook on prctl: new lanes are found by the sweep only");
    }
    attached.is_ok()
}

/// Without it, code in place of other code is found when an address is in neither.
fn attach_mapping(ebpf: &mut Ebpf, btf: &Btf, aya_btf: &AyaBtf) {
    const NAME: &str = "vm_unmapped_area";
    if !btf.has("btf_trace_vm_unmapped_area") {
        return;
    }
    if let Err(error) = attach_tracepoint(ebpf, NAME, NAME, aya_btf) {
        tracing::warn!(%error, "no hook on mmap: libraries loaded in place of others show late");
    }
}

const TRACEFS: &str = "/sys/kernel/tracing";

/// Where nobody mounted tracefs and this kernel needs it, it is mounted in a mount namespace of the calling
/// thread and those it makes from now on: the host sees nothing of it, and they see what the host mounts.
/// It takes CAP_SYS_ADMIN, so it is done before rights are given up; without, the sweep finds lanes.
pub fn see_tracefs() {
    let is_there = Path::new(TRACEFS).join("events").is_dir();
    if is_there || Btf::of_kernel().is_ok_and(|btf| btf.has("btf_trace_task_prctl_unknown")) {
        return;
    }
    if let Err(error) = mount_tracefs() {
        tracing::debug!(%error, "cannot mount tracefs");
    }
}

fn mount_tracefs() -> io::Result<()> {
    // SAFETY:
    // - unshare(CLONE_FS | CLONE_NEWNS) changes the calling thread only, not those there are;
    // - all strings are NUL-terminated literals; data pointers may be null.
    unsafe {
        if libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) != 0 {
            return Err(io::Error::last_os_error());
        }
        let none = std::ptr::null();
        let root = c"/".as_ptr();
        let from_host = libc::MS_REC | libc::MS_SLAVE;
        if libc::mount(none, root, none, from_host, std::ptr::null()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let tracefs = c"tracefs".as_ptr();
        let target = c"/sys/kernel/tracing".as_ptr();
        if libc::mount(tracefs, target, tracefs, 0, std::ptr::null()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn load_totals(ebpf: &mut Ebpf, btf: &AyaBtf) -> Result<(), LoadError> {
    const NAME: &str = "thread_totals";
    let failed = |source| LoadError::Program { name: NAME, source };
    let program = ebpf.program_mut(NAME).ok_or(LoadError::Missing(NAME))?;
    let program: &mut Iter = program.try_into().map_err(failed)?;
    program.load("task", btf).map_err(failed)
}

/// Writes to the log how much the verifier had to look at, by program.
pub fn log_verified(ebpf: &Ebpf) {
    for (name, program) in ebpf.programs() {
        let count = program.info().ok().and_then(|info| info.verified_instruction_count());
        if let Some(count) = count {
            tracing::debug!(name, count, "verified instructions");
        }
    }
}

/// Starts the timer on every CPU.
pub fn start_timers(ebpf: &mut Ebpf, hz: u64) -> Result<Timers, LoadError> {
    const NAME: &str = "timer_sample";
    let failed = |source| LoadError::Program { name: NAME, source };
    let cpus = online_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
    let program = ebpf.program_mut(NAME).ok_or(LoadError::Missing(NAME))?;
    let program: &mut PerfEvent = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    Ok(Timers::start(program.fd().map_err(failed)?.as_fd(), hz, &cpus)?)
}
