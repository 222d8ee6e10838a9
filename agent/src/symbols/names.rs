//! blazesym, fenced in: a panic in a parser costs the file that caused it, never the daemon.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolized, Symbolizer,
    evict::{self, Evict},
    source::{Elf, Source},
};

use super::{elf::ImageAddress, readable::readable, texts::Texts};
use crate::profile::document::FrameDocument;

/// Characters kept of a name or path. C++ templates run to many thousands.
pub(super) const MAX_TEXT: usize = 1024;

/// What an address turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The frames there, innermost first.
    Frames(Vec<FrameDocument>),
    /// No symbol covers it.
    Unknown,
    /// The parser failed on this file; asking again is pointless.
    Broken,
}

/// Names by address, from ELF files, or from the kernel's list.
pub(super) struct Names {
    symbolizer: Symbolizer,
    texts: Texts,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { symbolizer: symbolizer(), texts: Texts::new() }
    }

    /// The functions at `address` of the ELF file at `path`, a path nobody else can change.
    pub(super) fn image(&mut self, path: &Path, address: ImageAddress) -> Answer {
        let input = Input::VirtOffset(address.0);
        let debug = Elf::new(path);
        let plain = Elf { debug_syms: false, ..debug.clone() };
        let found = self.ask(&Source::Elf(debug), input, user_frames);
        if found == Answer::Broken {
            return found;
        }
        // Asked as well: debug information that cannot be read (compressed, another format) hides
        // the symbol table, and reduced debug information has the last part of a path only.
        let symbol = self.ask(&Source::Elf(plain), input, user_frames);
        match (found, symbol) {
            (Answer::Frames(mut frames), Answer::Frames(symbol)) => {
                if let (Some(function), Some(symbol)) = (frames.last_mut(), symbol.last())
                    && is_longer_form(&symbol.name, &function.name)
                {
                    function.name.clone_from(&symbol.name);
                }
                Answer::Frames(frames)
            }
            (found @ Answer::Frames(_), _) => found,
            (_, symbol) => symbol,
        }
    }

    /// Forgets all about the file at `path`.
    pub(super) fn evict(&mut self, path: &Path) {
        // Eviction of what was never read is not an error, and there is no other.
        let _ = self.symbolizer.evict(&Evict::Elf(evict::Elf::new(path)));
    }

    /// What `convert` makes of the symbol there.
    pub(super) fn ask(
        &mut self,
        source: &Source<'_>,
        input: Input<u64>,
        convert: impl Fn(&Sym<'_>, &mut Texts) -> Option<Vec<FrameDocument>>,
    ) -> Answer {
        let Self { symbolizer, texts } = self;
        let asked =
            catch_unwind(AssertUnwindSafe(|| match symbolizer.symbolize_single(source, input) {
                Ok(Symbolized::Sym(sym)) => convert(&sym, texts),
                Ok(Symbolized::Unknown(_)) | Err(_) => None,
            }));
        match asked {
            Ok(Some(frames)) => Answer::Frames(frames),
            Ok(None) => Answer::Unknown,
            Err(_) => {
                // Its caches may be half-written.
                *self = Self::new();
                Answer::Broken
            }
        }
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
fn user_frames(sym: &Sym<'_>, texts: &mut Texts) -> Option<Vec<FrameDocument>> {
    let inlined = sym.inlined.iter().rev();
    let inlined = inlined.map(|function| (&function.name, function.code_info.as_ref(), "inlined"));
    let frames = inlined.chain([(&sym.name, sym.code_info.as_deref(), "native")]);
    Some(frames.map(|(name, code, kind)| frame(texts, name, code, kind)).collect())
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

fn frame(
    texts: &mut Texts,
    name: &str,
    code: Option<&CodeInfo<'_>>,
    kind: &'static str,
) -> FrameDocument {
    FrameDocument {
        name: texts.tame(&readable(name)),
        file: code.map(|code| texts.tame(&code.to_path().to_string_lossy())).unwrap_or_default(),
        line: code.and_then(|code| code.line).unwrap_or(0),
        kind,
    }
}

/// Text from a file somebody else wrote, fit for terminals and logs: bounded, one line, and without
/// control or bidirectional characters.
pub(super) fn tame(text: &str) -> String {
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
    use crate::process::{
        id::Pid,
        maps::{Address, ProcessMap},
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
        let here = a_panic_is_an_answer_and_the_next_question_is_fine as fn() as usize as u64;
        let map = ProcessMap::read(Pid(std::process::id())).unwrap();
        let offset = map.lookup(Address(here)).unwrap().file_offset(Address(here)).unwrap();
        let (source, input) =
            (Source::Elf(Elf::new("/proc/self/exe")), Input::FileOffset(offset.0));
        let broken = names.ask(&source, input, |_, _| panic!("on purpose"));
        assert_eq!(broken, Answer::Broken);
        let fine = names.ask(&source, input, user_frames);
        assert!(matches!(fine, Answer::Frames(_)), "{fine:?}");
    }

    #[test]
    fn text_is_cut_and_without_control_characters() {
        assert_eq!(tame("a\x1b[2J\n\u{202e}b\u{9b}"), "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}");
        assert_eq!(tame(&"x".repeat(5000)).len(), MAX_TEXT);
    }
}
