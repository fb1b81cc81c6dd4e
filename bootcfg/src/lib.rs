//! The boot entries of Windows, as the installer and the service change them.
//!
//! The default entry carries `NOGPLPV` and starts Windows from the emulated devices. A copy of it carries `GPLPV`. After
//! each good boot the service puts that copy into `bootsequence`, which the boot manager takes out by itself before it
//! starts anything: a boot that dies is followed by the default entry.
//!
//! - [`options`]: the words of a boot entry's load options.
//! - [`output`]: what `bcdedit /enum` prints, in any language.
//! - [`store`]: the entries that matter here, and what is to be known of them.
//! - [`process`]: programs of Windows, with a limit to their time.
//! - [`tool`]: `bcdedit` and `manage-bde` behind a trait, so that everything else runs anywhere.
//! - [`bcd`]: the changes, one command each, read back where much depends on it.
//! - [`registry`]: where it is kept what was changed.
//! - [`setup`]: making the two entries, and taking them away again.
//! - [`arm`]: which boot is next.

pub mod arm;
pub mod bcd;
pub mod options;
pub mod output;
pub mod process;
pub mod registry;
pub mod setup;
pub mod store;
pub mod tool;

mod error;

pub use bcd::Bcd;
pub use error::{Error, Result};
pub use options::Mode;
pub use store::{Entry, Id, Store};
pub use tool::{BitLocker, Programs, Tool};
