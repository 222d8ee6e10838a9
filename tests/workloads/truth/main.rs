//! Workload with known behaviour, published through the Rust crate: `truth SCENARIO --truth FILE`.
//! The same scenarios exist in C (`workloads/truth_c`). Standard output stays free.

mod clocks;
mod cpu;
mod life;
mod record;
mod waits;

use std::{path::PathBuf, process::ExitCode, sync::OnceLock};

use anyhow::{Context as _, Result, bail};

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) scenario: String,
    pub(crate) truth: PathBuf,
    /// Where files are written.
    pub(crate) dir: PathBuf,
    /// Created when the span of `before_attach` is open.
    pub(crate) ready: Option<PathBuf>,
    /// Waited for by `before_attach`.
    pub(crate) go: Option<PathBuf>,
}

static OPTIONS: OnceLock<Options> = OnceLock::new();

pub(crate) fn options() -> &'static Options {
    OPTIONS.get().expect("main sets the options first")
}

type Scenario = fn() -> Result<()>;

const SCENARIOS: [(&str, Scenario); 25] = [
    ("burn", cpu::burn),
    ("sleep", waits::sleep),
    ("mutex", waits::mutex),
    ("condvar", waits::condvar),
    ("pipe", waits::pipe),
    ("unix_socket", waits::unix_socket),
    ("tcp_socket", waits::tcp_socket),
    ("poll", waits::poll),
    ("fsync", waits::fsync),
    ("waitpid", waits::waitpid),
    ("producers", waits::producers),
    ("contention", cpu::contention),
    ("nested", cpu::nested),
    ("two_threads", cpu::two_threads),
    ("no_switch", cpu::no_switch),
    ("many", cpu::many),
    ("storm", cpu::storm),
    ("migrate", cpu::migrate),
    ("before_attach", life::before_attach),
    ("exit_in_span", life::exit_in_span),
    ("exec", life::exec),
    ("exec_again", life::exec_again),
    ("exec_last", life::exec_last),
    ("fork", life::fork),
    ("short", life::short),
];

fn main() -> ExitCode {
    record::begin_main_thread();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("truth: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let options = OPTIONS.get_or_init(|| {
        parse().unwrap_or_else(|error| {
            eprintln!("truth: {error:#}");
            eprintln!("usage: truth SCENARIO --truth FILE [--dir DIR] [--ready FILE --go FILE]");
            std::process::exit(2);
        })
    });
    let (_, scenario) = SCENARIOS
        .iter()
        .find(|(name, _)| *name == options.scenario)
        .with_context(|| format!("there is no scenario `{}`", options.scenario))?;
    scenario()?;
    record::write_truth()
}

fn parse() -> Result<Options> {
    let mut arguments = std::env::args_os().skip(1);
    let scenario = arguments.next().context("no scenario")?.to_string_lossy().into_owned();
    let mut options = Options {
        scenario,
        truth: PathBuf::new(),
        dir: std::env::temp_dir(),
        ready: None,
        go: None,
    };
    while let Some(option) = arguments.next() {
        let value = PathBuf::from(arguments.next().context("an option without its value")?);
        match option.to_str() {
            Some("--truth") => options.truth = value,
            Some("--dir") => options.dir = value,
            Some("--ready") => options.ready = Some(value),
            Some("--go") => options.go = Some(value),
            _ => bail!("unknown option {}", option.display()),
        }
    }
    if options.truth.as_os_str().is_empty() {
        bail!("--truth is missing");
    }
    Ok(options)
}
