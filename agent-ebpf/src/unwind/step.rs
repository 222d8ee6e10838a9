//! One step from a frame to its caller. The kernel programs take it on live memory, the daemon on a
//! copy; which memory that is, [`Memory`] says.
//!
//! Facts of code without tables: x86-64 psABI 3.2.2 (frame pointer chain), Linux `rt_sigframe`
//! (arch/x86/include/asm/sigframe.h, arch/arm64/kernel/signal.c) and the trampolines of glibc, musl and
//! Go, which are known by their bytes.

use super::rule::{CfaRule, FrameRule, Machine, ReturnRule, Rule};

/// Largest frame that is followed by frame pointer: more is not a frame.
const MAX_FRAME_BYTES: u64 = 1 << 20;
/// Below it nothing is mapped.
const FIRST_ADDRESS: u64 = 4096;

/// Byte offset of each DWARF register in x86-64's `struct pt_regs`.
pub static ENTRY_OFFSETS: [u8; 16] =
    [80, 96, 88, 40, 104, 112, 32, 152, 72, 64, 56, 48, 24, 16, 8, 0];
/// The same in the registers of a `ucontext`: r8 .. r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp.
pub static SIGNAL_OFFSETS: [u8; 16] =
    [104, 96, 112, 88, 72, 64, 80, 120, 0, 8, 16, 24, 32, 40, 48, 56];

/// Where a walk ended, and so why a stack has no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stop {
    /// At the outermost frame: the stack is whole.
    Bottom = 0,
    /// There are more frames than are kept.
    Depth = 1,
    /// Stack memory could not be read: not in memory, or not a stack.
    Memory = 2,
    /// The caller's frame would lie below this one.
    Progress = 3,
    /// No table, and no frame pointer either.
    Frame = 4,
    /// The caller is in a register that only the innermost frame knows.
    Register = 5,
    /// The table says something that cannot be followed.
    Rule = 6,
    /// The tables were not there yet.
    Unloaded = 7,
    /// What should be code is not.
    Code = 8,
    /// A 32-bit program.
    Compat = 9,
}

impl Stop {
    /// Every way to end, in order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Bottom,
        Self::Depth,
        Self::Memory,
        Self::Progress,
        Self::Frame,
        Self::Register,
        Self::Rule,
        Self::Unloaded,
        Self::Code,
        Self::Compat,
    ];
}

/// Memory and registers a walk reads.
pub trait Memory {
    /// The word at an address, which may be any.
    fn word(&mut self, address: u64) -> Option<u64>;
    /// The two words from an address on.
    fn pair(&mut self, address: u64) -> Option<[u64; 2]>;
    /// A register, by DWARF number, of the thread as it was stopped, or of the `context` a signal saved.
    fn register(&mut self, number: u8, context: u64) -> Option<u64>;
}

/// A frame: where it executes and what is known of its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cursor {
    /// Where it executes, or where the call it made returns to.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: u64,
    /// AArch64's link register.
    pub lr: u64,
    /// Address of the registers a signal saved; 0 for those of the thread itself.
    pub context: u64,
    /// 1 when `ip` is the instruction itself, 0 when it is a return address.
    pub exact: u32,
    /// 1 when all registers are known: in the innermost frame, and in one that a signal interrupted.
    pub innermost: u32,
    /// 1 when `bp` was read from a chain of frame pointers.
    pub chained: u32,
    /// 0
    pub pad: u32,
}

// === impl Cursor ===

impl Cursor {
    /// An address inside the instruction that this frame is at.
    #[inline(always)]
    #[must_use]
    pub fn inside(&self) -> u64 {
        self.ip.wrapping_sub(u64::from(self.exact ^ 1))
    }

    /// Makes the caller of a frame current: it returned to `ip`, with these registers.
    #[inline(always)]
    fn call(&mut self, ip: u64, sp: u64, bp: u64) -> Option<Stop> {
        if ip == 0 {
            return Some(Stop::Bottom);
        }
        if ip < FIRST_ADDRESS || ip >> 47 != 0 {
            return Some(Stop::Code);
        }
        self.ip = ip;
        self.sp = sp;
        self.bp = bp;
        self.exact = 0;
        self.innermost = 0;
        None
    }
}

/// Follows a rule from a frame to its caller; what stopped it otherwise.
#[inline(always)]
pub fn step(
    machine: Machine,
    rule: Rule,
    cursor: &mut Cursor,
    memory: &mut impl Memory,
) -> Option<Stop> {
    let kind = rule.cfa();
    if kind == CfaRule::None as u8 || kind == CfaRule::Switch as u8 {
        let switches = kind == CfaRule::Switch as u8;
        return by_frame_pointer(machine, cursor, memory, switches);
    }
    if kind == CfaRule::Stop as u8 {
        return Some(Stop::Bottom);
    }
    if kind == CfaRule::Bad as u8 {
        return Some(Stop::Rule);
    }
    if kind == CfaRule::Signal as u8 {
        return signal(machine, cursor, memory);
    }
    cursor.chained = 0;
    let offset = rule.cfa_offset() as u64;
    let argument = rule.cfa_argument();
    let of_frame = kind == CfaRule::Fp as u8 || kind == CfaRule::DerefFp as u8;
    let base = if of_frame { cursor.bp } else { cursor.sp };
    let cfa = if kind == CfaRule::Register as u8 {
        if cursor.innermost == 0 {
            return Some(Stop::Register);
        }
        let Some(base) = memory.register(argument, cursor.context) else {
            return Some(Stop::Memory);
        };
        base.wrapping_add(offset)
    } else if kind == CfaRule::Plt as u8 {
        let pushed = cursor.ip & 15 >= u64::from(argument);
        cursor.sp.wrapping_add(8 + u64::from(pushed) * 8)
    } else if kind == CfaRule::DerefSp as u8 || kind == CfaRule::DerefFp as u8 {
        let Some(base) = memory.word(base.wrapping_add(offset)) else {
            return Some(Stop::Memory);
        };
        base.wrapping_add(u64::from(argument) * 8)
    } else {
        base.wrapping_add(offset)
    };
    // Frames lie one above the other. The innermost may have none yet (AArch64), and an alternate
    // stack may lie anywhere, but that is a signal's doing and handled there.
    if cfa < cursor.sp || (cfa == cursor.sp && cursor.innermost == 0) {
        return Some(Stop::Progress);
    }
    let frame_at = if rule.frame() == FrameRule::AtFp as u8 {
        cursor.bp.wrapping_add(rule.frame_offset() as u64)
    } else {
        cfa.wrapping_add(rule.frame_offset() as u64)
    };
    let saved = rule.frame() == FrameRule::AtCfa as u8 || rule.frame() == FrameRule::AtFp as u8;
    let ret = rule.ret();
    let ret_at = if ret == ReturnRule::BesideFrame as u8 {
        cfa.wrapping_add(rule.frame_offset() as u64).wrapping_add(rule.ret_distance() as u64)
    } else {
        cfa.wrapping_sub(8)
    };
    let in_register = ret == ReturnRule::Register as u8 || ret == ReturnRule::Link as u8;
    let (mut bp, ip);
    if saved && !in_register && ret_at == frame_at.wrapping_add(8) {
        // Side by side, as nearly always: one read.
        let Some([frame, back]) = memory.pair(frame_at) else {
            return Some(Stop::Memory);
        };
        (bp, ip) = (frame, back);
    } else {
        bp = cursor.bp;
        if saved {
            let Some(frame) = memory.word(frame_at) else {
                return Some(Stop::Memory);
            };
            bp = frame;
        }
        if in_register {
            if cursor.innermost == 0 {
                return Some(Stop::Register);
            }
            let number = rule.ret_register();
            let found = if ret == ReturnRule::Link as u8 {
                Some(cursor.lr)
            } else {
                memory.register(number, cursor.context)
            };
            let Some(back) = found else {
                return Some(Stop::Memory);
            };
            ip = back;
        } else {
            let Some(back) = memory.word(ret_at) else {
                return Some(Stop::Memory);
            };
            ip = back;
        }
    }
    if rule.frame() == FrameRule::Lost as u8 {
        bp = 0;
    }
    cursor.call(plain(machine, ip), cfa, bp)
}

/// A return address without the signature AArch64 may carry in its upper bits.
#[inline(always)]
fn plain(machine: Machine, ip: u64) -> u64 {
    match machine {
        Machine::X86_64 => ip,
        Machine::Aarch64 => ip & ((1 << 55) - 1),
    }
}

/// The kernel saved the registers of what it interrupted: all of them are known again.
#[inline(always)]
fn signal(machine: Machine, cursor: &mut Cursor, memory: &mut impl Memory) -> Option<Stop> {
    // x86-64: `ret` has left the stack pointer at the ucontext, registers from byte 40 on: rbp 10,
    // rsp 15, rip 16. AArch64: siginfo (128 bytes) before it, registers from byte 184 of it on.
    let (context, sp_at) = match machine {
        Machine::X86_64 => (cursor.sp.wrapping_add(40), 15 * 8),
        Machine::Aarch64 => (cursor.sp.wrapping_add(312), 31 * 8),
    };
    let Some([sp, ip]) = memory.pair(context.wrapping_add(sp_at)) else {
        return Some(Stop::Memory);
    };
    let bp_at = match machine {
        Machine::X86_64 => 10 * 8,
        Machine::Aarch64 => 29 * 8,
    };
    let Some([bp, lr]) = memory.pair(context.wrapping_add(bp_at)) else {
        return Some(Stop::Memory);
    };
    if let Some(stop) = cursor.call(plain(machine, ip), sp, bp) {
        return Some(stop);
    }
    cursor.lr = plain(machine, lr);
    cursor.context = context;
    cursor.exact = 1;
    cursor.innermost = 1;
    None
}

/// Code without a table: its bytes tell where in a function it is, else the frame pointer is believed.
/// In a function that `switches` stacks it may lead anywhere: below, or far away. Walks end all the same,
/// as frames are counted; and whoever walks looks whether it led to code.
#[inline(always)]
fn by_frame_pointer(
    machine: Machine,
    cursor: &mut Cursor,
    memory: &mut impl Memory,
    switches: bool,
) -> Option<Stop> {
    if let Machine::X86_64 = machine {
        // Code that cannot be read says nothing: zero is none of the patterns.
        let code = memory.word(cursor.ip).unwrap_or(0);
        if cursor.exact == 0 {
            // mov $15, %rax; syscall, or with %eax.
            if code == 0x0f00_0000_0fc0_c748 || code & 0xff_ffff_ffff_ffff == 0x05_0f00_0000_0fb8 {
                return signal(machine, cursor, memory);
            }
        } else if code & 0xff == 0x55
            || code & 0xff == 0xc3
            || code & 0xffff == 0xc3f3
            || code & 0xffff == 0x25ff
            || code as u32 == 0xfa1e_0ff3
        {
            // push %rbp, ret, jmp *, endbr64: nothing was pushed yet, or all is popped again.
            let Some(back) = memory.word(cursor.sp) else {
                return Some(Stop::Memory);
            };
            return cursor.call(back, cursor.sp.wrapping_add(8), cursor.bp);
        } else if code & 0xff_ffff == 0xe5_8948 || code & 0xff_ffff == 0xec_8b48 {
            // mov %rsp, %rbp: just after the push.
            let Some([bp, back]) = memory.pair(cursor.sp) else {
                return Some(Stop::Memory);
            };
            return cursor.call(back, cursor.sp.wrapping_add(16), bp);
        }
    }
    let bp = cursor.bp;
    if bp == 0 && cursor.chained != 0 && !switches {
        // The chain itself says that it ends.
        return Some(Stop::Bottom);
    }
    // Zero where stacks are switched says only that nothing leads back.
    let leads_nowhere = if switches {
        bp < FIRST_ADDRESS || bp >> 47 != 0
    } else {
        bp < cursor.sp || bp.wrapping_sub(cursor.sp) > MAX_FRAME_BYTES
    };
    if bp & 7 != 0 || leads_nowhere {
        return Some(Stop::Frame);
    }
    let Some([next, back]) = memory.pair(bp) else {
        return Some(Stop::Memory);
    };
    cursor.chained = 1;
    cursor.call(plain(machine, back), bp.wrapping_add(16), next)
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
