//! The SCSI disk (or CD-ROM) that Windows sees: commands decoded to what the ring can do, and everything that is
//! answered without it. Pure: no Windows, no Xen.
//!
//! Standards: SPC-4 (INQUIRY, mode pages, sense data, REPORT LUNS), SBC-3 (block commands, capacity, UNMAP, VPD B0 to
//! B2), MMC-5 for the little that a CD-ROM needs.

mod command;
mod inquiry;
mod mode;
pub mod sense;
mod unit;

pub use command::{
    Outcome, Transfer, TransferKind, decode, is_inquiry, moves_blocks, reports_attention, unmap_count, unmap_range,
};
pub use sense::Sense;
pub use unit::{Attention, Discard, Serial, Unit};
