//! The life of a hotspan process: read the command line, run the command, turn its outcome into an
//! exit code. Everything else is in the library, where the bench and the tests reach it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    hotspan::cli::main()
}
