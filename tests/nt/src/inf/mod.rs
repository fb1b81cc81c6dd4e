//! The INF installer: reads INF files, chooses the driver of a device, and writes what the file asks for into the
//! registry and the system volume. All of it is pure and tested on the host.
pub mod install;
pub mod models;
pub mod net;
pub mod parse;
