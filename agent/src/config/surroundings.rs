//! What the process finds around it: environment variables, its user, the file's usual place. Data,
//! so that every combination is tested without touching the process.

use std::{collections::BTreeMap, env, ffi::OsString, path::PathBuf};

use super::{
    ConfigError, Source,
    nearest::nearest,
    table::{Row, TABLE},
};

/// The usual configuration file.
const FILE: &str = "/etc/hotspan/hotspan.toml";
/// What all our variables begin with.
const PREFIX: &str = "HOTSPAN_";
/// Names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "HOTSPAN_CONFIG";
/// Variables with that beginning that are no settings: of clients, of publishers, of tests.
const OTHERS: [&str; 12] = [
    CONFIG_VARIABLE,
    "HOTSPAN_API",
    "HOTSPAN_API_USER",
    "HOTSPAN_BIN",
    "HOTSPAN_DISABLE",
    "HOTSPAN_KEEP",
    "HOTSPAN_KILLS",
    "HOTSPAN_PROTO_WRITE",
    "HOTSPAN_RING_LOG2",
    "HOTSPAN_SEED",
    "HOTSPAN_TOKEN",
    "HOTSPAN_TS",
];
/// Beginning of more of them.
const OTHERS_PREFIX: &str = "HOTSPAN_LANES";

/// What is around the process.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// The environment. Names that are not UTF-8 are none of ours.
    pub environment: BTreeMap<String, OsString>,
    /// Whether we are root.
    pub root: bool,
    /// The configuration file if nobody names one; may be absent.
    pub default_file: PathBuf,
}

// === impl Surroundings ===

impl Surroundings {
    /// This process's.
    pub(crate) fn of_process() -> Self {
        let variables = env::vars_os();
        Self {
            environment: variables
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
            root: rustix::process::geteuid().is_root(),
            default_file: FILE.into(),
        }
    }

    /// What the environment says for `row`.
    pub(super) fn variable(&self, row: &Row) -> Result<Option<String>, ConfigError> {
        let name = row.variable();
        let Some(value) = self.environment.get(&name) else {
            return Ok(None);
        };
        match value.to_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => {
                let lossy = value.to_string_lossy();
                Err(ConfigError::value(row, &lossy, Source::Environment(name)))
            }
        }
    }

    /// The default of `data_dir`. XDG's rule: a relative path there counts as none.
    pub(super) fn state_dir(&self) -> Result<String, ConfigError> {
        if self.root {
            return Ok("/var/lib/hotspan".to_owned());
        }
        let absolute = |name: &str, below: &str| {
            let dir = self.environment.get(name)?.to_str()?;
            dir.starts_with('/').then(|| format!("{}/{below}", dir.trim_end_matches('/')))
        };
        absolute("XDG_STATE_HOME", "hotspan")
            .or_else(|| absolute("HOME", ".local/state/hotspan"))
            .ok_or(ConfigError::NoStateDir)
    }

    /// A line for each variable that looks like ours and is not.
    pub(super) fn unknown_variables(&self) -> Vec<String> {
        let ours = |name: &&String| {
            let known = OTHERS.contains(&name.as_str())
                || name.starts_with(OTHERS_PREFIX)
                || TABLE.iter().any(|row| row.variable() == **name);
            name.starts_with(PREFIX) && !known
        };
        let line = |name: &String| {
            let key = nearest(&name[PREFIX.len()..], TABLE.iter().map(|row| row.key));
            let hint =
                key.map(|key| format!("; did you mean HOTSPAN_{}?", key.to_ascii_uppercase()));
            format!("environment variable {name} is no setting{}", hint.unwrap_or_default())
        };
        self.environment.keys().filter(ours).map(line).collect()
    }
}
