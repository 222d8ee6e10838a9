//! `cargo xtask proto`: generated code from `proto/ingest/ingest.proto`.

use anyhow::Result;
use clap::Args;

use crate::{cargo::cargo, process};

/// Writes the generated code of the wire again.
///
/// The code is committed, so that building hotspan needs no generator; a test compares it with the
/// .proto file. Run this after a change there, and commit both.
#[derive(Debug, Args)]
pub(crate) struct Proto {}

impl Proto {
    pub(crate) fn run(self) -> Result<()> {
        let mut test = cargo(["test", "--package", "hotspan-ingest", "--test", "generated"]);
        process::run(test.env("HOTSPAN_PROTO_WRITE", "1"))
    }
}
