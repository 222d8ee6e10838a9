//! What gimli says of a table, against what our rules say. Rules are not translated but followed: both
//! sides compute the caller from the same registers and memory, whose contents are hashes.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher as _},
    ops::Range,
};

use agent_ebpf::unwind::{CfaRule, FrameRule, Machine, ReturnRule, Rule, rule::MAX_OFFSET};
use gimli::{
    BaseAddresses, CieOrFde, Encoding, EndianSlice, EvaluationResult, LittleEndian, Location,
    Operation, Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindExpression,
    UnwindSection, UnwindTableRow,
};

use super::{Kind, Section, images::Table, state::Registers};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;
type Row = UnwindTableRow<usize, Deep>;

/// gimli's own storage remembers 4 states.
struct Deep;

impl UnwindContextStorage<usize> for Deep {
    type Rules = [(Register, RegisterRule<usize>); 192];
    type Stack = Box<[UnwindTableRow<usize, Self>; 20]>;
}

/// What was compared.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub fdes: u64,
    pub addresses: u64,
    /// FDEs that gimli cannot follow to their end.
    pub broken: u64,
    pub lost: u64,
    pub bad: HashMap<String, u64>,
    pub differences: Vec<String>,
}

/// The registers of a frame.
#[derive(Clone, Copy)]
struct Frame {
    pc: u64,
    machine: Machine,
}

/// Compares `table` with gimli's view of the section, at the first two, the last and two more addresses of each row
/// and in all gaps.
pub(super) fn compare(section: &Section<'_>, code: &[Range<u64>], table: &Table) -> Comparison {
    let bases = BaseAddresses::default().set_eh_frame(section.address);
    let vendor = match section.machine {
        Machine::X86_64 => gimli::Vendor::Default,
        Machine::Aarch64 => gimli::Vendor::AArch64,
    };
    match section.kind {
        Kind::EhFrame => {
            let mut theirs = gimli::EhFrame::new(section.bytes, LittleEndian);
            theirs.set_vendor(vendor);
            compare_with(&theirs, &bases, section, code, table)
        }
        Kind::DebugFrame => {
            let mut theirs = gimli::DebugFrame::new(section.bytes, LittleEndian);
            theirs.set_vendor(vendor);
            compare_with(&theirs, &bases, section, code, table)
        }
    }
}

fn compare_with<'a, S: UnwindSection<Bytes<'a>>>(
    theirs: &S,
    bases: &BaseAddresses,
    section: &Section<'a>,
    code: &[Range<u64>],
    table: &Table,
) -> Comparison {
    let mut fdes = Vec::new();
    let mut entries = theirs.entries(bases);
    while let Some(entry) = entries.next().unwrap() {
        let CieOrFde::Fde(fde) = entry else { continue };
        let fde = fde.parse(S::cie_from_offset).unwrap();
        if fde.len() > 0 && code.iter().any(|code| code.contains(&fde.initial_address())) {
            fdes.push(fde);
        }
    }
    fdes.sort_by_key(|fde| fde.initial_address());
    fdes.dedup_by_key(|fde| fde.initial_address());
    let mut result = Comparison::default();
    let mut context = UnwindContext::<usize, Deep>::new_in();
    for (index, fde) in fdes.iter().enumerate() {
        result.fdes += 1;
        let next = fdes.get(index + 1).map_or(u64::MAX, |next| next.initial_address());
        let end = fde.end_address().min(next);
        for address in [end, end.saturating_add(15).min(next - 1), next - 1] {
            let expected = if next - end < 16 { table.at(end - 1) } else { Rule::NONE };
            if (end..next).contains(&address) && table.at(address) != expected {
                result.differences.push(format!("gap at {address:#x}"));
            }
        }
        let mut at = fde.initial_address();
        let mut follow = || -> gimli::Result<()> {
            let mut rows = fde.rows(theirs, bases, &mut context)?;
            while let Some(row) = rows.next_row()? {
                let row_end = row.end_address().min(end);
                if row.start_address() >= row_end {
                    continue;
                }
                at = row_end;
                let start = row.start_address();
                // A PLT's rule changes within its 16 bytes.
                let within = [0, 1, 10, 11].map(|offset| (start + offset).min(row_end - 1));
                for pc in within.into_iter().chain([row_end - 1]) {
                    let rule = table.at(pc);
                    let frame = Frame { pc, machine: section.machine };
                    result.addresses += 1;
                    let outcome = if fde.is_signal_trampoline() {
                        (rule == Rule::SIGNAL).then_some(()).ok_or("not a signal".to_owned())
                    } else {
                        frame.check(rule, row, theirs, fde.cie().encoding(), &mut result)
                    };
                    if let Err(difference) = outcome {
                        result
                            .differences
                            .push(format!("{pc:#x}: {difference}: {rule:x?} {row:?}"));
                    }
                }
            }
            Ok(())
        };
        if follow().is_err() {
            result.broken += 1;
            if at < end && (table.at(at) != Rule::BAD || table.at(end - 1) != Rule::BAD) {
                result.differences.push(format!("{at:#x}: gimli gives up, we do not"));
            }
        }
    }
    result
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn memory(address: u64) -> u64 {
    hash(("memory", address))
}

impl Frame {
    fn register(self, number: u64) -> u64 {
        match (self.machine, number) {
            (Machine::X86_64, 16) => self.pc,
            _ => hash(("register", self.pc, number)),
        }
    }

    fn check<'a, S: UnwindSection<Bytes<'a>>>(
        self,
        rule: Rule,
        row: &Row,
        section: &S,
        encoding: Encoding,
        result: &mut Comparison,
    ) -> Result<(), String> {
        let numbers = Registers::of(self.machine);
        let rule_of = |number: u64| row.register(Register(number as u16));
        let (frame_rule, ret_rule) = (rule_of(numbers.frame), rule_of(numbers.ret));
        if (ret_rule == Some(RegisterRule::Undefined)) != (rule == Rule::STOP) {
            return Err("stop".to_owned());
        }
        if rule == Rule::STOP {
            return Ok(());
        }
        if rule == Rule::BAD {
            let why = self.excuse(row, &frame_rule, &ret_rule, section, encoding)?;
            *result.bad.entry(why).or_default() += 1;
            return Ok(());
        }
        let (cfa, frame, ret) = self.follow(rule)?;
        let expected = match row.cfa() {
            gimli::CfaRule::RegisterAndOffset { register, offset } => {
                self.register(register.0.into()).wrapping_add(*offset as u64)
            }
            gimli::CfaRule::Expression(expression) => {
                self.evaluate(expression, None, section, encoding)?
            }
        };
        if cfa != expected {
            return Err(format!("CFA {cfa:#x}, not {expected:#x}"));
        }
        let recover = |rule: &Option<RegisterRule<usize>>, number| {
            Ok(match rule {
                None | Some(RegisterRule::SameValue) => self.register(number),
                Some(RegisterRule::Offset(offset)) => memory(cfa.wrapping_add(*offset as u64)),
                Some(RegisterRule::ValOffset(offset)) => cfa.wrapping_add(*offset as u64),
                Some(RegisterRule::Register(other)) => self.register(other.0.into()),
                Some(RegisterRule::Expression(code)) => {
                    memory(self.evaluate(code, Some(cfa), section, encoding)?)
                }
                Some(RegisterRule::ValExpression(code)) => {
                    self.evaluate(code, Some(cfa), section, encoding)?
                }
                other => return Err(format!("{other:?}")),
            })
        };
        let expected = recover(&ret_rule, numbers.ret)?;
        if ret != expected {
            return Err(format!("return address {ret:#x}, not {expected:#x}"));
        }
        match frame {
            Some(frame) if frame != recover(&frame_rule, numbers.frame)? => {
                Err("frame pointer".to_owned())
            }
            Some(_) => Ok(()),
            None => {
                result.lost += 1;
                self.may_be_lost(&frame_rule, section, encoding)
            }
        }
    }

    /// The CFA, the caller's frame pointer and the return address by our rule, as it is documented.
    fn follow(self, rule: Rule) -> Result<(u64, Option<u64>, u64), String> {
        let numbers = Registers::of(self.machine);
        let (sp, fp) = (self.register(numbers.stack), self.register(numbers.frame));
        let argument = u64::from(rule.cfa_argument());
        let plus = |base: u64, offset: i64| base.wrapping_add(offset as u64);
        let offset = rule.cfa_offset();
        let is = |kind: CfaRule| rule.cfa() == kind as u8;
        let cfa = match () {
            () if is(CfaRule::Sp) => plus(sp, offset),
            () if is(CfaRule::Fp) => plus(fp, offset),
            () if is(CfaRule::Register) => plus(self.register(argument), offset),
            () if is(CfaRule::Plt) => plus(sp, if self.pc & 15 >= argument { 16 } else { 8 }),
            () if is(CfaRule::DerefSp) => memory(plus(sp, offset)).wrapping_add(argument * 8),
            () if is(CfaRule::DerefFp) => memory(plus(fp, offset)).wrapping_add(argument * 8),
            () => return Err("no such rule expected".to_owned()),
        };
        let slot = plus(cfa, rule.frame_offset());
        let frame = match rule.frame() {
            kind if kind == FrameRule::Same as u8 => Some(fp),
            kind if kind == FrameRule::AtCfa as u8 => Some(memory(slot)),
            kind if kind == FrameRule::AtFp as u8 => Some(memory(plus(fp, rule.frame_offset()))),
            _ => None,
        };
        let ret = match rule.ret() {
            kind if kind == ReturnRule::BelowCfa as u8 => memory(plus(cfa, -8)),
            kind if kind == ReturnRule::Register as u8 => self.register(rule.ret_register().into()),
            kind if kind == ReturnRule::Link as u8 => self.register(numbers.ret),
            _ => memory(plus(slot, rule.ret_distance())),
        };
        Ok((cfa, frame, ret))
    }

    fn evaluate<'a, S: UnwindSection<Bytes<'a>>>(
        self,
        code: &UnwindExpression<usize>,
        first: Option<u64>,
        section: &S,
        encoding: Encoding,
    ) -> Result<u64, String> {
        let mut evaluation = code.get(section).unwrap().evaluation(encoding);
        if let Some(first) = first {
            evaluation.set_initial_value(first);
        }
        let mut state = evaluation.evaluate().map_err(|error| error.to_string())?;
        loop {
            let next = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory { address, .. } => {
                    evaluation.resume_with_memory(gimli::Value::Generic(memory(address)))
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = self.register(register.0.into());
                    evaluation.resume_with_register(gimli::Value::Generic(value))
                }
                other => return Err(format!("{other:?}")),
            };
            state = next.map_err(|error| error.to_string())?;
        }
        match evaluation.as_result() {
            [gimli::Piece { location: Location::Address { address }, .. }] => Ok(*address),
            other => Err(format!("{other:?}")),
        }
    }

    /// Why a row may be bad: it must say something that no rule can.
    fn excuse<'a, S: UnwindSection<Bytes<'a>>>(
        self,
        row: &Row,
        frame_rule: &Option<RegisterRule<usize>>,
        ret_rule: &Option<RegisterRule<usize>>,
        section: &S,
        encoding: Encoding,
    ) -> Result<String, String> {
        let numbers = Registers::of(self.machine);
        let pointer =
            |register: Register| [numbers.stack, numbers.frame].contains(&register.0.into());
        let huge = |offset: i64| offset.unsigned_abs() > MAX_OFFSET as u64;
        match row.cfa() {
            // gimli's way of saying that nothing was said.
            gimli::CfaRule::RegisterAndOffset { register: Register(0), offset: 0 } => {
                return Ok("no CFA".to_owned());
            }
            gimli::CfaRule::RegisterAndOffset { register, offset } => {
                if !pointer(*register) && register.0 >= 16 || huge(*offset) {
                    return Ok(format!("CFA {register:?}"));
                }
            }
            gimli::CfaRule::Expression(code) => {
                let understood = match operations(code, section, encoding)[..] {
                    [Operation::RegisterOffset { register, .. }] => {
                        pointer(register) || register.0 < 16
                    }
                    [Operation::RegisterOffset { register, .. }, Operation::Deref { .. }] => {
                        pointer(register)
                    }
                    [
                        Operation::RegisterOffset { register, .. },
                        Operation::Deref { .. },
                        Operation::PlusConstant { value },
                    ] => pointer(register) && value % 8 == 0 && value < 128,
                    ref long => long.len() == 9 && self.machine == Machine::X86_64,
                };
                if !understood {
                    return Ok(format!("CFA {:?}", operations(code, section, encoding)));
                }
            }
        }
        let other = || Ok(format!("return address {ret_rule:?}, frame {frame_rule:?}"));
        match (frame_rule, ret_rule) {
            (Some(RegisterRule::Offset(offset)), _) if huge(*offset) => other(),
            (_, Some(RegisterRule::Offset(offset))) if huge(*offset) => other(),
            (_, None) if self.machine == Machine::X86_64 => other(),
            (_, Some(RegisterRule::Offset(-8))) if self.machine == Machine::X86_64 => {
                Err("return address below the CFA".to_owned())
            }
            (None | Some(RegisterRule::SameValue), Some(RegisterRule::Offset(_))) => {
                Err("return address in memory".to_owned())
            }
            (Some(RegisterRule::Offset(slot)), Some(RegisterRule::Offset(offset)))
                if (offset - slot) % 8 == 0 && (-64..64).contains(&(offset - slot)) =>
            {
                Err("return address near the frame pointer".to_owned())
            }
            (_, Some(RegisterRule::Register(Register(0..16)))) => Err("register".to_owned()),
            (_, None | Some(RegisterRule::SameValue)) if self.machine == Machine::Aarch64 => {
                Err("link register".to_owned())
            }
            _ => other(),
        }
    }

    fn may_be_lost<'a, S: UnwindSection<Bytes<'a>>>(
        self,
        rule: &Option<RegisterRule<usize>>,
        section: &S,
        encoding: Encoding,
    ) -> Result<(), String> {
        let frame = Registers::of(self.machine).frame;
        let allowed = match rule {
            None | Some(RegisterRule::SameValue | RegisterRule::Offset(_)) => false,
            Some(RegisterRule::Register(register)) => u64::from(register.0) != frame,
            Some(RegisterRule::Expression(code)) => match operations(code, section, encoding)[..] {
                [Operation::RegisterOffset { register, .. }] => u64::from(register.0) != frame,
                _ => true,
            },
            _ => true,
        };
        allowed.then_some(()).ok_or("frame pointer is lost".to_owned())
    }
}

fn operations<'a, S: UnwindSection<Bytes<'a>>>(
    code: &UnwindExpression<usize>,
    section: &S,
    encoding: Encoding,
) -> Vec<Operation<Bytes<'a>>> {
    let mut operations = code.get(section).unwrap().operations(encoding);
    let mut all = Vec::new();
    while let Ok(Some(operation)) = operations.next() {
        all.push(operation);
    }
    all
}
