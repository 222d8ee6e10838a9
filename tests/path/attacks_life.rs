//! What a local user can do to the life of the agent: keep it from starting, take its files, flood it
//! with processes.

use std::time::Duration;

use anyhow::{Result, ensure};
use hotspan_tests::{
    attack::{Arena, program},
    host::can_record,
};

/// How long an attacker may take to end by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// Thousands of processes a second, one after the other: each is in the batch of its second, and a batch
/// that is cut names in a piece only whom that piece is about.
#[test]
fn fork_storm() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut arena = Arena::start(&[])?;
    let honest = arena.honest()?;
    let mut storm = arena.attack(&program("fork_storm"), &["3", "20000"])?;
    let status = storm.end(LIMIT)?;
    ensure!(status.success(), "the storm did not blow: {status}");
    arena.finish("fork_storm", honest)?.holds()
}
