//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use xentool::hive::HiveFile;
use xentool::repair;

#[derive(Parser)]
#[command(
    name = "xentool",
    version,
    about = "Keeps network settings over a change of network cards; repairs a Windows that does not boot"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep static network settings over the change from emulated to paravirtual network cards and back
    Network {
        #[command(subcommand)]
        command: Network,
        /// The file of what is remembered [default: Xen PV\network.json in %ProgramFiles%]
        #[arg(long, global = true)]
        state: Option<PathBuf>,
        /// Also append every line to this file
        #[arg(long, global = true)]
        log: Option<PathBuf>,
    },
    /// Have a Windows that does not run boot from its emulated devices: for WinPE, or where its disk can be mounted
    Repair {
        /// Its drive, its Windows folder, or its SYSTEM hive
        place: PathBuf,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Leave the drivers enabled: only nothing is unplugged, and the emulated disks' drivers are loaded
        #[arg(long)]
        keep_drivers: bool,
    },
}

#[derive(Subcommand)]
enum Network {
    /// Remember the network cards that are there: to be run while the emulated ones are
    Remember,
    /// Give one card of each pair with the same address the settings of the other
    Copy {
        /// Which card gets them
        #[arg(long)]
        to: To,
        /// Also if it was configured by hand
        #[arg(long)]
        force: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// What the service does in every boot: the cards that are there get what their twins had, and give what they have
    Carry,
    /// Take back every change that was made
    Undo {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    Paravirtual,
    Emulated,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Network { command, state, log } => network(&command, state, log.as_deref()),
        Command::Repair { place, dry_run, keep_drivers } => mend(&place, dry_run, keep_drivers),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn mend(place: &Path, dry_run: bool, keep_drivers: bool) -> anyhow::Result<()> {
    let file = repair::find(place)?;
    println!("hive: {}", file.display());
    let changes = if dry_run { plan_file(&file, keep_drivers) } else { change(&file, keep_drivers) };
    let changes = changes.with_context(|| format!("{}", file.display()))?;
    for change in &changes {
        println!("{}{change}", if dry_run { "would change " } else { "changed " });
    }
    if changes.is_empty() {
        println!("nothing to change: if this Windows does not boot, these drivers are not the cause");
    }
    Ok(())
}

/// Reads the file itself.
fn read_file(file: &Path, keep_drivers: bool) -> anyhow::Result<(HiveFile, Vec<repair::Change>)> {
    // The library that reads hives panics at some kinds of damage.
    std::panic::set_hook(Box::new(|why| eprintln!("error: the hive is damaged, and nothing was changed: {why}")));
    let hive = HiveFile::read(file)?;
    let changes = repair::plan(&hive, keep_drivers)?;
    Ok((hive, changes))
}

fn plan_file(file: &Path, keep_drivers: bool) -> anyhow::Result<Vec<repair::Change>> {
    Ok(read_file(file, keep_drivers)?.1)
}

fn back_up(file: &Path) -> anyhow::Result<()> {
    println!("copy: {}", repair::back_up(file).context("nothing is changed without a copy")?.display());
    Ok(())
}

/// Has Windows load the hive, and changes it there; what was changed.
#[cfg(windows)]
fn change(file: &Path, keep_drivers: bool) -> anyhow::Result<Vec<repair::Change>> {
    use xentool::registry::{RegistryMut, Value};
    // First: putting in the log changes the file.
    back_up(file)?;
    let hive = xentool::windows::LoadedHive::load(file).context("Windows does not load it")?;
    let mut registry = hive.registry();
    let changes = repair::plan(&registry, keep_drivers)?;
    for change in &changes {
        registry.set(&change.key, change.name, &Value::number(change.after))?;
    }
    hive.close().context("unloading the hive")?;
    Ok(changes)
}

/// Changes the file itself; what was changed.
#[cfg(not(windows))]
fn change(file: &Path, keep_drivers: bool) -> anyhow::Result<Vec<repair::Change>> {
    let (mut hive, changes) = read_file(file, keep_drivers)?;
    if changes.is_empty() {
        return Ok(changes);
    }
    back_up(file)?;
    for change in &changes {
        hive.set_number(&change.key, change.name, change.after)?;
    }
    hive.write(file)?;
    Ok(changes)
}

#[cfg(windows)]
fn network(command: &Network, state: Option<PathBuf>, log: Option<&Path>) -> anyhow::Result<()> {
    use std::io::Write;

    use xentool::network::Kind;
    use xentool::network::command::{Tools, carry, copy, remember, undo};
    use xentool::windows::{LocalMachine, PowerShell, cards, state_file};

    let file = match state {
        Some(file) => file,
        None => state_file()?,
    };
    let mut log = match log {
        Some(file) => {
            let open = std::fs::OpenOptions::new().create(true).append(true).open(file);
            Some(open.with_context(|| format!("cannot write {}", file.display()))?)
        }
        None => None,
    };
    let mut say = |text: &str| {
        println!("{text}");
        if let Some(log) = &mut log
            && let Err(error) = writeln!(log, "{text}")
        {
            eprintln!("warning: the log cannot be written: {error}");
        }
    };
    let mut registry = LocalMachine::system();
    let cards = cards(&registry)?;
    let mut tools = Tools { registry: &mut registry, shell: &PowerShell, file: &file, cards, say: &mut say };
    match *command {
        Network::Remember => remember(&mut tools),
        Network::Copy { to, force, dry_run } => {
            let to = match to {
                To::Paravirtual => Kind::Paravirtual,
                To::Emulated => Kind::Emulated,
            };
            copy(&mut tools, to, force, dry_run)
        }
        Network::Carry => carry(&mut tools),
        Network::Undo { dry_run } => undo(&mut tools, dry_run),
    }
}

#[cfg(not(windows))]
fn network(command: &Network, _state: Option<PathBuf>, _log: Option<&Path>) -> anyhow::Result<()> {
    let name = match command {
        Network::Remember => "remember",
        Network::Copy { .. } => "copy",
        Network::Carry => "carry",
        Network::Undo { .. } => "undo",
    };
    anyhow::bail!("`network {name}` needs the Windows whose network cards are meant")
}
