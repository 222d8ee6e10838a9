//! Names and lines of Go programs without symbols, from the table of Go's own tracebacks.

use std::fs::File;

use super::{elf::ImageAddress, names::sanitize};
use crate::{
    model::frame::{Frame, FrameKind},
    process::gopclntab::GoTable,
};

/// Of a function: before the table of its places, which begins with these.
const FUNCTION_118: u64 = 40;
const FUNCTION_120: u64 = 44;
/// The place in what is inlined (`abi.PCDATA_InlTreeIndex`), -1 outside of it.
const INLINED: u64 = 2;

impl GoTable {
    /// The function at `address`.
    pub(super) fn frame(&self, copy: &File, address: ImageAddress) -> Option<Frame> {
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
        // A hole between sections of code, which may hold anybody's (cmd/link/internal/ld/pcln.go).
        if function == 0 {
            return None;
        }
        let field = |at: u64| self.u32(copy, self.table, function.checked_add(at)?).map(u64::from);
        let name = self.text_at(copy, self.names, field(4)?)?;
        let name = sanitize(&name);
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
        Some(Frame {
            name: name.into(),
            file: sanitize(&file).into(),
            line,
            kind: FrameKind::Native,
        })
    }
}

#[cfg(test)]
#[path = "gopclntab_tests.rs"]
mod tests;
