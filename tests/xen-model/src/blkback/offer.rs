//! What the backend writes of the disk into its directory, and when.

use super::{Disk, RingKeys, Server};
use crate::abi::blkif;
use crate::hv::Hypervisor;
use crate::store::Store;
use hostile::Hostile;

/// A key and its value.
pub(super) type Key = (&'static str, String);

fn flag(on: bool) -> String {
    u32::from(on).to_string()
}

impl Disk {
    /// What is written before the backend waits for the frontend. Of blkback (`xen_blkbk_probe`) that is what the ring may
    /// be; of QEMU (`xen_block_realize`, hw/block/xen-block.c) everything.
    pub(super) fn offer(&mut self, store: &mut Store, hv: &mut Hypervisor) {
        let back = self.backend_path();
        let order = self.options.max_ring_page_order;
        let mut keys = Vec::new();
        if self.options.server == Server::Blkback {
            keys.push(("multi-queue-max-queues", "1".to_owned()));
        }
        if matches!(self.options.ring_keys, RingKeys::Order | RingKeys::Both) {
            keys.push(("max-ring-page-order", order.to_string()));
        }
        if matches!(self.options.ring_keys, RingKeys::Pages | RingKeys::Both) {
            keys.push(("max-ring-pages", (1u32 << order).to_string()));
        }
        if let Some(n) = self.options.max_indirect_segments {
            keys.push(("feature-max-indirect-segments", n.to_string()));
        }
        if self.options.server == Server::Qdisk {
            keys.extend(self.feature_keys());
            keys.extend(self.medium_keys());
        }
        self.write_keys(store, hv, &back, keys);
    }

    /// What the disk can do.
    pub(super) fn feature_keys(&self) -> Vec<Key> {
        let mut keys = vec![("feature-flush-cache", flag(self.options.flush))];
        let qdisk = self.options.server == Server::Qdisk;
        if !qdisk {
            keys.push(("feature-barrier", flag(self.options.barrier)));
            keys.push(("feature-persistent", flag(self.options.persistent)));
        }
        if let Some(discard) = self.options.discard {
            keys.push(("feature-discard", flag(true)));
            keys.push(("discard-granularity", discard.granularity.to_string()));
            keys.push(("discard-alignment", discard.alignment.to_string()));
            if !qdisk {
                keys.push(("discard-secure", flag(discard.secure)));
            }
        }
        keys
    }

    /// What the disk is. From now on its size is known to the frontend.
    pub(super) fn medium_keys(&mut self) -> Vec<Key> {
        let info = [
            (self.options.cdrom, blkif::INFO_CDROM),
            (self.options.removable, blkif::INFO_REMOVABLE),
            (self.options.read_only, blkif::INFO_READONLY),
        ];
        let info: u32 = info.into_iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum();
        self.sectors_told = self.backing.sectors();
        let mut keys = vec![
            ("sectors", self.sectors_told.to_string()),
            ("info", info.to_string()),
            ("sector-size", self.options.sector_size.to_string()),
        ];
        if let Some(size) = self.options.physical_sector_size {
            keys.push(("physical-sector-size", size.to_string()));
        }
        keys
    }

    /// Writes them, as far as they are not left out, and wrong if that is due.
    pub(super) fn write_keys(&mut self, store: &mut Store, hv: &mut Hypervisor, back: &str, keys: Vec<Key>) {
        const ABSURD: [&str; 9] =
            ["0", "-1", "18446744073709551616", "4294967296", "abc", "", "1e9", "0x10", "18446744073709551615"];
        let due = self.plans.due(Hostile::AbsurdKeys);
        let absurd = due.then(|| hv.below(keys.len() as u64) as usize);
        for (index, (key, mut value)) in keys.into_iter().enumerate() {
            if self.options.omitted.contains(&key) {
                continue;
            }
            if absurd == Some(index) {
                ABSURD[hv.below(ABSURD.len() as u64) as usize].clone_into(&mut value);
                self.absurd.push((key, value.clone()));
            }
            store.write(&format!("{back}/{key}"), value);
        }
    }
}
