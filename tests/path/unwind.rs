//! Stacks of programs built without frame pointers, against second opinions: waits against gdb, address
//! by address; samples against the call graph of the program, and against perf.

#[path = "unwind/burns.rs"]
mod burns;
#[path = "unwind/short.rs"]
mod short;
#[path = "unwind/waits.rs"]
mod waits;
#[path = "unwind/watch.rs"]
mod watch;

use anyhow::{Result, ensure};
use burns::{
    BURN, EXCEPTIONS, NEARLY_ALL, NEARLY_ALL_THROWING, PLT, as_perf_says, perf_thinks_so, possible,
};
use waits::{plugins, same_as_gdb};

/// How much of a stack is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it, down to where it began.
    Whole,
    /// From where `main`, or the function a thread began with, returns to: what called those has
    /// neither tables nor frame pointers.
    Program,
}

/// Programs whose every frame can be followed, by tables or by frame pointers.
const WHOLE: [&str; 4] = ["pie", "static_pie", "static", "framed"];

/// A check of each of these; fails with all that is wrong.
fn each(names: &[&str], check: impl Fn(&str) -> Result<()>) -> Result<()> {
    let failed = names.iter().filter_map(|name| check(name).err());
    let failed: Vec<String> = failed.map(|error| format!("{error:#}")).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// A scenario in each of them.
fn waits_are_whole(arguments: &[&str]) -> Result<()> {
    each(&WHOLE, |variant| same_as_gdb(variant, arguments, Extent::Whole))
}

#[test]
fn a_deep_recursion() -> Result<()> {
    waits_are_whole(&["recursion", "100"])
}

#[test]
fn a_recursion_deeper_than_what_is_kept() -> Result<()> {
    same_as_gdb("pie", &["recursion", "1000"], Extent::Whole)
}

#[test]
fn below_the_sort_of_the_c_library() -> Result<()> {
    waits_are_whole(&["qsort"])
}

#[test]
fn in_a_signal_handler_on_its_own_stack() -> Result<()> {
    waits_are_whole(&["signal"])
}

#[test]
fn in_vfork() -> Result<()> {
    waits_are_whole(&["vfork"])
}

#[test]
fn frames_of_variable_size_and_alignment() -> Result<()> {
    waits_are_whole(&["alloca"])
}

#[test]
fn in_a_thread() -> Result<()> {
    waits_are_whole(&["thread"])
}

#[test]
fn tables_and_frame_pointers_by_turns() -> Result<()> {
    waits_are_whole(&["mixed"])
}

#[test]
fn a_plugin_where_another_was() -> Result<()> {
    each(&["pie", "framed"], plugins)
}

/// musl has no tables: above `main` nothing is known for certain.
#[test]
fn a_static_program_with_musl() -> Result<()> {
    each(&["recursion", "alloca", "mixed", "signal", "thread"], |scenario| {
        same_as_gdb("musl", &[scenario], Extent::Program)
    })?;
    possible("musl", "burn", &BURN, Extent::Program, NEARLY_ALL)
}

/// What needs no table: this checks the harness itself.
#[test]
fn frame_pointers_alone_lead_to_main() -> Result<()> {
    each(&["recursion", "alloca"], |scenario| same_as_gdb("bare", &[scenario], Extent::Program))?;
    // Without tables the first and last instructions of a function hide its caller.
    possible("bare", "burn", &BURN, Extent::Program, 0.5)
}

/// What the samples are judged by is itself judged. perf is lost in static programs at fixed addresses.
#[test]
fn the_call_graphs_are_those_of_the_programs() -> Result<()> {
    for variant in ["pie", "static_pie"] {
        perf_thinks_so(variant, "burn", &BURN, NEARLY_ALL)?;
    }
    perf_thinks_so("pie", "plt", &PLT, NEARLY_ALL)?;
    perf_thinks_so("cxx", "exceptions", &EXCEPTIONS, 0.95)
}

#[test]
fn samples_of_nested_functions() -> Result<()> {
    each(&WHOLE, |variant| possible(variant, "burn", &BURN, Extent::Whole, NEARLY_ALL))
}

#[test]
fn samples_of_calls_into_a_library() -> Result<()> {
    possible("pie", "plt", &PLT, Extent::Whole, NEARLY_ALL)
}

#[test]
fn samples_of_exceptions() -> Result<()> {
    possible("cxx", "exceptions", &EXCEPTIONS, Extent::Whole, NEARLY_ALL_THROWING)
}

#[test]
fn samples_are_those_of_perf() -> Result<()> {
    each(&["pie", "static_pie"], |variant| as_perf_says(variant, "burn"))?;
    as_perf_says("pie", "plt")
}

#[test]
fn short_lived_processes() -> Result<()> {
    short::processes("pie")
}
