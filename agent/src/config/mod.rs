//! Configuration: one flat list of settings (`table.rs`), each said the same way in a TOML file
//! (`data_dir`), in the environment (`HOTSPAN_DATA_DIR`) and as a flag (`--data-dir`).
//!
//! ```text
//! flag > environment > file > default ──► text with its source ──► value.rs ──► Settings
//! ```
//! - Every value knows where it comes from, and every complaint says so.
//! - Nothing is guessed: an unknown key or a wrong value is an error, whichever command it is for.
//!   An empty text is a value like others: an empty variable never turns a token off unseen.
//! - One file serves all commands: keys of others are read and not used.

mod error;
mod file;
mod flags;
mod nearest;
mod surroundings;
mod table;
pub(crate) mod value;

#[cfg(test)]
mod example_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod value_tests;

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
};

use file::File;
use table::{Default, Row, TABLE, Typed};
use value::Value;

pub(crate) use error::ConfigError;
pub(crate) use flags::{AgentFlags, CollectorFlags, Flags, Kind, RunFlags};
pub(crate) use surroundings::Surroundings;

/// The commands that are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Everything in one process.
    Run,
    /// Streams this host to a collector.
    Agent,
    /// Receives, stores, serves.
    Collector,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Who said so.
    pub source: Source,
}

/// The outcome: what each setting is. Reads like its fields: `settings.hz.value`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For which command.
    pub command: CommandKind,
    /// What looks like a mistake but can be lived with; to be logged once logging works.
    pub warnings: Vec<String>,
    typed: Typed,
}

/// A text that somebody gave for a setting, or nothing.
#[derive(Clone, Debug)]
struct Given {
    text: Option<String>,
    source: Source,
}

/// Merges flags, environment, file and defaults into settings.
pub(crate) fn load<K: Kind>(
    flags: &Flags<K>,
    surroundings: &Surroundings,
) -> Result<Settings, ConfigError> {
    let command = K::COMMAND;
    let file = File::find(flags.config.as_deref(), surroundings)?;
    let sources = Sources { given: &flags.given, file: file.as_ref(), surroundings };
    let typed = Typed::build(&|row| sources.find(row))?;
    let mut warnings = surroundings.unknown_variables();
    typed.warn(file.as_ref(), &mut warnings);
    let settings = Settings { command, warnings, typed };
    settings.refuse_open_web()?;
    Ok(settings)
}

/// Where a service of this user keeps everything unless its flags say otherwise.
pub(crate) fn usual_data_dir(surroundings: &Surroundings) -> Result<PathBuf, ConfigError> {
    let file = File::find(None, surroundings)?;
    let given = flags::Texts::new();
    let [data_dir, ..] = &TABLE;
    let found = Sources { given: &given, file: file.as_ref(), surroundings }.find(data_dir)?;
    Ok(found.text.unwrap_or_default().into())
}

/// All that says something about settings.
struct Sources<'a> {
    given: &'a flags::Texts,
    file: Option<&'a File>,
    surroundings: &'a Surroundings,
}

// === impl Sources ===

impl Sources<'_> {
    /// What the highest source says.
    fn find(&self, row: &'static Row) -> Result<Given, ConfigError> {
        let said = |text: String, source| Ok(Given { text: Some(text), source });
        if let Some(text) = self.given.get(row.key) {
            return said(text.clone(), Source::Flag(format!("--{}", row.flag)));
        }
        if let Some(text) = self.surroundings.variable(row)? {
            return said(text, Source::Environment(row.variable()));
        }
        if let Some((text, source)) = self.file.and_then(|file| file.get(row)) {
            return said(text, source);
        }
        let text = match row.default {
            Default::Text(text) => Some(text.to_owned()),
            Default::Unset => None,
            Default::StateDir => Some(self.surroundings.state_dir()?),
            Default::InDataDir(name) => {
                let [data_dir, ..] = &TABLE;
                let dir = self.find(data_dir)?.text.unwrap_or_default();
                Some(format!("{}/{name}", dir.trim_end_matches('/')))
            }
        };
        Ok(Given { text, source: Source::Default })
    }
}

/// Reads what was given for `row`.
fn take<T: Value>(
    row: &'static Row,
    given: Given,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Sourced<T>, ConfigError> {
    let Given { text, source } = given;
    let value = match &text {
        Some(text) => read(text),
        None => T::unset(),
    };
    match value {
        Some(value) => Ok(Sourced { value, source }),
        None => Err(ConfigError::value(row, &text.unwrap_or_default(), source)),
    }
}

// === impl Typed ===

impl Typed {
    fn warn(&self, file: Option<&File>, warnings: &mut Vec<String>) {
        match &self.web_token.source {
            Source::Flag(flag) => warnings.push(format!(
                "{flag} on the command line is visible to every user of this host: set it in the \
                 environment or the file"
            )),
            Source::File { path, .. } if file.is_some_and(File::is_readable_by_all) => {
                warnings.push(format!(
                    "{0} holds web_token and everybody can read it: chmod 600 {0}",
                    path.display()
                ));
            }
            _ => {}
        }
    }
}

// === impl Settings ===

impl std::ops::Deref for Settings {
    type Target = Typed;

    fn deref(&self) -> &Typed {
        &self.typed
    }
}

impl Settings {
    /// The settings of this command as a configuration file, each with its source. Secrets are
    /// stars in a comment, so that what is printed is a file that loads.
    pub fn print(&self) -> String {
        let mut text = format!("# The settings of `hotspan {}`, and who set them.\n", self.command);
        for (row, shown) in self.shown() {
            if !row.is_used_by(self.command) {
                continue;
            }
            let Sourced { value, source } = shown;
            // A path may hold anything; a comment must stay one line.
            let source = source.to_string().replace(char::is_control, "?");
            // Writing to a string does not fail.
            let _ = match value {
                Some(value) if row.secret => writeln!(text, "# {} = {value}  # {source}", row.key),
                Some(value) => writeln!(text, "{} = {value}  # {source}", row.key),
                None => writeln!(text, "# {} is not set  # {source}", row.key),
            };
        }
        text
    }

    /// Whoever reaches the page sees what runs on this host: outside of it only with a token.
    fn refuse_open_web(&self) -> Result<(), ConfigError> {
        let [web, no_web] = [self.command != CommandKind::Agent, self.no_web.value];
        let open = web && !no_web && !self.web.value.ip().to_canonical().is_loopback();
        if open && self.web_token.value.is_none() {
            let Sourced { value, source } = self.web.clone();
            return Err(ConfigError::OpenWeb { address: value, by: source });
        }
        Ok(())
    }
}

// === impl Sourced ===

impl<T: Value> Sourced<T> {
    /// The value as the file would say it.
    fn shown(&self) -> Sourced<Option<toml::Value>> {
        Sourced { value: self.value.shown(), source: self.source.clone() }
    }
}

// === impl Source ===

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

// === impl CommandKind ===

impl fmt::Display for CommandKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "run",
            Self::Agent => "agent",
            Self::Collector => "collector",
        })
    }
}
