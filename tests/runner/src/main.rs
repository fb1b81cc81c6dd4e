//! The process in which a case, the demo or the bench runs: one machine a process, started by xtask.

mod bench;
mod bench_net;
mod boot;
mod case;
mod demo;
mod demo_net;
mod guest_disk;
mod image;
mod iperf;
mod network;
mod story;
mod tap;
mod threads;
mod volume;
mod walk;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "runner", about = "Runs one case of the suites; cargo xtask is what a person types")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the cases as JSON
    List,
    /// Run one case; the last line is `RESULT {...}`
    Case {
        /// Its name
        name: String,
        /// Decides everything that is left to chance
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A folder of .inf + .sys packages
        #[arg(long)]
        drivers: PathBuf,
        /// Print the log as it comes
        #[arg(long)]
        verbose: bool,
        /// Each processor is an OS thread, and all run at once: the same as the name `threads/NAME`
        #[arg(long)]
        threads: bool,
    },
    /// Run a case whose seed is the number of the call that fails, for one number after another
    Walk {
        /// Its name
        name: String,
        /// A folder of .inf + .sys packages
        #[arg(long)]
        drivers: PathBuf,
        /// The first number
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// The last number; without it, until no call is left
        #[arg(long)]
        to: Option<u64>,
        /// Only every so many-th number
        #[arg(long, default_value_t = 1)]
        every: u64,
    },
    /// One boot of a story
    #[command(hide = true)]
    Boot {
        /// What it is told
        order: PathBuf,
    },
    /// Count what the drivers spend on an I/O
    Bench {
        /// Decides everything that is left to chance
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A folder of .inf + .sys packages
        #[arg(long)]
        drivers: PathBuf,
        /// Write the figures to this file
        #[arg(long)]
        json: Option<PathBuf>,
        /// Only the disk's or the network's
        #[arg(long)]
        only: Option<bench::Device>,
    },
    /// Serve a disk image: the demo
    Demo {
        /// The image
        image: PathBuf,
        /// Make the image first
        #[arg(long)]
        make: bool,
        /// A folder of .inf + .sys packages
        #[arg(long)]
        drivers: PathBuf,
        /// Write what was found to this file
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::List => case::list(),
        Command::Case { name, seed, drivers, verbose, threads } => {
            let name = if threads { threads::name(&name) } else { name };
            case::run(&name, seed, drivers, verbose)
        }
        Command::Walk { name, drivers, from, to, every } => walk::run(&name, &drivers, from, to, every),
        Command::Boot { order } => story::run_boot(&order),
        Command::Bench { seed, drivers, json, only } => bench::run(seed, drivers, json.as_deref(), only),
        Command::Demo { image, make, drivers, json } => demo::run(&image, make, drivers, json.as_deref()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
