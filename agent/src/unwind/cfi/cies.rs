//! The CIEs of a section, each read when an FDE first needs it. Few are kept, since a section may hold
//! millions, and FDEs may point into the middle of long ones: what is read again comes off a budget.

use std::collections::HashMap;

use super::{
    Section,
    entry::{Cie, Entry, Header},
    program,
};

/// Most CIEs kept; libraries have tens.
const KEPT: usize = 4096;
/// Bytes of CIEs that may be read for one byte of the section, and for any section.
const READ_PER_BYTE: u64 = 4;
const READ: u64 = 1 << 20;

/// CIEs by their place in a section.
pub struct Cies<'s, 'a> {
    section: &'s Section<'a>,
    known: HashMap<usize, Option<Cie>>,
    /// The last one: neighbours mostly share it.
    last: Option<(usize, Option<Cie>)>,
    budget: u64,
}

// === impl Cies ===

impl<'s, 'a> Cies<'s, 'a> {
    /// Those of a section.
    pub fn new(section: &'s Section<'a>) -> Self {
        let budget = READ + READ_PER_BYTE * section.bytes.len() as u64;
        Self { section, known: HashMap::new(), last: None, budget }
    }

    /// The section.
    pub fn section(&self) -> &'s Section<'a> {
        self.section
    }

    /// The CIE at `at`, with what its instructions say; `None` when it cannot be followed.
    pub fn get(&mut self, at: usize) -> Option<Cie> {
        if let Some((last, cie)) = self.last
            && last == at
        {
            return cie;
        }
        let cie = match self.known.get(&at) {
            Some(&cie) => cie,
            None => {
                let cie = self.read(at);
                if self.known.len() >= KEPT {
                    self.known.clear();
                }
                self.known.insert(at, cie);
                cie
            }
        };
        self.last = Some((at, cie));
        cie
    }

    fn read(&mut self, at: usize) -> Option<Cie> {
        let header = Header::read(self.section, at).filter(|header| header.entry == Entry::Cie)?;
        self.budget = self.budget.checked_sub((header.end - at) as u64)?;
        let cie = Cie::read(self.section, &header)?;
        Some(Cie { initial: program::initial(self.section, &cie)?, ..cie })
    }
}
