//! The blkif frontend: no Windows in it. It is told what happened and returns what has to be done; it never calls the
//! miniport.

pub mod config;
pub mod io;
pub mod ring;
#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests may run out of memory")]
mod tests;

use crate::scsi::{Serial, Unit};
use config::Parameters;

/// Most bytes of one request.
pub const MAX_TRANSFER: u32 = 4 << 20;

/// The logical unit that a backend's parameters make.
pub fn unit(parameters: &Parameters, serial: Serial) -> Unit {
    Unit {
        sectors: parameters.sectors,
        block: parameters.sector_size,
        physical_exponent: (parameters.physical_sector_size / parameters.sector_size).max(1).ilog2() as u8,
        read_only: parameters.read_only,
        removable: parameters.removable,
        cdrom: parameters.cdrom,
        cache: parameters.abilities.flush.is_some() && !parameters.read_only,
        discard: parameters.discard,
        serial,
        max_transfer: MAX_TRANSFER,
    }
}
