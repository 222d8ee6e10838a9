//! Lines of `/proc/kallsyms`, the kernel's list of its symbols: address, kind, name, module.
//!
//! ```text
//! ffffffff81000000 T _stext
//! ffffffffc0279010 t open  [fuse]
//! ```

/// What is listed below are per-CPU offsets, of old kernels, and the zeros that a reader without the
/// right to addresses sees.
const KERNEL_START: u64 = 1 << 63;

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Where it begins.
    pub address: u64,
    /// It is a function, or could be one.
    pub is_code: bool,
    /// Its name.
    pub name: &'a str,
    /// The module it is of, in brackets; none of the kernel itself.
    pub module: Option<&'a str>,
}

// === impl Symbol ===

impl<'a> Symbol<'a> {
    /// Reads a line; nothing when it is none, or has no address of the kernel.
    pub fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let (kind, name, module) = (words.next()?, words.next()?, words.next());
        let is_code = matches!(kind, "t" | "T" | "w" | "W");
        (address >= KERNEL_START).then_some(Self { address, is_code, name, module })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_symbols_or_nothing() {
        let fuse = Symbol::parse("ffffffffc0279010 t open\t[fuse]").unwrap();
        assert_eq!((fuse.address, fuse.is_code, fuse.name), (0xffff_ffff_c027_9010, true, "open"));
        assert_eq!(fuse.module, Some("[fuse]"));
        let data = Symbol::parse("ffffffff81000300 D jiffies").unwrap();
        assert_eq!((data.is_code, data.module), (false, None));
        for other in ["", "nonsense", "ffffffff81000300 T", "0000000000000000 T hidden", "1f D cpu"]
        {
            assert_eq!(Symbol::parse(other), None, "{other}");
        }
    }
}
