//! `hotspan run`, `hotspan agent` and `hotspan collector` on the command line.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use super::log;
use crate::{
    app,
    config::{self, Flags, Kind, Surroundings},
    process::descriptors,
};

/// Runs until a signal, the end of `--duration`, or an error that only a human can mend.
pub fn run<K: Kind>(flags: &Flags<K>) -> anyhow::Result<ExitCode> {
    let settings = config::load(flags, &Surroundings::of_process())?;
    if flags.print_config {
        let printed = io::stdout().write_all(settings.print().as_bytes());
        return super::written(printed);
    }
    log::start(&settings.log.value);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    descriptors::raise();
    app::service::serve(&settings)?;
    Ok(ExitCode::SUCCESS)
}
