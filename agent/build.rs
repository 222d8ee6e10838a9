//! Builds the kernel programs for the bpf target and puts the object into `OUT_DIR`, from where
//! `kernel::load` embeds it.

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=../agent-ebpf");
    // build-std on the stable compiler: the bpf target has no prebuilt core.
    // SAFETY: the build script is single-threaded.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    let package = aya_build::Package {
        name: "agent-ebpf",
        root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-ebpf"),
        ..Default::default()
    };
    // The toolchain that builds the host side (rustup tells its name to everything it starts).
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(&toolchain))
        .context("building the kernel programs (is bpf-linker installed? `cargo xtask setup`)")
}
