//! PCI configuration space by its ports, and which functions are there.

use crate::lock::Lock;
use alloc::vec;
use alloc::vec::Vec;
use nt::platform::PciAddress;
use pci_types::{ConfigRegionAccess, EndpointHeader, PciHeader, PciPciBridgeHeader};
use x86_64::instructions::port::Port;

/// One access is two port operations.
static PORTS: Lock<()> = Lock::new(());

fn select(at: PciAddress, offset: u16) {
    let address = 0x8000_0000
        | u32::from(at.bus) << 16
        | u32::from(at.device) << 11
        | u32::from(at.function) << 8
        | u32::from(offset & 0xfc);
    // SAFETY: the address port of configuration mechanism 1.
    unsafe { Port::new(0xcf8).write(address) };
}

/// Reads; what lies behind the first 256 bytes reads as ones.
pub fn read(at: PciAddress, offset: u16, buf: &mut [u8]) {
    let _ports = PORTS.lock();
    for (index, byte) in buf.iter_mut().enumerate() {
        let offset = offset as usize + index;
        *byte = 0xff;
        if offset < 256 {
            select(at, offset as u16);
            // SAFETY: the data port of configuration mechanism 1; reading has no effect.
            *byte = unsafe { Port::new(0xcfc + (offset as u16 & 3)).read() };
        }
    }
}

/// Writes, in the largest aligned pieces: some registers take whole words only.
pub fn write(at: PciAddress, offset: u16, data: &[u8]) {
    let _ports = PORTS.lock();
    let (mut offset, mut data) = (offset, data);
    while let Some(&first) = data.first() {
        if offset >= 256 {
            return;
        }
        select(at, offset);
        let port = 0xcfc + (offset & 3);
        // SAFETY: the data port of configuration mechanism 1; the caller answers for the value.
        let written = unsafe {
            if offset.is_multiple_of(4) && data.len() >= 4 {
                Port::new(port).write(u32::from_le_bytes([data[0], data[1], data[2], data[3]]));
                4
            } else if offset.is_multiple_of(2) && data.len() >= 2 {
                Port::new(port).write(u16::from_le_bytes([data[0], data[1]]));
                2
            } else {
                Port::new(port).write(first);
                1
            }
        };
        offset += written;
        data = &data[written as usize..];
    }
}

/// The configuration space, a word at a time.
struct Words;

impl ConfigRegionAccess for Words {
    unsafe fn read(&self, address: pci_types::PciAddress, offset: u16) -> u32 {
        let mut word = [0; 4];
        read(
            PciAddress { bus: address.bus(), device: address.device(), function: address.function() },
            offset,
            &mut word,
        );
        u32::from_le_bytes(word)
    }

    unsafe fn write(&self, address: pci_types::PciAddress, offset: u16, value: u32) {
        let at = PciAddress { bus: address.bus(), device: address.device(), function: address.function() };
        write(at, offset, &value.to_le_bytes());
    }
}

fn header(at: PciAddress) -> PciHeader {
    PciHeader::new(pci_types::PciAddress::new(0, at.bus, at.device, at.function))
}

/// Every function that answers, ascending; behind bridges too.
pub fn functions() -> Vec<PciAddress> {
    /// What nobody answers with.
    const NOBODY: u16 = 0xffff;
    let mut found = Vec::new();
    let mut buses = vec![0u8];
    while let Some(bus) = buses.pop() {
        for device in 0..32 {
            for function in 0..8 {
                let at = PciAddress { bus, device, function };
                let header = header(at);
                if header.id(Words).0 == NOBODY {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                found.push(at);
                let alone = !header.has_multiple_functions(Words);
                if let Some(bridge) = PciPciBridgeHeader::from_header(header, Words) {
                    let below = bridge.secondary_bus_number(Words);
                    if below > bus && !buses.contains(&below) {
                        buses.push(below);
                    }
                }
                if function == 0 && alone {
                    break;
                }
            }
        }
    }
    found.sort();
    found
}

/// The line of the IOAPIC that a function's pin drives, as Xen wires it (`hvm_pci_intx_gsi` in its public description of
/// HVM interrupts: 32 lines from 16 on, by device and pin).
pub fn line(at: PciAddress) -> Option<u32> {
    let pin = u32::from(EndpointHeader::from_header(header(at), Words)?.interrupt(Words).0);
    let device = u32::from(at.device);
    (at.bus == 0 && pin != 0).then(|| ((device << 2) + (device >> 3) + pin - 1) % 32 + 16)
}
