//! What the guest's results prove: the doctor, the kernel programs, and each scenario's report
//! against the truth its workload wrote. Prints a table and every problem.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{guest::tail, stacks::Stacks};

/// Programs that must be in the kernel while hotspan records, by line. Their names there may be cut
/// short.
const PROGRAMS: &str = include_str!("../../../tests/vm/always");
/// Under the one or the other name: how new lanes announce themselves.
const BREADCRUMB: &str = "lane_breadcrumb";
/// The kernel cuts names of programs without function information to this.
const SHORT_NAME: usize = 15;
/// Instructions the verifier may walk in one program. It gives up at a million, and each kernel counts
/// in its own way.
const MOST_INSTRUCTIONS: u64 = 700_000;
/// States that are not waiting for something.
pub(super) const NOT_BLOCKED: [&str; 5] =
    ["running", "steal", "ready_wakeup", "ready_preempted", "throttled"];
/// The part of a name's blocked time that must be in the intended state.
const MOST: f64 = 0.5;
/// So many waits, and half of them must have a stack: fewer may be unlucky.
const ENOUGH_WAITS: usize = 10;

/// A span's identity.
type Key = (String, String);
type States = BTreeMap<String, u64>;

/// Prints everything and returns the number of problems.
pub(super) fn print(results: &Path, scenarios: &[String]) -> Result<usize> {
    let mut problems = doctor(results);
    problems.extend(programs(results));
    println!(
        "  {:<12} {:>7} {:>7}  waits in the intended state; losses",
        "scenario", "spans", "stacks"
    );
    let mut stacks = Stacks::default();
    for name in scenarios {
        let folder = results.join("scenario").join(name);
        match Scenario::load(&folder) {
            Ok(scenario) => {
                let found = scenario.problems();
                stacks.add(&scenario.report);
                let mark = if found.is_empty() { "" } else { "  PROBLEMS" };
                let (spans, stacks) = (scenario.found(), scenario.explained());
                println!("  {name:<12} {spans:>7} {stacks:>7}  {}{mark}", scenario.figure());
                problems.extend(found.into_iter().map(|problem| format!("{name}: {problem}")));
            }
            Err(error) => {
                println!("  {name:<12} {:>7}", "FAILED");
                let said = tail(&read(&folder.join("stderr")), 40);
                problems.push(format!("{name}: {error:#}; hotspan said:\n{said}"));
            }
        }
    }
    println!("  {}", stacks.figure());
    problems.extend(stacks.problems());
    for problem in &problems {
        println!("  PROBLEM {problem}");
    }
    Ok(problems.len())
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn parse(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("{} is not there", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
}

fn doctor(results: &Path) -> Vec<String> {
    let verdict = match parse(&results.join("doctor.json")) {
        Ok(verdict) => verdict,
        Err(error) => {
            let said = read(&results.join("doctor.stderr"));
            return vec![format!("doctor: {error:#}; it said:\n{said}")];
        }
    };
    for check in verdict["checks"].as_array().into_iter().flatten() {
        if check["status"] != "ok" {
            println!(
                "  doctor: {} {}: {}",
                text(&check["status"]),
                text(&check["id"]),
                text(&check["found"])
            );
        }
    }
    println!("  clock of the kernel: {}", read(&results.join("clocksource")).trim());
    let fine = verdict["ok"] == true;
    if fine { Vec::new() } else { vec!["doctor: this kernel cannot be recorded".to_owned()] }
}

/// The programs that were in the kernel, how far the verifier walked in each, and that all are gone.
fn programs(results: &Path) -> Vec<String> {
    let output = read(&results.join("programs"));
    let loaded = loaded(&output);
    if loaded.is_empty() {
        let said = tail(&read(&results.join("programs.stderr")), 60);
        return vec![format!("no kernel program was loaded; hotspan said:\n{said}")];
    }
    let list: Vec<_> = loaded.iter().map(|(name, walked)| format!("{name} {walked}")).collect();
    println!("  instructions the verifier walked: {}", list.join(", "));
    let mut problems = Vec::new();
    for wanted in PROGRAMS.lines().chain([BREADCRUMB]) {
        let cut = &wanted[..wanted.len().min(SHORT_NAME)];
        if !loaded.iter().any(|(name, _)| name.starts_with(wanted) || *name == cut) {
            problems.push(format!("program {wanted} is not in the kernel"));
        }
    }
    let most = loaded.iter().max_by_key(|(_, walked)| walked);
    if let Some((name, walked)) = most {
        println!("  most of them in {name}: {walked} of {MOST_INSTRUCTIONS}");
    }
    for (name, walked) in &loaded {
        if !(1..=MOST_INSTRUCTIONS).contains(walked) {
            problems.push(format!("the verifier walked {walked} instructions in {name}"));
        }
    }
    let left = read(&results.join("left"));
    if !left.trim().is_empty() {
        let left: Vec<_> = left.lines().collect();
        problems.push(format!("still in the kernel after the last recording: {}", left.join(", ")));
    }
    problems
}

/// Joins the lines `TAG INSTRUCTIONS` and `bpf_prog_TAG_NAME`. Two programs may have one tag.
fn loaded(output: &str) -> Vec<(&str, u64)> {
    let walked: BTreeMap<&str, u64> = output
        .lines()
        .filter_map(|line| {
            let (tag, number) = line.split_once(' ')?;
            Some((tag, number.parse().ok()?))
        })
        .collect();
    let names: BTreeSet<(&str, &str)> = output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("bpf_prog_")?.split_once('_'))
        .collect();
    names.into_iter().filter_map(|(tag, name)| Some((name, *walked.get(tag)?))).collect()
}

/// A report and the truth about it.
struct Scenario {
    exit: String,
    report: Value,
    truth: BTreeMap<Key, Value>,
    /// The report's documents, by identity.
    spans: BTreeMap<Key, Value>,
}

// === impl Scenario ===

impl Scenario {
    fn load(folder: &Path) -> Result<Self> {
        let report = parse(&folder.join("report.json"))?;
        let mut truth: BTreeMap<Key, Value> = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // Every process of the workload writes one.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("truth.json"))
            {
                for span in list(&parse(&path)?["spans"]) {
                    // Of a span on several threads, the part with the waits shows what is intended.
                    let known = truth.entry(key(span)).or_insert_with(|| span.clone());
                    if span["waits"].as_u64() > known["waits"].as_u64() {
                        *known = span.clone();
                    }
                }
            }
        }
        let spans = list(&report["spans"]).iter().map(|span| (key(span), span.clone())).collect();
        let exit = read(&folder.join("exit")).trim().to_owned();
        Ok(Self { exit, report, truth, spans })
    }

    /// Spans found of those there were.
    fn found(&self) -> Part {
        Part(self.pairs().count(), self.truth.len())
    }

    /// Spans that waited as intended and have the stack of it, of those that waited. Stacks are
    /// sampled, but waits of milliseconds nearly always have one.
    fn explained(&self) -> Part {
        let (mut explained, mut all) = (0, 0);
        for (truth, span) in self.pairs().filter(|(truth, _)| waits(truth)) {
            let state = text(&truth["intended_state"]);
            let methods = list(&span["methods"]).iter();
            all += 1;
            explained += usize::from(methods.map(|m| &m["by_state"][state]).any(Value::is_u64));
        }
        Part(explained, all)
    }

    /// Truths with hotspan's documents of them.
    fn pairs(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.truth.iter().filter_map(|(key, truth)| Some((truth, self.spans.get(key)?)))
    }

    /// For every name and intended state of spans that wait: time in that state, blocked time.
    fn intended(&self) -> BTreeMap<(String, String), (u64, u64)> {
        let mut sums = BTreeMap::new();
        for (truth, span) in self.pairs().filter(|(truth, _)| waits(truth)) {
            let state = text(&truth["intended_state"]);
            let states = states(&span["states"]);
            let sum: &mut (u64, u64) =
                sums.entry((text(&truth["name"]).to_owned(), state.to_owned())).or_default();
            sum.0 += states.get(state).copied().unwrap_or(0);
            let blocked = states.iter().filter(|(state, _)| !NOT_BLOCKED.contains(&state.as_str()));
            sum.1 += blocked.map(|(_, ns)| ns).sum::<u64>();
        }
        sums
    }

    fn figure(&self) -> String {
        let part = |((name, state), (right, all)): (&(String, String), &(u64, u64))| {
            format!("`{name}` {:.1} % {state} of {} ms", percent(*right, *all), all / 1_000_000)
        };
        let mut parts: Vec<_> = self.intended().iter().map(part).collect();
        for (reason, count) in states(&self.report["loss"]) {
            parts.push(format!("{reason} {count}"));
        }
        parts.join(", ")
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        require(self.exit == "0", format!("hotspan record ended with {}", self.exit));
        require(!self.truth.is_empty(), "the workload wrote no truth".to_owned());
        let documents = list(&self.report["spans"]).len();
        require(documents == self.spans.len(), "a span is there twice".to_owned());
        let strangers = self.spans.keys().filter(|key| !self.truth.contains_key(key)).count();
        require(strangers == 0, format!("{strangers} spans that nobody published"));
        for (key, truth) in &self.truth {
            let (id, name) = (&key.1, text(&truth["name"]));
            let Some(span) = self.spans.get(key) else {
                require(false, format!("span {id} `{name}` is missing"));
                continue;
            };
            require(
                span["name"] == truth["name"],
                format!("span {id} `{name}` is {}", span["name"]),
            );
            let (sum, active) = (total(&span["states"]), span["active_ns"].as_u64());
            require(
                Some(sum) == active,
                format!("span {id} `{name}`: sum(states) {sum} != active_ns {active:?}"),
            );
        }
        for thread in list(&self.report["threads"]) {
            let (sum, wall) = (total(&thread["states"]), thread["wall_ns"].as_u64());
            let tid = &thread["tid"];
            require(Some(sum) == wall, format!("thread {tid}: sum(states) {sum} != {wall:?}"));
        }
        for ((name, state), (right, all)) in self.intended() {
            let enough = all > 0 && right as f64 >= MOST * all as f64;
            let percent = percent(right, all);
            require(
                enough,
                format!("`{name}`: only {percent:.1} % of {all} ns blocked is {state}"),
            );
        }
        let Part(explained, all) = self.explained();
        require(
            all < ENOUGH_WAITS || 2 * explained >= all,
            format!("only {explained} of {all} waits have a stack"),
        );
        for kind in ["samples", "intervals", "markers", "stacks"] {
            let kept = &self.report["conservation"][kind];
            let parts = ["delivered", "in_flight", "spooled"];
            let found = parts.iter().filter_map(|part| kept[part].as_u64()).sum::<u64>();
            let found = found + total(&kept["lost"]);
            let holds = kept["captured"].as_u64() == Some(found);
            require(holds, format!("conservation of {kind}: captured != {found} in {kept}"));
        }
        problems
    }
}

/// So many of so many.
#[derive(Debug, PartialEq)]
struct Part(usize, usize);

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.0, self.1))
    }
}

/// Whether a span of the truth has waits.
fn waits(truth: &Value) -> bool {
    truth["waits"].as_u64().unwrap_or(0) > 0
}

pub(super) fn percent(part: u64, all: u64) -> f64 {
    part as f64 * 100.0 / all.max(1) as f64
}

fn key(span: &Value) -> Key {
    (text(&span["trace_id"]).to_owned(), text(&span["span_id"]).to_owned())
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn states(value: &Value) -> States {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(state, ns)| Some((state.clone(), ns.as_u64()?))).collect()
}

fn total(value: &Value) -> u64 {
    states(value).values().sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scenario(span: Value) -> Scenario {
        let truth = json!({"trace_id": "a", "span_id": "b", "name": "n", "waits": 1,
            "intended_state": "lock"});
        let kept = json!({"captured": 3, "delivered": 2, "in_flight": 0, "spooled": 0,
            "lost": {"ring_full": 1}});
        let conservation =
            json!({"samples": kept, "intervals": kept, "markers": kept, "stacks": kept});
        let threads = json!([{"tid": 1, "wall_ns": 9, "states": {"running": 9}}]);
        Scenario {
            exit: "0".to_owned(),
            truth: [(key(&truth), truth)].into(),
            spans: [(key(&span), span.clone())].into(),
            report: json!({"spans": [span], "threads": threads, "conservation": conservation}),
        }
    }

    #[test]
    fn a_true_report_has_no_problems() {
        let states = json!({"running": 5, "lock": 80, "ready_wakeup": 10, "notify": 5});
        let methods = json!([{"name": "f", "by_state": {"lock": 80}}]);
        let span = json!({"trace_id": "a", "span_id": "b", "name": "n", "active_ns": 100,
            "states": states, "methods": methods});
        let scenario = scenario(span);
        assert_eq!(scenario.problems(), Vec::<String>::new());
        assert_eq!((scenario.found(), scenario.explained()), (Part(1, 1), Part(1, 1)));
    }

    #[test]
    fn every_untruth_is_a_problem() {
        let states = json!({"running": 5, "lock": 5, "notify": 80});
        let mut scenario = scenario(json!({"trace_id": "a", "span_id": "b", "name": "m",
            "active_ns": 100, "states": states}));
        scenario.exit = "143".to_owned();
        scenario.report["conservation"]["stacks"]["captured"] = 4.into();
        scenario.report["threads"][0]["wall_ns"] = 10.into();
        let problems = scenario.problems().join("\n");
        for part in
            ["ended with 143", "is \"m\"", "sum(states) 90", "only 5.9 %", "stacks", "thread 1"]
        {
            assert!(problems.contains(part), "{part} in {problems}");
        }
    }

    #[test]
    fn programs_are_joined_by_tag() {
        let output = "0123 4567\nabcd 12\nbpf_prog_0123_sched_switch\nbpf_prog_ffff_stranger\n";
        assert_eq!(loaded(output), [("sched_switch", 4567)]);
    }
}
