//! Rules of Go's own code, from the table that its tracebacks use (`process::gopclntab`): how much stack
//! each instruction has in use, which functions begin a stack, and which go on on another one.
//!
//! Debug information says the first of these too, but not where the frame pointer is, and of a function
//! that moves the stack pointer elsewhere (`runtime.systemstack`, `runtime.asmcgocall`) what it says is
//! wrong: the caller is on the goroutine's stack, and only the frame pointer leads there
//! (go/src/runtime/asm_amd64.s: "The original frame pointer is stored in BP, which is useful for stack
//! unwinding"; the flags: go/src/internal/abi/symtab.go).
//!
//! The file is hostile: work is bounded by its bytes, rows by what a table can hold.

use std::fs::File;

use agent_ebpf::unwind::{CfaRule, FrameRule, Machine, ReturnRule, Rule};

use super::table::MAX_WORDS;
use crate::process::{
    elf::{self, Segment},
    gopclntab::{GoTable, varint},
};

/// Bytes read of one table; Kubernetes' have 25 MB.
const MAX_TABLE: u64 = 128 << 20;
/// Fields of a function (`_func`): its name, its table of stack in use.
const NAME: u64 = 4;
const STACK: u64 = 16;
/// Its flags; since Go 1.20 a field stands before them.
const FLAGS_118: u64 = 37;
const FLAGS_120: u64 = 41;
/// `abi.FuncFlagTopFrame`: it begins a stack.
const TOP: u8 = 1;
/// `abi.FuncFlagSPWrite`: it moves the stack pointer to where no table knows.
const SWITCHES: u8 = 2;
/// `abi.FuncFlagAsm`: written by hand, and may do without a frame pointer.
const BY_HAND: u8 = 4;
/// Begins the stack of handlers only: what the signal interrupted is found below it.
const SIGNAL: &[u8] = b"runtime.sigtramp";
/// Leaves a goroutine for good, on a stack that is free for it.
const LEAVES: &[u8] = b"runtime.mcall";
/// `push %rbp`, with which frames begin since Go 1.21, and `mov %rbp, offset(%rsp)` before.
const PUSH: u8 = 0x55;
const STORES: [[u8; 4]; 3] =
    [[0x48, 0x89, 0x2c, 0x24], [0x48, 0x89, 0x6c, 0x24], [0x48, 0x89, 0xac, 0x24]];

/// Ascending rows of image addresses; none when the table cannot be read.
pub(super) fn rows(
    file: &File,
    machine: Machine,
    code: &[Segment],
    table: &GoTable,
) -> Vec<(u64, Rule)> {
    // Where aarch64 keeps its frame pointer is another matter, and no kernel program walks there yet.
    if machine != Machine::X86_64 || table.bytes > MAX_TABLE {
        return Vec::new();
    }
    let Ok(bytes) = elf::read(file, table.at, table.bytes as usize) else { return Vec::new() };
    let budget = bytes.len();
    let mut made = Made { file, code, table, bytes, rows: Vec::new(), budget };
    made.functions();
    made.rows
}

/// Rows being made.
struct Made<'a> {
    file: &'a File,
    code: &'a [Segment],
    table: &'a GoTable,
    bytes: Vec<u8>,
    rows: Vec<(u64, Rule)>,
    /// Steps that may still be taken: functions may share a table of stack in use.
    budget: usize,
}

impl Made<'_> {
    fn functions(&mut self) {
        let table = self.table;
        let mut end = 0;
        for index in 0..table.functions {
            let place = |index: u64| self.u32(table.table, index.checked_mul(8)?).map(u64::from);
            let (Some(begin), Some(next)) = (place(index), place(index + 1)) else { break };
            let Some(function) = self.u32(table.table, index * 8 + 4) else { break };
            let (Some(start), Some(after)) =
                (table.text.checked_add(begin), table.text.checked_add(next))
            else {
                break;
            };
            // One row more ends the last function.
            if begin < end || next <= begin || self.rows.len() + 1 >= MAX_WORDS {
                break;
            }
            end = next;
            if self.function(u64::from(function), start, after).is_none() {
                self.put(start, Rule::NONE);
            }
        }
        if let Some(end) = table.text.checked_add(end) {
            self.put(end, Rule::NONE);
        }
    }

    /// The rows of one function; `None` when nothing can be said of it.
    fn function(&mut self, function: u64, start: u64, end: u64) -> Option<()> {
        let at = if self.table.is_118 { FLAGS_118 } else { FLAGS_120 };
        let flags = *self.part(self.table.table, function.checked_add(at)?)?.first()?;
        let name = if flags & (TOP | SWITCHES) == 0 { None } else { self.name(function) };
        if flags & TOP != 0 && name != Some(SIGNAL) || flags & SWITCHES != 0 && name == Some(LEAVES)
        {
            self.put(start, Rule::STOP);
        } else if flags & SWITCHES != 0 {
            self.put(start, Rule::SWITCH);
        } else {
            let values = self.u32(self.table.table, function.checked_add(STACK)?)?;
            return self.stack(u64::from(values), (start, end), flags & BY_HAND != 0);
        }
        Some(())
    }

    /// From a table of stack in use: differences of value and place, until a zero.
    fn stack(&mut self, values: u64, (start, end): (u64, u64), by_hand: bool) -> Option<()> {
        if values == 0 {
            return None;
        }
        let at = self.table.values.checked_add(values)?;
        let mut at = usize::try_from(at).ok()?;
        let (mut here, mut value) = (start, -1_i64);
        let mut has_frame_pointer = if by_hand { None } else { Some(true) };
        while here < end && self.rows.len() + 1 < MAX_WORDS {
            self.budget = self.budget.checked_sub(1)?;
            let mut rest = self.bytes.get(at..)?;
            let before = rest.len();
            let difference = varint(&mut rest)?;
            if difference == 0 && here != start {
                break;
            }
            let distance = u64::from(varint(&mut rest)?);
            at += before - rest.len();
            value = value.checked_add(i64::from(difference >> 1) ^ -i64::from(difference & 1))?;
            if value > 0 && has_frame_pointer.is_none() {
                has_frame_pointer = Some(self.stores_frame_pointer(start, here));
            }
            self.put(here, in_use(value, has_frame_pointer == Some(true)));
            let next = here.checked_add(distance.checked_mul(self.table.quantum)?)?;
            if next <= here {
                break;
            }
            here = next;
        }
        Some(())
    }

    /// Whether the first thing that a function written by hand puts on the stack is its frame pointer:
    /// `here` is where it has stack in use first.
    fn stores_frame_pointer(&self, start: u64, here: u64) -> bool {
        let Some(from) = here.checked_sub(1).filter(|&from| from >= start) else { return false };
        let segment =
            self.code.iter().find(|code| code.code().is_some_and(|at| at.contains(&from)));
        let bytes = segment.and_then(|segment| {
            let at = segment.offset.checked_add(from - segment.address)?;
            elf::read(self.file, at, 5).ok()
        });
        bytes.is_some_and(|bytes| {
            bytes.first() == Some(&PUSH) || STORES.iter().any(|store| bytes[1..].starts_with(store))
        })
    }

    fn put(&mut self, address: u64, rule: Rule) {
        match self.rows.last_mut() {
            Some((_, last)) if *last == rule => {}
            // Nothing of it is left.
            Some((at, last)) if *at == address => *last = rule,
            _ => self.rows.push((address, rule)),
        }
    }

    fn name(&self, function: u64) -> Option<&[u8]> {
        let name = self.u32(self.table.table, function.checked_add(NAME)?)?;
        let text = self.part(self.table.names, u64::from(name))?;
        // Longer names than these mean nothing here.
        text.get(..text.len().min(64))?.split(|&byte| byte == 0).next()
    }

    fn u32(&self, part: u64, at: u64) -> Option<u32> {
        Some(u32::from_le_bytes(*self.part(part, at)?.first_chunk()?))
    }

    fn part(&self, part: u64, at: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(part.checked_add(at)?).ok()?..)
    }
}

/// The rule where a function has so many bytes of stack in use: the return address lies above them, and
/// the frame pointer of the caller is the first that was put there (go/src/cmd/internal/obj/x86/obj6.go).
fn in_use(bytes: i64, has_frame_pointer: bool) -> Rule {
    let frame = if has_frame_pointer && bytes >= 8 {
        (FrameRule::AtCfa, -16)
    } else {
        (FrameRule::Same, 0)
    };
    bytes
        .checked_add(8)
        .filter(|&cfa| cfa >= 8)
        .and_then(|cfa| Rule::new((CfaRule::Sp, 0, cfa), frame, (ReturnRule::BelowCfa, 0)))
        .unwrap_or(Rule::BAD)
}

#[cfg(test)]
#[path = "go_tests.rs"]
mod tests;
