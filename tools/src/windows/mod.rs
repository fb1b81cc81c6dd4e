//! The Windows that this runs on.

mod network;
mod offline;
mod registry;
mod shell;

pub use network::{cards, carry_here, state_file};
pub use offline::LoadedHive;
pub use registry::LocalMachine;
pub use shell::PowerShell;
