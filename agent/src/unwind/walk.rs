//! The walk over a copy of a stack: the same step the kernel side takes, on memory that was sent.

use agent_ebpf::{
    unwind::{
        Cursor, Machine, Memory, Rule, Stop,
        step::{self, ENTRY_OFFSETS, SIGNAL_OFFSETS},
    },
    wire::{FrameAddress, MAX_FRAMES, RawFrame, stack::PAGE},
};

use super::late::Walked;
use crate::kernel::StackCopy;

/// Words of `pt_regs`.
const BP: usize = 4;
const IP: usize = 16;
const SP: usize = 19;

/// The process a copy was made of.
pub(super) trait Process {
    /// The rule of an address, or why there is none.
    fn rule(&mut self, address: u64) -> Result<Rule, Stop>;
    /// Eight bytes of code.
    fn code(&mut self, address: u64) -> Option<u64>;
}

/// The memory of a copy.
struct Copied<'a, P> {
    copy: &'a StackCopy,
    from: u64,
    process: P,
}

impl<P: Process> Copied<'_, P> {
    fn stack(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.from)?).ok()?;
        let bytes = self.copy.bytes.get(at..at.checked_add(8)?)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }
}

impl<P: Process> Memory for Copied<'_, P> {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.stack(address).or_else(|| self.process.code(address))
    }

    fn pair(&mut self, address: u64) -> Option<[u64; 2]> {
        Some([self.word(address)?, self.word(address.checked_add(8)?)?])
    }

    fn register(&mut self, number: u8, context: u64) -> Option<u64> {
        let number = usize::from(number & 15);
        if context == 0 {
            return Some(self.copy.registers[usize::from(ENTRY_OFFSETS[number]) / 8]);
        }
        self.word(context.checked_add(u64::from(SIGNAL_OFFSETS[number]))?)
    }
}

/// Walks a copy.
pub(super) fn walk(copy: &StackCopy, process: impl Process) -> Walked {
    let registers = &copy.registers;
    let mut cursor = Cursor {
        ip: registers[IP],
        sp: registers[SP],
        bp: registers[BP],
        exact: u32::from(copy.exact),
        innermost: 1,
        ..Cursor::default()
    };
    let mut memory = Copied { copy, from: registers[SP] & !(PAGE as u64 - 1), process };
    let mut walked = Walked { frames: Vec::new(), stop: Stop::Depth };
    for depth in 0..MAX_FRAMES {
        let rule = memory.process.rule(cursor.inside());
        // What is no code has called nobody. The thread itself is where it is.
        if rule.is_ok() || depth == 0 {
            walked.frames.push(RawFrame::Native(if cursor.exact != 0 {
                FrameAddress::Ip(cursor.ip)
            } else {
                FrameAddress::ReturnAddress(cursor.ip)
            }));
        }
        let stop = match rule {
            Ok(rule) => step::step(Machine::X86_64, rule, &mut cursor, &mut memory),
            Err(stop) => Some(stop),
        };
        if let Some(stop) = stop {
            walked.stop = stop;
            break;
        }
    }
    walked
}

#[cfg(test)]
mod tests {
    use agent_ebpf::wire::stack::COPY_REGISTERS;

    use super::*;

    /// Code without tables, at 0x1000.
    struct Framed;

    impl Process for Framed {
        fn rule(&mut self, address: u64) -> Result<Rule, Stop> {
            if (0x1000..0x2000).contains(&address) { Ok(Rule::NONE) } else { Err(Stop::Code) }
        }

        fn code(&mut self, _: u64) -> Option<u64> {
            None
        }
    }

    fn natives(walked: &Walked) -> Vec<FrameAddress> {
        walked.frames.iter().filter_map(|frame| frame.native()).collect()
    }

    #[test]
    fn what_is_no_code_has_called_nobody() {
        let mut registers = [0; COPY_REGISTERS];
        (registers[IP], registers[SP], registers[BP]) = (0x1100, 0x7000, 0x7010);
        let words = [0u64, 0, 0x7020, 0x1200, 0x7030, 0x3b00_3f97, 0, 0];
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut copy = StackCopy { tgid: 1, hash: 1, at: 0, exact: true, registers, bytes };
        let walked = walk(&copy, Framed);
        let expected = vec![FrameAddress::Ip(0x1100), FrameAddress::ReturnAddress(0x1200)];
        assert_eq!((natives(&walked), walked.stop), (expected, Stop::Code));
        // The thread itself is where it is.
        copy.registers[IP] = 0x9000;
        let walked = walk(&copy, Framed);
        assert_eq!((natives(&walked), walked.stop), (vec![FrameAddress::Ip(0x9000)], Stop::Code));
    }
}
