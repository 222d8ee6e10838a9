//! The kernel's list of its symbols (`/proc/kallsyms`), and where each of them ends.
//!
//! ```text
//! ffffffff81000000 T _stext          the code of the kernel's image: _stext.._etext, and
//! ffffffff83783000 T _sinittext      until it has booted _sinittext.._einittext
//! ffffffffc0279010 T open  [fuse]    a module
//! ffffffffc003b960 t bpf_prog_7cc... [bpf]    and other code that comes and goes
//! ```
//! The list has no sizes. A symbol ends where the next one begins, whatever that is, but:
//! - code of the image ends with it, and what else the image has is no code;
//! - a program of eBPF ends where its length says, where that can be had, and a trampoline with its
//!   page (`bpf_image_ksym_add`);
//! - the last symbol before those of another module would reach over all that is between, so it ends at
//!   the first border of pages that is a page or more behind its begin (as perf has it,
//!   `symbols__fixup_end`).

use std::{
    collections::HashMap,
    io::{self, BufRead},
    ops::Range,
};

use crate::kernel::kallsyms::Symbol as Line;

const PAGE: u64 = 4096;
/// Symbols read; a kernel with many modules has a quarter of it.
const MAX_SYMBOLS: usize = 1 << 20;
/// Code of eBPF that is no program.
const PAGES: [&str; 2] = ["bpf_trampoline_", "bpf_dispatcher_"];
/// No kernel has a longer name (`KSYM_NAME_LEN` is 512).
const MAX_NAME: usize = 512;

/// Where programs of eBPF begin, and their bytes.
pub(super) type Lengths = HashMap<u64, u64>;

/// Code, by its addresses.
#[derive(Debug, Default)]
pub(super) struct Kallsyms {
    /// In order, and no two at one place.
    functions: Vec<Function>,
    /// One after the other, each with a line break.
    names: String,
    /// Of the image, where nothing comes or goes.
    image: Range<u64>,
}

#[derive(Debug)]
struct Function {
    start: u64,
    bytes: u32,
    /// Where its name begins.
    name: u32,
}

/// A line.
struct Symbol {
    start: u64,
    is_code: bool,
    name: u32,
    /// 0 is the kernel itself.
    module: u16,
    /// It has no more bytes.
    most: u64,
}

impl Kallsyms {
    /// Reads a list, in any order.
    pub(super) fn read(list: impl BufRead, lengths: &Lengths) -> io::Result<Self> {
        let (mut symbols, mut names) = (Vec::new(), String::new());
        let mut modules: HashMap<String, u16> = HashMap::new();
        let mut borders: HashMap<&'static str, u64> = HashMap::new();
        for line in list.lines() {
            let line = line?;
            let Some(Line { address: start, is_code, name, module }) = Line::parse(&line) else {
                continue;
            };
            if name.len() > MAX_NAME {
                continue;
            }
            if symbols.len() >= MAX_SYMBOLS {
                break;
            }
            if module.is_none()
                && let Some(border) =
                    ["_stext", "_etext", "_sinittext", "_einittext"].iter().find(|b| **b == name)
            {
                borders.insert(border, start);
            }
            let module = match module {
                None => 0,
                Some(module) => {
                    let next = u16::try_from(modules.len() + 1).unwrap_or(u16::MAX);
                    *modules.entry(module.to_owned()).or_insert(next)
                }
            };
            let at = u32::try_from(names.len()).unwrap_or(u32::MAX);
            names.push_str(name);
            names.push('\n');
            let is_page = PAGES.iter().any(|prefix| name.starts_with(prefix));
            let most = if module != 0 && is_page { PAGE } else { u64::MAX };
            symbols.push(Symbol { start, is_code, name: at, module, most });
        }
        // Of several at one place the first is taken, as the kernel does.
        symbols.sort_by_key(|symbol| symbol.start);
        let range = |start: &str, end: &str| {
            let border = |name| borders.get(name).copied().unwrap_or(0);
            border(start)..border(end)
        };
        let image = range("_stext", "_etext");
        let texts = [image.clone(), range("_sinittext", "_einittext")];
        let functions = functions(&symbols, &texts, lengths);
        Ok(Self { functions, names, image })
    }

    /// The function at `address`.
    pub(super) fn at(&self, address: u64) -> Option<&str> {
        let after = self.functions.partition_point(|function| function.start <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        let is_inside = address - function.start < u64::from(function.bytes);
        let name = self.names.get(function.name as usize..)?.split('\n').next();
        name.filter(|_| is_inside)
    }

    /// Code of the image itself, which does not change; empty when the list does not say.
    pub(super) fn image(&self) -> &Range<u64> {
        &self.image
    }
}

/// The code among `symbols`, which are in order, with its ends.
fn functions(symbols: &[Symbol], texts: &[Range<u64>; 2], lengths: &Lengths) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::with_capacity(symbols.len());
    let mut rest = symbols;
    while let Some(first) = rest.first() {
        let here = rest.partition_point(|symbol| symbol.start == first.start);
        let (group, behind) = rest.split_at_checked(here).unwrap_or((rest, &[]));
        rest = behind;
        let Some(symbol) = group.iter().find(|symbol| symbol.is_code) else { continue };
        let start = symbol.start;
        let next = behind.first();
        let until_next = next.map_or(u64::MAX, |next| next.start);
        let text = texts.iter().find(|text| text.contains(&start));
        let end = match (symbol.module, text) {
            (0, Some(text)) => text.end,
            // Marks around sections, and stubs of which the image has copies.
            (0, None) if !texts.iter().all(Range::is_empty) => continue,
            _ => match lengths.get(&start) {
                Some(&bytes) => start.saturating_add(bytes),
                None if next.is_some_and(|next| next.module == symbol.module) => until_next,
                None => start.saturating_add(PAGE).next_multiple_of(PAGE),
            },
        };
        let bytes = (end.min(until_next) - start).min(symbol.most);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        functions.push(Function { start, bytes, name: symbol.name });
    }
    functions.shrink_to_fit();
    functions
}

#[cfg(test)]
#[path = "kallsyms_tests.rs"]
mod tests;
