//! hotspan's kernel programs. Empty on the host: `agent/build.rs` builds it for the bpf target.
//!
//! One file per hook, in the order of a thread's life: [`lifecycle`] (fork, exec, exit), [`switch`]
//! (out, in, resumption), [`wake`], [`sample`] (timer), [`context`] (what the thread published),
//! [`totals`] (iterator over all accounts). The arithmetic is `agent_ebpf::account`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unstable_features, reason = "asm! for the bpf target is not stable"),
    feature(asm_experimental_arch)
)]

#[cfg(target_arch = "bpf")]
mod blocked_in;
#[cfg(target_arch = "bpf")]
mod classify;
#[cfg(target_arch = "bpf")]
mod code;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod copy;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod lifecycle;
#[cfg(target_arch = "bpf")]
mod mapping;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod sample;
#[cfg(target_arch = "bpf")]
mod storage;
#[cfg(target_arch = "bpf")]
mod switch;
#[cfg(target_arch = "bpf")]
mod syscall;
#[cfg(target_arch = "bpf")]
mod totals;
#[cfg(target_arch = "bpf")]
mod wake;
#[cfg(target_arch = "bpf")]
mod walk;

/// The kernel offers the helpers used here to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
