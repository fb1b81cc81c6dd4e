//! build, test, demo, bench: everything a person types. This file is only the command line; each command has a file of
//! its own with `Args` and `run`.

mod bench;
mod build;
mod crates;
mod demo;
mod dist;
mod exports;
mod foreign;
mod fuzz;
mod inf;
mod kit;
mod lab;
mod linker;
mod lint_image;
mod mutants;
mod overlay;
mod packages;
mod programs;
mod reproducible;
mod symbolize;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "build, test, demo, bench: everything a person types")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the driver packages into target/dist/x64
    Build(build::Args),
    /// Check driver images
    LintImage(lint_image::Args),
    /// Serve a disk image through the built drivers
    Demo(demo::Args),
    /// Make what an administrator takes: signed packages, media, symbols
    Dist(dist::Args),
    /// Run the drivers on a real Xen, in an emulated machine
    Lab(lab::Args),
    /// Count what the drivers spend on an I/O, against the targets
    Bench(bench::Args),
    /// Run the tests
    Test(test::Args),
    /// Plant faults and require the tests to find them
    Mutants(mutants::Args),
    /// Feed the decoders of what other domains write with random input
    Fuzz(fuzz::Args),
    /// Copy the crates that everything is built from, for builds without a network
    Vendor(crates::Args),
    /// What cargo starts as the linker of a driver
    #[command(hide = true)]
    Link(linker::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(args) => build::run(&args),
        Command::LintImage(args) => lint_image::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Vendor(args) => crates::run(&args),
        Command::Link(args) => linker::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        if error.is::<packages::Missing>() { ExitCode::from(2) } else { ExitCode::FAILURE }
    })
}
