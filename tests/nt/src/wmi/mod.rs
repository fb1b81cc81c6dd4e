//! Windows Management Instrumentation as far as drivers see it: registration of providers, events, and queries.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/registering-as-a-wmi-data-provider>: a device that
//! registers is asked for its blocks by IRP_MN_REGINFO_EX, in another thread. `library` is wmilib.sys.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

pub mod abi;
pub mod library;

use crate::io::abi::{DeviceObject, Parameters, mj};
use crate::io::kernel::{note, spawn};
use crate::io::text::{from_unicode, to_unicode};
use crate::ke::KeDelayExecutionThread;
use crate::ob::{ObfDereferenceObject, ObfReferenceObject};
use crate::pnp::property::name_of_device;
use crate::pnp::send::request;
use crate::rtl::abi::{Guid, UnicodeString};
use crate::status::*;
use crate::sync::IrqLock;
use abi::*;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes offered for a first answer, and the most that a provider may ask for.
const FIRST: usize = 0x1000;
const MOST: usize = 0x10_0000;
/// A millisecond, in 100 ns units from now.
const MILLISECOND: i64 = -10_000;

/// A device that registered.
struct Provider {
    device: usize,
    blocks: Vec<Block>,
    /// Requests to it that are under way.
    busy: u32,
}

static PROVIDERS: IrqLock<Vec<Provider>> = IrqLock::new(Vec::new());
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// Events that drivers wrote so far. Any IRQL.
pub fn events() -> u64 {
    EVENTS.load(Ordering::Relaxed)
}

/// Registered blocks: their GUIDs and numbers of instances. IRQL = PASSIVE_LEVEL.
pub fn blocks() -> Vec<(Guid, u32)> {
    let all = PROVIDERS.lock();
    all.iter().flat_map(|provider| &provider.blocks).map(|block| (block.guid, block.instances)).collect()
}

/// A request to a provider that is registered, from a buffer that grows to what it asks for. The status, and the buffer
/// up to what the provider filled in. IRQL = PASSIVE_LEVEL.
fn ask(device: usize, minor: u8, path: *mut c_void, head: &[u8]) -> (NtStatus, Vec<u8>) {
    match PROVIDERS.lock().iter_mut().find(|provider| provider.device == device) {
        Some(provider) => provider.busy += 1,
        None => return (STATUS_NO_SUCH_DEVICE, Vec::new()),
    }
    let mut bytes = FIRST;
    let answer = loop {
        // Of eight-byte units, for the alignment that the structures have.
        let mut buffer = alloc::vec![0_u64; bytes.div_ceil(8)];
        // SAFETY: the buffer is that long; the provider is busy, so it stays registered and its device valid.
        let (status, used, words) = unsafe {
            let at = buffer.as_mut_ptr().cast::<u8>();
            core::ptr::copy_nonoverlapping(head.as_ptr(), at, head.len());
            let wmi = [device as *mut c_void, path, bytes as *mut c_void, at.cast()];
            let (status, used) =
                request(device as *mut DeviceObject, mj::SYSTEM_CONTROL, minor, Some(Parameters { wmi }));
            (status, used.min(bytes), core::slice::from_raw_parts(at, bytes))
        };
        // A registration asks for more by a status, a query by a WNODE that says so.
        let small_node = minor != REGINFO_EX && used >= TOO_SMALL_BYTES && long(words, FLAGS) & FLAG_TOO_SMALL != 0;
        let wanted = if status == STATUS_BUFFER_TOO_SMALL && used >= 4 {
            long(words, 0)
        } else if nt_success(status) && small_node {
            long(words, SIZE_NEEDED)
        } else {
            break (status, words[..if nt_success(status) { used } else { 0 }].to_vec());
        };
        if wanted as usize <= bytes || wanted as usize > MOST {
            break (STATUS_BUFFER_TOO_SMALL, Vec::new());
        }
        bytes = wanted as usize;
    };
    if let Some(provider) = PROVIDERS.lock().iter_mut().find(|provider| provider.device == device) {
        provider.busy -= 1;
    }
    answer
}

/// Asks a device for its blocks and notes them.
fn learn(device: usize) {
    let (status, answer) = ask(device, REGINFO_EX, core::ptr::null_mut(), &[]);
    let Some(blocks) = parse_registration(&answer).filter(|_| nt_success(status)) else {
        note(format_args!("WMI: a provider answered IRP_MN_REGINFO_EX with {status:#x}, {} bytes", answer.len()));
        return;
    };
    for block in blocks.iter().filter(|block| block.pdo != 0) {
        // SAFETY: the provider took this reference for WMI.
        unsafe { ObfDereferenceObject(block.pdo as *mut c_void) };
    }
    if let Some(provider) = PROVIDERS.lock().iter_mut().find(|provider| provider.device == device) {
        provider.blocks = blocks;
    }
}

/// `IoWMIRegistrationControl`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn IoWMIRegistrationControl(device: *mut DeviceObject, action: u32) -> NtStatus {
    let address = device.addr();
    match action {
        REGISTER | REREGISTER | UPDATE_GUIDS => {
            {
                let mut all = PROVIDERS.lock();
                let known = all.iter().any(|provider| provider.device == address);
                if !known && action != REGISTER {
                    return STATUS_INVALID_PARAMETER;
                }
                if !known {
                    all.push(Provider { device: address, blocks: Vec::new(), busy: 0 });
                }
            }
            // SAFETY: the caller gives its device, which is held while the thread uses it.
            unsafe { ObfReferenceObject(device.cast()) };
            spawn(Box::new(move || {
                learn(address);
                // SAFETY: held above.
                unsafe { ObfDereferenceObject(address as *mut c_void) };
            }));
            STATUS_SUCCESS
        }
        DEREGISTER => {
            // No request is on its way to the device when this returns.
            loop {
                {
                    let mut all = PROVIDERS.lock();
                    let Some(at) = all.iter().position(|provider| provider.device == address) else {
                        return STATUS_INVALID_PARAMETER;
                    };
                    if all[at].busy == 0 {
                        all.remove(at);
                        return STATUS_SUCCESS;
                    }
                }
                // SAFETY: a wait at PASSIVE_LEVEL.
                unsafe { KeDelayExecutionThread(0, 0, &MILLISECOND) };
            }
        }
        BLOCK_IRPS => STATUS_SUCCESS,
        _ => STATUS_INVALID_PARAMETER,
    }
}

/// `IoWMIDeviceObjectToProviderId`. Any IRQL.
pub unsafe extern "win64" fn IoWMIDeviceObjectToProviderId(device: *mut DeviceObject) -> u32 {
    device.addr() as u32
}

/// `IoWMIWriteEvent`: takes a WNODE out of pool; on success it is freed here. IRQL <= DISPATCH_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iowmiwriteevent>
pub unsafe extern "win64" fn IoWMIWriteEvent(node: *mut c_void) -> NtStatus {
    // SAFETY: the caller gives a WNODE.
    let (bytes, flags) = unsafe {
        let head = core::slice::from_raw_parts(node.cast::<u8>(), HEADER_BYTES);
        (long(head, 0) as usize, long(head, FLAGS))
    };
    if bytes < HEADER_BYTES || flags & FLAG_EVENT_ITEM == 0 {
        return STATUS_INVALID_PARAMETER;
    }
    EVENTS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the block is the caller's to give away.
    unsafe { crate::ex::ExFreePool(node) };
    STATUS_SUCCESS
}

/// `IoWMISuggestInstanceName`: what the device is called, by its name or its description, or with `combine` that and its
/// link; else the link. In pool, which the caller frees. IRQL = PASSIVE_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iowmisuggestinstancename>
pub unsafe extern "win64" fn IoWMISuggestInstanceName(
    pdo: *mut DeviceObject,
    link: *const UnicodeString,
    combine: u8,
    name: *mut UnicodeString,
) -> NtStatus {
    // SAFETY: the caller gives a PDO or null, a string or null, and room for a string.
    unsafe {
        let link = (!link.is_null()).then(|| from_unicode(link));
        let device = if pdo.is_null() { None } else { name_of_device(pdo) };
        let suggested = match (device, link) {
            (Some(device), Some(link)) if combine != 0 => alloc::format!("{device}:{link}"),
            (Some(device), _) => device,
            (None, Some(link)) => link,
            (None, None) => return STATUS_UNSUCCESSFUL,
        };
        *name = to_unicode(&suggested);
        if (*name).buffer.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
    }
}

/// Asks every provider of a block for all instances (IRP_MN_QUERY_ALL_DATA): the status, and the WNODE_ALL_DATA that it
/// filled in. IRQL = PASSIVE_LEVEL.
pub fn query_all(guid: &Guid) -> Vec<(NtStatus, Vec<u8>)> {
    let devices: Vec<usize> = {
        let all = PROVIDERS.lock();
        let has = |provider: &&Provider| provider.blocks.iter().any(|block| block.guid == *guid);
        all.iter().filter(has).map(|provider| provider.device).collect()
    };
    let mut head = Vec::from([0; HEADER_BYTES]);
    head[..4].copy_from_slice(&(FIRST as u32).to_le_bytes());
    // SAFETY: a GUID is 16 plain bytes.
    head[GUID_AT..GUID_AT + 16].copy_from_slice(unsafe { &*(&raw const *guid).cast::<[u8; 16]>() });
    head[FLAGS..FLAGS + 4].copy_from_slice(&FLAG_ALL_DATA.to_le_bytes());
    let path = (&raw const *guid).cast_mut().cast();
    devices.into_iter().map(|device| ask(device, QUERY_ALL_DATA, path, &head)).collect()
}

crate::exports! {
    /// Names of ntoskrnl.exe in this area.
    pub static EXPORTS in "ntoskrnl.exe";
    fn IoWMIRegistrationControl;
    fn IoWMIDeviceObjectToProviderId;
    fn IoWMIWriteEvent;
    fn IoWMISuggestInstanceName;
}

crate::exports! {
    /// Names of wmilib.sys.
    pub static LIBRARY_EXPORTS in "wmilib.sys";
    fn WmiSystemControl = library::WmiSystemControl;
    fn WmiCompleteRequest = library::WmiCompleteRequest;
    fn WmiFireEvent = library::WmiFireEvent;
}
