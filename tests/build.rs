//! Builds the C workload through the lane header and the unwinding fixtures, and tells the crate
//! where they are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "workloads/unwind/build.rs"]
mod unwind;

const SOURCES: [&str; 5] = ["truth.c", "tools.c", "waits.c", "cpu.c", "life.c"];

fn main() {
    let folder = Path::new("workloads/truth_c");
    let header = Path::new("../proto/lanes/c");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed={}", header.display());
    println!("cargo::rerun-if-env-changed=CC");

    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let program = out.join("truth_c");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler)
        .args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fno-omit-frame-pointer"])
        .arg("-I")
        .arg(header)
        .args(SOURCES.map(|source| folder.join(source)))
        .args(["-pthread", "-o"])
        .arg(&program)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} failed on the C workload: {status}", compiler.display()),
        Err(error) => panic!("no C compiler `{}`: {error}", compiler.display()),
    }
    println!("cargo::rustc-env=HOTSPAN_TRUTH_C={}", program.display());
    unwind::build(&out);
}
