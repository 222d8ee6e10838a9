//! Where the rule of an address is found. Everything lies in uniform chunks of 256 KiB, which the
//! daemon fills and the kernel programs search; a *place* counts their words from the first chunk on.
//!
//! ```text
//! process ─► slab: starts of its code mappings, ascending │ Code of each
//!                      │ exe
//! file    ─► Exe: base, ─► index: one word per 4 KiB of code: row + 1, or 0 for no rows
//!                      └─► rows, of each 4 KiB: count<<16 | rule at its start, then pc<<16 | rule ...
//! ```
//! Invariants: a slab, and the rows of one bucket, lie within one chunk; rows of a bucket ascend by the
//! low 12 bits of the address they begin at; the first row stands for the bucket's start, so a search
//! never leaves its bucket.
//!
//! Searches do not branch: the verifier then walks them once. The comparison comes from the caller,
//! because the compiler would make a branch of it again (`reference/unwinding.md` 1.6).

/// log2 of the bytes of code that share a bucket of rows.
pub const BUCKET_LOG2: u32 = 12;
/// Words of a chunk.
pub const CHUNK_WORDS: usize = 1 << 16;
/// log2 of it.
pub const CHUNK_LOG2: u32 = 16;
/// Chunks there can be: 64 MiB, the budget of all tables.
pub const CHUNKS: usize = 256;
/// Files whose tables can be known at once.
pub const EXES: usize = 16_384;
/// Different rules of all tables.
pub const RULES: usize = 65_536;
/// Processes whose code can be known at once.
pub const PROCESSES: usize = 16_384;
/// Code mappings kept of a process.
pub const MAX_CODE: usize = 1024;
/// Words of a [`Code`].
pub const CODE_WORDS: u32 = 6;

/// A chunk.
pub type Chunk = [u32; CHUNK_WORDS];

/// `Exe::state`: nobody has looked for tables yet; a stack that comes by asks for them.
pub const WANTED: u32 = 0;
/// `Exe::state`: the tables are there.
pub const READY: u32 = 1;
/// `Exe::state`: there are none; frames are followed by frame pointer.
pub const BARE: u32 = 2;

/// The tables of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exe {
    /// Image address of the first bucket.
    pub base: u64,
    /// Place of the index.
    pub index: u32,
    /// Place of the rows.
    pub rows: u32,
    /// Words of the index.
    pub buckets: u32,
    /// `WANTED`, `READY`, `BARE`
    pub state: u32,
    /// The daemon's round in which a walk came by last.
    pub used: u32,
    /// 0
    pub pad: u32,
}
const _: () = assert!(size_of::<Exe>() == 32);

/// A mapping of code, in a slab behind the starts of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Code {
    /// First address after it.
    pub end: u64,
    /// Address in the process minus address in the image.
    pub bias: u64,
    /// Which file.
    pub exe: u32,
    /// 0
    pub pad: u32,
}
const _: () = assert!(size_of::<Code>() == CODE_WORDS as usize * 4);

/// What is known of a process's code: value of the `PROCESSES` hash, keyed by tgid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessCode {
    /// Place of its slab, in words; 0 when unknown or no longer true.
    pub slab: u32,
    /// Mappings in it.
    pub count: u32,
    /// Copies of stacks sent in the present window of time.
    pub copies: u32,
    /// Which window that is.
    pub window: u32,
    /// Changes with the mappings: the same addresses are other stacks then.
    pub generation: u32,
    /// `INCOMPLETE`, `UNREPORTED`
    pub flags: u32,
}
const _: () = assert!(size_of::<ProcessCode>() == 24);

/// `ProcessCode::flags`: not all mappings fit the slab.
pub const INCOMPLETE: u32 = 1;
/// `ProcessCode::flags`: nobody asks for this process's stacks: no copies of them.
pub const UNREPORTED: u32 = 2;

/// Compares without a branch: 1 when `a <= b`, else 0, for numbers below 2^63.
#[inline(always)]
#[must_use]
pub fn at_most(a: u64, b: u64) -> u64 {
    u64::from(a <= b)
}

#[inline(always)]
fn word(chunk: &Chunk, place: u32) -> u32 {
    chunk[place as usize & (CHUNK_WORDS - 1)]
}

#[inline(always)]
fn long(chunk: &Chunk, place: u32) -> u64 {
    u64::from(word(chunk, place)) | u64::from(word(chunk, place.wrapping_add(1))) << 32
}

/// Number of the last of `count` ascending starts at `slab` that is not above `address`; 0 also when
/// the first is above it.
#[inline(always)]
pub fn find_code(
    chunk: &Chunk,
    slab: u32,
    count: u32,
    address: u64,
    at_most: impl Fn(u64, u64) -> u64,
) -> u32 {
    let last = u64::from(count.wrapping_sub(1));
    let mut found = 0u64;
    // One by one from the highest bit: a loop would be one to the verifier, too.
    macro_rules! bits {
        ($($bit:literal)*) => {$(
            let next = found | 1 << $bit;
            let start = long(chunk, slab.wrapping_add((next as u32) << 1));
            found |= (at_most(start, address) & at_most(next, last)) << $bit;
        )*};
    }
    bits!(9 8 7 6 5 4 3 2 1 0);
    found as u32
}

/// First address of mapping `number` of a slab.
#[inline(always)]
pub fn code_start(chunk: &Chunk, slab: u32, number: u32) -> u64 {
    long(chunk, slab.wrapping_add(number << 1))
}

/// Mapping `number` of a slab of `count`.
#[inline(always)]
pub fn code(chunk: &Chunk, slab: u32, count: u32, number: u32) -> Code {
    let at = slab.wrapping_add(count << 1).wrapping_add(number.wrapping_mul(CODE_WORDS));
    Code {
        end: long(chunk, at),
        bias: long(chunk, at.wrapping_add(2)),
        exe: word(chunk, at.wrapping_add(4)),
        pad: 0,
    }
}

/// One word of an index; see [`Exe::index`].
#[inline(always)]
pub fn index_word(chunk: &Chunk, place: u32) -> u32 {
    word(chunk, place)
}

/// Number of the rule of an address: its bucket's rows begin at `place`, `inside` are the low 12 bits.
#[inline(always)]
pub fn find_row(chunk: &Chunk, place: u32, inside: u32, at_most: impl Fn(u64, u64) -> u64) -> u16 {
    let count = u64::from(word(chunk, place) >> 16);
    let mut found = 0u64;
    macro_rules! bits {
        ($($bit:literal)*) => {$(
            let next = found | 1 << $bit;
            let row = word(chunk, place.wrapping_add(next as u32));
            let begins = u64::from(row >> 16);
            found |= (at_most(begins, u64::from(inside)) & at_most(next, count)) << $bit;
        )*};
    }
    bits!(11 10 9 8 7 6 5 4 3 2 1 0);
    word(chunk, place.wrapping_add(found as u32)) as u16
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
