//! Stacks as chains of functions, outermost first: whether one is possible in a program whose call
//! graph is known, and how much two collections of them have in common.

use std::collections::{BTreeMap, BTreeSet};

use crate::unwind::Symbols;

/// A frame outside of the program: of the C library, for one.
pub const ELSEWHERE: &str = "?";

/// Functions from the outermost to the innermost.
pub type Chain = Vec<String>;

/// How often each chain was seen.
pub type Chains = BTreeMap<Chain, u64>;

/// Names the addresses of a stack, innermost first. All but an exact first one are return addresses.
pub fn chain(frames: &[u64], is_exact: bool, symbols: &Symbols) -> Chain {
    let name = |(index, &address): (usize, &u64)| {
        let inside = if index == 0 && is_exact { address } else { address.wrapping_sub(1) };
        symbols.name(inside).unwrap_or(ELSEWHERE).to_owned()
    };
    frames.iter().enumerate().rev().map(|(index, address)| name((index, address))).collect()
}

/// What can call what: the functions of a program from `main` on.
#[derive(Debug)]
pub struct CallGraph {
    pub calls: &'static [(&'static str, &'static str)],
    /// Functions that call into libraries, where the chain may end or come back from.
    pub leave: &'static [&'static str],
}

// === impl CallGraph ===

impl CallGraph {
    /// What is wrong with a chain: it must begin with `_start`, go through the C library to `main`, and
    /// then follow the calls, leaving out none.
    pub fn problem(&self, chain: &[String]) -> Option<String> {
        self.problem_above_main(chain).or_else(|| {
            let from_main = chain.iter().position(|name| name == "main")?;
            self.problem_below_main(&chain[from_main..])
        })
    }

    fn problem_above_main(&self, chain: &[String]) -> Option<String> {
        if chain.first().map(String::as_str) != Some("_start") {
            return Some("does not end in _start".to_owned());
        }
        let Some(main) = chain.iter().position(|name| name == "main") else {
            return Some("main is not there".to_owned());
        };
        // glibc's names, where it is linked statically.
        let known = |name: &str| name == ELSEWHERE || name.starts_with("__libc_start");
        let strange = chain[1..main].iter().find(|name| !known(name));
        strange.map(|name| format!("{name} between _start and main"))
    }

    /// The part of the check that needs nothing of the frames outside of `main`.
    pub fn problem_below_main(&self, chain: &[String]) -> Option<String> {
        let mut caller = chain.first()?.as_str();
        for name in chain[1..].iter().map(String::as_str) {
            let is_ours = self.calls.iter().any(|(from, to)| *from == name || *to == name);
            if is_ours {
                if !self.calls.contains(&(caller, name)) {
                    return Some(format!("{caller} does not call {name}"));
                }
                caller = name;
            } else if !self.leave.contains(&caller) {
                return Some(format!("{caller} does not call {name}, which is not of the program"));
            }
        }
        None
    }
}

/// Weighted Jaccard index of the shares of chains, of those that are not rare in both.
pub fn likeness(a: &Chains, b: &Chains, rare: f64) -> f64 {
    let share = |chains: &Chains, chain: &Chain| {
        let all: u64 = chains.values().sum();
        chains.get(chain).copied().unwrap_or(0) as f64 / all.max(1) as f64
    };
    let (mut common, mut both) = (0.0, 0.0);
    for chain in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        let (of_a, of_b) = (share(a, chain), share(b, chain));
        if of_a >= rare || of_b >= rare {
            common += of_a.min(of_b);
            both += of_a.max(of_b);
        }
    }
    if both > 0.0 { common / both } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPH: CallGraph =
        CallGraph { calls: &[("main", "a"), ("a", "b"), ("b", "c")], leave: &["b"] };

    fn named(text: &str) -> Chain {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_chain_must_be_whole() {
        for good in ["_start ? ? main a b c", "_start ? main a", "_start ? main a b ? ?"] {
            assert_eq!(GRAPH.problem(&named(good)), None, "{good}");
        }
        for bad in [
            "",
            "? ? main a b c",
            "main a b c",
            "_start ? ? a b c",
            "_start ? a main a b c",
            "_start ? main b c",
            "_start ? main a c",
            "_start ? main a ? b c",
            "_start ? main a b c c",
            "_start ? main a b c ?",
        ] {
            assert!(GRAPH.problem(&named(bad)).is_some(), "{bad}");
        }
    }

    #[test]
    fn likeness_is_of_shares() {
        let chains = |list: &[(&str, u64)]| -> Chains {
            list.iter().map(|&(text, n)| (named(text), n)).collect()
        };
        let a = chains(&[("x y", 50), ("x z", 50)]);
        assert!((likeness(&a, &chains(&[("x y", 5), ("x z", 5)]), 0.02) - 1.0).abs() < 1e-9);
        assert!(likeness(&a, &chains(&[("x", 10)]), 0.02) < 1e-9);
        let half = likeness(&a, &chains(&[("x y", 10)]), 0.02);
        assert!((half - 1.0 / 3.0).abs() < 1e-9, "{half}");
        // A rare one counts neither way.
        let b = chains(&[("x y", 500), ("x z", 500), ("w", 1)]);
        assert!(likeness(&a, &b, 0.02) > 0.99);
        assert!(likeness(&Chains::new(), &Chains::new(), 0.02) < 1e-9);
    }
}
