//! The cases, one subject a file.

mod boot;
pub mod control;
mod faults;
pub mod hide;
mod hostile;
mod hotplug;
mod io;
pub mod load;
mod media;
mod net;
mod net_adapter;
mod net_churn;
mod net_faults;
mod net_hostile;
pub mod net_load;
mod net_offload;
mod net_rss;
mod scsi;
mod storm;
mod stub;
mod suspend;

use crate::case::Case;

/// Every case, in the order in which a person wants to see them fail.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        boot::CASES,
        hide::CASES,
        io::CASES,
        scsi::CASES,
        media::CASES,
        hotplug::CASES,
        stub::CASES,
        suspend::CASES,
        control::CASES,
        hostile::CASES,
        storm::CASES,
        faults::CASES,
        net::CASES,
        net_offload::CASES,
        net_rss::CASES,
        net_adapter::CASES,
        net_churn::CASES,
        net_hostile::CASES,
        net_hostile::HANDSHAKES,
        net_faults::CASES,
    ]
    .into_iter()
    .flatten()
}
