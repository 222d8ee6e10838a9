//! The thread-local `otel_thread_ctx_v1` of OTEP 4947: a pointer to this thread's record.
//!
//! Stable Rust cannot define a thread-local symbol, so the assembler does. It is weak and in a
//! section group: another definition in the same link wins without a conflict. Where another
//! library already uses the pointer on this thread, it is left alone.

use core::cell::Cell;

#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64",
    not(miri)
))]
core::arch::global_asm!(
    ".pushsection .tbss.otel_thread_ctx_v1,\"awTG\",@nobits,otel_thread_ctx_v1,comdat",
    ".balign 8",
    ".weak otel_thread_ctx_v1",
    ".type otel_thread_ctx_v1,@tls_object",
    ".size otel_thread_ctx_v1,8",
    "otel_thread_ctx_v1:",
    ".zero 8",
    ".popsection",
);

/// Registered when the program or library is loaded, where allocating is allowed.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    // SAFETY: the handler is a function of this program and safe in a fork child.
    unsafe { libc::pthread_atfork(None, None, Some(in_fork_child)) };
}

/// The lane is not mapped in the child, so the pointer must not survive there.
unsafe extern "C" fn in_fork_child() {
    crate::publish::forget_record_in_child();
}

/// Points the variable at `record`, unless somebody else has pointed it elsewhere.
pub(crate) fn point_at(record: *const u8) {
    let slot = slot();
    if slot.get().is_null() {
        slot.set(record);
    }
}

/// Takes the pointer back, if it is still ours.
pub(crate) fn take_back(record: *const u8) {
    let slot = slot();
    if slot.get() == record {
        slot.set(core::ptr::null());
    }
}

/// This thread's instance of the variable.
fn slot() -> &'static Cell<*const u8> {
    // SAFETY: the variable is 8 aligned bytes of this thread's own storage, used only by it and
    // by whoever looks at a stopped thread; `'static` never leaves the calling function.
    unsafe { &*address() }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
fn address() -> *const Cell<*const u8> {
    let address: *const Cell<*const u8>;
    // SAFETY: the canonical TLS descriptor sequence, letter by letter, because linkers rewrite
    // it; the clobbers cover resolvers that do not keep every register.
    unsafe {
        core::arch::asm!(
            "lea rax, [rip + otel_thread_ctx_v1@TLSDESC]",
            "call [rax + otel_thread_ctx_v1@TLSCALL]",
            "add rax, qword ptr fs:[0]",
            out("rax") address,
            clobber_abi("C"),
        );
    }
    address
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
fn address() -> *const Cell<*const u8> {
    let address: *const Cell<*const u8>;
    // SAFETY: as above, in the sequence of this architecture.
    unsafe {
        core::arch::asm!(
            "adrp x0, :tlsdesc:otel_thread_ctx_v1",
            "ldr x1, [x0, :tlsdesc_lo12:otel_thread_ctx_v1]",
            "add x0, x0, :tlsdesc_lo12:otel_thread_ctx_v1",
            ".tlsdesccall otel_thread_ctx_v1",
            "blr x1",
            "mrs x8, tpidr_el0",
            "add x0, x0, x8",
            out("x0") address,
            clobber_abi("C"),
        );
    }
    address
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn address() -> *const Cell<*const u8> {
    thread_local! {
        static UNSEEN: Cell<*const u8> = const { Cell::new(core::ptr::null()) };
    }
    UNSEEN.with(|cell| cell as *const _)
}
