//! The settings: one row each. The file, the environment, the flags, `--help`, `--print-config` and
//! the error messages all come from here.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    CommandKind, ConfigError, Given, Settings, Sourced, take,
    value::{self, Bytes, CollectorUrl, Secret, Shape, Value},
};

/// One setting, without its type.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name in the file; in the environment with `HOTSPAN_` in front and in upper case.
    pub key: &'static str,
    /// The same as a flag: dashes inside, but none in front.
    pub flag: &'static str,
    /// What it does, one sentence without a full stop.
    pub help: &'static str,
    /// What stands for the value in the help.
    pub name: &'static str,
    /// Which values are right.
    pub allowed: &'static str,
    /// What it is when nobody says anything.
    pub default: Default,
    /// The commands that have it.
    pub used_by: &'static [CommandKind],
    /// What it looks like in the file.
    pub shape: Shape,
    /// Whether its value must not be shown.
    pub secret: bool,
}

/// What a setting is when nobody says anything.
#[derive(Clone, Copy, Debug)]
pub(super) enum Default {
    /// This, read as if somebody had said it.
    Text(&'static str),
    /// Nothing.
    Unset,
    /// The place for state of whoever runs us.
    StateDir,
    /// This file in `data_dir`.
    InDataDir(&'static str),
}

const EVERYWHERE: &[CommandKind] = &[CommandKind::Run, CommandKind::Agent, CommandKind::Collector];
const RECORDS: &[CommandKind] = &[CommandKind::Run, CommandKind::Agent];
const SERVES: &[CommandKind] = &[CommandKind::Run, CommandKind::Collector];
const STREAMS: &[CommandKind] = &[CommandKind::Agent];

/// A key with dashes, at compile time: clap wants names that live for ever.
const fn dashed<const N: usize>(key: &str) -> [u8; N] {
    let (key, mut flag) = (key.as_bytes(), [0; N]);
    let mut at = 0;
    while at < N {
        flag[at] = if key[at] == b'_' { b'-' } else { key[at] };
        at += 1;
    }
    flag
}

/// From the rows: `Typed`, one field each; `TABLE`, the same without types; and how `TABLE`'s texts
/// become `Typed`.
macro_rules! settings {
    ($($key:ident: $type:ty = $default:expr, $used_by:expr,
        $name:literal, $read:expr, $allowed:literal, $help:literal;)*) => {
        /// Every value, with where it comes from.
        #[derive(Clone, Debug)]
        pub struct Typed {
            $(#[doc = $help] pub $key: Sourced<$type>,)*
        }

        const LENGTH: usize = [$(stringify!($key)),*].len();

        /// Every setting, in the order in which they are printed. `data_dir` is first.
        pub(super) static TABLE: [Row; LENGTH] = [$(Row {
            key: stringify!($key),
            flag: {
                const FLAG: [u8; stringify!($key).len()] = dashed(stringify!($key));
                match str::from_utf8(&FLAG) {
                    Ok(flag) => flag,
                    Err(_) => panic!("a key is ASCII"),
                }
            },
            help: $help,
            name: $name,
            allowed: $allowed,
            default: $default,
            used_by: $used_by,
            shape: <$type as Value>::SHAPE,
            secret: <$type as Value>::SECRET,
        }),*];

        impl Typed {
            /// Reads what `find` has for each row.
            pub(super) fn build(
                find: &dyn Fn(&'static Row) -> Result<Given, ConfigError>,
            ) -> Result<Self, ConfigError> {
                let [$($key),*] = &TABLE;
                Ok(Self { $($key: take($key, find($key)?, $read)?),* })
            }
        }

        impl Settings {
            /// Every row with its value as the file would say it, and where that comes from.
            pub(super) fn shown(&self) -> [(&'static Row, Sourced<Option<toml::Value>>); LENGTH] {
                let [$($key),*] = &TABLE;
                [$(($key, self.typed.$key.shown())),*]
            }
        }
    };
}

settings! {
    data_dir: PathBuf = Default::StateDir, EVERYWHERE,
        "DIR", value::path, "a directory",
        "Where everything is kept; only its owner can read it";

    hz: u32 = Default::Text("99"), RECORDS,
        "N", value::hz, "a number from 1 to 10000",
        "Timer samples per second and CPU: how fine methods are reported (times are exact at any \
         rate)";

    ring_bytes: u32 = Default::Text("1048576"), RECORDS,
        "SIZE", value::ring_bytes, "a power of two from 4096 to 268435456 (4KiB to 256MiB)",
        "Size of each per-CPU ring buffer between the kernel programs and hotspan";

    queue_bytes: Bytes = Default::Text("64MiB"), RECORDS,
        "SIZE", value::size::<20>, "a size such as 64MiB, at least 1MiB",
        "Memory for what the collector has not acknowledged yet; beyond it the oldest is dropped \
         and counted";

    collector: CollectorUrl = Default::Text("http://127.0.0.1:7691"), STREAMS,
        "URL", value::collector, "http://HOST:PORT",
        "The collector to stream to";

    ingest: SocketAddr = Default::Text("127.0.0.1:7691"), SERVES,
        "ADDRESS", value::address, "an IP address and port such as 127.0.0.1:7691",
        "Where agents are listened for (gRPC); they must show the ingest token";

    web: SocketAddr = Default::Text("127.0.0.1:7690"), SERVES,
        "ADDRESS", value::address, "an IP address and port such as 127.0.0.1:7690",
        "Where the page and the JSON API are served; beyond this host it needs web_token";

    no_web: bool = Default::Text("false"), SERVES,
        "BOOL", value::switch, "true or false",
        "Serve no page and no JSON API";

    web_token: Option<Secret> = Default::Unset, SERVES,
        "TOKEN", |text| value::token(text).map(Some),
        "at least 16 printable ASCII characters without spaces",
        "What callers of the page and API must show; as a flag every user sees it in ps: use the \
         file or the environment";

    web_hosts: Vec<String> = Default::Text(""), SERVES,
        "HOST", value::hosts, "host names without ports (as text: with commas between)",
        "Further host names that the page and API answer to; others are refused (DNS rebinding)";

    ingest_token_file: PathBuf = Default::InDataDir("ingest-token"), EVERYWHERE,
        "FILE", value::path, "a file",
        "File that holds the token which agents show to the collector";

    retention_age: Duration = Default::Text("7d"), SERVES,
        "DURATION", value::duration, "a duration such as 7d, 36h or 1d12h",
        "How long spans are kept";

    retention_bytes: Bytes = Default::Text("10GiB"), SERVES,
        "SIZE", value::size::<26>, "a size such as 10GiB, at least 64MiB",
        "How much disk the store may take; beyond it the oldest day goes";

    no_seccomp: bool = Default::Text("false"), EVERYWHERE,
        "BOOL", value::switch, "true or false",
        "Do not filter hotspan's own system calls: should a library need one that is not known";

    duration: Option<Duration> = Default::Unset, EVERYWHERE,
        "DURATION", |text| value::duration(text).map(Some), "a duration such as 90s, 5m or 1h30m",
        "End by itself after this time";

    log: String = Default::Text("warn"), EVERYWHERE,
        "FILTER", value::log,
        "error, warn, info, debug, trace, or a filter such as hotspan=debug,warn",
        "What is logged to standard error";
}

// === impl Row ===

impl Row {
    /// Its environment variable.
    pub(super) fn variable(&self) -> String {
        format!("HOTSPAN_{}", self.key.to_ascii_uppercase())
    }

    /// Whether `command` has it.
    pub(super) fn is_used_by(&self, command: CommandKind) -> bool {
        self.used_by.contains(&command)
    }
}

// === impl Default ===

impl std::fmt::Display for Default {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text("") | Self::Unset => f.write_str("none"),
            Self::Text(text) => f.write_str(text),
            Self::StateDir => f.write_str(
                "/var/lib/hotspan for root, else $XDG_STATE_HOME/hotspan or ~/.local/state/hotspan",
            ),
            Self::InDataDir(name) => write!(f, "DATA_DIR/{name}"),
        }
    }
}
