//! The CIEs of a section, each read when an FDE first needs it. Few are kept, since a section may hold
//! millions, and FDEs may point into the middle of long ones: what is read again comes off a budget.

use std::collections::HashMap;

use super::{
    Section,
    entry::{Cie, Entry, Header},
    program,
};

/// Most CIEs kept; libraries have tens.
const KEPT: usize = 16_384;
/// Of these, found at once: neighbours mostly share one or two.
const RECENT: usize = 64;
/// Bytes of CIEs that may be read of any section, besides as many as it has, and what reading one costs
/// however short it is.
const READ: u64 = 1 << 20;
const EACH: u64 = 256;

/// CIEs by their place in a section.
pub(super) struct Cies<'s, 'a> {
    section: &'s Section<'a>,
    known: HashMap<usize, Option<Cie>>,
    /// The last ones, by their place.
    recent: Vec<Option<(usize, Option<Cie>)>>,
    budget: u64,
}

// === impl Cies ===

impl<'s, 'a> Cies<'s, 'a> {
    /// Those of a section.
    pub(super) fn new(section: &'s Section<'a>) -> Self {
        let budget = READ + section.bytes.len() as u64;
        Self { section, known: HashMap::new(), recent: vec![None; RECENT], budget }
    }

    /// The section.
    pub(super) fn section(&self) -> &'s Section<'a> {
        self.section
    }

    /// The CIE at `at`, with what its instructions say; `None` when it cannot be followed.
    pub(super) fn get(&mut self, at: usize) -> Option<Cie> {
        // Entries begin at every fourth byte.
        let recent = at / 4 % RECENT;
        if let Some((last, cie)) = self.recent[recent]
            && last == at
        {
            return cie;
        }
        let cie = match self.known.get(&at) {
            Some(&cie) => cie,
            None if self.budget == 0 => return None,
            None => {
                let cie = self.read(at);
                if self.known.len() >= KEPT {
                    self.known.clear();
                }
                self.known.insert(at, cie);
                cie
            }
        };
        self.recent[recent] = Some((at, cie));
        cie
    }

    fn read(&mut self, at: usize) -> Option<Cie> {
        let header = Header::read(self.section, at).filter(|header| header.entry == Entry::Cie);
        let bytes = header.map_or(0, |header| header.end - at);
        // Once it is used up, it is so for all.
        self.budget = self.budget.saturating_sub(EACH + bytes as u64);
        let header = header.filter(|_| self.budget > 0)?;
        let cie = Cie::read(self.section, &header)?;
        Some(Cie { initial: program::initial(self.section, &cie)?, ..cie })
    }
}
