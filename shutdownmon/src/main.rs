//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "shutdownmon",
    version,
    about = "Shuts Windows down when the Xen toolstack wants it, and tells the toolstack what runs in the domain"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the service and start it
    Install,
    /// Stop the service and remove it
    Uninstall,
    /// Say whether the service runs, whether it reaches xenstore, and which devices the next boot uses
    Status,
    /// Have the next boots use the paravirtual devices, if they work; earlier failures are forgotten
    Arm,
    /// Have the next boots use the emulated devices
    Disarm,
    /// Make a zip file of what a bug report needs
    Collect {
        /// The file [default: xen-pv-report-<seconds>.zip, here]
        file: Option<std::path::PathBuf>,
    },
    /// Do the service's work in this console, until Ctrl+C
    Console,
    /// What the service manager starts
    #[command(hide = true)]
    Service,
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(windows)]
fn run(command: &Command) -> anyhow::Result<ExitCode> {
    use shutdownmon::windows::{Windows, arming, collect, console, service};
    match command {
        Command::Install => service::install(),
        Command::Uninstall => service::uninstall(),
        Command::Status => service::status(),
        Command::Arm => arming::arm(&Windows::console()),
        Command::Disarm => arming::disarm(),
        Command::Collect { file } => collect::run(file.clone()),
        Command::Console => console::run(),
        Command::Service => service::serve(),
    }
}

#[cfg(not(windows))]
fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let name = match command {
        Command::Install => "install",
        Command::Uninstall => "uninstall",
        Command::Status => "status",
        Command::Arm => "arm",
        Command::Disarm => "disarm",
        Command::Collect { .. } => "collect",
        Command::Console => "console",
        Command::Service => "service",
    };
    anyhow::bail!("`{name}` needs Windows")
}
