//! The entries of a section: what is common to many functions (CIE), and one function each (FDE). An
//! entry is only read within its own length; what it says is checked where it is used.

use agent_ebpf::unwind::Machine;

use super::{
    Kind, Section,
    reader::Reader,
    state::{Registers, State},
};

/// How a pointer is encoded (LSB core 10.5.1): format in the low half, what is added above.
const ABSOLUTE: u8 = 0x00;
const PC_RELATIVE: u8 = 0x10;
const ALIGNED: u8 = 0x50;
const OMITTED: u8 = 0xff;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Common to FDEs.
    Cie,
    /// Of one function; where its CIE begins.
    Fde(usize),
    /// Nothing in it: a terminator.
    Empty,
    /// Too short, or pointing out of the section.
    Broken,
}

/// An entry's bounds in the section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// What it is.
    pub entry: Entry,
    /// Behind its id.
    pub body: usize,
    /// Behind it.
    pub end: usize,
}

/// What FDEs have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cie {
    /// Factor of distances in code.
    pub code_align: u64,
    /// Factor of offsets.
    pub data_align: i64,
    /// Of addresses in FDEs.
    pub encoding: u8,
    /// Whether FDEs tell the length of their augmentation.
    pub augmented: bool,
    /// Its functions are frames of signals.
    pub signal: bool,
    /// Where its instructions begin.
    pub instructions: usize,
    /// Behind them.
    pub end: usize,
    /// What its instructions say: where each FDE starts from.
    pub initial: State,
}

/// A function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fde {
    /// Its first address in the image.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
    /// Where its instructions begin.
    pub instructions: usize,
    /// Behind them.
    pub end: usize,
}

// === impl Header ===

impl Header {
    /// The entry at `at`; `None` when its length leads nowhere.
    pub(super) fn read(section: &Section<'_>, at: usize) -> Option<Self> {
        let mut reader = Reader::new(section.bytes, at);
        let (length, wide) = match reader.u32()? {
            u32::MAX => (reader.u64()?, true),
            0xffff_fff0.. => return None,
            length => (u64::from(length), false),
        };
        let id_at = reader.position();
        let end = id_at.checked_add(usize::try_from(length).ok()?)?;
        let mut reader = Reader::new(section.bytes.get(..end)?, id_at);
        if length == 0 {
            return Some(Self { entry: Entry::Empty, body: end, end });
        }
        let entry = match (section.kind, wide) {
            // Four bytes even in a long entry (LSB core 10.6.1), counted back from themselves.
            (Kind::EhFrame, _) => match reader.u32() {
                Some(0) => Entry::Cie,
                id => id
                    .and_then(|back| id_at.checked_sub(back as usize))
                    .map_or(Entry::Broken, Entry::Fde),
            },
            (Kind::DebugFrame, false) => match reader.u32() {
                Some(u32::MAX) => Entry::Cie,
                id => id.map_or(Entry::Broken, |at| Entry::Fde(at as usize)),
            },
            (Kind::DebugFrame, true) => match reader.u64() {
                Some(u64::MAX) => Entry::Cie,
                id => id.and_then(|at| usize::try_from(at).ok()).map_or(Entry::Broken, Entry::Fde),
            },
        };
        Some(Self { entry, body: reader.position(), end })
    }
}

// === impl Cie ===

impl Cie {
    /// The CIE with this header, its instructions not yet looked at.
    pub(super) fn read(section: &Section<'_>, header: &Header) -> Option<Self> {
        let mut reader = Reader::new(section.bytes.get(..header.end)?, header.body);
        let version = reader.u8()?;
        let mut letters = reader.text()?;
        match version {
            1 | 3 => {}
            // Size of an address, of a segment selector.
            4 if reader.u8()? == 8 && reader.u8()? == 0 => {}
            _ => return None,
        }
        // GCC 2's: a pointer to its own tables.
        if let Some(rest) = letters.strip_prefix(b"eh") {
            reader.take(8)?;
            letters = rest;
        }
        let (code_align, data_align) = (reader.uleb()?, reader.sleb()?);
        let ret = if version == 1 { u64::from(reader.u8()?) } else { reader.uleb()? };
        if ret != Registers::of(section.machine).ret {
            return None;
        }
        let mut cie = Self {
            code_align,
            data_align,
            encoding: ABSOLUTE,
            augmented: false,
            signal: false,
            instructions: 0,
            end: header.end,
            initial: State::UNSET,
        };
        if let Some(rest) = letters.strip_prefix(b"z") {
            let length = reader.uleb()?;
            let at = reader.position();
            reader.take(length)?;
            (cie.augmented, cie.instructions) = (true, reader.position());
            reader = Reader::new(section.bytes.get(..cie.instructions)?, at);
            letters = rest;
        }
        for letter in letters {
            match letter {
                b'R' => cie.encoding = reader.u8()?,
                b'L' => {
                    reader.u8()?;
                }
                b'P' => {
                    let encoding = reader.u8()?;
                    skip(&mut reader, encoding, section.address)?;
                }
                b'S' => cie.signal = true,
                // Return addresses are signed with the other key; tags of stacks are set.
                b'B' | b'G' if section.machine == Machine::Aarch64 => {}
                // Where its data ends is only known to who knows the letter, except by the length.
                _ if cie.augmented => break,
                _ => return None,
            }
        }
        if !cie.augmented {
            cie.instructions = reader.position();
        }
        Some(cie)
    }
}

// === impl Fde ===

impl Fde {
    /// The FDE with this header.
    pub(super) fn read(section: &Section<'_>, header: &Header, cie: &Cie) -> Option<Self> {
        let mut reader = Reader::new(section.bytes.get(..header.end)?, header.body);
        let start = address(&mut reader, cie.encoding, section.address)?;
        // A length is relative to nothing.
        let length = number(&mut reader, cie.encoding)?;
        if cie.augmented {
            let length = reader.uleb()?;
            reader.take(length)?;
        }
        let length = i64::try_from(length).ok()?.unsigned_abs();
        Some(Self { start, length, instructions: reader.position(), end: header.end })
    }
}

/// An encoded address in the image.
pub(super) fn address(reader: &mut Reader<'_>, encoding: u8, section: u64) -> Option<u64> {
    let at = section.wrapping_add(reader.position() as u64);
    let value = number(reader, encoding)?;
    match encoding & 0xf0 {
        ABSOLUTE => Some(value),
        // No address is relative to nothing: 0 is what a linker leaves of code that it removed.
        PC_RELATIVE if value == 0 => Some(0),
        PC_RELATIVE => Some(value.wrapping_add(at)),
        // Relative to what the program's headers do not tell, or a pointer to a pointer.
        _ => None,
    }
}

/// An encoded number, nothing added.
fn number(reader: &mut Reader<'_>, encoding: u8) -> Option<u64> {
    if encoding == OMITTED {
        return None;
    }
    match encoding & 0x0f {
        0x00 | 0x04 | 0x08 | 0x0c => reader.u64(),
        0x01 => reader.uleb(),
        0x02 => reader.u16().map(u64::from),
        0x03 => reader.u32().map(u64::from),
        0x09 => reader.sleb().map(|value| value as u64),
        0x0a => reader.u16().map(|value| i64::from(value as i16) as u64),
        0x0b => reader.u32().map(|value| i64::from(value as i32) as u64),
        _ => None,
    }
}

/// Passes over the pointer to a personality.
fn skip(reader: &mut Reader<'_>, encoding: u8, section: u64) -> Option<()> {
    match encoding {
        OMITTED => {}
        ALIGNED => {
            let at = section.wrapping_add(reader.position() as u64);
            reader.take(at.wrapping_neg() % 8)?;
            reader.u64()?;
        }
        _ => {
            number(reader, encoding)?;
        }
    }
    Some(())
}
