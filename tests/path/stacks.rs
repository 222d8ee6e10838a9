//! Stacks that are hard to follow: where a program goes on on another stack, where its unwind rules are in
//! compressed or separate debug information, and where its text was moved off its file. What all have in
//! common: a caller is never a word that is not code, and a stack that cannot go on says so.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    check::conservation_problems,
    fixture::Recorder,
    host::{self, Scratch},
    report::Report,
};
use serde::Deserialize;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/stacks");
const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/lanes/c");
/// Rules in debug information only.
const FRAMELESS: [&str; 3] =
    ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fomit-frame-pointer"];
/// How much of a span's stacks must be as they should: an instruction in a hundred has no rule.
const NEARLY_ALL: f64 = 0.95;
/// How the first stacks of a file may end: they are walked from a copy, which has one stack.
const FIRST: [&str; 2] =
    ["[cut here: stack not readable]", "[cut here: unwind tables not loaded yet]"];
/// How much of all may be first.
const FEW: f64 = 0.3;

/// The stacks of spans, which the other tests do not look at.
#[derive(Deserialize)]
struct Stacks {
    spans: Vec<SpanStacks>,
}

#[derive(Deserialize)]
struct SpanStacks {
    name: String,
    #[serde(default)]
    stacks: Vec<Stack>,
}

#[derive(Deserialize)]
struct Stack {
    state: String,
    ns: u64,
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Frame {
    name: String,
}

/// Nanoseconds of stacks, by name of the span, state and frames.
type Seen = BTreeMap<(String, String, Vec<String>), u64>;

/// Records a program, and checks what holds of all stacks.
fn record(command: Vec<OsString>) -> Result<Seen> {
    let recording = Recorder::new()?.record(command)?;
    ensure!(recording.status.success(), "{}: {}", recording.status, recording.stderr);
    let report: &Report = recording.report()?;
    let problems = conservation_problems(report);
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    let text = fs::read(recording.scratch.file("report.json"))?;
    let stacks: Stacks = serde_json::from_slice(&text).context("the report has stacks")?;
    let mut seen = Seen::new();
    for span in stacks.spans {
        for stack in span.stacks {
            let frames = stack.frames.into_iter().map(|frame| frame.name).collect();
            *seen.entry((span.name.clone(), stack.state, frames)).or_default() += stack.ns;
        }
    }
    // All code of these programs is in files.
    let made_up = seen.keys().find(|key| {
        let is_none = |name: &String| name.starts_with("[unresolved") || name.starts_with("[anon");
        key.2.iter().any(is_none)
    });
    ensure!(made_up.is_none(), "a caller that is no code: {made_up:?}");
    Ok(seen)
}

/// Fails unless nearly all stacks of a span in a state have these frames, in this order, and end well.
fn mostly(seen: &Seen, span: &str, state: &str, frames: &[&str], last: &str) -> Result<()> {
    let (mut good, mut first, mut left, mut all, mut worst) = (0, 0, 0, 0, None);
    let of_span = seen.iter().filter(|(key, _)| key.0 == span && key.1 == state);
    for ((_, _, found), &ns) in of_span {
        let mut rest = found.iter();
        let in_order = frames.iter().all(|frame| rest.any(|name| name == frame));
        all += ns;
        if in_order && found.last().is_some_and(|name| name == last) {
            good += ns;
        } else if found.last().is_some_and(|name| FIRST.contains(&name.as_str())) {
            first += ns;
        } else if let [.., morestack, mark] = &found[..]
            && morestack == "runtime.morestack"
            && mark.starts_with("[cut here: ")
        {
            // Go preempts a function through there when others want the CPU; README says that such a
            // stack ends with its mark.
            left += ns;
        } else if found.iter().any(|name| name.starts_with("runtime.exitsyscall"))
            && found.last().is_some_and(|name| name == last)
        {
            // Back from C, Go looks for a processor of its own, which takes long where others want the
            // CPU: a whole stack, but not of the function below.
            left += ns;
        } else if worst.as_ref().is_none_or(|&(most, _)| most < ns) {
            worst = Some((ns, found));
        }
    }
    let share = good as f64 / (all - first - left).max(1) as f64;
    let early = first as f64 / all.max(1) as f64;
    println!("`{span}` {state}: {:.1} % of {} ms", share * 100.0, all / 1_000_000);
    ensure!(all > 0, "`{span}` has no stack in `{state}`");
    ensure!(
        left <= all / 2,
        "`{span}` {state}: {left} of {all} ns were on Go's way to or from a CPU"
    );
    ensure!(early <= FEW, "`{span}` {state}: {early:.3} are cut as first stacks are");
    ensure!(share >= NEARLY_ALL, "`{span}` {state}: only {share:.3} as expected, not {worst:?}");
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(())
}

/// The C program; its main file always has `.eh_frame`, the other as `options` say.
fn compile(folder: &Path, name: &str, options: &[&str], linker: &[&str]) -> Result<PathBuf> {
    let (object, program) = (folder.join("frameless.o"), folder.join(name));
    let cc = || {
        let mut cc = Command::new("cc");
        cc.args([
            "-std=gnu11",
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-fno-reorder-blocks-and-partition",
        ]);
        cc.args(["-I", HEADER]);
        cc
    };
    let source = |name: &str| Path::new(SOURCES).join(name);
    run(cc().arg("-c").args(options).arg(source("frameless.c")).arg("-o").arg(&object))?;
    run(cc().arg(source("main.c")).arg(&object).args(linker).arg("-o").arg(&program))?;
    Ok(program)
}

/// What both parts of its spans must look like.
fn as_written(seen: &Seen) -> Result<()> {
    let burns = ["burn_leaf", "burn_middle", "burn_top", "main"];
    mostly(seen, "work", "running", &burns, "_start")?;
    mostly(seen, "work", "sleep", &["wait_leaf", "wait_top", "main"], "_start")
}

#[test]
fn rules_in_compressed_debug_information() -> Result<()> {
    if !host::can_record() {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    for way in ["none", "zlib", "zstd", "zlib-gnu"] {
        let plain = compile(scratch.path(), "plain", &FRAMELESS, &[])?;
        let program = scratch.file(way);
        let option = format!("--compress-debug-sections={way}");
        run(Command::new("objcopy").arg(option).arg(&plain).arg(&program))?;
        as_written(&record(vec![program.into()])?).with_context(|| way.to_owned())?;
    }
    Ok(())
}

/// A folder of the host's own, as debug files must be in; removed at the end.
struct Owned(PathBuf);

impl Drop for Owned {
    fn drop(&mut self) {
        // A failed test says more by itself than by what stays behind.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn rules_in_a_separate_debug_file() -> Result<()> {
    if !host::can_record() {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let owned = Owned(PathBuf::from(format!("/opt/hotspan-stacks-{}", std::process::id())));
    fs::create_dir_all(&owned.0)?;
    for way in ["none", "zlib"] {
        let plain = compile(scratch.path(), "plain", &FRAMELESS, &[])?;
        let (program, debug) = (owned.0.join("program"), owned.0.join("program.debug"));
        let option = format!("--compress-debug-sections={way}");
        run(Command::new("objcopy").args(["--only-keep-debug", &option]).arg(&plain).arg(&debug))?;
        let link = format!("--add-gnu-debuglink={}", debug.display());
        run(Command::new("objcopy").args(["-S", &link]).arg(&plain).arg(&program))?;
        as_written(&record(vec![program.into()])?).with_context(|| way.to_owned())?;
    }
    Ok(())
}

#[test]
fn text_that_was_moved_off_its_file() -> Result<()> {
    if !host::can_record() {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    // Segments at addresses that are not their positions, too: lld's way.
    let apart = ["-Wl,-z,separate-code", "-Wl,-z,max-page-size=0x200000"];
    for (name, linker) in [("moved", &[][..]), ("apart", &apart[..])] {
        let program = compile(scratch.path(), name, &["-fomit-frame-pointer"], linker)?;
        for how in ["move", "move-part", "stay"] {
            let seen = record(vec![program.clone().into(), how.into()])?;
            as_written(&seen).with_context(|| format!("{name} {how}"))?;
        }
    }
    Ok(())
}

/// The Go program, built with these flags of the linker; none without a Go compiler.
fn go_program(folder: &Path, flags: &str) -> Result<Option<PathBuf>> {
    let at = |name: &str| folder.join(name);
    for name in ["main.go", "span.h"] {
        fs::copy(Path::new(SOURCES).join(name), at(name))?;
    }
    fs::copy(Path::new(HEADER).join("hotspan_lanes.h"), at("hotspan_lanes.h"))?;
    fs::write(at("go.mod"), "module stacks\n\ngo 1.21\n")?;
    for go in ["go", "/usr/local/go/bin/go"] {
        let mut build = Command::new(go);
        build
            .args(["build", &format!("-ldflags={flags}"), "-o", "program", "."])
            .current_dir(folder);
        build.envs([("CGO_ENABLED", "1"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local")]);
        match run(&mut build) {
            Ok(()) => return Ok(Some(at("program"))),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    println!("skipped: no Go compiler on the PATH or in /usr/local/go");
    Ok(None)
}

fn is_absent(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[test]
fn go_on_other_stacks() -> Result<()> {
    if !host::can_record() {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    // A sample hits the moment of a signal by chance: in one of the three recordings is enough.
    let mut on_other_stacks =
        [("callers", "runtime.systemstack", 0), ("signal", "runtime.sigtramp", 0)];
    // With debug information, compressed and not, and without any: what it says of stack switches is wrong.
    for flags in ["", "-compressdwarf=false", "-s -w"] {
        let Some(program) = go_program(scratch.path(), flags)? else { return Ok(()) };
        let seen = record(vec![program.into()])?;
        go_as_written(&seen, flags == "-s -w").with_context(|| format!("-ldflags={flags:?}"))?;
        for (span, frame, ns) in &mut on_other_stacks {
            *ns += time_of(&seen, span, frame);
        }
    }
    for (span, frame, ns) in on_other_stacks {
        ensure!(ns > 0, "`{span}` was never in `{frame}`");
    }
    Ok(())
}

/// Of a span, with this frame anywhere.
fn time_of(seen: &Seen, span: &str, frame: &str) -> u64 {
    let of_span = seen.iter().filter(|(key, _)| key.0 == span);
    let ns = of_span.filter(|(key, _)| key.2.iter().any(|name| name == frame));
    ns.map(|(_, ns)| ns).sum()
}

fn go_as_written(seen: &Seen, is_stripped: bool) -> Result<()> {
    let end = "runtime.goexit";
    let main = ["main.main", "runtime.main"];
    let expect = |span: &str, state: &str, frames: &[&str]| {
        // Functions of C have no names without symbols.
        let has_name = |name: &&&str| !is_stripped || name.contains('.');
        let frames: Vec<&str> = frames.iter().filter(has_name).chain(&main).copied().collect();
        mostly(seen, span, state, &frames, end)
    };
    let cgo = "runtime.asmcgocall";
    expect("callers", "running", &["main.callersLeaf", "main.callersTop"])?;
    expect("cgo burn", "running", &["c_burn_leaf", "c_burn", cgo, "main.cgoBurnTop"])?;
    expect("cgo wait", "sleep", &["c_wait", cgo, "main.cgoWaitTop"])?;
    let callback = ["c_burn", cgo, "main.cgoBurnTop", "runtime.cgocallback"];
    let back = ["c_calls_go", cgo, "main.callbackTop"];
    expect("callback", "running", &[&callback[..], &back[..]].concat())?;
    expect("signal", "running", &["main.signalTop"])?;
    // A stack that is too small is left for good, until it is copied: nothing leads back.
    ensure!(time_of(seen, "morestack", "runtime.morestack") > 0, "no stack had to grow");
    let ends_well = |frames: &[String]| {
        let last = frames.last().map_or("", String::as_str);
        last == end || last.starts_with("[cut here: ") || last == "runtime.mcall"
    };
    let unmarked = seen.keys().find(|key| key.0 == "morestack" && !ends_well(&key.2));
    ensure!(unmarked.is_none(), "it ends early and does not say so: {unmarked:?}");
    Ok(())
}
