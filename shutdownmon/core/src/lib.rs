//! What shutdownmon does with xenstore, whatever the operating system and however xenstore is reached.
//!
//! - [`request`]: what the toolstack may ask for in `control/shutdown`.
//! - [`facts`]: what is told of Windows, and under which nodes.
//! - [`monitor`]: the loop that connects, publishes, obeys, and connects again. It knows Windows only as a [`System`].

pub mod facts;
pub mod monitor;
pub mod request;

pub use facts::{Adapter, Facts};
pub use monitor::{Monitor, Stopper};
pub use request::{Request, Shutdown};

use std::io;

/// How serious a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something did not work.
    Error,
    /// Something is wrong and was dealt with.
    Warning,
    /// What an administrator may want to know.
    Information,
}

/// The operating system, as far as the monitor needs it.
pub trait System {
    /// Begins to shut down. Returns once that has begun.
    ///
    /// # Errors
    /// The operating system refuses.
    fn shut_down(&self, how: Shutdown) -> io::Result<()>;

    /// What is to be told of it now.
    fn facts(&self) -> Facts;

    /// The domain was suspended and goes on, perhaps much later: have the clock set.
    ///
    /// # Errors
    /// The operating system refuses.
    fn set_clock(&self) -> io::Result<()>;

    /// Says something to the administrator.
    fn note(&self, level: Level, text: &str);
}
