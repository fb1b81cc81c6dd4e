//! setup: installs the suite and takes it away again.
//!
//! - [`package`]: what is installed, and whether it is whole.
//! - [`check`], [`foreign`]: whether the machine is one that it can be installed on.
//! - [`plan`]: which steps an installation takes; [`step`]: one step, done and undone.
//! - [`manifest`]: the record of what was changed.
//! - [`engine`]: goes through the steps, from wherever an earlier run was cut off.
//! - [`machine`]: the machine as a trait; `windows`: the one that this runs on.

pub mod boot;
pub mod check;
pub mod engine;
pub mod error;
pub mod foreign;
pub mod inf;
pub mod machine;
pub mod manifest;
pub mod package;
pub mod plan;
pub mod step;
#[cfg(windows)]
pub mod windows;

pub use check::{Facts, Refusal};
pub use error::Error;
pub use machine::Machine;
pub use manifest::Manifest;
pub use package::Package;
pub use plan::{Choice, Component};
