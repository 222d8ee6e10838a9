//! What fuzz targets call (`tests/fuzz`): one function for each parser of what other people write. Each
//! asserts what must hold of any bytes whatever; a panic, a second or a gigabyte is a bug.
//!
//! Exists only where `cfg(fuzzing)` is set, as cargo-fuzz does.

use crate::{
    process::{elf::Header, file::in_memory_with},
    symbols, unwind, wire,
};

/// Tables of exceptions and debuggers, of both machines.
pub fn cfi(data: &[u8]) {
    unwind::fuzz::cfi(data);
}

/// ELF headers, and the unwind table of a whole file.
pub fn elf(data: &[u8]) {
    let Ok(file) = in_memory_with(data) else { return };
    if let Ok(header) = Header::read(&file) {
        let segments = header.segments(&file).unwrap_or_default();
        let sections = header.sections(&file).unwrap_or_default();
        let id = crate::process::elf::build_id(&file, &segments, &sections);
        assert!(id.is_none_or(|id| (8..=128).contains(&id.len())));
    }
    unwind::fuzz::image(&file, data.len());
}

/// Tables on disk.
pub fn cache(data: &[u8]) {
    unwind::fuzz::cache(data);
}

/// `/tmp/perf-PID.map`
pub fn perf_map(data: &[u8]) {
    symbols::fuzz::perf_map(data);
}

/// `jit-PID.dump`
pub fn jitdump(data: &[u8]) {
    symbols::fuzz::jitdump(data);
}

/// `.gopclntab`
pub fn gopclntab(data: &[u8]) {
    symbols::fuzz::gopclntab(data);
}

/// What is done to the copy of a program before blazesym sees it.
pub fn debug(data: &[u8]) {
    symbols::fuzz::debug(data);
}

/// Frames of an agent, as bytes.
pub fn wire(data: &[u8]) {
    wire::fuzz::bytes(data);
}

/// Frames of an agent that are well formed: in any order, with indexes and columns that lie.
pub fn wire_order(data: &[u8]) {
    wire::fuzz::order(data);
}
