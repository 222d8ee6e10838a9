//! What the tests of settings stand on: samples of every setting, files, surroundings.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use clap::{Args as _, FromArgMatches as _};

use super::{
    ConfigError, Settings, Surroundings,
    flags::{Flags, Kind},
    load,
    table::Row,
    value::Shape,
};

/// Three right values that differ from each other and from the default, and a wrong one.
pub(super) fn samples(key: &str) -> ([&'static str; 3], &'static str) {
    match key {
        "data_dir" => (["/tmp/a", "/tmp/b", "/tmp/c"], ""),
        "hz" => (["1", "49", "10000"], "10001"),
        "ring_bytes" => (["4096", "8192", "268435456"], "5000"),
        "queue_bytes" => (["1MiB", "32MiB", "1GiB"], "1023KiB"),
        "collector" => (["http://a:1", "http://10.0.0.1:2", "http://[::1]:3"], "https://a:1"),
        "ingest" => (["127.0.0.1:1", "0.0.0.0:2", "[::1]:3"], "localhost:1"),
        "web" => (["127.0.0.1:1", "127.0.0.2:2", "[::1]:3"], "7690"),
        // A switch has two values: the middle one is the default, said aloud.
        "no_web" => (["true", "false", "true"], "maybe"),
        "web_token" => (["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"], "short"),
        "web_hosts" => (["a", "b.example,b2", "c"], "a b"),
        "ingest_token_file" => (["/tmp/ta", "/tmp/tb", "/tmp/tc"], ""),
        "retention_age" => (["1d", "12h", "30s"], "7"),
        "retention_bytes" => (["64MiB", "1GiB", "1TiB"], "63MiB"),
        "no_seccomp" => (["true", "false", "true"], "maybe"),
        "duration" => (["90s", "5m", "1h30m"], "0s"),
        "log" => (["debug", "hotspan=debug,warn", "error"], ""),
        key => panic!("no samples for {key}"),
    }
}

/// How the file says `text` for `row`.
pub(super) fn line(row: &Row, text: &str) -> String {
    let value = match row.shape {
        Shape::Switch => text.to_owned(),
        Shape::Number if text.parse::<u64>().is_ok() => text.to_owned(),
        Shape::Number | Shape::Text => format!("{text:?}"),
        Shape::List => format!("{:?}", text.split(',').collect::<Vec<_>>()),
    };
    format!("# a comment\n{} = {value}\n", row.key)
}

/// A user without anything around.
pub(super) fn nowhere() -> Surroundings {
    Surroundings {
        environment: [("HOME".to_owned(), "/home/me".into())].into(),
        root: false,
        default_file: "/nonexistent/hotspan.toml".into(),
    }
}

pub(super) fn with(variables: &[(&str, &str)]) -> Surroundings {
    let mut around = nowhere();
    let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
    around.environment.extend(pairs);
    around
}

/// A file that goes with its owner.
pub(super) struct TempFile(pub(super) PathBuf);

impl TempFile {
    pub(super) fn new(text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "hotspan-config-{}-{}.toml",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn flags<K: Kind>(arguments: &[&str]) -> Flags<K> {
    let command = Flags::<K>::augment_args(clap::Command::new("test").no_binary_name(true));
    Flags::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
}

pub(super) fn load_with<K: Kind>(
    arguments: &[&str],
    file: Option<&Path>,
    around: &Surroundings,
) -> Result<Settings, ConfigError> {
    let mut flags = flags::<K>(arguments);
    flags.config = file.map(Path::to_owned);
    load(&flags, around)
}
