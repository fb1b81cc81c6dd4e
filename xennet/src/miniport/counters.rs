//! What a queue has done. Each direction counts under its own lock; a query adds the queues up.

use core::ops::AddAssign;

use super::filter::Class;

/// Packets and bytes by destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    unicast: Count,
    multicast: Count,
    broadcast: Count,
    /// Packets that were not handed on although nothing was wrong with them.
    pub discards: u64,
    /// Packets that something was wrong with.
    pub errors: u64,
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, with the Ethernet header.
    pub bytes: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl Traffic {
    /// Counts `packets` of `bytes` in all.
    pub fn count(&mut self, class: Class, packets: u64, bytes: u64) {
        let count = match class {
            Class::Unicast => &mut self.unicast,
            Class::Multicast => &mut self.multicast,
            Class::Broadcast => &mut self.broadcast,
        };
        *count += Count { packets, bytes };
    }

    /// Those for one station.
    pub const fn unicast(&self) -> Count {
        self.unicast
    }

    /// Those for groups.
    pub const fn multicast(&self) -> Count {
        self.multicast
    }

    /// Those for everybody.
    pub const fn broadcast(&self) -> Count {
        self.broadcast
    }

    /// All of them.
    pub fn total(&self) -> Count {
        let mut total = self.unicast;
        total += self.multicast;
        total += self.broadcast;
        total
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.unicast += other.unicast;
        self.multicast += other.multicast;
        self.broadcast += other.broadcast;
        self.discards += other.discards;
        self.errors += other.errors;
    }
}
