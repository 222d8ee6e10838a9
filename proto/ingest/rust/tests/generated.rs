//! The committed code is what `ingest.proto` says. `HOTSPAN_PROTO_WRITE=1` (set by `cargo xtask
//! proto`) writes it instead of comparing.

use std::{env, fs, path::Path};

#[test]
fn generated_code_is_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = folder.join("..");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let files = protox::compile(["ingest.proto"], [&proto]).expect("ingest.proto is valid");
    tonic_prost_build::configure().out_dir(out).compile_fds(files).expect("code can be generated");
    let generated = fs::read_to_string(out.join("hotspan.ingest.v1.rs")).expect("was generated");
    let committed = folder.join("src/v1.rs");
    if env::var_os("HOTSPAN_PROTO_WRITE").is_some() {
        fs::write(&committed, generated).expect("the source folder can be written");
        return;
    }
    let committed = fs::read_to_string(&committed).unwrap_or_default();
    assert!(committed == generated, "src/v1.rs is not what ingest.proto says: `cargo xtask proto`");
}
