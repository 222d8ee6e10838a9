//! Types and services of the wire between agent and collector, generated from `../ingest.proto`,
//! which explains them. `cargo xtask proto` writes the generated file again; a test compares it.

/// The generated code.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated"
)]
#[rustfmt::skip]
pub mod v1;

/// Protocol versions this build speaks, both included.
pub const PROTOCOL: std::ops::RangeInclusive<u32> = 1..=1;
/// Largest frame either side accepts, bytes.
pub const MAX_FRAME: usize = 4 << 20;
