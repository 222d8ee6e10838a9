//! hotspan's kernel programs. Empty on the host: `agent/build.rs` builds it for the bpf target.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}
