//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use installer::Component;

#[derive(Parser)]
#[command(
    name = "setup",
    version,
    about = "Installs the Xen PV drivers and takes them away again",
    after_help = "Exit codes: 0 done; 3010 done, restart Windows; 2 wrong command line; 3 this Windows or processor is not \
                  supported; 4 not an administrator; 5 Secure Boot, memory integrity or no test mode, with drivers signed \
                  for tests; 6 drivers of another suite; 7 damaged package; 8 a newer version is installed; 9 nothing is \
                  installed, or not whole; 10 a step failed; 11 BitLocker; 12 the record of changes; 13 no space; 14 \
                  another setup runs"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Add every line to this file [default: xen-pv-setup.log in %TEMP%]
    #[arg(long, global = true)]
    log: Option<PathBuf>,
}

/// What an installation is told.
#[derive(clap::Args)]
struct Wanted {
    /// The folder of the package [default: the one that this program is in]
    #[arg(long)]
    package: Option<PathBuf>,
    /// What is installed, beside the bus driver
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Component::ALL)]
    components: Vec<Component>,
    /// Put Windows into its test mode, for drivers that are signed for tests
    #[arg(long)]
    test_signing: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Say whether the package is whole and whether it can be installed here
    Check(Wanted),
    /// Install the package, or bring what is installed up to it
    Install(Wanted),
    /// Do the installation again that was made or cut off, from its own copy of the package
    Repair,
    /// Take everything away
    Uninstall,
    /// Say what is installed
    Status,
}

fn main() -> ExitCode {
    let code = Cli::try_parse().map_or_else(|error| refused(&error), |cli| run(&cli));
    std::process::exit(code)
}

/// A command line that is not understood stands in the log too: nobody sees what is printed where the installer asks nothing.
#[cfg(windows)]
fn refused(error: &clap::Error) -> i32 {
    use installer::Machine;
    // A wish for help is no error.
    if !error.use_stderr() {
        error.exit();
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    let named = arguments.iter().position(|argument| argument == "--log").and_then(|at| arguments.get(at + 1));
    let machine = installer::windows::Windows::new(commands::log(named.map(PathBuf::from)));
    error.to_string().lines().for_each(|line| machine.note(line));
    machine.note(&format!("exit code {}", error.exit_code()));
    error.exit_code()
}

#[cfg(not(windows))]
fn refused(error: &clap::Error) -> i32 {
    error.exit()
}

#[cfg(windows)]
fn run(cli: &Cli) -> i32 {
    commands::run(cli)
}

#[cfg(not(windows))]
fn run(cli: &Cli) -> i32 {
    let log = cli.log.as_ref().map(|path| format!(", so nothing is written to {}", path.display())).unwrap_or_default();
    let name = match &cli.command {
        Command::Check(wanted) | Command::Install(wanted) => format!(
            "installing {} from {}{}",
            wanted.components.iter().map(|component| component.name()).collect::<Vec<_>>().join(", "),
            wanted.package.clone().unwrap_or_default().display(),
            if wanted.test_signing { " in test mode" } else { "" }
        ),
        Command::Repair => "repairing".into(),
        Command::Uninstall => "uninstalling".into(),
        Command::Status => "the status".into(),
    };
    eprintln!("error: {name} needs Windows{log}");
    1
}

#[cfg(windows)]
mod commands {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::path::PathBuf;

    use installer::engine::{self, Uninstalled};
    use installer::error::{DONE, RESTART};
    use installer::manifest::Goal;
    use installer::package::sum;
    use installer::plan::UNINSTALLER;
    use installer::windows::{Alone, Windows, facts, root};
    use installer::{Choice, Error, Machine, Manifest, Package, check};

    use super::{Cli, Command, Wanted};

    /// Exit codes beside those of [`Error`].
    const NOT_WHOLE: i32 = 9;
    const BUSY: i32 = 14;

    /// The log, at the end of what is in it, with the first line of this run.
    pub fn log(named: Option<PathBuf>) -> Option<File> {
        let path = named.unwrap_or_else(|| std::env::temp_dir().join("xen-pv-setup.log"));
        let log = OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = &log {
            eprintln!("warning: no log is written: {}: {error}", path.display());
        }
        let mut log = log.ok()?;
        // A log that cannot be written to has nowhere to say so.
        let _ = writeln!(log, "\r\nsetup {} {}\r", env!("CARGO_PKG_VERSION"), arguments());
        Some(log)
    }

    pub fn run(cli: &Cli) -> i32 {
        let machine = Windows::new(log(cli.log.clone()));
        let code = match command(&machine, &cli.command) {
            Ok(code) => code,
            Err(error) => {
                error.to_string().lines().for_each(|line| machine.note(&format!("error: {line}")));
                error.exit_code()
            }
        };
        machine.note(&format!("exit code {code}"));
        code
    }

    fn arguments() -> String {
        std::env::args().skip(1).collect::<Vec<_>>().join(" ")
    }

    fn package_folder(wanted: &Wanted) -> Result<String, Error> {
        let here = || std::env::current_exe().ok().and_then(|path| path.parent().map(std::path::Path::to_owned));
        let folder = wanted.package.clone().or_else(here);
        let folder = folder.ok_or_else(|| Error::Package("there is no folder of a package".into()))?;
        let folder = std::path::absolute(&folder).map_err(|error| Error::Package(error.to_string()))?;
        folder.into_os_string().into_string().map_err(|_| Error::Package("its path is no text".into()))
    }

    fn gather() -> Result<check::Facts, Error> {
        facts().map_err(|error| Error::Step { what: "looking at this machine".into(), error })
    }

    fn restart_code(restart: bool) -> i32 {
        if restart { RESTART } else { i32::from(DONE) }
    }

    fn choice(machine: &Windows, wanted: &Wanted, folder: &str) -> Result<Choice, Error> {
        let path = format!(r"{folder}\{UNINSTALLER}");
        let uninstaller = machine.read(&path).map_err(|error| Error::Package(format!("{path}: {error}")))?;
        Ok(Choice {
            components: wanted.components.clone(),
            test_signing: wanted.test_signing,
            uninstaller: uninstaller.map(|content| sum(&content)),
        })
    }

    fn command(machine: &Windows, command: &Command) -> Result<i32, Error> {
        let root = root();
        let alone = Alone::new().map_err(|error| Error::Step { what: "looking for another setup".into(), error })?;
        if alone.is_none() {
            machine.note("another setup runs: wait for it");
            return Ok(BUSY);
        }
        match command {
            Command::Check(wanted) => {
                let folder = package_folder(wanted)?;
                let package = Package::open(machine, &folder)?;
                let refusals =
                    check::refusals(machine, &gather()?, &package, &choice(machine, wanted, &folder)?, false);
                if !refusals.is_empty() {
                    return Err(Error::Refused(refusals));
                }
                machine.note(&format!("version {} can be installed", package.version));
                Ok(i32::from(DONE))
            }
            Command::Install(wanted) => {
                let folder = package_folder(wanted)?;
                let package = Package::open(machine, &folder)?;
                let choice = choice(machine, wanted, &folder)?;
                engine::install(machine, &gather()?, &package, &root, &choice).map(restart_code)
            }
            Command::Repair => {
                let manifest = Manifest::load(machine, &root)?.ok_or(Error::NotInstalled)?;
                if manifest.goal == Goal::Uninstall {
                    return uninstall(machine, &root);
                }
                let package = Package::open(machine, &root)?;
                let wanted = Wanted {
                    package: None,
                    components: manifest.components.clone(),
                    test_signing: manifest.test_signing,
                };
                let choice = choice(machine, &wanted, &root)?;
                engine::install(machine, &gather()?, &package, &root, &choice).map(restart_code)
            }
            Command::Uninstall => uninstall(machine, &root),
            Command::Status => status(machine, &root),
        }
    }

    fn uninstall(machine: &Windows, root: &str) -> Result<i32, Error> {
        match engine::uninstall(machine, root)? {
            Uninstalled::Whole { restart } => Ok(restart_code(restart)),
            Uninstalled::AfterRestart => {
                machine.note("restart Windows: the rest goes when it starts; `setup status` says whether it did");
                Ok(RESTART)
            }
        }
    }

    fn status(machine: &Windows, root: &str) -> Result<i32, Error> {
        let Some(manifest) = Manifest::load(machine, root)? else {
            machine.note("nothing is installed");
            return Ok(NOT_WHOLE);
        };
        let state = match (manifest.goal, manifest.complete) {
            (Goal::Install, true) => "is installed",
            (Goal::Install, false) => "is half installed: run the installer again, or uninstall",
            (Goal::Uninstall, _) => "is half uninstalled: uninstall again, after a restart if one is due",
        };
        machine.note(&format!("version {} {state}", manifest.version));
        let names: Vec<&str> = manifest.components.iter().map(|component| component.name()).collect();
        machine.note(&format!("components: {}", names.join(", ")));
        for record in &manifest.records {
            machine.note(&format!("  {}", record.step.subject()));
        }
        Ok(if manifest.complete { i32::from(DONE) } else { NOT_WHOLE })
    }
}
