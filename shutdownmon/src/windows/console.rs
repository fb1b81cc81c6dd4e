//! The service's work in a console.

use std::process::ExitCode;

use shutdownmon_core::Monitor;
use xenstore_client::Client;

use super::{Windows, arming};

/// Runs until the console is closed or Ctrl+C is pressed: then Windows ends the process, and xenpci closes what it had open.
///
/// # Errors
/// None.
pub fn run() -> anyhow::Result<ExitCode> {
    let system = Windows::console();
    // The sender ends the other thread when this one is done.
    arming::beside(&system, |_end| Monitor::new(&system).run(Client::open));
    Ok(ExitCode::SUCCESS)
}
