//! Runs the instructions of an entry (DWARF 5, 6.4.2). Rows go out as they are complete. Work is bounded
//! by the bytes of the entry and by [`MAX_STEPS`], memory by [`MAX_DEPTH`].

use agent_ebpf::unwind::{Machine, Rule};

use super::{
    Section,
    entry::{self, Cie},
    expression::{self, Base, Value},
    reader::Reader,
    state::{Cfa, Registers, Saved, State},
};

/// Most instructions of one entry; libLLVM's longest has fewer than 10 000.
const MAX_STEPS: usize = 1 << 20;
/// Most states remembered at once; compilers need two.
const MAX_DEPTH: usize = 16;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All of it was followed.
    Whole,
    /// An instruction that cannot be followed.
    Broken,
}

/// A program being run.
struct Program<'s, 'a> {
    section: &'s Section<'a>,
    cie: &'s Cie,
    registers: Registers,
    reader: Reader<'a>,
    /// `None` while the instructions of the CIE itself are run: they have no place and restore nothing.
    initial: Option<State>,
    state: State,
    /// Most entries remember nothing: millions of them are faster without room for it.
    remembered: Vec<State>,
}

/// What an instruction did.
enum Step {
    /// Changed the state.
    Changed,
    /// Ended the row: the next one starts so much later.
    Advanced(u64),
    /// Ended the row: the next one starts here.
    Moved(u64),
}

/// What the instructions of a CIE say, `None` when they cannot be followed.
pub(super) fn initial(section: &Section<'_>, cie: &Cie) -> Option<State> {
    let bytes = section.bytes.get(..cie.end)?;
    let mut program = Program::new(section, cie, Reader::new(bytes, cie.instructions), None);
    for _ in 0..MAX_STEPS {
        if program.reader.is_empty() {
            return Some(program.state);
        }
        match program.step()? {
            Step::Changed => {}
            Step::Advanced(_) | Step::Moved(_) => return None,
        }
    }
    None
}

/// Emits the rows that `instructions` say of `start..end`, which is not empty: the first at `start`,
/// each at a higher address, all below `end`. Behind a broken instruction follows [`Rule::BAD`].
pub(super) fn rows(
    section: &Section<'_>,
    cie: &Cie,
    (start, end): (u64, u64),
    instructions: Reader<'_>,
    row: &mut impl FnMut(u64, Rule),
) -> End {
    let mut program = Program::new(section, cie, instructions, Some(cie.initial));
    let mut here = start;
    for _ in 0..MAX_STEPS {
        if program.reader.is_empty() {
            row(here, program.state.rule(section.machine));
            return End::Whole;
        }
        let next = match program.step() {
            Some(Step::Changed) => continue,
            // Past all addresses is past the end too.
            Some(Step::Advanced(distance)) => here.saturating_add(distance),
            Some(Step::Moved(next)) if next >= here => next,
            Some(Step::Moved(_)) | None => break,
        };
        if next > here {
            row(here, program.state.rule(section.machine));
        }
        // A later function begins here, or nobody's code: what is said of it does not count.
        if next >= end {
            return End::Whole;
        }
        here = next;
    }
    row(here, Rule::BAD);
    End::Broken
}

// === impl Program ===

impl<'s, 'a> Program<'s, 'a> {
    fn new(
        section: &'s Section<'a>,
        cie: &'s Cie,
        reader: Reader<'a>,
        initial: Option<State>,
    ) -> Self {
        Self {
            section,
            cie,
            registers: Registers::of(section.machine),
            reader,
            initial,
            state: initial.unwrap_or(State::UNSET),
            remembered: Vec::new(),
        }
    }

    /// Follows one instruction; `None` when that is impossible.
    #[inline]
    fn step(&mut self) -> Option<Step> {
        let opcode = self.reader.u8()?;
        let low = u64::from(opcode & 0x3f);
        match opcode & 0xc0 {
            // DW_CFA_advance_loc, DW_CFA_offset, DW_CFA_restore
            0x40 => return self.advanced(low),
            0x80 => {
                let offset = self.factored()?;
                self.save(low, Saved::AtCfa(offset));
            }
            0xc0 => self.restore(low)?,
            _ => return self.extended(opcode),
        }
        Some(Step::Changed)
    }

    fn extended(&mut self, opcode: u8) -> Option<Step> {
        match opcode {
            // DW_CFA_nop
            0x00 => {}
            // DW_CFA_set_loc
            0x01 => {
                let (encoding, section) = (self.cie.encoding, self.section.address);
                return entry::address(&mut self.reader, encoding, section).map(Step::Moved);
            }
            // DW_CFA_advance_loc1, 2, 4, and 8 of MIPS
            0x02 => return self.reader.u8().and_then(|delta| self.advanced(delta.into())),
            0x03 => return self.reader.u16().and_then(|delta| self.advanced(delta.into())),
            0x04 => return self.reader.u32().and_then(|delta| self.advanced(delta.into())),
            0x1d => return self.reader.u64().and_then(|delta| self.advanced(delta)),
            // DW_CFA_remember_state, DW_CFA_restore_state
            0x0a => {
                if self.remembered.len() == MAX_DEPTH {
                    return None;
                }
                self.remembered.push(self.state);
            }
            0x0b => self.state = self.remembered.pop()?,
            // DW_CFA_def_cfa, _register, _offset, _expression, _sf, _offset_sf
            0x0c => {
                let register = self.reader.uleb()?;
                self.state.cfa = Cfa::At(register, capped(self.reader.uleb()?));
            }
            0x0d => {
                let register = self.reader.uleb()?;
                let Cfa::At(_, offset) = self.state.cfa else { return None };
                self.state.cfa = Cfa::At(register, offset);
            }
            0x0e => {
                let offset = capped(self.reader.uleb()?);
                self.set_cfa_offset(offset)?;
            }
            0x0f => {
                let code = self.block()?;
                let value = expression::evaluate(code, None, self.section.machine);
                self.state.cfa = Cfa::Expression(value);
            }
            0x12 => {
                let register = self.reader.uleb()?;
                self.state.cfa = Cfa::At(register, self.factored_signed()?);
            }
            0x13 => {
                let offset = self.factored_signed()?;
                self.set_cfa_offset(offset)?;
            }
            // DW_CFA_GNU_args_size: of pushed arguments, which the CFA's offset has in it
            0x2e => {
                self.reader.uleb()?;
            }
            // DW_CFA_AARCH64_negate_ra_state_with_pc, DW_CFA_AARCH64_negate_ra_state: whether the
            // return address is signed. Who follows it strips the signature in any case.
            0x2c | 0x2d if self.section.machine == Machine::Aarch64 => {}
            _ => return self.register(opcode),
        }
        Some(Step::Changed)
    }

    /// The instructions of which the first operand is a register to be recovered.
    fn register(&mut self, opcode: u8) -> Option<Step> {
        let register = self.reader.uleb()?;
        let saved = match opcode {
            // DW_CFA_offset_extended, DW_CFA_restore_extended
            0x05 => Saved::AtCfa(self.factored()?),
            0x06 => {
                self.restore(register)?;
                return Some(Step::Changed);
            }
            // DW_CFA_undefined, DW_CFA_same_value, DW_CFA_register
            0x07 => Saved::Undefined,
            0x08 => Saved::Same,
            0x09 => Saved::In(self.reader.uleb()?),
            // DW_CFA_expression
            0x10 => {
                let code = self.block()?;
                let first = Some(Value::Sum(Base::Cfa, 0));
                // Nobody asks where the other registers are.
                let asked = register == self.registers.frame || register == self.registers.ret;
                let machine = self.section.machine;
                Saved::At(asked.then(|| expression::evaluate(code, first, machine)).flatten())
            }
            // DW_CFA_offset_extended_sf, DW_CFA_GNU_negative_offset_extended
            0x11 => Saved::AtCfa(self.factored_signed()?),
            0x2f => Saved::AtCfa(self.factored()?.saturating_neg()),
            // DW_CFA_val_offset, DW_CFA_val_offset_sf, DW_CFA_val_expression
            0x14 => self.reader.uleb().map(|_| Saved::Computed)?,
            0x15 => self.reader.sleb().map(|_| Saved::Computed)?,
            0x16 => self.block().map(|_| Saved::Computed)?,
            _ => return None,
        };
        self.save(register, saved);
        Some(Step::Changed)
    }

    fn advanced(&self, delta: u64) -> Option<Step> {
        Some(Step::Advanced(delta.saturating_mul(self.cie.code_align)))
    }

    fn set_cfa_offset(&mut self, offset: i64) -> Option<()> {
        let Cfa::At(register, _) = self.state.cfa else { return None };
        self.state.cfa = Cfa::At(register, offset);
        Some(())
    }

    fn save(&mut self, register: u64, saved: Saved) {
        if register == self.registers.frame {
            self.state.frame = saved;
        } else if register == self.registers.ret {
            self.state.ret = saved;
        }
    }

    fn restore(&mut self, register: u64) -> Option<()> {
        let initial = self.initial?;
        if register == self.registers.frame {
            self.state.frame = initial.frame;
        } else if register == self.registers.ret {
            self.state.ret = initial.ret;
        }
        Some(())
    }

    fn block(&mut self) -> Option<&'a [u8]> {
        let length = self.reader.uleb()?;
        self.reader.take(length)
    }

    /// An offset in units of the data alignment. What is too large for 64 bits is so for a rule.
    fn factored(&mut self) -> Option<i64> {
        let offset = capped(self.reader.uleb()?);
        Some(self.scaled(offset))
    }

    fn factored_signed(&mut self) -> Option<i64> {
        let offset = self.reader.sleb()?;
        Some(self.scaled(offset))
    }

    fn scaled(&self, offset: i64) -> i64 {
        offset.checked_mul(self.cie.data_align).unwrap_or(i64::MAX)
    }
}

fn capped(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
