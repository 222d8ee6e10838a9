//! What the verifier of this kernel had to look at in each program: a program that comes near its million
//! of instructions here is refused by the next kernel. `cargo xtask vm` asserts the same of two others.

use std::path::Path;

use anyhow::{Result, ensure};
use hotspan::{
    app::daemon::{Daemon, Watched},
    kernel::{Config, btf::Btf},
    model::id::Pid,
};
use hotspan_tests::host::{self, Verified};

/// Instructions the verifier may look at in one program.
const MOST: u64 = 700_000;

/// Programs every kernel gets, by line; those of `cargo xtask vm` too.
const ALWAYS: &str = include_str!("../vm/always");
/// Programs of hooks that not every kernel has, and the type that says so.
const WHERE_POSSIBLE: [(&str, &str); 3] = [
    ("sched_exit_tp", "btf_trace_sched_exit_tp"),
    ("sched_prepare_exec", "btf_trace_sched_prepare_exec"),
    ("vm_unmapped_area", "btf_trace_vm_unmapped_area"),
];
/// Under the one or the other name, where there is a way to hook `prctl`.
const BREADCRUMB: [&str; 2] = ["lane_breadcrumb", "lane_breadcrumb_syscall"];
const PRCTL: &str = "btf_trace_task_prctl_unknown";

#[test]
fn every_program_is_far_from_what_a_verifier_can_take() -> Result<()> {
    if !host::can_record() {
        return Ok(());
    }
    let this = std::process::id();
    let daemon = Daemon::start(&Config::default(), &Watched::Tree(vec![Pid(this).into()]))?;
    let programs = host::verified_programs(this)?;
    drop(daemon);
    for Verified { name, instructions } in &programs {
        println!("{name}: {instructions} instructions verified");
    }
    let btf = Btf::of_kernel()?;
    let possible = WHERE_POSSIBLE.iter().filter(|(_, hook)| btf.has(hook)).map(|&(name, _)| name);
    let expected: Vec<&str> = ALWAYS.lines().chain(possible).collect();
    for name in &expected {
        ensure!(programs.iter().any(|program| is(program, name)), "{name} is not loaded");
    }
    let has_breadcrumb = btf.has(PRCTL) || Path::new("/sys/kernel/tracing/events").is_dir();
    let is_breadcrumb = |program: &&Verified| BREADCRUMB.iter().any(|name| is(program, name));
    let hooked = programs.iter().filter(is_breadcrumb).count();
    ensure!(hooked >= usize::from(has_breadcrumb), "no program on prctl");
    ensure!(programs.len() == expected.len() + hooked, "programs nobody expects: {programs:?}");
    let is_too_much = |program: &&Verified| !(1..=MOST).contains(&program.instructions);
    let wrong: Vec<&Verified> = programs.iter().filter(is_too_much).collect();
    ensure!(wrong.is_empty(), "not between 1 and {MOST}: {wrong:?}");
    Ok(())
}

/// Whether it is the program of that name: the kernel keeps 15 characters, its types know the rest.
fn is(program: &Verified, name: &str) -> bool {
    program.name == name || program.name == name[..name.len().min(15)]
}
