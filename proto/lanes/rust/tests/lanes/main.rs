//! The publisher as a reader outside the process sees it: both the Rust crate and the C header, in
//! processes of their own, read through `/proc` (which takes root) as the daemon does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod actor;
mod lifecycle;
mod publishing;
mod reader;

#[test]
#[ignore = "the main function of the processes under test"]
fn actor_process() {
    actor::be_the_actor();
}
