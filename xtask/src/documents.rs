//! What documents say of the tree holds: each path that README.md, CONTRIBUTING.md and SECURITY.md name is there.

use std::{collections::BTreeSet, fs};

use crate::cargo;

/// Folders of the root: what begins with one of them, in backticks, is a path.
const FOLDERS: [&str; 6] = ["agent", "agent-ebpf", "deploy", "proto", "tests", "xtask"];

/// The paths that a text names.
fn paths(text: &str) -> BTreeSet<&str> {
    text.lines()
        // In pairs: what stands between the first backtick of a line and its second, and so on.
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|word| {
            word.split_once('/').is_some_and(|(folder, rest)| {
                FOLDERS.contains(&folder) && !rest.contains([' ', '*', '{'])
            })
        })
        .collect()
}

#[test]
fn documents_name_what_is_there() {
    for document in ["README.md", "CONTRIBUTING.md", "SECURITY.md"] {
        let text = fs::read_to_string(cargo::root().join(document)).unwrap();
        let paths = paths(&text);
        assert!(!paths.is_empty(), "{document}");
        for path in paths {
            assert!(cargo::root().join(path).exists(), "{document} names {path}");
        }
    }
}

#[test]
fn paths_are_distinguished_from_other_words() {
    let text = "see `agent/src/x.rs`, agent/src/y.rs, `cargo xtask`\nand `tests/` or `POST /agent`";
    assert_eq!(paths(text), BTreeSet::from(["agent/src/x.rs", "tests/"]));
}
