//! Tables of real files, compared with what `readelf --debug-dump=frames-interp` prints of them.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use agent_ebpf::unwind::{CfaRule, FrameRule, Machine, ReturnRule, Rule};

use super::images::{self, Image, Table};

/// x86-64's names, in order of DWARF's numbers.
const NAMES: [&str; 16] = [
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// The cells of a row that we keep, as printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cells {
    cfa: String,
    frame: String,
    ret: String,
}

/// An entry that is being printed.
#[derive(Default)]
struct Entry {
    /// Its place, if it is a CIE.
    cie: Option<u64>,
    signal: bool,
    start: u64,
    end: u64,
    initial: Cells,
    columns: Vec<String>,
    rows: Vec<(u64, Cells)>,
}

/// What was compared.
#[derive(Default)]
struct Count {
    fdes: u64,
    rows: u64,
    differences: Vec<String>,
}

#[test]
fn files_say_what_readelf_prints() {
    if Command::new("readelf").arg("--version").output().is_err() {
        println!("skipped: no readelf here");
        return;
    }
    for path in images::all() {
        let image = Image::read(&path);
        if image.machine != Machine::X86_64 {
            println!("skipped: names of registers are known for x86-64 only");
            return;
        }
        let table = image.table();
        let count = compare(&path, &table);
        println!("{}: {} rows", path.display(), count.rows);
        let some: Vec<_> = count.differences.iter().take(10).collect();
        assert!(some.is_empty(), "{} differences: {some:#?}", count.differences.len());
        assert_eq!(count.fdes, table.summary.entries);
    }
}

fn compare(path: &Path, table: &Table) -> Count {
    let mut readelf = Command::new("readelf")
        .args(["-W", "--debug-dump=no-follow-links", "--debug-dump=frames-interp"])
        .arg(path)
        .env("LC_ALL", "C")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(readelf.stdout.take().unwrap());
    let mut line = Vec::new();
    let mut cies = HashMap::<u64, (bool, Cells)>::new();
    let (mut entry, mut count) = (Entry::default(), Count::default());
    let mut wanted = false;
    while output.read_until(b'\n', &mut line).unwrap() > 0 {
        let text = String::from_utf8_lossy(&line).into_owned();
        line.clear();
        if text.starts_with("Contents of the ") {
            // A file may have .debug_frame too, which the table is not of.
            wanted = text.contains(".eh_frame");
        }
        if !wanted || text.contains("ZERO terminator") {
            continue;
        }
        if let Some((_, tail)) = text.split_once(" FDE ") {
            entry.finish(&mut cies, table, &mut count);
            let fields: HashMap<_, _> =
                tail.split_whitespace().filter_map(|field| field.split_once('=')).collect();
            let (start, end) = fields["pc"].split_once("..").unwrap();
            let (signal, initial) = cies[&hex(fields["cie"])].clone();
            entry = Entry { signal, initial, start: hex(start), end: hex(end), ..Entry::default() };
        } else if let Some((head, tail)) = text.split_once(" CIE ") {
            entry.finish(&mut cies, table, &mut count);
            let place = hex(head.split_whitespace().next().unwrap());
            let augmentation = tail.split('"').nth(1).unwrap();
            entry =
                Entry { cie: Some(place), signal: augmentation.contains('S'), ..Entry::default() };
        } else if text.trim_start().starts_with("LOC ") {
            entry.columns = text.split_whitespace().map(str::to_owned).collect();
        } else if !entry.columns.is_empty() && !text.trim().is_empty() {
            entry.row(&text);
        }
    }
    entry.finish(&mut cies, table, &mut count);
    let status = readelf.wait().unwrap();
    assert!(status.success(), "readelf: {status}");
    count
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap()
}

// === impl Entry ===

impl Entry {
    fn row(&mut self, text: &str) {
        let mut cells = Cells::default();
        // Where a register is saved in another: "r5 (rdi)".
        let mut values = text.split_whitespace().filter(|value| !value.starts_with('('));
        let at = hex(values.next().unwrap());
        for (column, value) in self.columns.iter().skip(1).zip(values) {
            match column.as_str() {
                "CFA" => cells.cfa = value.to_owned(),
                "rbp" => cells.frame = value.to_owned(),
                "ra" => cells.ret = value.to_owned(),
                _ => {}
            }
        }
        match self.rows.last_mut() {
            // Without an advance between them, the later one counts.
            Some((last, row)) if *last == at => *row = cells,
            _ => self.rows.push((at, cells)),
        }
    }

    fn finish(&mut self, cies: &mut HashMap<u64, (bool, Cells)>, table: &Table, count: &mut Count) {
        if let Some(place) = self.cie {
            let initial = self.rows.pop().map(|(_, cells)| cells).unwrap_or_default();
            cies.insert(place, (self.signal, initial));
            return;
        }
        if self.start == self.end {
            return;
        }
        count.fdes += 1;
        if self.rows.is_empty() {
            self.rows.push((self.start, self.initial.clone()));
        }
        // LLVM may end a function with a row behind it.
        for (at, cells) in self.rows.iter().filter(|(at, _)| *at < self.end) {
            count.rows += 1;
            let rule = table.at(*at);
            let same = if self.signal { rule == Rule::SIGNAL } else { cells.is(rule) };
            if !same {
                count.differences.push(format!("{at:#x}: {cells:?}, ours {rule:x?}"));
            }
        }
    }
}

// === impl Cells ===

impl Cells {
    /// Whether this is printed of what `rule` says.
    fn is(&self, rule: Rule) -> bool {
        if self.ret == "u" || rule == Rule::STOP {
            return self.ret == "u" && rule == Rule::STOP;
        }
        // Only expressions may be beyond rules here.
        if rule == Rule::BAD {
            return self.cfa == "exp";
        }
        self.is_cfa(rule) && self.is_frame(rule) && self.is_ret(rule)
    }

    fn is_cfa(&self, rule: Rule) -> bool {
        let kinds: &[CfaRule] = match self.cfa.split_once('+') {
            None if self.cfa == "exp" => &[CfaRule::Plt, CfaRule::DerefSp, CfaRule::DerefFp],
            Some(("rsp", _)) => &[CfaRule::Sp],
            Some(("rbp", _)) => &[CfaRule::Fp],
            Some((name, _)) => {
                let argument = usize::from(rule.cfa_argument());
                if NAMES[argument] != name {
                    return false;
                }
                &[CfaRule::Register]
            }
            None => &[],
        };
        let offset = self.cfa.split_once('+').map(|(_, offset)| offset.parse::<i64>().unwrap());
        kinds.iter().any(|&kind| rule.cfa() == kind as u8)
            && offset.is_none_or(|offset| offset == rule.cfa_offset())
    }

    fn is_frame(&self, rule: Rule) -> bool {
        let is = |kind: FrameRule| rule.frame() == kind as u8;
        match self.frame.as_str() {
            // No such column. "u" is printed of what is not said and of what is undefined.
            "" | "s" => is(FrameRule::Same),
            "u" => is(FrameRule::Same) || is(FrameRule::Lost),
            "exp" => is(FrameRule::AtFp) || is(FrameRule::Lost),
            text => match text.strip_prefix('c') {
                Some(offset) => is(FrameRule::AtCfa) && offset.parse() == Ok(rule.frame_offset()),
                None => is(FrameRule::Lost),
            },
        }
    }

    fn is_ret(&self, rule: Rule) -> bool {
        let is = |kind: ReturnRule| rule.ret() == kind as u8;
        match self.ret.strip_prefix('c').map(|offset| offset.parse::<i64>().unwrap()) {
            Some(-8) => is(ReturnRule::BelowCfa),
            Some(offset) => {
                is(ReturnRule::BesideFrame) && offset == rule.frame_offset() + rule.ret_distance()
            }
            None => is(ReturnRule::Register) && self.ret == format!("r{}", rule.ret_register()),
        }
    }
}
