//! What a queue sends of its own accord: frames that announce addresses, and changes of the backend's multicast filter.

use alloc::vec::Vec;

use xen_abi::netif::{Extra, TxFlags, TxRequest};
use xenbus::{client::Bus, pages::Memory};

use super::{
    CHUNK, Queue,
    table::{FILTER, OWN},
};
use crate::front::{PAGE, Packet, Progress, announce::Learned};

/// Multicast addresses that Linux's netback filters by (`XEN_NETBK_MCAST_MAX`).
pub const MULTICAST_ADDRESSES: usize = 64;

/// The backend's multicast filter: what it should be, and what it was told to be; [`MULTICAST_ADDRESSES`] each at most.
pub(super) struct Filter {
    wanted: Vec<[u8; 6]>,
    told: Vec<[u8; 6]>,
    refused: bool,
}

impl Filter {
    /// None: no memory.
    pub fn new() -> Option<Self> {
        let (mut wanted, mut told) = (Vec::new(), Vec::new());
        wanted.try_reserve_exact(MULTICAST_ADDRESSES).ok()?;
        told.try_reserve_exact(MULTICAST_ADDRESSES).ok()?;
        Some(Self { wanted, told, refused: false })
    }

    /// A new backend has been told nothing.
    pub fn forget(&mut self) {
        self.told.clear();
        self.refused = false;
    }

    pub const fn answered(&mut self, okay: bool) {
        self.refused |= !okay;
    }

    /// The next change to tell; addresses are removed first, so that the backend has room for the others.
    fn next(&self) -> Option<Extra> {
        if let Some(address) = self.told.iter().find(|address| !self.wanted.contains(address)) {
            return Some(Extra::McastDel(*address));
        }
        self.wanted.iter().find(|address| !self.told.contains(address)).map(|address| Extra::McastAdd(*address))
    }

    /// That change was told.
    fn tell(&mut self, change: Extra) {
        match change {
            Extra::McastAdd(address) => {
                // No more are wanted than there is room for.
                self.told.push(address);
            }
            Extra::McastDel(address) => {
                self.told.retain(|told| *told != address);
            }
            _ => {}
        }
    }
}

impl<P: Packet, M: Memory> Queue<P, M> {
    /// The multicast addresses to receive, as far as the backend filters; [`Queue::flush`] tells it, and each new
    /// connection is told again. False: more than [`MULTICAST_ADDRESSES`]; nothing changed.
    pub fn set_multicast(&mut self, addresses: &[[u8; 6]]) -> bool {
        if addresses.len() > MULTICAST_ADDRESSES {
            return false;
        }
        self.filter.refused = false;
        self.filter.wanted.clear();
        self.filter.wanted.extend_from_slice(addresses);
        true
    }

    /// Whether this backend refused a change of its multicast filter since the last [`Queue::set_multicast`]: what it
    /// passes is not what was asked for.
    pub const fn multicast_refused(&self) -> bool {
        self.filter.refused
    }

    /// Pushes changes of the filter while there is room.
    pub(super) fn push_filter(&mut self) {
        while self.link.as_ref().is_some_and(|link| link.ring.free() >= 2)
            && let Some(change) = self.filter.next()
            && let Some((_, id)) = self.take_slot(FILTER)
        {
            self.push_request(&TxRequest { gref: 0, offset: 0, flags: TxFlags::EXTRA_INFO.bits(), id, size: 0 });
            self.push_extra(change);
            self.filter.tell(change);
        }
    }

    /// Sends a frame for each address in `learned`, so that the network learns where the guest is now: three times,
    /// a second or so apart, after a migration. What has no room at the moment is left out.
    pub fn announce<B: Bus>(&mut self, bus: &B, learned: &Learned) -> Progress {
        for frame in learned.frames() {
            if self.link.as_ref().is_some_and(|link| link.running) && !self.broken {
                self.send_own(frame.bytes());
            }
        }
        self.flush(bus)
    }

    /// Pushes a frame that fits into a head's chunk.
    fn send_own(&mut self, frame: &[u8]) {
        if frame.len() > CHUNK || self.link.as_ref().is_none_or(|link| link.ring.free() == 0) {
            return;
        }
        let Some((slot, id)) = self.take_slot(OWN) else { return };
        let at = usize::from(slot) * CHUNK;
        let Some(link) = &self.link else { return };
        link.pool.write(at, frame);
        let Some(gref) = link.pool_refs.get(at / PAGE).copied() else { return };
        let (offset, size) = ((at % PAGE) as u16, frame.len() as u16);
        self.push_request(&TxRequest { gref, offset, flags: 0, id, size });
        self.counters.packets += 1;
        self.counters.bytes += frame.len() as u64;
    }
}
