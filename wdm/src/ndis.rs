//! NDIS 6.30: the binary interface (`abi`) and, on Windows, the safe side of a miniport.
//!
//! Neither wdk-sys nor mingw-w64 has NDIS 6, so the interface is declared here by hand, at the level of Windows 8 (6.30),
//! x64. Every structure carries assertions on its size and on the offsets that a driver relies on.
//!
//! - [`status`]: NDIS_STATUS as a type.
//! - `miniport`: the trait that a miniport implements, and the registration.
//! - `adapter`: what is asked of NDIS for one adapter, and the attributes that are told it.
//! - `config`: the adapter's keywords.
//! - `oid`: an OID request with its buffer checked.
//! - `send` and `receive`: net buffer lists on their way down and up.

pub mod abi;
pub mod status;

#[cfg(windows)]
mod adapter;
#[cfg(windows)]
mod config;
#[cfg(windows)]
mod mdl;
#[cfg(windows)]
mod miniport;
#[cfg(windows)]
mod oid;
#[cfg(windows)]
mod receive;
#[cfg(windows)]
mod send;

#[cfg(windows)]
pub use adapter::{Adapter, Description, Initializing, LinkState};
#[cfg(windows)]
pub use config::Configuration;
#[cfg(windows)]
pub use mdl::Slice;
#[cfg(windows)]
pub use miniport::{Halt, Miniport, PauseOutcome, PnpEvent, Version, register};
#[cfg(windows)]
pub use oid::{Kind, OidRequest, RssRequest};
#[cfg(windows)]
pub use receive::{Fragment, Packet, ReceiveBatch, ReceiveChain, ReceivePool, Returned};
#[cfg(windows)]
pub use send::{CancelId, SendChain, SendList, SendPacket};
