//! Unwinding by tables: what a stack costs, what tables take, what making them takes, how soon new
//! processes have whole stacks, and the same beside `perf record --call-graph dwarf`.

mod beside;
mod files;
mod memory;
mod recording;
mod storm;
mod walk;

use anyhow::Result;
pub(crate) use files::part;

use crate::{Line, agent::Stats};

pub(crate) fn measure() -> Result<Vec<Line>> {
    let _stats = Stats::enable()?;
    let mut lines = Vec::new();
    // One that cannot run here must not take the others with it.
    for (name, measure) in [
        ("unwind, samples", walk::measure as fn() -> Result<Vec<Line>>),
        ("unwind, files", files::measure),
        ("unwind, memory", memory::measure),
        ("unwind, exec storm", storm::measure),
        ("unwind, beside perf", beside::measure),
    ] {
        eprintln!("measuring: {name}");
        match measure() {
            Ok(found) => lines.extend(found),
            Err(error) => lines.push(Line::skipped(name, &format!("{error:#}"))),
        }
    }
    Ok(lines)
}
