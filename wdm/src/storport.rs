//! Storport: the binary interface (`abi`) and, on Windows, safe views for a physical miniport (`miniport`).
//!
//! Neither wdk-sys nor mingw-w64 has a usable `storport.h`, so the interface is declared here by hand, at the level of
//! Windows 10, x64. Every structure carries assertions on its size and on the offsets that a driver relies on.

pub mod abi;
#[cfg(windows)]
mod hook;
#[cfg(windows)]
mod miniport;

#[cfg(windows)]
pub use hook::{PnpFilter, hook_pnp};
#[cfg(windows)]
pub use miniport::{Adapter, DeviceObjects, PortConfig, ScatterGather, Srb, initialize};
