//! The rule of an address: from the process's mappings to the file, from the file's tables to the rule
//! (`agent_ebpf::unwind::table` has the drawing). What a walk found last is kept: most frames of a stack
//! lie in the mapping of the one before.

use agent_ebpf::unwind::{
    Cursor, Exe, Rule, Stop,
    table::{
        self, BUCKET_LOG2, CHUNK_LOG2, CHUNKS as CHUNK_SLOTS, Chunk, EXES as EXE_SLOTS, INCOMPLETE,
        READY, WANTED,
    },
};

use crate::maps::{CHUNKS, EXES, RULES};

/// A walk under way. In a map and not on the program's stack, so that the verifier takes what a frame
/// leaves for the next as unknown and looks at one frame only.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Walk {
    /// The frame it is at.
    pub cursor: Cursor,
    /// Of the frames so far.
    pub hash: u64,
    /// Address of the registers the thread entered the kernel with.
    pub registers: u64,
    /// The mapping found last.
    from: u64,
    to: u64,
    bias: u64,
    /// Its file's tables.
    exe: Exe,
    /// The process's slab, see `ProcessCode`.
    pub slab: u32,
    /// Mappings in it.
    pub count: u32,
    /// Its flags.
    pub flags: u32,
    /// Its generation.
    pub generation: u32,
    /// The daemon's round.
    pub round: u32,
    /// Frames so far.
    pub len: u32,
    /// Why it ended: a `Stop`.
    pub stop: u32,
    /// 1 when tables were wanted that are not there.
    pub wants: u32,
}

/// `table::at_most` in a form the compiler makes no branch of.
#[inline(always)]
fn at_most(a: u64, b: u64) -> u64 {
    let mut difference = a.wrapping_sub(b).wrapping_sub(1);
    // SAFETY: a shift of a register. Logical: an arithmetic one makes 6.12 and later fork states
    // (reference/unwinding.md 0).
    unsafe {
        core::arch::asm!("{0} >>= 63", inout(reg) difference, options(pure, nomem, nostack));
    }
    difference
}

#[inline(always)]
fn chunk(place: u32) -> Option<&'static Chunk> {
    CHUNKS.get_value((place >> CHUNK_LOG2) & (CHUNK_SLOTS as u32 - 1), &0)
}

impl Walk {
    /// A walk that has found nothing yet.
    #[inline(always)]
    pub(crate) fn begin(&mut self) {
        self.from = 0;
        self.to = 0;
        self.len = 1;
        self.stop = Stop::Bottom as u32;
        self.wants = 0;
    }
}

/// Looks up the code at the walk's cursor; what ends the walk when there cannot be any.
#[inline(always)]
pub(crate) fn enter(walk: &mut Walk) -> Option<Stop> {
    let address = walk.cursor.inside();
    if address >= walk.from && address < walk.to {
        return None;
    }
    if walk.slab == 0 {
        walk.wants = 1;
        return None;
    }
    if !locate(walk, address) {
        // Not all of its code is known here: the daemon looks (`link::stacks`).
        if walk.flags & INCOMPLETE != 0 {
            return None;
        }
        // A chain of frame pointers that leads nowhere is none; anything else leads to code the
        // daemon has not seen yet.
        if walk.cursor.chained != 0 {
            return Some(Stop::Code);
        }
        walk.wants = 1;
    }
    None
}

/// The rule at the walk's cursor, which was entered.
#[inline(always)]
pub(crate) fn rule(walk: &mut Walk) -> Rule {
    let address = walk.cursor.inside();
    if address < walk.from || address >= walk.to {
        return Rule::NONE;
    }
    if walk.exe.state != READY {
        if walk.exe.state == WANTED {
            walk.wants = 1;
        }
        return Rule::NONE;
    }
    let inside = address.wrapping_sub(walk.bias).wrapping_sub(walk.exe.base);
    let bucket = inside >> BUCKET_LOG2;
    if bucket >= u64::from(walk.exe.buckets) {
        return Rule::NONE;
    }
    let place = walk.exe.index.wrapping_add(bucket as u32);
    let Some(index) = chunk(place) else {
        return Rule::NONE;
    };
    let row = table::index_word(index, place);
    if row == 0 {
        return Rule::NONE;
    }
    let place = walk.exe.rows.wrapping_add(row - 1);
    let Some(rows) = chunk(place) else {
        return Rule::NONE;
    };
    let number = table::find_row(rows, place, inside as u32 & ((1 << BUCKET_LOG2) - 1), at_most);
    match RULES.get(u32::from(number)) {
        Some(rule) => Rule(*rule),
        None => Rule::NONE,
    }
}

/// Whether a slab has code from `first` to `last`.
#[inline(always)]
pub(crate) fn is_known_within(slab: u32, count: u32, first: u64, last: u64) -> bool {
    let Some(chunk) = chunk(slab) else {
        return false;
    };
    let number = table::find_code(chunk, slab, count, last, at_most);
    let start = table::code_start(chunk, slab, number);
    start <= last && table::code(chunk, slab, count, number).end > first
}

/// Makes the mapping and the file of an address those of the walk.
#[inline(always)]
fn locate(walk: &mut Walk, address: u64) -> bool {
    let Some(chunk) = chunk(walk.slab) else {
        return false;
    };
    let number = table::find_code(chunk, walk.slab, walk.count, address, at_most);
    let start = table::code_start(chunk, walk.slab, number);
    let code = table::code(chunk, walk.slab, walk.count, number);
    if address < start || address >= code.end {
        return false;
    }
    walk.from = start;
    walk.to = code.end;
    walk.bias = code.bias;
    let Some(exe) = EXES.get_ptr_mut(code.exe & (EXE_SLOTS as u32 - 1)) else {
        return false;
    };
    // SAFETY: an element of the array, which the daemon changes word by word, `state` last; `used` is
    // a hint that any CPU may write.
    unsafe {
        walk.exe.state = core::ptr::read_volatile(&raw const (*exe).state);
        walk.exe.base = (*exe).base;
        walk.exe.index = (*exe).index;
        walk.exe.rows = (*exe).rows;
        walk.exe.buckets = (*exe).buckets;
        if (*exe).used != walk.round {
            (*exe).used = walk.round;
        }
    }
    true
}
