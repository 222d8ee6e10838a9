//! Builds the C workloads through the lane header and the unwinding fixtures, and tells the crate
//! where they are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "workloads/unwind/build.rs"]
mod unwind;

const HEADER: &str = "../proto/lanes/c";
const SOURCES: [&str; 5] = ["truth.c", "tools.c", "waits.c", "cpu.c", "life.c"];

const WAITS: [&str; 10] = [
    "main.c",
    "time.c",
    "events.c",
    "pipes.c",
    "ipc.c",
    "sockets.c",
    "files.c",
    "fuse.c",
    "memory.c",
    "process.c",
];

fn main() {
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-env-changed=CC");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let truth = compile(&out, "truth_c", "workloads/truth_c", &SOURCES, &[]);
    println!("cargo::rustc-env=WORKLOAD_TRUTH_C={}", truth.display());
    let folder = "workloads/publishers";
    let publishers = compile(&out, "publishers", folder, &["publishers.c"], &["-static"]);
    println!("cargo::rustc-env=WORKLOAD_PUBLISHERS={}", publishers.display());
    let stall = compile(&out, "stall", "workloads/stall", &["stall.c"], &[]);
    println!("cargo::rustc-env=WORKLOAD_STALL={}", stall.display());
    let folder = "workloads/strangers";
    let strangers = compile(&out, "strangers", folder, &["strangers.c"], &[]);
    println!("cargo::rustc-env=WORKLOAD_STRANGERS={}", strangers.display());
    let table = compile(&out, "wait_table", "workloads/wait_table", &WAITS, &["-lrt"]);
    println!("cargo::rustc-env=WORKLOAD_WAIT_TABLE={}", table.display());
    attacks(&out);
    unwind::build(&out);
}

/// What attackers run: each file a program of its name, in one folder.
fn attacks(out: &Path) {
    let (folder, programs) = (Path::new("workloads/attacks"), out.join("attacks"));
    std::fs::create_dir_all(&programs).expect("a folder below OUT_DIR can be made");
    let files = std::fs::read_dir(folder).expect("the folder is part of this crate");
    for file in files.flatten().map(|file| file.path()) {
        let (Some(name), Some(source)) = (file.file_stem(), file.file_name()) else { continue };
        if file.extension().is_some_and(|extension| extension == "c") {
            let (name, source) = (name.to_string_lossy(), source.to_string_lossy());
            compile(&programs, &name, "workloads/attacks", &[&source], &[]);
        }
    }
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rustc-env=WORKLOAD_ATTACKS={}", programs.display());
}

/// A program made of C sources that publish through the header.
fn compile(out: &Path, name: &str, folder: &str, sources: &[&str], flags: &[&str]) -> PathBuf {
    println!("cargo::rerun-if-changed={folder}");
    let program = out.join(name);
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler)
        .args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fno-omit-frame-pointer"])
        .args(["-I", HEADER])
        .args(sources.iter().map(|source| Path::new(folder).join(source)))
        .args(flags)
        .args(["-pthread", "-o"])
        .arg(&program)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} failed on {folder}: {status}", compiler.display()),
        Err(error) => panic!("no C compiler `{}`: {error}", compiler.display()),
    }
    program
}
