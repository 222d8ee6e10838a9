//! Mangled names as people write them. Only what is mangled: `f` is a function of that name in C, and
//! the code of `float` where a demangler takes any text for a C++ type (libiberty's tests do).
//!
//! | begins with | is of |
//! |---|---|
//! | `_Z`, `__Z`; `___Z`, `____Z` (blocks) | C++ (Itanium C++ ABI 5.1.1), and Rust's legacy form, which ends in a hash |
//! | `_GLOBAL_` + one of `._$` + `D`, `I` | C++: constructors and destructors of a file |
//! | `_R`, `__R` | Rust (RFC 2603) |
//!
//! What compilers and linkers hang on (`.cold`, `.part.0`, `.llvm.123`, `@@VERSION`) stays.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use cpp_demangle::{DemangleOptions, Symbol};

use super::names::MAX_TEXT;

/// Bytes of a readable name: what is behind them is cut off anyway, and a short name can stand for
/// gigabytes.
const MAX_BYTES: usize = 4 * MAX_TEXT;

/// Text up to [`MAX_BYTES`]; more is an error, which ends the demangler's work.
#[derive(Default)]
struct Bounded {
    text: String,
    is_full: bool,
}

/// `name` as it was written, or as it is.
pub(super) fn readable(name: &str) -> Cow<'_, str> {
    rust(name).or_else(|| cpp(name)).map_or(Cow::Borrowed(name), Cow::Owned)
}

fn rust(name: &str) -> Option<String> {
    let is_v0 = |rest: &str| rest.starts_with(|c: char| c.is_ascii_uppercase());
    let is_mangled = match name.strip_prefix("__").or_else(|| name.strip_prefix('_')) {
        Some(rest) if rest.starts_with("ZN") => has_hash(rest),
        Some(rest) => rest.strip_prefix('R').is_some_and(is_v0),
        None => false,
    };
    let found = rustc_demangle::try_demangle(name).ok().filter(|_| is_mangled)?;
    let mut text = Bounded::default();
    // Without the hash.
    let written = write!(text, "{found:#}");
    text.finish(written)
}

/// Whether a legacy name of Rust ends in `17h` and 16 digits, which C++'s do not.
fn has_hash(name: &str) -> bool {
    name.match_indices("17h").any(|(at, before)| {
        let rest = name.as_bytes().get(at + before.len()..).unwrap_or_default();
        rest.get(..16).is_some_and(|hash| hash.iter().all(u8::is_ascii_hexdigit))
            && rest.get(16) == Some(&b'E')
    })
}

fn cpp(name: &str) -> Option<String> {
    let rest = name.trim_start_matches('_');
    let is_mangled = match name.len() - rest.len() {
        1 if rest.starts_with("GLOBAL_") => true,
        1..=4 => rest.starts_with('Z'),
        _ => false,
    };
    if !is_mangled {
        return None;
    }
    // What the demangler does not take for a clone: hexadecimal digits, versions.
    let (head, tail) = name.split_at(name.find(['.', '@']).unwrap_or(name.len()));
    demangle(name).or_else(|| {
        let text = demangle(head).filter(|_| !tail.is_empty())?;
        Some(if tail.starts_with('.') { format!("{text} [clone {tail}]") } else { text + tail })
    })
}

/// All of it: what has something behind it only begins like a mangled name.
fn demangle(name: &str) -> Option<String> {
    let symbol = Symbol::new(name).ok()?;
    let mut text = Bounded::default();
    let written = symbol.structured_demangle(&mut text, &DemangleOptions::new());
    text.finish(written)
}

// === impl Bounded ===

impl Bounded {
    /// What was written, if all was or it is only too much.
    fn finish(self, written: fmt::Result) -> Option<String> {
        (written.is_ok() || self.is_full).then_some(self.text)
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > MAX_BYTES {
            self.is_full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_c_are_as_they_are() {
        let types = ["a", "b", "c", "f", "g", "h", "i", "v", "x", "St", "Ss", "Sa", "PKc", "PFvvE"];
        let others =
            ["N1", "Dn", "i_", "Rb", "RNvC1a1b", "Z3foov", "ZN1a1bE", "_R", "_Read", "_RE"];
        let more =
            ["_Z", "_Zebra", "__Zap", "_D", "_Dmain", "_D3foo3barFZv", "_GLOBAL_OFFSET_TABLE_"];
        let reserved = ["_init", "__R", "___Z", "_GLOBAL__sub_I_main.cpp", "_____Z3foov", ""];
        let parts = ["f.cold", "i.part.0", "v.isra.0", "f.constprop.0.cold", "b.llvm.123", "f@@V1"];
        let all = types.iter().chain(&others).chain(&more).chain(&reserved).chain(&parts);
        for name in all {
            assert_eq!(readable(name), *name);
        }
    }

    #[test]
    fn mangled_names_are_as_they_were_written() {
        for (name, expected) in [
            ("_ZN4shop4Cart5totalEv", "shop::Cart::total()"),
            ("__ZN4shop4Cart5totalEv", "shop::Cart::total()"),
            ("_Z1fv", "f()"),
            ("_Z1fPKc", "f(char const*)"),
            ("_ZN12_GLOBAL__N_11fE", "(anonymous namespace)::f"),
            ("_ZZ4mainvENKUlvE_clEv", "main()::{lambda()#1}::operator()() const"),
            ("___Z3foov_block_invoke", "invocation function for block in foo()"),
            ("____Z3foov_block_invoke_2", "invocation function for block in foo()"),
            ("_ZN4core3ptr4read17h0123456789abcdefE", "core::ptr::read"),
            ("_ZN3foo17h05af221e174051e9E.llvm.1234", "foo"),
            ("_ZN29_$LT$a..B$u20$as$u20$c..D$GT$3run17h05af221e174051e9E", "<a::B as c::D>::run"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_RNvNtCs1234_4shop4cart5total", "shop::cart::total"),
        ] {
            assert_eq!(readable(name), expected, "{name}");
        }
    }

    #[test]
    fn what_compilers_hang_on_stays() {
        for (name, expected) in [
            ("_Z3foov.cold", "foo() [clone .cold]"),
            ("_Z3foov.part.0", "foo() [clone .part.0]"),
            ("_Z3foov.isra.0.cold", "foo() [clone .isra.0] [clone .cold]"),
            ("_Z3foov.llvm.17C5", "foo() [clone .llvm.17C5]"),
            ("_Z3foov@@V_1.2", "foo()@@V_1.2"),
            ("_ZN3foo17h05af221e174051e9E.cold", "foo.cold"),
            ("_RNvC6_123foo3bar.cold.1", "123foo::bar.cold.1"),
        ] {
            assert_eq!(readable(name), expected, "{name}");
        }
    }

    #[test]
    fn a_short_name_that_stands_for_gigabytes_is_cut() {
        // f(x<S, S>), of which each S is the whole type before it.
        let mut name = "_Z1f1xI".to_owned() + &"1xI".repeat(30);
        name.push_str("ii");
        for _ in 0..31 {
            name.push('E');
        }
        let mut doubled = "_Z1f1aIiiE".to_owned();
        for level in 0..28 {
            let back = match level {
                0 => "S0_".to_owned(),
                n => format!("S{}_", char::from_digit(n, 36).unwrap().to_ascii_uppercase()),
            };
            doubled.push_str(&format!("S_I{back}{back}E"));
        }
        for name in [name, doubled] {
            assert!(readable(&name).len() <= MAX_BYTES.max(name.len()), "{name}");
        }
    }
}
