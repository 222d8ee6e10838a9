//! What a DWARF expression of a table says, for the few shapes that compilers, assemblers and linkers
//! write. A stack of sums stands in for the stack of numbers: whatever is no sum of one register and
//! constants, loaded at most once, is not understood. Each byte is looked at once.

use agent_ebpf::unwind::Machine;

use super::reader::Reader;

/// Numbers an expression may hold at once; the shapes below need two.
const DEPTH: usize = 4;

/// What a sum starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Zero.
    Nothing,
    /// The canonical frame address.
    Cfa,
    /// A register, as the frame has it.
    Register(u64),
}

/// The result of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Base + offset.
    Sum(Base, i64),
    /// The word at register + `at`, plus `added`.
    Loaded {
        /// The register.
        register: u64,
        /// Added before the load.
        at: i64,
        /// Added after it.
        added: i64,
    },
    /// `rsp + 8`, and 8 more when `rip & 15` is at least this.
    Plt(u8),
}

/// The value of `code`, on whose stack lies `first`.
pub(super) fn evaluate(code: &[u8], first: Option<Value>, machine: Machine) -> Option<Value> {
    if let (Some(threshold), Machine::X86_64) = (plt(code), machine) {
        return Some(Value::Plt(threshold));
    }
    let mut stack = [Value::Sum(Base::Nothing, 0); DEPTH];
    let mut depth = 0;
    let mut push = first;
    let mut reader = Reader::new(code, 0);
    loop {
        if let Some(value) = push.take() {
            *stack.get_mut(depth)? = value;
            depth += 1;
        }
        if reader.is_empty() {
            break;
        }
        let opcode = reader.u8()?;
        push = match opcode {
            // DW_OP_deref
            0x06 => {
                depth = depth.checked_sub(1)?;
                let Value::Sum(Base::Register(register), at) = *stack.get(depth)? else {
                    return None;
                };
                Some(Value::Loaded { register, at, added: 0 })
            }
            // DW_OP_minus, DW_OP_plus
            0x1c | 0x22 => {
                depth = depth.checked_sub(2)?;
                let (left, right) = (*stack.get(depth)?, *stack.get(depth + 1)?);
                match (opcode, left, right) {
                    (0x1c, left, Value::Sum(Base::Nothing, number)) => {
                        Some(add(left, number.checked_neg()?)?)
                    }
                    (0x22, Value::Sum(Base::Nothing, number), other)
                    | (0x22, other, Value::Sum(Base::Nothing, number)) => Some(add(other, number)?),
                    _ => return None,
                }
            }
            // DW_OP_plus_uconst
            0x23 => {
                depth = depth.checked_sub(1)?;
                Some(add(*stack.get(depth)?, i64::try_from(reader.uleb()?).ok()?)?)
            }
            // DW_OP_breg0 ..= DW_OP_breg31, DW_OP_bregx
            0x70..=0x8f => {
                Some(Value::Sum(Base::Register(u64::from(opcode - 0x70)), reader.sleb()?))
            }
            0x92 => Some(Value::Sum(Base::Register(reader.uleb()?), reader.sleb()?)),
            // DW_OP_nop
            0x96 => None,
            _ => Some(Value::Sum(Base::Nothing, constant(opcode, &mut reader)?)),
        };
    }
    stack.get(depth.checked_sub(1)?).copied()
}

/// The number that an operation without operands on the stack pushes.
fn constant(opcode: u8, reader: &mut Reader<'_>) -> Option<i64> {
    Some(match opcode {
        // DW_OP_const1u, 1s, 2u, 2s, 4u, 4s, 8u and 8s, constu, consts, lit0 ..= lit31
        0x08 => i64::from(reader.u8()?),
        0x09 => i64::from(reader.u8()? as i8),
        0x0a => i64::from(reader.u16()?),
        0x0b => i64::from(reader.u16()? as i16),
        0x0c => i64::from(reader.u32()?),
        0x0d => i64::from(reader.u32()? as i32),
        0x0e | 0x0f => reader.u64()? as i64,
        0x10 => reader.uleb()? as i64,
        0x11 => reader.sleb()?,
        0x30..=0x4f => i64::from(opcode - 0x30),
        _ => return None,
    })
}

fn add(value: Value, number: i64) -> Option<Value> {
    Some(match value {
        Value::Sum(base, offset) => Value::Sum(base, offset.checked_add(number)?),
        Value::Loaded { register, at, added } => {
            Value::Loaded { register, at, added: added.checked_add(number)? }
        }
        Value::Plt(_) => return None,
    })
}

/// The threshold of the expression that ld writes for a lazy PLT (bfd/elfxx-x86.h): breg7 8, breg16 0,
/// lit15, and, litN, ge, lit3, shl, plus.
fn plt(code: &[u8]) -> Option<u8> {
    match *code {
        [0x77, 8, 0x80, 0, 0x3f, 0x1a, threshold @ 0x30..=0x3f, 0x2a, 0x33, 0x24, 0x22] => {
            Some(threshold - 0x30)
        }
        _ => None,
    }
}
