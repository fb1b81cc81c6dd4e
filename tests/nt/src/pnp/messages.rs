//! Message-signaled interrupts of PCI functions: what is asked for, and how a function is told what it got.
//!
//! A device gets messages when its INF says so
//! (<https://learn.microsoft.com/windows-hardware/drivers/kernel/enabling-message-signaled-interrupts-in-the-registry>),
//! for the processors that it names
//! (<https://learn.microsoft.com/windows-hardware/drivers/kernel/interrupt-affinity-and-priority>). MSI is one descriptor
//! for all messages, MSI-X one for each
//! (<https://learn.microsoft.com/windows-hardware/drivers/kernel/using-interrupt-resource-descriptors>).
use super::pci::{BARS, bars, read8, read16, read32, write16, write32};
use super::resource::*;
use super::with_node;
use crate::inf::install::CONTROL_SET;
use crate::io::abi::{DeviceObject, Interface};
use crate::io::status::*;
use crate::platform::{Cache, PAGE_SIZE, PciAddress, platform};
use crate::reg;
use crate::rtl::abi::Guid;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::NonNull;

const STATUS: u16 = 6;
const STATUS_CAPABILITIES: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const CAP_MSI: u8 = 0x05;
const CAP_MSIX: u8 = 0x11;
const MSI_ENABLE: u16 = 1;
const MSI_64_BIT: u16 = 0x80;
const MSIX_ENABLE: u16 = 0x8000;
const MSIX_MASK: u16 = 0x4000;
/// Bytes of an entry of an MSI-X table.
const ENTRY: u32 = 16;

fn capability(at: PciAddress, wanted: u8) -> Option<u16> {
    if read16(at, STATUS) & STATUS_CAPABILITIES == 0 {
        return None;
    }
    let mut place = u16::from(read8(at, CAPABILITIES) & !3);
    for _ in 0..48 {
        if place < 0x40 {
            return None;
        }
        if read8(at, place) == wanted {
            return Some(place);
        }
        place = u16::from(read8(at, place + 1) & !3);
    }
    None
}

/// Entries of a function's MSI-X table.
fn table_entries(at: PciAddress, capability: u16) -> u32 {
    u32::from(read16(at, capability + 2) & 0x7ff) + 1
}

/// Whether a function has an MSI-X table.
pub(super) fn has_table(at: PciAddress) -> bool {
    capability(at, CAP_MSIX).is_some()
}

/// What the registry says of a device's interrupts.
struct Wishes {
    /// The most messages.
    limit: u32,
    /// `IRQ_DEVICE_POLICY`, if there is one.
    policy: Option<u16>,
    /// The processors of IrqPolicySpecifiedProcessors.
    processors: u64,
}

/// `None`: the device does without messages.
fn wishes(device: *mut DeviceObject) -> Option<Wishes> {
    let id = super::node_of(device)?;
    let instance = with_node(id, |n| n.instance.clone())?;
    reg::with(|registry| {
        let base = alloc::format!(r"{CONTROL_SET}\Enum\{instance}\Device Parameters\Interrupt Management");
        let number = |key: &str, name: &str| {
            let key = registry.open(None, &alloc::format!(r"{base}\{key}")).ok()?;
            let value = registry.value(key, name).ok()?;
            // A REG_DWORD, or REG_BINARY of up to eight bytes.
            let bytes = value.data.get(..value.data.len().min(8))?;
            Some(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
        };
        let messages = "MessageSignaledInterruptProperties";
        if number(messages, "MSISupported")? == 0 {
            return None;
        }
        let affinity = "Affinity Policy";
        Some(Wishes {
            limit: number(messages, "MessageNumberLimit").map_or(u32::MAX, |limit| limit as u32).max(1),
            policy: number(affinity, "DevicePolicy").map(|policy| policy as u16),
            processors: number(affinity, "AssignmentSetOverride").unwrap_or(0),
        })
    })
}

impl Wishes {
    fn message(&self, first: u32) -> IoDescriptor {
        let flags = INTERRUPT_LATCHED | INTERRUPT_MESSAGE;
        let mut one = IoDescriptor::interrupt(SHARE_DEVICE_EXCLUSIVE, flags, first, MESSAGE_TOKEN);
        if let Some(policy) = self.policy {
            one.flags |= INTERRUPT_POLICY_INCLUDED;
            one.data[2] = u32::from(policy);
            one.data[4] = self.processors as u32;
            one.data[5] = (self.processors >> 32) as u32;
        }
        one
    }
}

/// The choices that a device has for its interrupts, best first: messages as many as it can use, one message, its line.
pub(super) fn choices(device: *mut DeviceObject, at: PciAddress, line: Option<IoDescriptor>) -> Vec<Vec<IoDescriptor>> {
    let wired: Vec<IoDescriptor> = line.into_iter().collect();
    let Some(wishes) = wishes(device) else { return alloc::vec![wired] };
    if let Some(place) = capability(at, CAP_MSIX) {
        let count = table_entries(at, place).min(wishes.limit);
        let one = wishes.message(MESSAGE_TOKEN);
        let mut out = alloc::vec![alloc::vec![one; count as usize]];
        if count > 1 {
            out.push(alloc::vec![one]);
        }
        out.push(wired);
        return out;
    }
    let Some(place) = capability(at, CAP_MSI) else { return alloc::vec![wired] };
    // A power of two, which is all that MSI has.
    let count = 1 << (1_u32 << (read16(at, place + 2) >> 1 & 7)).min(wishes.limit).ilog2();
    let message = wishes.message(MESSAGE_TOKEN - (count - 1)).with_option(OPTION_PREFERRED);
    alloc::vec![core::iter::once(message).chain(wired.into_iter().map(|w| w.with_option(OPTION_ALTERNATIVE))).collect()]
}

/// The messages that a device was given: the vector and the processor of each.
fn given(assigned: &[CmDescriptor]) -> Vec<(u32, u32)> {
    let messages = assigned.iter().filter(|d| d.kind == TYPE_INTERRUPT && d.flags & INTERRUPT_MESSAGE != 0);
    messages
        .flat_map(|d| (0..u32::from(d.message_count().max(1))).map(|n| (d.vector() + n, d.affinity().trailing_zeros())))
        .collect()
}

/// Tells a function where its messages go, from its raw resources, and turns them on; without any it uses its line. The
/// table of a function with MSI-X, which the bus driver keeps till [`silence`].
pub(super) fn program(at: PciAddress, assigned: &[CmDescriptor]) -> Option<Table> {
    let messages = given(assigned);
    let &(vector, processor) = messages.first()?;
    if let Some(place) = capability(at, CAP_MSIX) {
        let control = read16(at, place + 2) | MSIX_ENABLE | MSIX_MASK;
        write16(at, place + 2, control);
        let table = Table::fill(at, place, messages);
        write16(at, place + 2, control & !MSIX_MASK);
        return table;
    }
    let place = capability(at, CAP_MSI)?;
    let control = read16(at, place + 2);
    let address = platform().message_address(processor);
    write32(at, place + 4, address as u32);
    let data = if control & MSI_64_BIT != 0 {
        write32(at, place + 8, (address >> 32) as u32);
        place + 12
    } else {
        place + 8
    };
    write16(at, data, vector as u16);
    let enabled = messages.len().next_power_of_two().trailing_zeros() as u16;
    write16(at, place + 2, control & !0x70 | enabled << 4 | MSI_ENABLE);
    None
}

/// Turns a function's messages off.
pub(super) fn silence(at: PciAddress) {
    for (wanted, bit) in [(CAP_MSIX, MSIX_ENABLE), (CAP_MSI, MSI_ENABLE)] {
        if let Some(place) = capability(at, wanted) {
            let control = read16(at, place + 2);
            write16(at, place + 2, control & !bit);
        }
    }
}

/// The MSI-X table of a function that was started, mapped.
/// <https://learn.microsoft.com/windows-hardware/drivers/kernel/dynamically-configuring-msi-x>
pub(super) struct Table {
    base: NonNull<u8>,
    pages: usize,
    skip: usize,
    /// The vector and the processor of each message that was granted.
    messages: Vec<(u32, u32)>,
    /// The message of each entry.
    entries: Vec<u32>,
}

impl Table {
    /// Maps and writes it: an entry for each message, and what is left of the table has message 0. `None`: the function
    /// lies about where it is.
    fn fill(at: PciAddress, capability: u16, messages: Vec<(u32, u32)>) -> Option<Table> {
        let place = read32(at, capability + 4);
        let (register, offset) = (BARS + 4 * (place & 7) as u16, place & !7);
        let count = table_entries(at, capability);
        let bar = bars(at).into_iter().find(|bar| bar.register == register);
        let Some(bar) = bar.filter(|bar| u64::from(offset) + u64::from(count * ENTRY) <= bar.length) else {
            crate::io::kernel::note(format_args!("PCI {at:?}: the MSI-X table is not in a range of the function's"));
            return None;
        };
        let start = bar.start + u64::from(offset);
        let skip = start as usize % PAGE_SIZE;
        let first = start / PAGE_SIZE as u64;
        let pages = (skip + (count * ENTRY) as usize).div_ceil(PAGE_SIZE);
        let frames: Vec<u64> = (first..first + pages as u64).collect();
        let base = platform().map_frames(&frames, Cache::None)?;
        let mut table = Table { base, pages, skip, messages, entries: alloc::vec![0; count as usize] };
        for entry in 0..count {
            let message = if (entry as usize) < table.messages.len() { entry } else { 0 };
            table.set(entry, message);
            table.mask(entry, false);
        }
        Some(table)
    }

    fn word(&self, entry: u32, word: usize) -> *mut u32 {
        self.base.as_ptr().wrapping_add(self.skip + (ENTRY * entry) as usize + 4 * word).cast()
    }

    /// Gives an entry a message. False: there is no such entry or message.
    fn set(&mut self, entry: u32, message: u32) -> bool {
        let Some(&(vector, processor)) = self.messages.get(message as usize) else { return false };
        let Some(own) = self.entries.get_mut(entry as usize) else { return false };
        *own = message;
        let address = platform().message_address(processor);
        for (n, value) in [address as u32, (address >> 32) as u32, vector].into_iter().enumerate() {
            // SAFETY: an entry of the mapped table, which belongs to this bus driver; each word is aligned.
            unsafe { self.word(entry, n).write_volatile(value) };
        }
        true
    }

    fn mask(&mut self, entry: u32, masked: bool) -> bool {
        let known = (entry as usize) < self.entries.len();
        if known {
            // SAFETY: as above.
            unsafe { self.word(entry, 3).write_volatile(u32::from(masked)) };
        }
        known
    }

    fn is_masked(&self, entry: u32) -> bool {
        // SAFETY: as above.
        unsafe { self.word(entry, 3).read_volatile() & 1 != 0 }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        platform().unmap_frames(self.base, self.pages);
    }
}

// SAFETY: the mapping belongs to no processor.
unsafe impl Send for Table {}

/// GUID_MSIX_TABLE_CONFIG_INTERFACE.
pub(super) const TABLE_INTERFACE: Guid =
    Guid { data1: 0x1a6a_460b, data2: 0x194f, data3: 0x455d, data4: [0xb3, 0x4b, 0xb8, 0x4c, 0x5b, 0x05, 0x71, 0x2b] };

/// `PCI_MSIX_TABLE_CONFIG_INTERFACE`, version 1. Its functions take any IRQL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_pci_msix_table_config_interface>
#[repr(C)]
pub(super) struct TableInterface {
    pub head: Interface,
    set: unsafe extern "win64" fn(*mut c_void, entry: u32, message: u32) -> NtStatus,
    mask: unsafe extern "win64" fn(*mut c_void, entry: u32) -> NtStatus,
    unmask: unsafe extern "win64" fn(*mut c_void, entry: u32) -> NtStatus,
    get: unsafe extern "win64" fn(*mut c_void, entry: u32, message: *mut u32, masked: *mut u8) -> NtStatus,
    size: unsafe extern "win64" fn(*mut c_void, entries: *mut u32) -> NtStatus,
}

const _: () = assert!(size_of::<TableInterface>() == 0x48);

impl TableInterface {
    /// The interface of a PDO, whose reference the caller takes.
    pub(super) fn new(head: Interface) -> Self {
        Self { head, set: set_entry, mask: mask_entry, unmask: unmask_entry, get: get_entry, size: table_size }
    }
}

/// Does something with the table of a PDO. `None`: it has none now.
unsafe fn with_table<R>(context: *mut c_void, body: impl FnOnce(&mut Table) -> R) -> Option<R> {
    // SAFETY: the context is a PDO of the PCI driver, which the interface holds a reference to.
    unsafe { super::pci::table_of(context.cast()) }.lock().as_mut().map(body)
}

fn outcome(done: Option<bool>) -> NtStatus {
    if done == Some(true) { STATUS_SUCCESS } else { STATUS_INVALID_PARAMETER }
}

unsafe extern "win64" fn set_entry(context: *mut c_void, entry: u32, message: u32) -> NtStatus {
    // SAFETY: per the interface's contract.
    outcome(unsafe { with_table(context, |table| table.set(entry, message)) })
}

unsafe extern "win64" fn mask_entry(context: *mut c_void, entry: u32) -> NtStatus {
    // SAFETY: as above.
    outcome(unsafe { with_table(context, |table| table.mask(entry, true)) })
}

unsafe extern "win64" fn unmask_entry(context: *mut c_void, entry: u32) -> NtStatus {
    // SAFETY: as above.
    outcome(unsafe { with_table(context, |table| table.mask(entry, false)) })
}

unsafe extern "win64" fn get_entry(context: *mut c_void, entry: u32, message: *mut u32, masked: *mut u8) -> NtStatus {
    // SAFETY: as above; the caller gives room for both.
    unsafe {
        let found = with_table(context, |t| Some((*t.entries.get(entry as usize)?, t.is_masked(entry)))).flatten();
        let Some((number, is_masked)) = found else { return STATUS_INVALID_PARAMETER };
        message.write(number);
        masked.write(u8::from(is_masked));
        STATUS_SUCCESS
    }
}

unsafe extern "win64" fn table_size(context: *mut c_void, entries: *mut u32) -> NtStatus {
    // SAFETY: as above.
    unsafe {
        let Some(count) = with_table(context, |table| table.entries.len() as u32) else {
            return STATUS_INVALID_PARAMETER;
        };
        entries.write(count);
        STATUS_SUCCESS
    }
}
