//! Numbers that look random, and names that look like those of programs.

use std::sync::Arc;

pub(crate) const SERVICES: [&str; 12] = [
    "gateway",
    "checkout",
    "pricing",
    "inventory",
    "search",
    "postgres",
    "sessions",
    "mailer",
    "recommend",
    "ledger",
    "media",
    "scheduler",
];

const CRATES: [&str; 10] = [
    "tokio",
    "hyper",
    "axum",
    "sqlx_postgres",
    "serde_json",
    "tower",
    "reqwest",
    "tracing_core",
    "storefront",
    "rustls",
];
const MODULES: [&str; 12] = [
    "runtime::scheduler",
    "proto::h1::dispatch",
    "service::make",
    "connection::stream",
    "de::visitor",
    "client::pool",
    "routing::method",
    "io::driver",
    "task::harness",
    "message::execute",
    "cache::shard",
    "codec::frame",
];
const TYPES: [&str; 10] = [
    "Context",
    "Dispatcher<D,Bs,I,T>",
    "PoolInner<K,V>",
    "Worker",
    "Deserializer<R>",
    "Handle",
    "ConnectionState",
    "RequestBuilder",
    "Instrumented<T>",
    "Buffer<W>",
];
const VERBS: [&str; 12] = [
    "poll", "read", "write", "acquire", "release", "parse", "encode", "decode", "flush", "execute",
    "lookup", "insert",
];
const NOUNS: [&str; 10] =
    ["catch", "inner", "message", "row", "headers", "body", "entry", "guard", "batch", "next_task"];

/// Xorshift: numbers that look random.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

// === impl Random ===

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Zipf with exponent one, near enough.
    pub(crate) fn zipf(&mut self, bound: u64) -> u64 {
        let exponent = self.below(1 << 32) as f64 / (1_u64 << 32) as f64;
        ((bound as f64 + 1.0).powf(exponent) as u64 - 1).min(bound - 1)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

/// Name, file and line of a function.
pub(crate) fn function(number: u64) -> (String, String, u32) {
    let mut random = Random::new(number + 1);
    let mut pick = |words: &[&'static str]| words[random.below(words.len() as u64) as usize];
    let (of, module, kind) = (pick(&CRATES), pick(&MODULES), pick(&TYPES));
    let (verb, noun) = (pick(&VERBS), pick(&NOUNS));
    let name = format!("<{of}::{module}::{kind}>::{verb}_{noun}_{number:x}");
    let file = format!("/usr/src/{of}/src/{}.rs", module.replace("::", "/"));
    (name, file, 10 + (number % 1_900) as u32)
}

/// The name of a span.
pub(crate) fn route(number: u64) -> Arc<str> {
    let verb = ["GET", "POST", "SELECT", "PUT"][(number % 4) as usize];
    format!("{verb} /api/v1/{}/{{id}}", NOUNS[(number % 10) as usize]).into()
}
