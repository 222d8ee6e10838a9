//! `cargo xtask layers`: the floors of the house (design 2), checked.
//!
//! Every path in `agent/src` that begins with `crate`, `super` or `self` is an import, in tests too.
//! It may point to its own room or down; between the folders of a room none may be a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::cargo;

/// The floors, the uppermost first. A folder within a room has a floor of its own where the room's
/// own files are a contract that it fulfils.
const FLOORS: &[&str] = &[
    "main",
    "fuzz",
    "cli",
    "app",
    "web",
    "collector",
    "stream",
    "wire",
    "store/sqlite",
    "document",
    "store",
    "naming",
    "link",
    "symbols",
    "unwind",
    "contexts",
    "process",
    "kernel",
    "peers",
    "budget",
    "ledger",
    "config",
    "model",
    "heap",
];

/// Check that no module of the agent imports one of a floor above it.
#[derive(Debug, Parser)]
pub(crate) struct Layers {}

/// A module path below the crate.
type Module = Vec<String>;

/// One path in the sources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: Module,
    to: Module,
    file: PathBuf,
    line: usize,
}

// === impl Layers ===

impl Layers {
    /// Prints every import that points up, or both sides of a circle.
    ///
    /// # Errors
    ///
    /// When there is one, or sources cannot be read.
    pub(crate) fn run(&self) -> Result<()> {
        let imports = imports(&cargo::root().join("agent/src"))?;
        let problems = problems(&imports);
        for problem in &problems {
            eprintln!("{problem}");
        }
        if !problems.is_empty() {
            bail!("{} imports point up or make a circle", problems.len());
        }
        println!("layers: {} imports, none points up, no circle of folders", imports.len());
        Ok(())
    }
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line) = (self.file.display(), self.line);
        write!(f, "{file}:{line}: {} imports {}", self.from.join("::"), self.to.join("::"))
    }
}

fn imports(root: &Path) -> Result<Vec<Import>> {
    let mut files = Vec::new();
    find(root, &mut files)?;
    files.sort();
    let mut imports = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let stream: TokenStream =
            text.parse().map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
        let within = file.strip_prefix(root).context("a file below its root")?;
        let mut found = Vec::new();
        walk(stream, &module_of(within), &mut found);
        imports.extend(found.into_iter().map(|(from, to, line)| Import {
            from,
            to,
            file: Path::new("agent/src").join(within),
            line,
        }));
    }
    Ok(imports)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The module a file is. `x_tests.rs` is the module `tests` of `x`.
fn module_of(within: &Path) -> Module {
    let mut module: Module =
        within.with_extension("").iter().map(|name| name.to_string_lossy().into_owned()).collect();
    match module.last().map(String::as_str) {
        Some("mod" | "lib") => {
            module.pop();
        }
        Some(name) => {
            if let Some(tested) = name.strip_suffix("_tests") {
                let tested = tested.to_owned();
                module.pop();
                module.extend([tested, "tests".to_owned()]);
            }
        }
        None => {}
    }
    module
}

/// Finds paths; `module` is where the tokens stand.
fn walk(stream: TokenStream, module: &Module, found: &mut Vec<(Module, Module, usize)>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        let ident = ident(&tokens, at);
        if ident.as_deref() == Some("mod")
            && let Some(name) = self::ident(&tokens, at + 1)
            && let Some(TokenTree::Group(body)) = tokens.get(at + 2)
            && body.delimiter() == Delimiter::Brace
        {
            let inner = [module.as_slice(), &[name]].concat();
            walk(body.stream(), &inner, found);
            at += 3;
        } else if matches!(ident.as_deref(), Some("crate" | "super" | "self"))
            && is_path(&tokens, at + 1)
        {
            let line = tokens[at].span().start().line;
            let mut leaves = Vec::new();
            at = tree(&tokens, at, &Module::new(), &mut leaves);
            for leaf in leaves {
                if let Some(to) = resolve(&leaf, module) {
                    found.push((module.clone(), to, line));
                }
            }
        } else {
            if let TokenTree::Group(group) = &tokens[at] {
                walk(group.stream(), module, found);
            }
            at += 1;
        }
    }
}

/// The path or tree of paths that begins at `at`; returns where it ends.
fn tree(tokens: &[TokenTree], mut at: usize, prefix: &Module, leaves: &mut Vec<Module>) -> usize {
    let mut path = prefix.clone();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) => path.push(name.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for part in inner.split(|token| is_punct(token, ',')) {
                    if !part.is_empty() {
                        tree(part, 0, &path, leaves);
                    }
                }
                return at + 1;
            }
            // `*`, or a type argument: what stands before it is what is imported.
            _ => break,
        }
        at += 1;
        if !is_path(tokens, at) {
            break;
        }
        at += 2;
    }
    leaves.push(path);
    at
}

fn ident(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn is_punct(token: &TokenTree, is: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == is)
}

fn is_path(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| tokens.get(at).is_some_and(|token| is_punct(token, ':'));
    colon(at) && colon(at + 1)
}

/// A path as one from the crate's root.
fn resolve(path: &[String], module: &Module) -> Option<Module> {
    let mut base = match path.first()?.as_str() {
        "crate" => Module::new(),
        _ => module.clone(),
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => {
                base.pop()?;
            }
            name => base.push(name.to_owned()),
        }
    }
    Some(base)
}

/// The floor of a module: the most particular entry that holds it.
fn floor(module: &[String]) -> Option<usize> {
    let holds = |floor: &&str| {
        let parts: Vec<&str> = floor.split('/').collect();
        module.len() >= parts.len() && module.iter().zip(&parts).all(|(a, b)| a == b)
    };
    let floors = FLOORS.iter().enumerate().filter(|(_, floor)| holds(floor));
    floors.max_by_key(|(_, floor)| floor.len()).map(|(index, _)| index)
}

fn problems(imports: &[Import]) -> Vec<String> {
    let mut problems = Vec::new();
    for import in imports {
        match (floor(&import.from), floor(&import.to)) {
            (Some(from), Some(to)) if to < from => problems.push(format!("{import}: upwards")),
            (None, _) if !import.from.is_empty() => {
                problems.push(format!("{import}: {} has no floor", import.from[0]));
            }
            _ => {}
        }
    }
    problems.extend(circles(imports));
    problems.sort();
    problems.dedup();
    problems
}

/// Folders side by side in a room of which each can be reached from the other.
fn circles(imports: &[Import]) -> Vec<String> {
    let folders: BTreeSet<Module> = imports
        .iter()
        .filter_map(|import| {
            let within = import.file.strip_prefix("agent/src").ok()?.parent()?;
            Some(within.iter().map(|name| name.to_string_lossy().into_owned()).collect())
        })
        .collect();
    let mut edges: BTreeMap<(Module, Module), &Import> = BTreeMap::new();
    for import in imports {
        let shared = import.from.iter().zip(&import.to).take_while(|(a, b)| a == b).count();
        let side = |module: &Module| Module::from(&module[..(shared + 1).min(module.len())]);
        let (from, to) = (side(&import.from), side(&import.to));
        // Between rooms the floors tell more.
        if shared > 0
            && from.len() == shared + 1
            && to.len() == shared + 1
            && folders.contains(&from)
            && folders.contains(&to)
        {
            edges.entry((from, to)).or_insert(import);
        }
    }
    let mut problems = Vec::new();
    for ((from, to), there) in &edges {
        if let Some(back) = way(&edges, to, from)
            && from < to
        {
            problems.push(format!("{there}\n  and back: {back}: a circle of folders"));
        }
    }
    problems
}

/// The first import on a way from one folder to another.
fn way<'a>(
    edges: &BTreeMap<(Module, Module), &'a Import>,
    from: &Module,
    to: &Module,
) -> Option<&'a Import> {
    let mut seen = BTreeSet::from([from.clone()]);
    let mut next: Vec<(&Module, Option<&Import>)> = vec![(from, None)];
    while let Some((at, first)) = next.pop() {
        for ((here, there), import) in edges {
            if here == at {
                let first = first.unwrap_or(import);
                if there == to {
                    return Some(first);
                }
                if seen.insert(there.clone()) {
                    next.push((there, Some(first)));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(file: &str, text: &str) -> Vec<Import> {
        let mut found = Vec::new();
        walk(text.parse().unwrap(), &module_of(Path::new(file)), &mut found);
        let path = Path::new("agent/src").join(file);
        let import = |(from, to, line)| Import { from, to, file: path.clone(), line };
        found.into_iter().map(import).collect()
    }

    fn targets(file: &str, text: &str) -> Vec<String> {
        of(file, text).into_iter().map(|import| import.to.join("::")).collect()
    }

    #[test]
    fn paths_are_found_wherever_they_stand() {
        let text = "use crate::{a::{self, B}, c::*};\nfn f() { m!(crate::d::E::new()) }";
        assert_eq!(targets("x/y.rs", text), ["a", "a::B", "c", "d::E::new"]);
        assert_eq!(targets("x/y.rs", "use super::z::Z;"), ["x::z::Z"]);
        assert_eq!(targets("x/mod.rs", "use super::z::Z;"), ["z::Z"]);
        assert_eq!(targets("x/y_tests.rs", "use super::super::z::Z;"), ["x::z::Z"]);
        assert_eq!(targets("x/y.rs", "mod tests { use super::*; use super::super::z; }").len(), 2);
        assert_eq!(targets("x/y.rs", "// crate::a\nconst T: &str = \"crate::b\";"), [""; 0]);
    }

    #[test]
    fn an_import_that_points_up_is_named_with_its_line() {
        let up = of("kernel/a.rs", "use std::fs;\nuse crate::cli::run;");
        let problems = problems(&up);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("agent/src/kernel/a.rs:2: "), "{problems:?}");
        let down = of("cli/a.rs", "use crate::{kernel::K, store::sqlite::S, cli::b};");
        assert_eq!(self::problems(&down), [""; 0]);
        let contract = of("store/mod.rs", "use crate::store::sqlite::S;");
        assert_eq!(self::problems(&contract).len(), 1, "a contract does not know who fulfils it");
    }

    #[test]
    fn folders_of_a_room_in_a_circle_are_named() {
        let mut imports = of("cli/a/x.rs", "use crate::cli::b::y;");
        imports.extend(of("cli/b/y.rs", "use super::super::c::z;"));
        assert_eq!(circles(&imports), [""; 0]);
        imports.extend(of("cli/c/z.rs", "use crate::cli::a::x;"));
        let circles = circles(&imports);
        assert!(!circles.is_empty());
        assert!(circles[0].contains("cli/a/x.rs:1") && circles[0].contains("and back"));
    }
}
