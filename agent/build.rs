//! Builds the kernel programs for the bpf target and puts the object into `OUT_DIR`, from where
//! `kernel::load` embeds it. Says nothing when nothing is wrong.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

const PACKAGE: &str = "agent-ebpf";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=../agent-ebpf");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What a build script that fails has written here, cargo shows as it is.
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let variable = |name| env::var(name).map_err(|error| format!("{name} of cargo: {error}"));
    let out = PathBuf::from(variable("OUT_DIR")?);
    // A target directory of its own: cargo holds the lock of the one it builds us in.
    let target_dir = out.join("bpf");
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // What cargo may have set for the host side and must not reach the bpf target.
    const FOREIGN: [&str; 3] = ["RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET"];
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let flags = [&format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"];

    // The same cargo and compiler as the host side's.
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir("../agent-ebpf")
        // Of a build that goes well nothing but warnings is left.
        .args(["build", "--quiet", "--package", PACKAGE, "--bins", "--release"])
        .args(["--target", target, "--target-dir"])
        .arg(&target_dir)
        // build-std on the stable compiler: the bpf target has no prebuilt core.
        .args(["-Z", "build-std=core"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    for name in FOREIGN {
        cargo.env_remove(name);
    }
    let output = cargo.output().map_err(|error| format!("cannot start {cargo:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "{}\n\nThe kernel programs do not build. If bpf-linker or rust-src is missing: \
             `cargo xtask setup`",
            said.trim_end()
        ));
    }
    for line in said.lines() {
        println!("cargo::warning={line}");
    }
    let object = target_dir.join(target).join("release").join(PACKAGE);
    match fs::copy(&object, out.join(PACKAGE)) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot copy {}: {error}", object.display())),
    }
}
