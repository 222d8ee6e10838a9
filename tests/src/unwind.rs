//! The fixtures whose stacks are known (`workloads/unwind`), running: where their functions are, and
//! leading them from one stage to the next.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use hotspan::process::elf::{Header, Section};

use crate::host;

/// A running fixture. Ended when this value goes.
#[derive(Debug)]
pub struct Fixture {
    pub pid: u32,
    /// The thread with the span.
    pub tid: u32,
    pub symbols: Symbols,
    /// Every function of a plugin it said to be in.
    pub plugins: Vec<u64>,
    /// It was started as this.
    pub name: String,
    child: Child,
    /// Its end is the end of the program.
    orders: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

/// Functions of a program by their addresses.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    functions: Vec<Symbol>,
    main: Option<u64>,
}

#[derive(Clone, Debug)]
struct Symbol {
    start: u64,
    end: u64,
    name: String,
}

/// The program of a variant, if its compiler was there; prints when it was not.
pub fn program(variant: &str) -> Option<PathBuf> {
    let path = Path::new(env!("UNWIND_FIXTURES")).join(variant);
    if !path.exists() {
        eprintln!("skipped: `{variant}` was not built, its compiler is missing");
        return None;
    }
    Some(path)
}

// === impl Fixture ===

impl Fixture {
    /// Starts a scenario and waits until its thread is in place.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        let said = BufReader::new(child.stdout.take().context("the output is a pipe")?);
        let variant = program.file_name().unwrap_or_default().to_string_lossy();
        let mut fixture = Self {
            pid: child.id(),
            tid: 0,
            symbols: Symbols::of(program)?,
            plugins: Vec::new(),
            name: format!("{variant} {}", arguments.join(" ")),
            orders: child.stdin.take(),
            said,
            child,
        };
        fixture.wait_until_ready()?;
        Ok(fixture)
    }

    /// Leads it to the next stage and waits until its thread is in place.
    pub fn next_stage(&mut self) -> Result<()> {
        self.orders.as_mut().context("it was ended")?.write_all(b"n")?;
        self.wait_until_ready()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        host::signal(&self.child, signal)
    }

    /// Ends it; it must end well.
    pub fn end(mut self) -> Result<()> {
        self.orders = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "{}: {status}", self.name);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.said.read_line(&mut line)? == 0 {
                bail!("{} ended before it was ready: {:?}", self.name, self.child.wait()?);
            }
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["main", address] => self.symbols.move_main_to(parse_address(address)?)?,
                ["plugin", address] => self.plugins.push(parse_address(address)?),
                ["ready", _, tid] => {
                    self.tid = tid.parse()?;
                    return Ok(());
                }
                _ => bail!("{} says {line:?}", self.name),
            }
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Ended already, or the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address as the fixtures print it.
pub fn parse_address(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("0x").with_context(|| format!("no address: {text}"))?;
    Ok(u64::from_str_radix(digits, 16)?)
}

// === impl Symbols ===

impl Symbols {
    /// As they are in the file.
    pub fn of(program: &Path) -> Result<Self> {
        let output = Command::new("nm").args(["-n", "-S", "--defined-only"]).arg(program).output();
        let output = output.context("nm is needed")?;
        ensure!(output.status.success(), "nm {}", program.display());
        let file = File::open(program)?;
        let sections = Header::read(&file)?.sections(&file)?.all;
        let code: Vec<_> = sections.iter().filter_map(Section::code).collect();
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout), &code))
    }

    /// Lines of `ADDRESS [SIZE] TYPE NAME`, in order, of a program with these sections of code.
    fn parse(text: &str, code: &[Range<u64>]) -> Self {
        let hex = |word: &str| u64::from_str_radix(word, 16).ok();
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut main = None;
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let (start, size, kind, name) = match words[..] {
                [start, size, kind, name] => (hex(start), hex(size), kind, name),
                [start, kind, name] => (hex(start), Some(0), kind, name),
                _ => continue,
            };
            if let (Some(start), Some(size), "t" | "T" | "w" | "W") = (start, size, kind) {
                if name == "main" {
                    main = Some(start);
                }
                // Parts of a function are that function.
                let name = name.split('.').next().unwrap_or(name).to_owned();
                symbols.push(Symbol { start, end: start + size, name });
            }
        }
        // A function of unknown size ends where the next begins, and with its section: `_init` is not
        // the stubs behind it.
        for index in 0..symbols.len() {
            let next = symbols[index..].iter().map(|s| s.start).find(|s| *s > symbols[index].start);
            let symbol = &mut symbols[index];
            if symbol.end == symbol.start {
                let section = code.iter().find(|section| section.contains(&symbol.start));
                let end = section.map_or(symbol.start, |section| section.end);
                symbol.end = next.unwrap_or(end).min(end);
            }
        }
        symbols.retain(|symbol| !symbol.name.is_empty());
        Self { functions: symbols, main }
    }

    /// Takes them to where the program was loaded.
    pub fn move_main_to(&mut self, address: u64) -> Result<()> {
        let main = self.main.replace(address).context("there is no main")?;
        for symbol in &mut self.functions {
            symbol.start = symbol.start.wrapping_sub(main).wrapping_add(address);
            symbol.end = symbol.end.wrapping_sub(main).wrapping_add(address);
        }
        Ok(())
    }

    /// The function an address lies in.
    pub fn name(&self, address: u64) -> Option<&str> {
        let found = self.functions.iter().find(|s| (s.start..s.end).contains(&address))?;
        Some(&found.name)
    }

    /// Whether the program has a function of this name.
    pub fn has(&self, name: &str) -> bool {
        self.functions.iter().any(|symbol| symbol.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_where_the_program_was_loaded() -> Result<()> {
        let text = "0000000000001000 T _start\n0000000000001020 0000000000000010 T main\n\
                    0000000000001040 0000000000000008 t deep.part.0\n0000000000001050 T _init\n\
                    0000000000002000 0000000000000010 T more\n0000000000004000 D data\n";
        let mut symbols = Symbols::parse(text, &[0x1000..0x1060, 0x1080..0x2020]);
        symbols.move_main_to(0x5020)?;
        assert_eq!(symbols.name(0x5000), Some("_start"));
        assert_eq!(symbols.name(0x501f), Some("_start"));
        assert_eq!(symbols.name(0x502f), Some("main"));
        assert_eq!(symbols.name(0x5030), None);
        assert_eq!(symbols.name(0x5047), Some("deep"));
        assert_eq!(symbols.name(0x505f), Some("_init"));
        assert_eq!(symbols.name(0x5060), None);
        assert_eq!(symbols.name(0x5090), None);
        assert_eq!(symbols.name(0x600f), Some("more"));
        assert!(!symbols.has("data"));
        Ok(())
    }
}
