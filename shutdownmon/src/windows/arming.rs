//! Arming in the running Windows: the thread of the service, and the commands of an administrator.

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};

use bootcfg::Programs;
use bootcfg::registry::SystemRegistry;
use shutdownmon_core::System;
use xenstore_client::{Client, Error, Store};

use super::Windows;
use crate::arming::facts::Nodes;
use crate::arming::{self, End, Keeper};

/// xenstore through xenpci.
struct Xenstore(Client);

impl Xenstore {
    fn open() -> io::Result<Self> {
        Client::open().map(Self).map_err(io::Error::other)
    }
}

impl Nodes for Xenstore {
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        match self.0.list(path) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            names => names.map_err(io::Error::other),
        }
    }

    fn read(&self, path: &str) -> io::Result<Option<String>> {
        match self.0.read_string(path) {
            Ok(text) => Ok(Some(text)),
            // A backend's directory may be closed to the domain, and its path may be none: that node says nothing then.
            Err(Error::Store(_) | Error::NotText | Error::Invalid(_)) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

fn system_drive() -> String {
    std::env::var("SystemDrive").unwrap_or_else(|_| "C:".into())
}

/// The thread that arms and has network settings go along, while `body` runs; `body` is given what ends it. Without an order
/// it ends with `body`.
pub fn beside<T>(system: &Windows, body: impl FnOnce(Sender<End>) -> T) -> T {
    let (sender, end) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (programs, drive) = (Programs::of_windows(), system_drive());
            let note = |level, text: &str| system.note(level, text);
            Keeper::new(&SystemRegistry, &programs, &drive, &note).keep(
                &end,
                Xenstore::open,
                &xentool::windows::carry_here,
            );
        });
        body(sender)
    })
}

/// Arms now, if everything that is needed for it works: an administrator's order, after failures too.
///
/// # Errors
/// The registry or the boot configuration cannot be read or written.
pub fn arm(system: &Windows) -> anyhow::Result<ExitCode> {
    arming::ask(&SystemRegistry)?;
    let (programs, drive) = (Programs::of_windows(), system_drive());
    let note = |level, text: &str| system.note(level, text);
    Keeper::new(&SystemRegistry, &programs, &drive, &note).look(Xenstore::open);
    print_status()?;
    Ok(ExitCode::SUCCESS)
}

/// The next boots use the emulated devices, until [`arm`].
///
/// # Errors
/// The registry or the boot configuration cannot be read or written.
pub fn disarm() -> anyhow::Result<ExitCode> {
    arming::disarm(&SystemRegistry, &Programs::of_windows())?;
    print_status()?;
    Ok(ExitCode::SUCCESS)
}

/// What was armed is armed no more: without the service nobody would look after it.
///
/// # Errors
/// The registry or the boot configuration cannot be read or written.
pub fn take_back() -> anyhow::Result<()> {
    Ok(arming::stand_down(&SystemRegistry, &Programs::of_windows())?)
}

/// Prints how it stands.
///
/// # Errors
/// The registry or the boot configuration cannot be read.
pub fn print_status() -> anyhow::Result<()> {
    for line in arming::status(&SystemRegistry, &Programs::of_windows())? {
        println!("{line}");
    }
    Ok(())
}
