//! The Windows that this runs on.

mod offline;
mod registry;
mod shell;

pub use offline::LoadedHive;
pub use registry::LocalMachine;
pub use shell::PowerShell;
