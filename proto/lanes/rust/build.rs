//! Exports the publisher's symbols from this package's own test programs, as every program must
//! that also loads shared objects which publish (`SPEC.md`, "One publisher per process").

fn main() {
    for symbol in ["hotspan_lanes_v1", "otel_thread_ctx_v1"] {
        println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic-symbol={symbol}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
