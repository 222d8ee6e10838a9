//! Whether the user stacks of the reports are whole. The workload has unwind tables and no frame
//! pointers, and so has the C library beside it: where the kernel's walk by tables fails, stacks end early.
//!
//! A stack that came before its tables is judged less strictly: making tables takes its time, and
//! emulation stretches it while the workload is over in less than a second.

use std::collections::BTreeMap;

use serde_json::Value;

use super::verdict::{NOT_BLOCKED, list, percent, text};

/// The part that must be whole of the stacks whose tables were there.
const NEARLY_ALL: f64 = 0.95;
/// The same of all.
const MOST: f64 = 0.8;
/// What is at the end of a stack that came before its tables.
const EARLY: &str = "[cut here: unwind tables not loaded yet]";
/// Fewer stacks than this are too few to judge by.
const ENOUGH: u64 = 100;

/// Stacks of all reports, each as often as it was seen.
#[derive(Debug, Default)]
pub(super) struct Stacks {
    all: u64,
    /// That came before their tables.
    early: u64,
    /// Others that end early, by the mark at their end.
    cut: BTreeMap<String, u64>,
    /// Of waits, all but early ones.
    waits: u64,
    /// Waits that begin somewhere else than in `main` or a thread's first function, by outermost frame.
    astray: BTreeMap<String, u64>,
}

// === impl Stacks ===

impl Stacks {
    /// Adds a report's.
    pub(super) fn add(&mut self, report: &Value) {
        for stack in list(&report["spans"]).iter().flat_map(|span| list(&span["stacks"])) {
            let frames = list(&stack["frames"]);
            let is_user = |frame: &&Value| matches!(text(&frame["kind"]), "native" | "inlined");
            let Some(outermost) = frames.iter().rfind(is_user) else { continue };
            let count = stack["count"].as_u64().unwrap_or(0);
            self.all += count;
            let end = frames.last().filter(|frame| frame["kind"] == "mark");
            if end.is_some_and(|mark| mark["name"] == EARLY) {
                self.early += count;
                continue;
            }
            if let Some(mark) = end {
                *self.cut.entry(text(&mark["name"]).to_owned()).or_default() += count;
            }
            if NOT_BLOCKED.contains(&text(&stack["state"])) {
                continue;
            }
            self.waits += count;
            if !frames.iter().any(|frame| is_root(text(&frame["name"]))) {
                *self.astray.entry(text(&outermost["name"]).to_owned()).or_default() += count;
            }
        }
    }

    /// One line.
    pub(super) fn figure(&self) -> String {
        let rooted = self.waits - sum(&self.astray);
        let mut parts = vec![
            format!(
                "{:.2} % of {} user stacks are whole",
                percent(self.whole(), self.all),
                self.all
            ),
            format!("{:.2} % of those with tables", percent(self.whole(), self.all - self.early)),
            format!(
                "{:.2} % of their {} waits reach main",
                percent(rooted, self.waits),
                self.waits
            ),
        ];
        parts.extend(self.cut.iter().map(|(mark, count)| format!("{mark} {count}")));
        parts.join(", ")
    }

    fn whole(&self) -> u64 {
        self.all - self.early - sum(&self.cut)
    }

    /// What is wrong with them.
    pub(super) fn problems(&self) -> Vec<String> {
        let (with_tables, rooted) = (self.all - self.early, self.waits - sum(&self.astray));
        let mut problems = Vec::new();
        let mut require = |good: u64, all: u64, part: f64, what: &str| {
            if all >= ENOUGH && (good as f64) < part * all as f64 {
                problems.push(format!("only {good} of {all} {what}"));
            }
        };
        require(self.whole(), self.all, MOST, "user stacks are whole");
        let what = format!("user stacks with tables are whole; marks: {:?}", self.cut);
        require(self.whole(), with_tables, NEARLY_ALL, &what);
        let what = format!("waits reach main or a thread's start; others: {:?}", self.astray);
        require(rooted, self.waits, NEARLY_ALL, &what);
        problems
    }
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// Whether a function is one that code of the program begins with: C's or Rust's `main`, or what the
/// standard library starts a thread with.
fn is_root(name: &str) -> bool {
    name == "main" || name.ends_with("::main") || name.ends_with("thread_start")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stacks(frames: &Value, state: &str, count: u64) -> Stacks {
        let mut stacks = Stacks::default();
        let good = json!([{"name": "f", "kind": "native"}, {"name": "main", "kind": "native"}]);
        let of = |frames: &Value, state: &str, count: u64| json!({"frames": frames, "state": state, "count": count});
        let kernel = json!([{"name": "k", "kind": "kernel"}]);
        let all = [of(&good, "lock", 900), of(frames, state, count), of(&kernel, "lock", 7)];
        stacks.add(&json!({"spans": [{"stacks": all}]}));
        stacks
    }

    #[test]
    fn marked_ends_and_waits_from_nowhere_are_reported() {
        let ends_in = |last: &Value| json!([{"name": "f", "kind": "native"}, last]);
        let cut = ends_in(&json!({"name": "[cut here: x]", "kind": "mark"}));
        assert_eq!(stacks(&cut, "running", 10).problems(), Vec::<String>::new());
        let found = stacks(&cut, "running", 100);
        assert_eq!((found.all, found.waits), (1000, 900));
        assert!(found.problems().join("").contains("only 900 of 1000 user stacks with tables"));
        let astray = ends_in(&json!({"name": "g", "kind": "native"}));
        let problems = stacks(&astray, "lock", 100).problems().join("");
        assert!(problems.contains("only 900 of 1000 waits") && problems.contains("\"g\": 100"));
        let early = ends_in(&json!({"name": EARLY, "kind": "mark"}));
        assert_eq!(stacks(&early, "lock", 100).problems(), Vec::<String>::new());
        let problems = stacks(&early, "lock", 300).problems();
        assert_eq!(problems, ["only 900 of 1200 user stacks are whole"]);
    }
}
