//! Every developer command of this repository, run as `cargo xtask COMMAND`.
//!
//! Each command starts with `setup`, so a fresh clone needs no other step, and each says what it
//! does before it does it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod attack;
mod bench;
mod cargo;
mod demo;
mod dist;
#[cfg(test)]
mod documents;
mod fuzz;
mod layers;
mod process;
mod proto;
mod setup;
mod test;
mod vm;

/// Developer commands of hotspan.
///
/// `cargo xtask test` builds and tests everything; `cargo xtask demo` shows the product on a small
/// sample service. Both install what is missing first.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Setup),
    Test(test::Test),
    Attack(attack::Attack),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Dist(dist::Dist),
    Fuzz(fuzz::Fuzz),
    Layers(layers::Layers),
    Proto(proto::Proto),
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup(setup) => setup.run().and_then(|()| setup::checks()),
        Command::Test(test) => test.run(),
        Command::Attack(attack) => attack.run(),
        Command::Demo(demo) => demo.run(),
        Command::Bench(bench) => bench.run(),
        Command::Dist(dist) => dist.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Layers(layers) => layers.run(),
        Command::Proto(proto) => proto.run(),
        Command::Vm(vm) => vm.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
