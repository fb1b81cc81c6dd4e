//! xentool: what an administrator needs around the drivers.
//!
//! - [`registry`]: the registry as these tools see it, whatever holds it; [`hive`]: a hive file as one.
//! - [`network`]: keeps static network settings over the change from an emulated to a paravirtual network card and back.
//! - [`repair`]: makes a Windows boot again from its emulated devices.
//! - `windows`: the registry, hives and the network of the Windows that this runs on.

pub mod hive;
pub mod network;
pub mod registry;
pub mod repair;
#[cfg(windows)]
pub mod windows;
