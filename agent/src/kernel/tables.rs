//! The maps that hold unwind tables (`agent_ebpf::unwind::table` has the drawing), as the thread that
//! fills them sees them: memory shared with the kernel programs, and the hash of processes.
//!
//! Invariants: only this value writes chunks, rules and files; the kernel programs write nothing but
//! `Exe::used`. A file's `state` is written last, so nobody follows places that are not filled yet.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use agent_ebpf::unwind::{
    Exe, ProcessCode, Rule,
    table::{Chunk, EXES, RULES},
};
use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap as BpfHashMap, Map, MapData, MapError},
};

/// Why the tables' maps cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A map operation failed.
    #[error("map {0}: {1}")]
    Map(&'static str, MapError),
    /// The object lacks a map: a bug, or they were taken before.
    #[error("the built-in object lacks {0}: rebuild hotspan")]
    Missing(&'static str),
    /// A map could not be shared.
    #[error("cannot share map {0} with the kernel: {1}")]
    Share(&'static str, io::Error),
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodChunk(Chunk);
// SAFETY: an array of u32.
unsafe impl aya::Pod for PodChunk {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodProcessCode(ProcessCode);
// SAFETY: repr(C) struct of u32 without padding.
unsafe impl aya::Pod for PodProcessCode {}

/// `BPF_F_MMAPABLE`, as in the programs' definition of the map.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_MAP_TYPE_ARRAY`
const ARRAY: u32 = 2;

/// Every map of unwinding.
pub struct Tables {
    outer: ArrayOfMaps<MapData, Array<MapData, PodChunk>>,
    chunks: Vec<Option<Shared<Chunk>>>,
    exes: Shared<[Exe; EXES]>,
    rules: Shared<[u64; RULES]>,
    processes: BpfHashMap<MapData, u32, PodProcessCode>,
    /// Keeps the maps behind `exes` and `rules`.
    _maps: [MapData; 2],
}

/// A map's memory, shared with the kernel programs.
struct Shared<T> {
    memory: NonNull<T>,
}

// SAFETY: the memory belongs to this value alone on our side.
unsafe impl<T: Send> Send for Shared<T> {}

// === impl Shared ===

impl<T> Shared<T> {
    fn new(name: &'static str, map: &MapData) -> Result<Self, TablesError> {
        // SAFETY:
        // - the descriptor is open; the kernel checks that the length lies within the map, whose
        //   elements are those of T (checked by the programs' BTF and the sizes beside the types);
        // - a fresh mapping overlaps nothing.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(TablesError::Share(name, io::Error::last_os_error()));
        }
        let memory = NonNull::new(memory.cast::<T>());
        memory.map(|memory| Self { memory }).ok_or(TablesError::Missing(name))
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nobody holds a reference past `self`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), size_of::<T>()) };
    }
}

// === impl Tables ===

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, TablesError> {
        let mut take = |name| ebpf.take_map(name).ok_or(TablesError::Missing(name));
        let outer = take("CHUNKS")?;
        let outer = outer.try_into().map_err(|error| TablesError::Map("CHUNKS", error))?;
        let array = |name, map| match map {
            Map::Array(data) => Ok(data),
            _ => Err(TablesError::Missing(name)),
        };
        let exes = array("EXES", take("EXES")?)?;
        let rules = array("RULES", take("RULES")?)?;
        let processes = take("PROCESS_CODE")?;
        let processes = processes.try_into();
        Ok(Self {
            outer,
            chunks: Vec::new(),
            exes: Shared::new("EXES", &exes)?,
            rules: Shared::new("RULES", &rules)?,
            processes: processes.map_err(|error| TablesError::Map("PROCESS_CODE", error))?,
            _maps: [exes, rules],
        })
    }

    /// Makes sure that chunk `number` is there. Chunks are never given back: what is freed in them is
    /// used again, and their number is the budget.
    pub fn make_chunk(&mut self, number: usize) -> Result<(), TablesError> {
        const NAME: &str = "CHUNKS";
        let failed = |error| TablesError::Map(NAME, error);
        if self.has_chunk(number) {
            return Ok(());
        }
        let bytes = size_of::<Chunk>() as u32;
        let definition = aya_obj::Map::new_from_params(ARRAY, 4, bytes, 1, MMAPABLE);
        let data = MapData::create(definition, "hotspan_rows", None).map_err(failed)?;
        let chunk = Shared::new(NAME, &data)?;
        let inner: Array<MapData, PodChunk> = Map::Array(data).try_into().map_err(failed)?;
        self.outer.set(number as u32, &inner, 0).map_err(failed)?;
        if self.chunks.len() <= number {
            self.chunks.resize_with(number + 1, || None);
        }
        self.chunks[number] = Some(chunk);
        Ok(())
    }

    fn has_chunk(&self, number: usize) -> bool {
        self.chunks.get(number).is_some_and(Option::is_some)
    }

    /// A chunk to be read.
    pub fn chunk(&self, number: usize) -> Option<&Chunk> {
        let shared = self.chunks.get(number)?.as_ref()?;
        // SAFETY: mapped memory of this type; only `self` writes it.
        Some(unsafe { shared.memory.as_ref() })
    }

    /// A chunk to be written.
    pub fn chunk_mut(&mut self, number: usize) -> Option<&mut Chunk> {
        let shared = self.chunks.get_mut(number)?.as_mut()?;
        // SAFETY: mapped memory of this type; the kernel programs only read it, word by word, and are
        // not led to places that are being written.
        Some(unsafe { shared.memory.as_mut() })
    }

    /// Sets rule `number`.
    pub fn set_rule(&mut self, number: u16, rule: Rule) {
        // SAFETY: `number` is below RULES; see `chunk_mut`.
        unsafe { (*self.rules.memory.as_ptr())[usize::from(number)] = rule.0 };
    }

    /// Rule `number`.
    pub fn rule(&self, number: u16) -> Rule {
        // SAFETY: as above.
        Rule(unsafe { (*self.rules.memory.as_ptr())[usize::from(number)] })
    }

    /// Sets what is known of file `number`.
    pub fn set_exe(&mut self, number: u32, exe: &Exe) {
        let Some(place) = self.exe_place(number) else { return };
        // SAFETY:
        // - `place` is within the map's memory;
        // - the state goes first to `WANTED` and last to its value, so a program that comes by
        //   meanwhile follows nothing; x86-64 and release stores keep that order.
        unsafe {
            let state = AtomicU32::from_ptr(&raw mut (*place).state);
            state.store(agent_ebpf::unwind::table::WANTED, Ordering::SeqCst);
            (*place).base = exe.base;
            (*place).index = exe.index;
            (*place).rows = exe.rows;
            (*place).buckets = exe.buckets;
            state.store(exe.state, Ordering::SeqCst);
        }
    }

    /// What is known of file `number`.
    pub fn exe(&self, number: u32) -> Exe {
        let Some(place) = self.exe_place(number) else { return Exe::default() };
        // SAFETY: within the map's memory; `used` may change while it is copied, any value is valid.
        unsafe { place.read_volatile() }
    }

    fn exe_place(&self, number: u32) -> Option<*mut Exe> {
        let exes = self.exes.memory.as_ptr().cast::<Exe>();
        // SAFETY: an index below EXES stays inside the mapped array.
        ((number as usize) < EXES).then(|| unsafe { exes.add(number as usize) })
    }

    /// Sets a process's slab.
    pub fn set_process(&mut self, tgid: u32, code: ProcessCode) -> Result<(), TablesError> {
        self.processes
            .insert(tgid, PodProcessCode(code), 0)
            .map_err(|error| TablesError::Map("PROCESS_CODE", error))
    }

    /// A process's slab, if the programs have an entry of it.
    pub fn process(&self, tgid: u32) -> Option<ProcessCode> {
        self.processes.get(&tgid, 0).ok().map(|code| code.0)
    }

    /// Forgets a process.
    pub fn forget_process(&mut self, tgid: u32) {
        // It may never have been known.
        let _ = self.processes.remove(&tgid);
    }
}
