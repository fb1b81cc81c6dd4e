//! The cases, one subject a file.

mod boot;
mod faults;
mod hostile;
mod hotplug;
mod io;
pub mod load;
mod scsi;
mod suspend;

use crate::case::Case;

/// Every case, in the order in which a person wants to see them fail.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [boot::CASES, io::CASES, scsi::CASES, hotplug::CASES, suspend::CASES, hostile::CASES, faults::CASES]
        .into_iter()
        .flatten()
}
