//! Records a workload with `hotspan record --json -o FILE -- CMD`, under a deadline, and loads what
//! both sides say about it.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{host, report::Report, truth::Truth};

/// A debug build of hotspan on a loaded host: attach, run, link, symbols.
const LIMIT: Duration = Duration::from_secs(60);

/// Which publisher a workload uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    Rust,
}

impl Language {
    pub const BOTH: [Self; 2] = [Self::C, Self::Rust];

    pub fn workload(self) -> Result<PathBuf> {
        match self {
            Self::C => Ok(host::truth_c()),
            Self::Rust => host::program("truth"),
        }
    }
}

/// How to record.
#[derive(Debug)]
pub struct Recorder {
    scratch: host::Scratch,
    environment: Vec<(String, String)>,
    report_to_file: bool,
    pids: Vec<u32>,
    options: Vec<String>,
}

/// A recording at work.
#[derive(Debug)]
pub struct Running {
    /// The hotspan process. Ended and reaped when this value goes.
    pub child: Child,
    pub scratch: host::Scratch,
}

/// A finished recording.
#[derive(Debug)]
pub struct Recording {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub report: Option<Report>,
    pub truths: Vec<Truth>,
    /// The folder of all its files, removed with this value.
    pub scratch: host::Scratch,
}

// === impl Recorder ===

impl Recorder {
    pub fn new() -> Result<Self> {
        let scratch = host::Scratch::new()?;
        Ok(Self {
            scratch,
            environment: Vec::new(),
            report_to_file: true,
            pids: Vec::new(),
            options: Vec::new(),
        })
    }

    /// Sets a variable of hotspan (which its command inherits).
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Records a running process too.
    pub fn pid(mut self, pid: u32) -> Self {
        self.pids.push(pid);
        self
    }

    /// Another option of `hotspan record`.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Without `-o`: the report goes to standard output.
    pub fn report_to_stdout(mut self) -> Self {
        self.report_to_file = false;
        self
    }

    /// A scenario of a workload.
    pub fn scenario(self, language: Language, name: &str) -> Result<Recording> {
        let command = self.scenario_command(language, name)?;
        self.record(command)
    }

    /// The command line of a scenario.
    pub fn scenario_command(&self, language: Language, name: &str) -> Result<Vec<OsString>> {
        let mut command = vec![language.workload()?.into_os_string(), name.into()];
        command.push("--truth".into());
        command.push(self.scratch.file("truth.json").into());
        command.push("--dir".into());
        command.push(self.scratch.path().into());
        Ok(command)
    }

    /// A file of this recording.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.file(name)
    }

    /// Records a command to its end.
    pub fn record(self, command: Vec<OsString>) -> Result<Recording> {
        self.start(command)?.finish()
    }

    /// Starts recording a command.
    pub fn start(self, command: Vec<OsString>) -> Result<Running> {
        self.start_by(Command::new(host::hotspan()?), command)
    }

    /// The same by a command that begins with hotspan, or with what starts it.
    pub fn start_by(self, mut hotspan: Command, command: Vec<OsString>) -> Result<Running> {
        self.complete(&mut hotspan, &command)?;
        let child = hotspan.spawn().context("hotspan does not start")?;
        Ok(Running { child, scratch: self.scratch })
    }

    /// What a service said of a workload, as if it were a recording.
    pub fn finished(self, status: ExitStatus, report: Report, truths: Vec<Truth>) -> Recording {
        let (stdout, stderr) = (String::new(), String::new());
        Recording { status, stdout, stderr, report: Some(report), truths, scratch: self.scratch }
    }

    /// Adds arguments, environment and files to a command that begins with hotspan.
    pub fn complete(&self, hotspan: &mut Command, command: &[OsString]) -> Result<()> {
        hotspan.args(["record", "--json"]);
        if self.report_to_file {
            hotspan.arg("-o").arg(self.scratch.file("report.json"));
        }
        for pid in &self.pids {
            hotspan.arg("--pid").arg(pid.to_string());
        }
        hotspan
            .args(&self.options)
            .arg("--")
            .args(command)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(File::create(self.scratch.file("stdout"))?)
            .stderr(File::create(self.scratch.file("stderr"))?);
        Ok(())
    }
}

// === impl Running ===

impl Running {
    /// Waits for the end and loads everything.
    pub fn finish(mut self) -> Result<Recording> {
        let status = host::wait_for_child(&mut self.child, LIMIT)?;
        let text = |name: &str| {
            let bytes = fs::read(self.scratch.file(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (text("stdout"), text("stderr"));
        let Some(status) = status else {
            bail!("hotspan record did not end within {LIMIT:?}; it said:\n{stderr}");
        };
        let mut json = text("report.json");
        if json.is_empty() && stdout.starts_with('{') {
            json = stdout.clone();
        }
        let report = match json.as_str() {
            "" => None,
            json => Some(serde_json::from_str(json).context("the report is not as documented")?),
        };
        let truths = Truth::load_all(&self.scratch.file("truth.json"))?;
        if let Some(folder) = std::env::var_os("HOTSPAN_KEEP") {
            keep(&PathBuf::from(folder), &self.scratch)?;
        }
        let scratch = std::mem::replace(&mut self.scratch, host::Scratch::new()?);
        Ok(Recording { status, stdout, stderr, report, truths, scratch })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, or the test failed: either way it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `HOTSPAN_KEEP=FOLDER` keeps reports and truths for a look after the test.
fn keep(folder: &std::path::Path, scratch: &host::Scratch) -> Result<()> {
    let place = folder.join(scratch.path().file_name().context("a scratch folder has a name")?);
    fs::create_dir_all(&place)?;
    for entry in fs::read_dir(scratch.path())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), place.join(entry.file_name()))?;
        }
    }
    Ok(())
}

// === impl Recording ===

impl Recording {
    /// The report of a recording that must have one.
    pub fn report(&self) -> Result<&Report> {
        self.report.as_ref().with_context(|| {
            format!("no report; status {}, hotspan said:\n{}", self.status, self.stderr)
        })
    }
}
