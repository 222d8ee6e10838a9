//! What a table says of one address, and the rule that it becomes. Of the registers, only the frame
//! pointer and the return address are followed: an unwinder in the kernel keeps no others.

use agent_ebpf::unwind::{CfaRule, FrameRule, Machine, ReturnRule, Rule};

use super::expression::{Base, Value};

/// Where the canonical frame address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cfa {
    /// Not said.
    Unset,
    /// Register + offset.
    At(u64, i64),
    /// An expression; `None` is one that is not understood.
    Expression(Option<Value>),
}

/// What became of a register of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Not said.
    Unset,
    /// Gone; of a return address: nobody returns.
    Undefined,
    /// Still there.
    Same,
    /// In memory, at CFA + offset.
    AtCfa(i64),
    /// In memory, where an expression says; `None` is one that is not understood.
    At(Option<Value>),
    /// In a register.
    In(u64),
    /// It is a number that would have to be computed.
    Computed,
}

/// One row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The canonical frame address.
    pub cfa: Cfa,
    /// The caller's frame pointer.
    pub frame: Saved,
    /// The return address.
    pub ret: Saved,
}

/// DWARF's numbers of a machine's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    /// Stack pointer.
    pub stack: u64,
    /// Frame pointer.
    pub frame: u64,
    /// Return address.
    pub ret: u64,
}

type CfaParts = (CfaRule, u8, i64);

// === impl Registers ===

impl Registers {
    /// Those of a machine (x86-64 psABI 3.6.2, aadwarf64 4.1).
    pub(super) fn of(machine: Machine) -> Self {
        match machine {
            Machine::X86_64 => Self { stack: 7, frame: 6, ret: 16 },
            Machine::Aarch64 => Self { stack: 31, frame: 29, ret: 30 },
        }
    }

    fn cfa(self, register: u64, offset: i64) -> Option<CfaParts> {
        Some(match register {
            _ if register == self.stack => (CfaRule::Sp, 0, offset),
            _ if register == self.frame => (CfaRule::Fp, 0, offset),
            0..16 => (CfaRule::Register, register as u8, offset),
            _ => return None,
        })
    }
}

// === impl State ===

impl State {
    /// Nothing said.
    pub(super) const UNSET: Self = Self { cfa: Cfa::Unset, frame: Saved::Unset, ret: Saved::Unset };

    /// The rule, [`Rule::BAD`] for what no rule can say.
    pub(super) fn rule(&self, machine: Machine) -> Rule {
        self.packed(machine).unwrap_or(Rule::BAD)
    }

    fn packed(&self, machine: Machine) -> Option<Rule> {
        if self.ret == Saved::Undefined {
            return Some(Rule::STOP);
        }
        let registers = Registers::of(machine);
        let cfa = self.packed_cfa(registers)?;
        let frame = match self.frame {
            Saved::Unset | Saved::Same => (FrameRule::Same, 0),
            Saved::In(register) if register == registers.frame => (FrameRule::Same, 0),
            Saved::At(Some(Value::Sum(Base::Register(register), offset)))
                if register == registers.frame =>
            {
                (FrameRule::AtFp, offset)
            }
            saved => match from_cfa(saved, cfa, registers) {
                Some(offset) => (FrameRule::AtCfa, offset),
                None => (FrameRule::Lost, 0),
            },
        };
        let (frame, ret) = match (machine, self.ret) {
            (Machine::Aarch64, Saved::Unset | Saved::Same) => (frame, (ReturnRule::Link, 0)),
            (Machine::Aarch64, Saved::In(register)) if register == registers.ret => {
                (frame, (ReturnRule::Link, 0))
            }
            (_, Saved::In(register @ 0..16)) => (frame, (ReturnRule::Register, register as i8)),
            (machine, saved) => match (machine, from_cfa(saved, cfa, registers)?) {
                (Machine::X86_64, -8) => (frame, (ReturnRule::BelowCfa, 0)),
                (_, offset) => beside(frame, offset)?,
            },
        };
        Rule::new(cfa, frame, ret)
    }

    fn packed_cfa(&self, registers: Registers) -> Option<CfaParts> {
        match self.cfa {
            Cfa::At(register, offset)
            | Cfa::Expression(Some(Value::Sum(Base::Register(register), offset))) => {
                registers.cfa(register, offset)
            }
            Cfa::Expression(Some(Value::Loaded { register, at, added })) => {
                let rule = match registers.cfa(register, at)?.0 {
                    CfaRule::Sp => CfaRule::DerefSp,
                    CfaRule::Fp => CfaRule::DerefFp,
                    _ => return None,
                };
                let words = u8::try_from(added / 8).ok().filter(|_| added % 8 == 0)?;
                Some((rule, words, at))
            }
            Cfa::Expression(Some(Value::Plt(threshold))) => Some((CfaRule::Plt, threshold, 0)),
            Cfa::Unset | Cfa::Expression(_) => None,
        }
    }
}

/// Where from the CFA a register is saved, if that is a constant: also what lies at a constant distance
/// from the very register that the CFA is computed from.
fn from_cfa(saved: Saved, (cfa, _, cfa_offset): CfaParts, registers: Registers) -> Option<i64> {
    match saved {
        Saved::AtCfa(offset) | Saved::At(Some(Value::Sum(Base::Cfa, offset))) => Some(offset),
        Saved::At(Some(Value::Sum(Base::Register(register), offset))) => {
            let of_cfa = match cfa {
                CfaRule::Sp => registers.stack,
                CfaRule::Fp => registers.frame,
                _ => return None,
            };
            (register == of_cfa).then(|| offset.checked_sub(cfa_offset)).flatten()
        }
        _ => None,
    }
}

/// A return address at CFA + `offset`, as words from the slot of the frame pointer. Where that is not
/// saved, its rule has room for the offset.
fn beside(frame: (FrameRule, i64), offset: i64) -> Option<((FrameRule, i64), (ReturnRule, i8))> {
    match frame {
        (FrameRule::Same, _) => Some(((FrameRule::Same, offset), (ReturnRule::BesideFrame, 0))),
        (FrameRule::AtCfa, slot) => {
            let distance = offset.checked_sub(slot).filter(|distance| distance % 8 == 0)?;
            // Rule::new refuses what is too far.
            Some((frame, (ReturnRule::BesideFrame, i8::try_from(distance / 8).ok()?)))
        }
        _ => None,
    }
}
