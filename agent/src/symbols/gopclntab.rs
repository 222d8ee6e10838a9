//! Names and lines of Go programs without symbols, from the table that Go's own tracebacks use
//! (`.gopclntab`: go/src/debug/gosym/pclntab.go, and `_func` in go/src/runtime/runtime2.go; since Go 1.18).
//!
//! ```text
//! .gopclntab  header │ names │ units │ files │ pctab │ functions: (code, function)... │ function...
//! pctab       (value difference, code difference)... : line or file by place in the code
//! ```
//! Nothing of it is kept but where its parts are: each question reads the little it needs from our
//! copy, within bounds.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::{elf::ImageAddress, names::tame};
use crate::{
    process::elf::{Section, Sections, read},
    profile::document::FrameDocument,
};

/// Since Go 1.18, and since 1.20, little-endian.
const MAGIC_118: u32 = 0xffff_fff0;
const MAGIC_120: u32 = 0xffff_fff1;
/// Magic, padding, the quantum of code, the size of a word; then eight words.
const HEADER: usize = 8 + 8 * 8;
/// Words of `runtime.moduledata` (go/src/runtime/symtab.go): the address of the table, and of the code.
const TABLE_WORD: u64 = 0;
const TEXT_WORD: u64 = 22;
/// Of a function: before the table of its places, which begins with these.
const FUNCTION_118: u64 = 40;
const FUNCTION_120: u64 = 44;
/// The place in what is inlined (`abi.PCDATA_InlTreeIndex`), -1 outside of it.
const INLINED: u64 = 2;
/// Bytes read of a name, of a table of values, and of one of relocations.
const MAX_NAME: u64 = 4096;
const MAX_VALUES: u64 = 256 << 10;
const MAX_RELOCATIONS: u64 = 32 << 20;
/// `R_X86_64_RELATIVE` and `R_AARCH64_RELATIVE`.
const RELATIVE: [u64; 2] = [8, 1027];

/// Where the parts of the table are, relative to its begin.
#[derive(Debug)]
pub(super) struct GoTable {
    at: u64,
    bytes: u64,
    /// The address of Go's code.
    text: u64,
    quantum: u64,
    functions: u64,
    is_118: bool,
    names: u64,
    units: u64,
    files: u64,
    values: u64,
    table: u64,
}

impl GoTable {
    /// That of `copy`, if it has one.
    pub(super) fn of(copy: &File, sections: &Sections) -> Option<Self> {
        let named = |name: &[u8]| sections.named(name);
        let section = named(b".gopclntab").or_else(|| named(b".data.rel.ro.gopclntab"))?;
        let header = read(copy, section.offset, HEADER).ok()?;
        let magic = u32::from_le_bytes(*header.first_chunk()?);
        let (quantum, word) = (*header.get(6)?, *header.get(7)?);
        if (magic != MAGIC_118 && magic != MAGIC_120) || !matches!(quantum, 1 | 4) || word != 8 {
            return None;
        }
        let word =
            |index: usize| Some(u64::from_le_bytes(*header.get(8 + 8 * index..)?.first_chunk()?));
        // Since Go 1.26 the header does not say; before, the loader may have to fill it in.
        let text = match word(2)? {
            0 => {
                let relocations = relocations(sections);
                let at = section.address.checked_add(8 + 8 * 2)?;
                relocations
                    .and_then(|relocations| relocated(copy, relocations, at))
                    .or_else(|| text(copy, section, sections))?
            }
            text => text,
        };
        Some(Self {
            at: section.offset,
            bytes: section.bytes,
            text,
            quantum: quantum.into(),
            functions: word(0)?.min(section.bytes / 8),
            is_118: magic == MAGIC_118,
            names: word(3)?,
            units: word(4)?,
            files: word(5)?,
            values: word(6)?,
            table: word(7)?,
        })
    }

    /// The function at `address`.
    pub(super) fn frame(&self, copy: &File, address: ImageAddress) -> Option<FrameDocument> {
        let place = address.0.checked_sub(self.text)?;
        // The last function that begins there or before; the one behind the last is the end.
        let begin = |index: u64| self.u32(copy, self.table, index.checked_mul(8)?).map(u64::from);
        let (mut first, mut after) = (0, self.functions);
        if place >= begin(after)? {
            return None;
        }
        while first < after {
            let middle = first + (after - first) / 2;
            if begin(middle)? <= place {
                first = middle + 1;
            } else {
                after = middle;
            }
        }
        let index = first.checked_sub(1)?;
        let entry = begin(index)?;
        let function = u64::from(self.u32(copy, self.table, index * 8 + 4)?);
        let field = |at: u64| self.u32(copy, self.table, function.checked_add(at)?).map(u64::from);
        let name = self.text_at(copy, self.names, field(4)?)?;
        let name = tame(&name);
        if name.is_empty() {
            return None;
        }
        let inlined = |fields: u64| {
            let values = field(fields + 4 * INLINED)?;
            self.value(copy, values, entry, place)
        };
        // Lines of what is inlined are another function's.
        let fields = if self.is_118 { FUNCTION_118 } else { FUNCTION_120 };
        let is_inlined = field(28)? > INLINED && inlined(fields).is_some_and(|at| at >= 0);
        let source = || {
            let line = u32::try_from(self.value(copy, field(24)?, entry, place)?).ok()?;
            let file = u64::try_from(self.value(copy, field(20)?, entry, place)?).ok()?;
            let unit = field(32)?.checked_add(file)?.checked_mul(4)?;
            let file = self.u32(copy, self.units, unit)?;
            Some((self.text_at(copy, self.files, file.into())?, line))
        };
        let (file, line) = source().filter(|_| !is_inlined).unwrap_or_default();
        Some(FrameDocument { name: name.into(), file: tame(&file).into(), line, kind: "native" })
    }

    /// What a table of values says about `place`: differences of value and place, until a zero.
    fn value(&self, copy: &File, values: u64, mut at: u64, place: u64) -> Option<i64> {
        // No table.
        if values == 0 {
            return None;
        }
        let begin = self.values.checked_add(values)?;
        let most = self.bytes.checked_sub(begin)?.min(MAX_VALUES);
        let mut value = -1_i64;
        // Almost all tables are short.
        let mut content = self.part(copy, begin, most.min(512))?;
        if end(&content).is_none() {
            content = self.part(copy, begin, most)?;
        }
        let mut rest = content.as_slice();
        let mut is_first = true;
        loop {
            let difference = varint(&mut rest)?;
            if difference == 0 && !is_first {
                return None;
            }
            is_first = false;
            let difference = i64::from(difference >> 1) ^ -i64::from(difference & 1);
            value = value.checked_add(difference)?;
            at = at.checked_add(u64::from(varint(&mut rest)?) * self.quantum)?;
            if place < at {
                return Some(value);
            }
        }
    }

    /// Text up to a zero.
    fn text_at(&self, copy: &File, part: u64, at: u64) -> Option<String> {
        let begin = part.checked_add(at)?;
        let most = self.bytes.checked_sub(begin)?.min(MAX_NAME);
        let content = self.part(copy, begin, most)?;
        let text = content.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn u32(&self, copy: &File, part: u64, at: u64) -> Option<u32> {
        let begin = part.checked_add(at)?;
        if begin.checked_add(4)? > self.bytes {
            return None;
        }
        let mut word = [0; 4];
        copy.read_exact_at(&mut word, self.at.checked_add(begin)?).ok()?;
        Some(u32::from_le_bytes(word))
    }

    fn part(&self, copy: &File, begin: u64, bytes: u64) -> Option<Vec<u8>> {
        read(copy, self.at.checked_add(begin)?, usize::try_from(bytes).ok()?).ok()
    }
}

/// Whether the values end before the content does: a zero that is no part of a number, behind the
/// first.
fn end(mut content: &[u8]) -> Option<()> {
    varint(&mut content)?;
    loop {
        varint(&mut content)?;
        if varint(&mut content)? == 0 {
            return Some(());
        }
    }
}

fn varint(rest: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for shift in (0..32).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        number |= u32::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Where Go's code begins, from the module's data. With C code in the program that is not where the
/// section begins.
fn text(copy: &File, table: &Section, sections: &Sections) -> Option<u64> {
    let module =
        sections.named(b".go.module").or_else(|| sections.named(b".data.rel.ro.go.module"))?;
    let relocations = relocations(sections);
    let word = |index: u64| {
        let word = read(copy, module.offset.checked_add(8 * index)?, 8).ok()?;
        match u64::from_le_bytes(*word.first_chunk()?) {
            // In a program that can be loaded anywhere, the loader fills it in.
            0 => relocated(copy, relocations?, module.address.checked_add(8 * index)?),
            word => Some(word),
        }
    };
    (word(TABLE_WORD)? == table.address).then(|| word(TEXT_WORD))?
}

fn relocations(sections: &Sections) -> Option<&Section> {
    sections.named(b".rela.dyn").or_else(|| sections.named(b".rela"))
}

/// What the loader puts at `address`: the entry's addend.
fn relocated(copy: &File, relocations: &Section, address: u64) -> Option<u64> {
    let bytes = usize::try_from(relocations.bytes.min(MAX_RELOCATIONS)).ok()?;
    let all = read(copy, relocations.offset, bytes).ok()?;
    all.chunks_exact(24).find_map(|entry| {
        let word = |at: usize| entry.get(at..)?.first_chunk().copied().map(u64::from_le_bytes);
        let is_it = word(0)? == address && RELATIVE.contains(&(word(8)? & 0xffff_ffff));
        is_it.then(|| word(16))?
    })
}

#[cfg(test)]
#[path = "gopclntab_tests.rs"]
mod tests;
