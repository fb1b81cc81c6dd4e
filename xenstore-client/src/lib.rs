//! xenstore from user mode.
//!
//! A [`Client`] is one connection. On Windows it goes over the device interface of `xenpci` ([`Client::open`]), for
//! which the caller is SYSTEM or an administrator. Anything else that carries xenstore's wire protocol is a
//! [`Transport`]: the socket of a xenstored, or a pipe.
//!
//! ```no_run
//! use xenstore_client::{Client, Store};
//!
//! # fn main() -> Result<(), xenstore_client::Error> {
//! # #[cfg(unix)]
//! let client = Client::connect_unix("/run/xenstored/socket")?;
//! # #[cfg(windows)]
//! # let client = Client::open()?;
//! client.write("data/note", "hello")?;
//! assert_eq!(client.read_string("data/note")?, "hello");
//! for name in client.list("device")? {
//!     println!("{name}");
//! }
//! // All of it or nothing; run again where somebody else interfered.
//! client.transaction(|transaction| {
//!     let asked = transaction.read_string("control/shutdown")?;
//!     transaction.write("control/shutdown", "")?;
//!     Ok(asked)
//! })?;
//! let watch = client.watch("control/shutdown")?;
//! while let Ok(path) = watch.wait() {
//!     println!("{path} changed");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A `Client` may be used by several threads at once. When its connection is lost every call fails with
//! [`Error::Disconnected`], for good: open a new one. A suspend or migration of the machine is no loss: watches stay and
//! fire once more, and transactions that were open are run again by [`Client::transaction`].

mod client;
mod error;
mod store;
mod transport;
mod watch;
#[cfg(windows)]
mod windows;

pub use client::Client;
pub use error::Error;
pub use store::{Store, Transaction};
pub use transport::Transport;
pub use watch::{Change, Watch};
#[cfg(windows)]
pub use windows::Device;
pub use xen_abi::errno::Errno;

/// What a call comes back with.
pub type Result<T> = std::result::Result<T, Error>;
