//! The types of values: how each is read from text, and how it is said in TOML.
//!
//! Reading is the same for every source: file, environment and flag give text (a list is its items
//! with commas between). What a function here refuses is an error that names the source.
//! What is printed reads back as the same value.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// What a value looks like in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An integer, or a string that holds it, possibly with a unit.
    Number,
    /// A string.
    Text,
    /// `true` or `false`; as a flag it needs no value.
    Switch,
    /// An array of strings.
    List,
}

/// A type of setting.
pub trait Value: Sized {
    /// Its look.
    const SHAPE: Shape;
    /// Whether it must not be shown.
    const SECRET: bool = false;

    /// What it is when nobody says anything and there is no default.
    fn unset() -> Option<Self> {
        None
    }

    /// How the file would say it, `None` if it is not set.
    fn shown(&self) -> Option<toml::Value>;
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Where the collector is: `http://HOST:PORT`, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl(String);

// === impl Secret ===

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

// === impl CollectorUrl ===

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Bytes ===

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(unit.1);
        let (name, unit) = UNITS.iter().find(fits).copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

// === impl Value ===

impl Value for PathBuf {
    const SHAPE: Shape = Shape::Text;
    fn shown(&self) -> Option<toml::Value> {
        Some(self.to_string_lossy().into_owned().into())
    }
}

impl Value for u32 {
    const SHAPE: Shape = Shape::Number;
    fn shown(&self) -> Option<toml::Value> {
        Some(i64::from(*self).into())
    }
}

impl Value for Bytes {
    const SHAPE: Shape = Shape::Number;
    fn shown(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }
}

impl Value for bool {
    const SHAPE: Shape = Shape::Switch;
    fn shown(&self) -> Option<toml::Value> {
        Some((*self).into())
    }
}

impl Value for SocketAddr {
    const SHAPE: Shape = Shape::Text;
    fn shown(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }
}

impl Value for CollectorUrl {
    const SHAPE: Shape = Shape::Text;
    fn shown(&self) -> Option<toml::Value> {
        Some(self.0.clone().into())
    }
}

impl Value for String {
    const SHAPE: Shape = Shape::Text;
    fn shown(&self) -> Option<toml::Value> {
        Some(self.clone().into())
    }
}

impl Value for Vec<String> {
    const SHAPE: Shape = Shape::List;
    fn shown(&self) -> Option<toml::Value> {
        Some(self.clone().into())
    }
}

impl Value for Duration {
    const SHAPE: Shape = Shape::Text;
    fn shown(&self) -> Option<toml::Value> {
        Some(duration_text(*self).into())
    }
}

impl Value for Secret {
    const SHAPE: Shape = Shape::Text;
    const SECRET: bool = true;
    fn shown(&self) -> Option<toml::Value> {
        Some("***".into())
    }
}

impl<T: Value> Value for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const SECRET: bool = T::SECRET;
    fn unset() -> Option<Self> {
        Some(None)
    }
    fn shown(&self) -> Option<toml::Value> {
        self.as_ref().and_then(T::shown)
    }
}

// === readers ===

/// A path: anything but nothing.
pub(crate) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.into())
}

/// Samples per second.
pub(crate) fn hz(text: &str) -> Option<u32> {
    digits(text)?.try_into().ok().filter(|hz| (1..=10_000).contains(hz))
}

/// The size of one ring buffer.
pub(crate) fn ring_bytes(text: &str) -> Option<u32> {
    let Bytes(bytes) = bytes(text)?;
    u32::try_from(bytes).ok().filter(|n| n.is_power_of_two() && (1 << 12..=1 << 28).contains(n))
}

/// A size of at least `1 << LOG2_MIN` bytes, and at most what TOML and SQL can count.
pub(crate) fn size<const LOG2_MIN: u32>(text: &str) -> Option<Bytes> {
    bytes(text).filter(|Bytes(n)| *n >= 1 << LOG2_MIN && i64::try_from(*n).is_ok())
}

/// `65536`, `64KiB`, `10 GB`: a whole number and a unit. `64K` says neither 1000 nor 1024: refused.
fn bytes(text: &str) -> Option<Bytes> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let known = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit) || unit.is_empty();
    // Without a unit it is the last one's: bytes.
    let (_, unit) = UNITS.iter().rev().find(known)?;
    digits(number)?.checked_mul(*unit).map(Bytes)
}

/// A listen address: an IP address, not a name, so that it says who can reach it. Port 0 lets the
/// system choose.
pub(crate) fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// `http://HOST:PORT`.
pub(crate) fn collector(text: &str) -> Option<CollectorUrl> {
    let url = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = url.strip_prefix("http://")?.rsplit_once(':')?;
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fine = match inner {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => host_name(host),
    };
    (fine && digits(port).is_some_and(|port| (1..=65_535).contains(&port)))
        .then(|| CollectorUrl(url.to_owned()))
}

/// Yes or no.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// What a caller must show. Printable and without spaces: it travels in headers.
pub(crate) fn token(text: &str) -> Option<Secret> {
    let long = text.len() >= 16;
    (long && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Secret(text.to_owned()))
}

/// Host names, lower case, without ports.
pub(crate) fn hosts(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let host = |item: &str| {
        let item = item.trim().to_ascii_lowercase();
        (host_name(&item) || item.parse::<IpAddr>().is_ok()).then_some(item)
    };
    text.split(',').map(host).collect()
}

fn host_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with(['-', '.'])
}

/// A filter of log lines. tracing's own reader decides.
pub(crate) fn log(text: &str) -> Option<String> {
    let known = tracing_subscriber::EnvFilter::try_new(text).is_ok();
    (known && !text.trim().is_empty()).then(|| text.to_owned())
}

const TIMES: [(&str, u64); 6] = [
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// `7d`, `36h`, `1h30m`, `500ms`: more than nothing. A number alone has no unit: refused.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(unit_at);
        let next = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(next);
        let (_, scale) = TIMES.iter().find(|(name, _)| *name == unit)?;
        total = digits(number)?.checked_mul(*scale)?.checked_add(total)?;
        rest = tail;
    }
    // Within what a clock in nanoseconds can add.
    (1..=i64::MAX as u64 / 1_000_000).contains(&total).then(|| Duration::from_millis(total))
}

fn duration_text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    // From days on: nobody thinks of a retention in weeks and days.
    for (unit, scale) in &TIMES[1..] {
        if rest >= *scale {
            text += &format!("{}{unit}", rest / scale);
            rest %= scale;
        }
    }
    text
}

/// Decimal digits and nothing else (Rust's own reader takes a plus).
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
