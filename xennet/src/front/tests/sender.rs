//! A transmit queue with a bus, a backend, and packets in pieces of the guest's memory.

use std::{cell::Cell, rc::Rc, vec::Vec};

use fake_bus::{Pages, Ram, TestBus};

use super::{
    backend::{Backend, Sent},
    frames::MAC,
};
use crate::front::{
    Abilities, Offload, Packet, Progress, Run, SetupError,
    tx::{POOL_PAGES, Queue, Status},
};

/// Everything that a backend can do.
pub const ALL: Abilities =
    Abilities { scatter: true, checksum_v4: true, checksum_v6: true, gso_v4: true, gso_v6: true, trusted: true };

/// Frames that packets lie in.
pub const PACKETS: core::ops::Range<u64> = 0x4_0000..u64::MAX;

/// A packet in pieces of the guest's memory.
pub struct TestPacket {
    pub name: u32,
    ram: Ram,
    runs: Vec<(u64, u32)>,
    len: u32,
    offload: Offload,
    /// Whether its bytes can be reached.
    pub mapped: bool,
    dropped: Rc<Cell<u32>>,
}

impl Drop for TestPacket {
    fn drop(&mut self) {
        self.dropped.set(self.dropped.get() + 1);
    }
}

impl Packet for TestPacket {
    fn len(&self) -> u32 {
        self.len
    }
    fn offload(&self) -> Offload {
        self.offload
    }
    fn run(&mut self, offset: u32) -> Option<Run> {
        let mut at = 0;
        for (address, len) in &self.runs {
            if offset < at + len {
                return Some(Run { address: address + u64::from(offset - at), bytes: at + len - offset });
            }
            at += len;
        }
        None
    }
    fn has_destination(&mut self, address: [u8; 6]) {
        assert_eq!((0..6).map(|at| self.byte(at)).collect::<Vec<_>>(), address);
    }
    fn first<const N: usize>(&self) -> Option<[u8; N]> {
        let (address, len) = *self.runs.first()?;
        let mut bytes = [0; N];
        if !self.mapped || (len as usize) < N {
            return None;
        }
        self.ram.read(address, &mut bytes);
        Some(bytes)
    }
    fn copy(&mut self, offset: u32, out: &mut [u8]) -> bool {
        if !self.mapped || offset as usize + out.len() > self.len as usize {
            return false;
        }
        for (index, byte) in out.iter_mut().enumerate() {
            *byte = self.byte(offset + index as u32);
        }
        true
    }
}

impl TestPacket {
    fn byte(&mut self, offset: u32) -> u8 {
        let Run { address, .. } = self.run(offset).unwrap();
        let mut one = [0];
        self.ram.read(address, &mut one);
        one[0]
    }
}

/// A queue, its bus, and a backend.
pub struct Rig {
    pub bus: TestBus,
    pub ram: Ram,
    pub queue: Queue<TestPacket, Pages>,
    pub backend: Option<Backend>,
    next_frame: u64,
    next_name: u32,
    made: u32,
    /// Packets that were dropped.
    pub dropped: Rc<Cell<u32>>,
    ring: Option<Pages>,
    pool: Option<Pages>,
}

impl Rig {
    pub fn new(packets: usize) -> Self {
        Self {
            bus: TestBus::new(),
            ram: Ram::default(),
            queue: Queue::new(packets, MAC).unwrap(),
            backend: None,
            next_frame: 0x1_0000,
            next_name: 0,
            made: 0,
            dropped: Rc::default(),
            ring: None,
            pool: None,
        }
    }

    pub fn connected(packets: usize, abilities: Abilities) -> Self {
        let mut rig = Self::new(packets);
        rig.connect(abilities);
        rig
    }

    /// Whether every packet came back to its owner.
    pub fn is_idle(&self) -> bool {
        self.dropped.get() == self.made
    }

    /// Lies in a memory with others, of which this is the one with this number.
    pub fn share(&mut self, ram: &Ram, number: u64) {
        self.ram = ram.clone();
        self.next_frame += number * 0x1000;
        self.next_name += number as u32 * 1000;
    }

    fn pages(&mut self, count: usize) -> Pages {
        self.next_frame += count as u64;
        Pages::new(&self.ram, self.next_frame - 1, count)
    }

    pub fn attach(&mut self) -> Result<(), SetupError> {
        let (ring, pool) = (self.pages(1), self.pages(POOL_PAGES));
        (self.ring, self.pool) = (Some(ring.clone()), Some(pool.clone()));
        let references = self.bus.references(self.queue.references_wanted());
        self.queue.attach(&self.bus, ring, pool, &references)
    }

    pub fn connect(&mut self, abilities: Abilities) {
        self.attach().unwrap();
        let frame = self.bus.grant(self.queue.ring_ref().unwrap()).frame;
        assert_eq!(frame * 4096, self.ring.as_ref().unwrap().address(0));
        let mut backend = Backend::tx(&self.ram, self.ring.clone().unwrap());
        if !abilities.scatter {
            backend.most = 1;
        }
        self.backend = Some(backend);
        let _ = self.queue.start(&self.bus, abilities);
    }

    /// Pages that were given up.
    pub fn leaked(&self) -> u32 {
        self.ring.iter().chain(&self.pool).map(|pages| pages.leaked.get()).sum()
    }

    /// A packet with these bytes, cut into pieces at these places, each somewhere else in memory.
    pub fn packet(&mut self, bytes: &[u8], cuts: &[usize], offload: Offload) -> TestPacket {
        let name = self.next_name;
        self.next_name += 1;
        self.made += 1;
        let mut runs = Vec::new();
        let mut from = 0;
        let mut next = PACKETS.start * 4096 + u64::from(name) * 0x10_0000;
        for (index, to) in cuts.iter().copied().chain([bytes.len()]).enumerate() {
            let to = to.min(bytes.len());
            if to <= from {
                continue;
            }
            // Some begin at a page's start, some end behind it.
            next = (next / 4096 + 3) * 4096;
            let address = next + [0, 0x123, 0xFF0][index % 3];
            next = address + (to - from) as u64;
            self.ram.write(address, &bytes[from..to]);
            runs.push((address, (to - from) as u32));
            from = to;
        }
        let (ram, dropped) = (self.ram.clone(), self.dropped.clone());
        TestPacket { name, ram, runs, len: bytes.len() as u32, offload, mapped: true, dropped }
    }

    pub fn send(&mut self, bytes: &[u8], cuts: &[usize], offload: Offload) -> u32 {
        let packet = self.packet(bytes, cuts, offload);
        let name = packet.name;
        assert!(self.queue.send(packet).is_ok());
        name
    }

    pub fn flush(&mut self) -> Progress {
        self.queue.flush(&self.bus)
    }

    /// Everything that the backend got, answered.
    pub fn served(&mut self) -> Vec<Sent> {
        self.backend.as_mut().unwrap().run(&self.bus)
    }

    /// Packets that ended.
    pub fn finished(&mut self) -> Vec<(u32, Status)> {
        let mut all = Vec::new();
        loop {
            while let Some((packet, status)) = self.queue.complete(&self.bus, &mut u32::MAX.clone()) {
                for (address, len) in &packet.runs {
                    let frames = address / 4096..(address + u64::from(*len)).div_ceil(4096);
                    assert_eq!(self.bus.live(frames), [0; 0], "the peer can still read what its owner gets back");
                }
                all.push((packet.name, status));
            }
            if !self.queue.rearm(&self.bus).more {
                return all;
            }
        }
    }
}
