//! Unwinding by table, the daemon's part: what compilers wrote for exceptions and debuggers becomes rows
//! of [`agent_ebpf::unwind::Rule`].

pub mod cfi;
