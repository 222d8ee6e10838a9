//! The records of stacks: the frames of a walk, and a copy of the stack itself where the kernel side could
//! not walk it. As in [`super::record`], each begins with its kind.

use super::{MAX_FRAMES, Word};

/// Bytes of a [`Stack`] before its words.
pub const STACK_HEADER_LEN: usize = 32;
/// `Stack::flags`: kernel addresses.
pub const STACK_KERNEL: u32 = 1 << 0;
/// `Stack::flags`: a [`StackCopy`] of the same hash came before it.
pub const STACK_COPIED: u32 = 1 << 1;
/// `Stack::flags`: the first address is an exact instruction pointer, not a return address. Below it
/// the words themselves say so, of what a signal interrupted.
pub const STACK_EXACT_TOP: u32 = 1 << 2;
/// `Stack::flags`: from this bit on, how the walk ended: an `unwind::Stop`.
pub const STACK_STOP_SHIFT: u32 = 8;

/// First sight of a stack hash in a generation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Stack {
    /// `RecordKind::Stack`
    pub kind: u32,
    /// Process whose addresses these are.
    pub tgid: u32,
    /// The hash samples and intervals refer to.
    pub hash: u64,
    /// Words that follow.
    pub len: u32,
    /// `STACK_KERNEL`, `STACK_COPIED`, `STACK_EXACT_TOP`, and how the walk ended
    pub flags: u32,
    /// When.
    pub at: u64,
    /// Frames, innermost first. The slot after the last usable one keeps the verifier's masked
    /// length inside the array.
    pub words: [Word; MAX_FRAMES + 1],
}
const _: () = assert!(size_of::<Stack>() == STACK_HEADER_LEN + (MAX_FRAMES + 1) * 8);

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Pages of a [`StackCopy`]: what per-CPU memory has room for.
pub const COPY_PAGES: usize = 7;
/// Words of the registers in a [`StackCopy`]: x86-64 `struct pt_regs` up to `ss`.
pub const COPY_REGISTERS: usize = 21;
/// Bytes of a [`StackCopy`] before its pages.
pub const COPY_HEADER_LEN: usize = 32 + COPY_REGISTERS * 8;

/// Registers and stack of a thread, for a walk that the kernel side had no tables for.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StackCopy {
    /// `RecordKind::StackCopy`
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// The hash of the stack that follows.
    pub hash: u64,
    /// When.
    pub at: u64,
    /// Pages that hold, from the one with the stack pointer upwards.
    pub pages: u32,
    /// 1 when the instruction pointer is exact.
    pub exact: u32,
    /// `struct pt_regs`
    pub registers: [u64; COPY_REGISTERS],
    /// Memory.
    pub bytes: [u8; COPY_PAGES * PAGE],
}
const _: () = assert!(size_of::<StackCopy>() == COPY_HEADER_LEN + COPY_PAGES * PAGE);
