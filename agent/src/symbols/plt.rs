//! Names of the stubs through which a program calls the functions of libraries (`.plt` and its
//! relatives). They have no symbols, but each jumps to where a slot of the GOT points, and the
//! relocation of that slot says whose address the loader puts there:
//!
//! ```text
//! stub ── jump ──► slot ◄── relocation ── symbol: `puts`             the stub is puts@plt
//!                                      └─ resolver of an IFUNC       the stub is NAME OF RESOLVER@plt
//! ```
//! Forms: GNU ld's `.plt`, lazy or not, `.plt.got`, `.plt.sec` (with IBT or MPX), and its entries of 8
//! bytes for IFUNCs in static programs; those of lld and mold; of AArch64 with and without BTI and PAC
//! (binutils/bfd/elfxx-x86.c and elfnn-aarch64.c, lld/ELF/Arch, mold/src/arch-x86-64.cc).

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    fs::File,
    ops::Range,
};

use super::elf::ImageAddress;
use crate::process::{
    bytes::{u32_at, u64_at},
    elf::{Section, Sections, read},
};

/// `e_machine`.
const X86_64: u16 = 62;
const AARCH64: u16 = 183;
/// `R_X86_64_IRELATIVE` and `R_AARCH64_IRELATIVE`: what the resolver at the addend returns.
const IRELATIVE: [u32; 2] = [37, 1032];
/// Bytes of a relocation and of a symbol (elf.h, `Elf64_Rela` and `Elf64_Sym`).
const RELOCATION: usize = 24;
const SYMBOL: u64 = 24;
/// Bytes read of one section of stubs, of one of relocations, and of a name.
const MAX_STUBS: u64 = 4 << 20;
const MAX_RELOCATIONS: u64 = 32 << 20;
const MAX_NAME: u64 = 4096;
/// Relocations are read in pieces of so many.
const PIECE: usize = 16_384;
/// Sections of stubs looked at; real files have three.
const MAX_SECTIONS: usize = 8;

/// Whom a stub calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Callee {
    /// The symbol's name, as the file has it.
    Named(Vec<u8>),
    /// The function that the resolver at this address chooses: it is called as its resolver is.
    Resolved(ImageAddress),
}

/// What a relocation puts into its slot.
#[derive(Clone, Copy, Debug)]
enum Filling {
    /// Index of a symbol.
    Symbol(u32),
    Resolver(u64),
}

/// What a stub's instructions refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reference {
    /// Address of a slot.
    Slot(u64),
    /// Index in `.rela.plt`: the part of a lazy stub that calls the loader.
    Index(u32),
}

#[derive(Debug)]
struct Stub {
    range: Range<u64>,
    filling: Filling,
}

/// The stubs of a file. They are read when the first of them is asked for.
#[derive(Debug)]
pub(super) struct Plt {
    machine: u16,
    sections: Vec<Section>,
    /// Those of the stubs' own slots, and of those shared with data.
    lazy: Option<Section>,
    other: Option<Section>,
    /// A static program has relocations, for IFUNCs, and no symbols for them.
    symbols: Option<Section>,
    names: Option<Section>,
    /// In order of their addresses.
    stubs: OnceCell<Vec<Stub>>,
}

/// Whether a section holds stubs, and nothing else.
pub(super) fn is_stubs(section: &Section) -> bool {
    const NAMES: [&[u8]; 5] = [b".plt", b".plt.got", b".plt.sec", b".plt.bnd", b".iplt"];
    NAMES.contains(&section.name.as_slice()) && section.code().is_some()
}

impl Plt {
    /// Those of a file with these sections, if it has any.
    pub(super) fn of(machine: u16, sections: &Sections) -> Option<Self> {
        let stubs = sections.all.iter().filter(|section| is_stubs(section)).take(MAX_SECTIONS);
        let stubs: Vec<Section> = stubs.cloned().collect();
        if stubs.is_empty() || !matches!(machine, X86_64 | AARCH64) {
            return None;
        }
        let named = |name: &[u8]| sections.named(name).cloned();
        Some(Self {
            machine,
            sections: stubs,
            lazy: named(b".rela.plt"),
            other: named(b".rela.dyn"),
            symbols: named(b".dynsym"),
            names: named(b".dynstr"),
            stubs: OnceCell::new(),
        })
    }

    /// Whom the stub at `address` calls.
    pub(super) fn callee(&self, copy: &File, address: ImageAddress) -> Option<Callee> {
        let is_here = |section: &Section| section.code().is_some_and(|c| c.contains(&address.0));
        if !self.sections.iter().any(is_here) {
            return None;
        }
        let stubs = self.stubs.get_or_init(|| self.read(copy));
        let after = stubs.partition_point(|stub| stub.range.start <= address.0);
        let stub = stubs.get(after.checked_sub(1)?)?;
        if !stub.range.contains(&address.0) {
            return None;
        }
        match stub.filling {
            Filling::Symbol(index) => self.name(copy, index).map(Callee::Named),
            Filling::Resolver(at) => Some(Callee::Resolved(ImageAddress(at))),
        }
    }

    fn name(&self, copy: &File, symbol: u32) -> Option<Vec<u8>> {
        let (symbols, names) = (self.symbols.as_ref()?, self.names.as_ref()?);
        let at = u64::from(symbol).checked_mul(SYMBOL)?;
        let inside = |section: &Section, at: u64, bytes: u64| {
            let end = at.checked_add(bytes)?;
            (end <= section.bytes).then(|| section.offset.checked_add(at))?
        };
        let offset = read(copy, inside(symbols, at, 4)?, 4).ok()?;
        let offset = u64::from(u32_at(&offset, 0)?);
        let most = names.bytes.checked_sub(offset)?.min(MAX_NAME);
        let text = read(copy, inside(names, offset, most)?, usize::try_from(most).ok()?);
        let name = text.ok()?.split(|&byte| byte == 0).next()?.to_vec();
        (!name.is_empty()).then_some(name)
    }

    fn read(&self, copy: &File) -> Vec<Stub> {
        let mut found: Vec<(Range<u64>, Reference)> = Vec::new();
        for section in &self.sections {
            let bytes = usize::try_from(section.bytes.min(MAX_STUBS)).unwrap_or_default();
            // A part of the file that is not there has no stubs.
            let code = read(copy, section.offset, bytes).unwrap_or_default();
            match self.machine {
                X86_64 => {
                    let size = section.entry_bytes(copy);
                    of_x86_64(section.address, size, &code, &mut found);
                }
                _ => of_aarch64(section.address, &code, &mut found),
            }
        }
        let mut slots = HashSet::new();
        let mut indices = HashSet::new();
        for (_, reference) in &found {
            match *reference {
                Reference::Slot(at) => drop(slots.insert(at)),
                Reference::Index(index) => drop(indices.insert(index)),
            }
        }
        let (mut by_slot, mut by_index) = (HashMap::new(), HashMap::new());
        for (is_lazy, section) in [(true, &self.lazy), (false, &self.other)] {
            let Some(section) = section else { continue };
            relocations(copy, section, |index, slot, filling| {
                if slots.contains(&slot) {
                    by_slot.insert(slot, filling);
                }
                if is_lazy && indices.contains(&index) {
                    by_index.insert(index, filling);
                }
            });
        }
        let filled = |(range, reference): (Range<u64>, Reference)| {
            let filling = match reference {
                Reference::Slot(at) => by_slot.get(&at),
                Reference::Index(index) => by_index.get(&index),
            };
            filling.map(|&filling| Stub { range, filling })
        };
        let mut stubs: Vec<Stub> = found.into_iter().filter_map(filled).collect();
        stubs.sort_by_key(|stub| stub.range.start);
        stubs.shrink_to_fit();
        stubs
    }
}

/// Calls `each` with the index, the slot and what comes into it, as long as there are any.
fn relocations(copy: &File, section: &Section, mut each: impl FnMut(u32, u64, Filling)) {
    let all = usize::try_from(section.bytes.min(MAX_RELOCATIONS)).unwrap_or_default();
    let (mut done, mut index) = (0, 0);
    while done < all {
        let bytes = (all - done).min(PIECE * RELOCATION);
        let Ok(piece) = read(copy, section.offset.saturating_add(done as u64), bytes) else {
            return;
        };
        for entry in piece.chunks_exact(RELOCATION) {
            let word = |at| u64_at(entry, at);
            let (Some(slot), Some(info), Some(addend)) = (word(0), word(8), word(16)) else {
                return;
            };
            let (kind, symbol) = ((info & 0xffff_ffff) as u32, (info >> 32) as u32);
            if IRELATIVE.contains(&kind) {
                each(index, slot, Filling::Resolver(addend));
            } else if symbol != 0 {
                each(index, slot, Filling::Symbol(symbol));
            }
            index += 1;
        }
        done += bytes;
    }
}

/// Stubs of one section are of one size.
fn of_x86_64(
    address: u64,
    size: Option<u64>,
    code: &[u8],
    found: &mut Vec<(Range<u64>, Reference)>,
) {
    let size = match size {
        Some(size @ (8 | 16 | 24 | 32)) => size,
        // GNU ld does not say it of a static program: a jump, and two bytes that fill up.
        _ if code.get(6..8) == Some(&[0x66, 0x90]) => 8,
        _ => 16,
    };
    let starts = (address..).step_by(size as usize);
    for (stub, start) in code.chunks(size as usize).zip(starts) {
        let Some(end) = start.checked_add(stub.len() as u64) else { return };
        found.extend(x86_64(stub, start).map(|reference| (start..end, reference)));
    }
}

/// What the stub at `start` refers to.
fn x86_64(stub: &[u8], start: u64) -> Option<Reference> {
    let without = |code: &'_ [u8], prefix: &[u8]| code.starts_with(prefix).then_some(prefix.len());
    let mut code = stub;
    // endbr64; mold: the index into r11d; bnd.
    code = code.get(without(code, &[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(0)..)?;
    code = code.get(without(code, &[0x41, 0xbb]).map_or(0, |bytes| bytes + 4)..)?;
    code = code.get(without(code, &[0xf2]).unwrap_or(0)..)?;
    // push index
    if let Some(operand) = code.strip_prefix(&[0x68]) {
        return Some(Reference::Index(u32_at(operand, 0)?));
    }
    // jmp *slot(%rip); lld's retpoline: mov slot(%rip), %r11.
    let jump = code.strip_prefix(&[0xff, 0x25]);
    let operand = jump.or_else(|| code.strip_prefix(&[0x4c, 0x8b, 0x1d]))?;
    let distance = u32_at(operand, 0)?.cast_signed();
    let next = (stub.len() - operand.len() + 4) as u64;
    Some(Reference::Slot(start.wrapping_add(next).wrapping_add_signed(distance.into())))
}

/// `adrp x16, slot; ldr x17, [x16, slot]; add x16, ...; br x17`, perhaps after `bti c` and with
/// `autia1716` before the end.
fn of_aarch64(address: u64, code: &[u8], found: &mut Vec<(Range<u64>, Reference)>) {
    const BTI_C: u32 = 0xd503_245f;
    const BR_X17: u32 = 0xd61f_0220;
    let words: Vec<u32> = code.chunks_exact(4).filter_map(|word| u32_at(word, 0)).collect();
    let at = |index: usize| address.saturating_add(4 * index as u64);
    for (index, pair) in words.windows(2).enumerate() {
        let &[page, load] = pair else { continue };
        if page & 0x9f00_001f != 0x9000_0010 || load & 0xffc0_03ff != 0xf940_0211 {
            continue;
        }
        // 21 bits of pages, with their sign.
        let pages = ((page >> 5 & 0x7_ffff) << 2 | page >> 29 & 3) << 11;
        let distance = i64::from(pages.cast_signed() >> 11) << 12;
        let page = (at(index) & !0xfff).wrapping_add_signed(distance);
        let slot = page.wrapping_add(u64::from(load >> 10 & 0xfff) * 8);
        let rest = words.get(index + 2..).unwrap_or_default();
        let Some(jump) = rest.iter().take(3).position(|&word| word == BR_X17) else { continue };
        let has_bti = index.checked_sub(1).and_then(|before| words.get(before)) == Some(&BTI_C);
        let start = at(index - usize::from(has_bti));
        found.push((start..at(index + 2 + jump + 1), Reference::Slot(slot)));
    }
}

#[cfg(test)]
#[path = "plt_tests.rs"]
mod tests;
