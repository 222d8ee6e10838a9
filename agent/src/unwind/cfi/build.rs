//! Writes sections for tests: entries with the lengths, ids and padding that an assembler gives them.

use std::ops::Range;

use agent_ebpf::unwind::Machine;

use super::{Kind, Section, images::Table};

/// Where the section is in the image.
pub const SECTION: u64 = 0x40_0000;
/// The code that functions may be in.
pub const CODE: Range<u64> = 0x1000..0x20_0000;

/// A section being written.
#[derive(Clone)]
pub struct Writer {
    pub bytes: Vec<u8>,
    pub kind: Kind,
    pub machine: Machine,
    /// Whether entries have 64-bit lengths.
    pub wide: bool,
}

impl Writer {
    pub fn new(kind: Kind, machine: Machine) -> Self {
        Self { bytes: Vec::new(), kind, machine, wide: false }
    }

    pub fn section(&self) -> Section<'_> {
        Section { bytes: &self.bytes, address: SECTION, kind: self.kind, machine: self.machine }
    }

    pub fn table(&self) -> Table {
        Table::of(&self.section(), &[CODE])
    }

    /// An entry with this id, where it begins.
    pub fn entry(&mut self, id: u64, body: &[u8]) -> usize {
        let at = self.bytes.len();
        let wide_id = self.wide && self.kind == Kind::DebugFrame;
        let length = body.len() + if wide_id { 8 } else { 4 };
        let padding = length.next_multiple_of(4) - length;
        if self.wide {
            self.bytes.extend(u32::MAX.to_le_bytes());
            self.bytes.extend((length as u64 + padding as u64).to_le_bytes());
        } else {
            self.bytes.extend((length as u32 + padding as u32).to_le_bytes());
        }
        self.bytes.extend(id.to_le_bytes().iter().take(if wide_id { 8 } else { 4 }));
        self.bytes.extend(body);
        self.bytes.extend(vec![0; padding]);
        at
    }

    /// A CIE: code in units of `code_align`, data in units of -8, pointers to code relative to
    /// themselves in `.eh_frame` and absolute in `.debug_frame`.
    pub fn cie(&mut self, letters: &str, code_align: u8, instructions: &[u8]) -> usize {
        let ret = if self.machine == Machine::X86_64 { 16 } else { 30 };
        let mut body = vec![1];
        body.extend(letters.as_bytes());
        body.extend([0, code_align, 0x78, ret]);
        if letters.starts_with('z') {
            // DW_EH_PE_pcrel | DW_EH_PE_sdata4
            let data: &[u8] = if letters.contains('R') { &[0x1b] } else { &[] };
            body.push(data.len() as u8);
            body.extend(data);
        }
        body.extend(instructions);
        self.cie_with(&body)
    }

    /// A CIE with this body.
    pub fn cie_with(&mut self, body: &[u8]) -> usize {
        let id = if self.kind == Kind::EhFrame { 0 } else { u64::MAX };
        self.entry(id, body)
    }

    /// An FDE of a CIE that [`Self::cie`] wrote with "zR", or without letters in `.debug_frame`.
    pub fn fde(&mut self, cie: usize, start: u64, length: u32, instructions: &[u8]) -> usize {
        let mut body = Vec::new();
        match self.kind {
            Kind::EhFrame => {
                let at = self.bytes.len() as u64 + if self.wide { 16 } else { 8 };
                let start = start.wrapping_sub(SECTION + at) as u32;
                body.extend(start.to_le_bytes());
                body.extend(length.to_le_bytes());
                body.push(0);
            }
            Kind::DebugFrame => {
                body.extend(start.to_le_bytes());
                body.extend(u64::from(length).to_le_bytes());
            }
        }
        body.extend(instructions);
        self.fde_with(cie, &body)
    }

    /// An FDE with this body.
    pub fn fde_with(&mut self, cie: usize, body: &[u8]) -> usize {
        let id_at = self.bytes.len() + if self.wide { 12 } else { 4 };
        let id = if self.kind == Kind::EhFrame { id_at.wrapping_sub(cie) } else { cie };
        self.entry(id as u64, body)
    }
}
