//! The table that Go's own tracebacks use: which functions there are, what they are called, and how much
//! stack each of their instructions has in use (`.gopclntab`: go/src/debug/gosym/pclntab.go, and `_func` in
//! go/src/runtime/runtime2.go; since Go 1.18). Programs without symbols have it too.
//!
//! ```text
//! .gopclntab  header │ names │ units │ files │ pctab │ functions: (code, function)... │ function...
//! pctab       (value difference, code difference)... : line or file by place in the code
//! ```
//! Nothing of it is kept but where its parts are: each question reads the little it needs, within bounds.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::{
    bytes::{u32_at, u64_at},
    elf::{Section, Sections, read},
};

/// Since Go 1.18, and since 1.20, little-endian.
const MAGIC_118: u32 = 0xffff_fff0;
const MAGIC_120: u32 = 0xffff_fff1;
/// Magic, padding, the quantum of code, the size of a word; then eight words.
pub(crate) const HEADER: usize = 8 + 8 * 8;
/// Words of `runtime.moduledata` (go/src/runtime/symtab.go): the address of the table, and of the code.
const TABLE_WORD: u64 = 0;
const TEXT_WORD: u64 = 22;
/// Bytes read of a name, of a table of values, and of one of relocations.
const MAX_NAME: u64 = 4096;
const MAX_VALUES: u64 = 256 << 10;
const MAX_RELOCATIONS: u64 = 32 << 20;
/// `R_X86_64_RELATIVE` and `R_AARCH64_RELATIVE`.
const RELATIVE: [u64; 2] = [8, 1027];

/// Where the parts of the table are, relative to its begin.
#[derive(Debug)]
pub struct GoTable {
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    /// The address of Go's code.
    pub(crate) text: u64,
    pub(crate) quantum: u64,
    pub(crate) functions: u64,
    pub(crate) is_118: bool,
    pub(crate) names: u64,
    pub(crate) units: u64,
    pub(crate) files: u64,
    pub(crate) values: u64,
    pub(crate) table: u64,
}

impl GoTable {
    /// That of `copy`, if it has one.
    pub fn of(copy: &File, sections: &Sections) -> Option<Self> {
        let named = |name: &[u8]| sections.named(name);
        let section = named(b".gopclntab").or_else(|| named(b".data.rel.ro.gopclntab"))?;
        let header = read(copy, section.offset, HEADER).ok()?;
        let magic = u32_at(&header, 0)?;
        let (quantum, word) = (*header.get(6)?, *header.get(7)?);
        if (magic != MAGIC_118 && magic != MAGIC_120) || !matches!(quantum, 1 | 4) || word != 8 {
            return None;
        }
        let word = |index: usize| u64_at(&header, 8 + 8 * index);
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

    /// What a table of values says about `place`: differences of value and place, until a zero.
    pub(crate) fn value(&self, copy: &File, values: u64, mut at: u64, place: u64) -> Option<i64> {
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
    pub(crate) fn text_at(&self, copy: &File, part: u64, at: u64) -> Option<String> {
        let begin = part.checked_add(at)?;
        let most = self.bytes.checked_sub(begin)?.min(MAX_NAME);
        let content = self.part(copy, begin, most)?;
        let text = content.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    pub(crate) fn u32(&self, copy: &File, part: u64, at: u64) -> Option<u32> {
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

/// A number of seven bits a byte.
pub(crate) fn varint(rest: &mut &[u8]) -> Option<u32> {
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
        match u64_at(&word, 0)? {
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
        let kind = u64_at(entry, 8)? & 0xffff_ffff;
        let is_it = u64_at(entry, 0)? == address && RELATIVE.contains(&kind);
        is_it.then(|| u64_at(entry, 16))?
    })
}
