//! blazesym, fenced in: a panic in a parser costs the file that caused it, never the daemon.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolized, Symbolizer,
    evict::{self, Evict},
    source::{Elf, Source},
};

use super::{elf::ImageAddress, readable::readable, texts::Texts};
use crate::model::frame::{Frame, FrameKind};

/// Characters kept of a name or path. C++ templates run to many thousands.
pub(super) const MAX_TEXT: usize = 1024;
/// Labels passed on the way to the function that they are in.
const MAX_LABELS: usize = 64;

/// The parser failed on this file; asking again is pointless.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Names by address, from ELF files.
pub(super) struct Names {
    symbolizer: Symbolizer,
    texts: Texts,
}

/// What is at an address.
#[derive(Debug)]
struct Found {
    /// The functions, innermost first.
    frames: Vec<Frame>,
    /// The symbol has no size and begins here.
    label: Option<u64>,
}

/// A symbol by itself.
#[derive(Debug)]
struct Symbol {
    start: u64,
    size: Option<u64>,
    name: Arc<str>,
    is_mark: bool,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { symbolizer: symbolizer(), texts: Texts::new() }
    }

    /// The functions at `address` of the ELF file at `path`, a path nobody else can change. Its code
    /// is in the sections `code`.
    pub(super) fn image(
        &mut self,
        path: &Path,
        address: ImageAddress,
        code: &[Range<u64>],
    ) -> Result<Option<Vec<Frame>>, Broken> {
        let debug = Elf::new(path);
        let plain = Source::Elf(Elf { debug_syms: false, ..debug.clone() });
        let found = self.functions(&Source::Elf(debug), &plain, address, code)?;
        // Asked as well: debug information that cannot be read (compressed, another format) hides
        // the symbol table, and reduced debug information has the last part of a path only.
        let symbol = self.functions(&plain, &plain, address, code)?;
        Ok(match (found, symbol) {
            (Some(mut frames), Some(symbol)) => {
                if let (Some(function), Some(symbol)) = (frames.last_mut(), symbol.last())
                    && is_longer_form(&symbol.name, &function.name)
                {
                    function.name.clone_from(&symbol.name);
                }
                Some(frames)
            }
            (found, symbol) => found.or(symbol),
        })
    }

    /// Those that one source has, if the address is inside of what it found.
    fn functions(
        &mut self,
        source: &Source<'_>,
        plain: &Source<'_>,
        address: ImageAddress,
        code: &[Range<u64>],
    ) -> Result<Option<Vec<Frame>>, Broken> {
        let found = self.ask(source, address, found)?;
        let Some(Found { mut frames, label }) = found else { return Ok(None) };
        if let Some(start) = label {
            let Some(name) = self.label(plain, start, address, code)? else { return Ok(None) };
            if let Some(function) = frames.last_mut() {
                function.name = name;
            }
        }
        Ok(Some(frames))
    }

    /// The name of the code at `address`, of which the nearest symbol begins at `start` and has no
    /// size, as functions written in assembly have none. blazesym takes it whatever is between. As
    /// gdb (`lookup_minimal_symbol_by_pc_section`), addr2line and perf have it:
    /// - a function that has a size and covers the address has its name, labels inside of it do not;
    /// - a symbol without size ends where the next symbol begins, and with its section: `_init`, last
    ///   of `.init`, is not the code of `.plt`;
    /// - inside of one that has a size it ends with that, as does one of its other names;
    /// - marks of what is code and what is data (`$x`) are no names.
    fn label(
        &mut self,
        plain: &Source<'_>,
        start: u64,
        address: ImageAddress,
        code: &[Range<u64>],
    ) -> Result<Option<Arc<str>>, Broken> {
        let section = code.iter().find(|section| section.contains(&address.0));
        let is_inside =
            |at: u64| at == address.0 || section.is_some_and(|section| section.contains(&at));
        let (mut at, mut name) = (start, None);
        // Where the label is, or the marks that are passed on the way to one.
        let mut label = start;
        for _ in 0..MAX_LABELS {
            if !is_inside(at) {
                break;
            }
            let Some(symbol) = self.ask(plain, ImageAddress(at), symbol)? else { break };
            if let Some(size) = symbol.size {
                let covers = |at: u64| at.wrapping_sub(symbol.start) < size;
                return Ok(match (covers(address.0), covers(label)) {
                    (true, _) => Some(symbol.name),
                    (false, true) => None,
                    (false, false) => name,
                });
            }
            if name.is_none() {
                label = symbol.start;
                name = (!symbol.is_mark && is_inside(label)).then_some(symbol.name);
            }
            let Some(before) = symbol.start.checked_sub(1) else { break };
            at = before;
        }
        Ok(name)
    }

    /// A name that is another's word, fit to be shown.
    pub(super) fn readable(&mut self, name: &str) -> Result<Arc<str>, Broken> {
        let Self { texts, .. } = self;
        let asked = catch_unwind(AssertUnwindSafe(|| texts.sanitize(&readable(name))));
        asked.map_err(|_| {
            *self = Self::new();
            Broken
        })
    }

    /// Forgets all about the file at `path`.
    pub(super) fn evict(&mut self, path: &Path) {
        // Eviction of what was never read is not an error, and there is no other.
        let _ = self.symbolizer.evict(&Evict::Elf(evict::Elf::new(path)));
    }

    /// What `convert` makes of the symbol there.
    fn ask<T>(
        &mut self,
        source: &Source<'_>,
        address: ImageAddress,
        convert: impl Fn(&Sym<'_>, &mut Texts) -> Option<T>,
    ) -> Result<Option<T>, Broken> {
        let Self { symbolizer, texts } = self;
        let input = Input::VirtOffset(address.0);
        let asked =
            catch_unwind(AssertUnwindSafe(|| match symbolizer.symbolize_single(source, input) {
                Ok(Symbolized::Sym(sym)) => convert(&sym, texts),
                Ok(Symbolized::Unknown(_)) | Err(_) => None,
            }));
        asked.map_err(|_| {
            // Its caches may be half-written.
            *self = Self::new();
            Broken
        })
    }
}

fn symbolizer() -> Symbolizer {
    Symbolizer::builder()
        // Paths we pass never change their content, and are evicted before they are reused.
        .enable_auto_reload(false)
        // It takes names of C for types of C++.
        .enable_demangling(false)
        .build()
}

/// The function and what is inlined into it at this address, innermost first.
fn found(sym: &Sym<'_>, texts: &mut Texts) -> Option<Found> {
    if sym.size.is_some_and(|size| sym.offset >= size) {
        return None;
    }
    let inlined = sym.inlined.iter().rev();
    let inlined =
        inlined.map(|function| (&function.name, function.code_info.as_ref(), FrameKind::Inlined));
    let frames = inlined.chain([(&sym.name, sym.code_info.as_deref(), FrameKind::Native)]);
    let frames = frames.map(|(name, code, kind)| frame(texts, name, code, kind)).collect();
    // A function of debug information with several ranges (its cold part lies elsewhere) comes without
    // begin and size (blazesym `RangeAttributes::bounds`): the address was found to be in one of them.
    let is_scattered = sym.size.is_none() && sym.addr == 0;
    let label = (sym.size.is_none() && !is_scattered).then_some(sym.addr);
    Some(Found { frames, label })
}

fn symbol(sym: &Sym<'_>, texts: &mut Texts) -> Option<Symbol> {
    let size = sym.size.map(|size| size as u64);
    let name = texts.sanitize(&readable(&sym.name));
    Some(Symbol { start: sym.addr, size, name, is_mark: is_mark(&sym.name) })
}

/// `$x`, `$d`, `$a`, `$t`, perhaps with more behind a dot; RISC-V has an architecture behind `$x`
/// (aaelf64 5.5.4, riscv-elf "Mapping Symbol").
fn is_mark(name: &str) -> bool {
    let rest = name.strip_prefix('$').and_then(|name| name.strip_prefix(['x', 'd', 'a', 't']));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with("rv"))
}

/// Whether `symbol` is the name `short` with the path it lacks.
fn is_longer_form(symbol: &str, short: &str) -> bool {
    // What follows is a generic's instance or, in C++, the parameters.
    let short = short.split(['<', '(']).next().unwrap_or(short);
    !short.is_empty()
        && symbol.match_indices(short).any(|(at, _)| {
            let rest = symbol.get(at + short.len()..).unwrap_or_default();
            let ends = rest.is_empty() || rest.starts_with(['<', '(', '[']);
            let (path, ends) =
                (symbol.get(..at).unwrap_or_default(), ends || rest.starts_with("::<"));
            path.ends_with("::") && ends
        })
}

fn frame(texts: &mut Texts, name: &str, code: Option<&CodeInfo<'_>>, kind: FrameKind) -> Frame {
    Frame {
        name: texts.sanitize(&readable(name)),
        file: code
            .map(|code| texts.sanitize(&code.to_path().to_string_lossy()))
            .unwrap_or_default(),
        line: code.and_then(|code| code.line).unwrap_or(0),
        kind,
    }
}

/// Text from a file somebody else wrote, fit for terminals and logs: bounded, one line, and without
/// control or bidirectional characters.
pub(super) fn sanitize(text: &str) -> String {
    let harmless = |c: char| match c {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().take(MAX_TEXT).map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::id::Pid,
        process::{
            elf::Header,
            maps::{Address, ProcessMap},
        },
    };

    #[test]
    fn a_symbol_lends_its_path_to_the_short_name() {
        assert!(is_longer_form("shop::cart::total", "total"));
        assert!(is_longer_form("shop::Cart::total(int)", "total"));
        assert!(is_longer_form("core::hint::black_box::<u32>", "black_box<u32>"));
        assert!(is_longer_form("<a::B as c::D>::run", "run"));
        assert!(is_longer_form("total::total", "total"));
        assert!(!is_longer_form("__GI_read", "read"), "another symbol at the same place");
        assert!(!is_longer_form("shop::totals", "total"));
        assert!(!is_longer_form("shop::total", ""));
        assert!(!is_longer_form("total", "total"));
    }

    #[test]
    fn a_panic_is_an_answer_and_the_next_question_is_fine() {
        let mut names = Names::new();
        let source = Source::Elf(Elf::new("/proc/self/exe"));
        let here = ImageAddress(own_address());
        let broken = names.ask(&source, here, |_, _| -> Option<()> { panic!("on purpose") });
        assert_eq!(broken, Err(Broken));
        let fine = names.ask(&source, here, found).unwrap();
        assert!(
            fine.is_some_and(|found| found.frames.last().unwrap().name.contains("own_address"))
        );
    }

    /// Where this function is in the file of this program.
    fn own_address() -> u64 {
        let here = own_address as fn() -> u64 as usize as u64;
        let map = ProcessMap::read(Pid(std::process::id())).unwrap();
        let offset = map.lookup(Address(here)).unwrap().file_offset(Address(here)).unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let segments = Header::read(&file).unwrap().segments(&file).unwrap();
        let code = segments.iter().find(|segment| segment.code().is_some()).unwrap();
        offset.0 - code.offset + code.address
    }

    #[test]
    fn marks_are_no_names() {
        for mark in ["$x", "$d", "$x.12", "$d.realdata", "$xrv64i2p1"] {
            assert!(is_mark(mark), "{mark}");
        }
        for name in ["$", "x", "d", "$y", "$xor", "$data", "a$x"] {
            assert!(!is_mark(name), "{name}");
        }
    }

    #[test]
    fn text_is_cut_and_without_control_characters() {
        assert_eq!(sanitize("a\x1b[2J\n\u{202e}b\u{9b}"), "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}");
        assert_eq!(sanitize(&"x".repeat(5000)).len(), MAX_TEXT);
    }
}
