//! What can be wrong with a configuration. Every message says what, where, and what would be right.

use std::{io, net::SocketAddr, path::PathBuf};

use super::{Source, table::Row};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file was named, or is there, and cannot be read.
    #[error("cannot read the configuration file {} ({named_by}): {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who named it.
        named_by: Source,
        /// Why.
        error: io::Error,
    },
    /// Not TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Its line.
        line: usize,
        /// What the reader of TOML says.
        message: String,
    },
    /// A key that is no setting.
    #[error("{}:{line}: there is no setting `{key}`{}", path.display(), did_you_mean(*nearest))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Its line.
        line: usize,
        /// The key.
        key: String,
        /// The setting that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value that is not allowed.
    #[error("{key} = {value} ({by}): must be {allowed}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What was given; stars for a secret.
        value: String,
        /// By whom. (A field named `source` would be an error's cause to thiserror.)
        by: Source,
        /// What is right.
        allowed: &'static str,
    },
    /// The page would answer anybody.
    #[error(
        "web = {address} ({by}) is reachable from other hosts: set web_token too (16 characters or \
         more), or listen on 127.0.0.1"
    )]
    OpenWeb {
        /// The address.
        address: SocketAddr,
        /// Who set it.
        by: Source,
    },
    /// No default for `data_dir`.
    #[error("neither XDG_STATE_HOME nor HOME is set: say where to keep data with --data-dir")]
    NoStateDir,
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default()
}

// === impl ConfigError ===

impl ConfigError {
    /// A wrong `text` for `row`.
    pub(super) fn value(row: &Row, text: &str, source: Source) -> Self {
        // A path or filter can be long, and a terminal reads control characters.
        let shown: String = text.chars().take(80).collect();
        let value = if row.secret { "***".to_owned() } else { format!("{shown:?}") };
        Self::Value { key: row.key, value, by: source, allowed: row.allowed }
    }
}
