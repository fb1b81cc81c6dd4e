//! Which received packets Windows wants: its packet filter and multicast list. Each queue has a copy under its own lock.

use wdm::ndis::abi::filter;

/// Bytes of an Ethernet address.
pub type Address = [u8; 6];

/// Most addresses in the multicast list.
pub const MULTICAST_MAX: usize = 32;

/// What can be asked for.
pub const SUPPORTED: u32 =
    filter::DIRECTED | filter::MULTICAST | filter::ALL_MULTICAST | filter::BROADCAST | filter::PROMISCUOUS;

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// One station.
    Unicast,
    /// A group.
    Multicast,
    /// Everybody.
    Broadcast,
}

impl Class {
    /// By the destination address.
    #[inline]
    pub fn of(destination: Address) -> Self {
        if destination[0] & 1 == 0 {
            Self::Unicast
        } else if destination == [0xff; 6] {
            Self::Broadcast
        } else {
            Self::Multicast
        }
    }
}

/// The filter.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// `NDIS_PACKET_TYPE_`.
    pub bits: u32,
    /// The address in use.
    own: Address,
    list: [Address; MULTICAST_MAX],
    count: usize,
}

impl Filter {
    /// Nothing is wanted yet.
    pub const fn new(own: Address) -> Self {
        Self { bits: 0, own, list: [[0; 6]; MULTICAST_MAX], count: 0 }
    }

    /// The address in use.
    pub const fn own(&self) -> Address {
        self.own
    }

    /// The multicast list.
    pub fn list(&self) -> &[Address] {
        self.list.get(..self.count).unwrap_or(&[])
    }

    /// Replaces the multicast list by at most [`MULTICAST_MAX`] addresses.
    pub fn set_list(&mut self, addresses: &[Address]) {
        self.count = 0;
        for (to, from) in self.list.iter_mut().zip(addresses) {
            *to = *from;
            self.count += 1;
        }
    }

    /// Whether a packet for `destination` is wanted.
    pub fn accepts(&self, destination: Address, class: Class) -> bool {
        if self.bits & filter::PROMISCUOUS != 0 {
            return true;
        }
        match class {
            Class::Unicast => self.bits & filter::DIRECTED != 0 && destination == self.own,
            Class::Broadcast => self.bits & filter::BROADCAST != 0,
            Class::Multicast => {
                self.bits & filter::ALL_MULTICAST != 0
                    || self.bits & filter::MULTICAST != 0 && self.list().contains(&destination)
            }
        }
    }
}
