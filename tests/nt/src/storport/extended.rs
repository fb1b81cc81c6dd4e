//! StorPortExtendedFunction: the port driver's functions that are reached by number.
//!
//! What is not listed answers `STOR_STATUS_NOT_IMPLEMENTED`, as Windows does for what it does not have: runtime power
//! management, ACPI, event tracing, host memory buffers.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/>

use super::abi::*;
use super::adapter::{self, Adapter, NON_PAGED_POOL_NX, Request};
use super::{event, interrupt, performance, registry, timer};
use crate::ex::list::{
    ExQueryDepthSList, ExpInterlockedFlushSList, ExpInterlockedPopEntrySList, ExpInterlockedPushEntrySList,
    InitializeSListHead, SingleEntry, SlistHeader,
};
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::abi::Irp;
use crate::io::irp::IofCompleteRequest;
use crate::ke;
use crate::ke::abi::DISPATCH_LEVEL;
use crate::ke::irql::*;
use crate::mm::abi::Mdl;
use crate::mm::mdl::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool, system_address};
use crate::mm::memory::{MmAllocateContiguousMemorySpecifyCache, MmFreeContiguousMemorySpecifyCache};
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::Ordering;

crate::variadic! {
    /// `StorPortExtendedFunction`: function code, device extension, and what the function asks for. IRQL as the
    /// function says.
    pub fn StorPortExtendedFunction => extended_function;
}

/// The arguments behind the function code and the extension.
struct Arguments(*const u64);

impl Arguments {
    /// An argument as a number.
    ///
    /// # Safety
    /// The function has that many arguments.
    unsafe fn number(&self, i: usize) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i + 2).read() }
    }

    /// An argument as a pointer.
    ///
    /// # Safety
    /// As [`Arguments::number`].
    unsafe fn pointer<T>(&self, i: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.number(i) as usize as *mut T }
    }
}

unsafe extern "win64" fn extended_function(args: *const u64) -> u64 {
    // SAFETY: the shim spilled the arguments, which are those that the function asks for.
    unsafe {
        let code = args.read() as u32;
        let adapter = adapter::of(args.add(1).read() as usize as *mut c_void);
        u64::from(call(code, adapter, &Arguments(args)))
    }
}

/// # Safety
/// The arguments are those of the function.
unsafe fn call(code: u32, adapter: &Adapter, a: &Arguments) -> u32 {
    // SAFETY: the caller's promise; results go where the miniport wants them.
    unsafe {
        match code {
            // AllocatePool: bytes, tag, result. FreePool: block.
            0 | 1 if KeGetCurrentIrql() > DISPATCH_LEVEL => STOR_STATUS_INVALID_IRQL,
            0 if a.pointer::<c_void>(2).is_null() => STOR_STATUS_INVALID_PARAMETER,
            1 if a.pointer::<c_void>(0).is_null() => STOR_STATUS_INVALID_PARAMETER,
            0 => {
                let block = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, a.number(0) as u32 as usize, a.number(1) as u32);
                a.pointer::<*mut c_void>(2).write(block.cast());
                if block.is_null() { STOR_STATUS_INSUFFICIENT_RESOURCES } else { STOR_STATUS_SUCCESS }
            }
            1 => {
                ExFreePool(a.pointer(0));
                STOR_STATUS_SUCCESS
            }
            // AllocateMdl: buffer, bytes, result.
            2 => {
                let mdl = IoAllocateMdl(a.pointer(0), a.number(1) as u32, 0, 0, ptr::null_mut());
                a.pointer::<*mut Mdl>(2).write(mdl);
                if mdl.is_null() { STOR_STATUS_INSUFFICIENT_RESOURCES } else { STOR_STATUS_SUCCESS }
            }
            // FreeMdl
            3 => {
                IoFreeMdl(a.pointer(0));
                STOR_STATUS_SUCCESS
            }
            // BuildMdlForNonPagedPool
            4 => {
                MmBuildMdlForNonPagedPool(a.pointer(0));
                STOR_STATUS_SUCCESS
            }
            // GetSystemAddress (and GetDataInBufferSystemAddress): SRB, result.
            5 | 43 => {
                let Some(request) = request(adapter, a.pointer(0)) else { return STOR_STATUS_INVALID_PARAMETER };
                if request.mdl().is_null() || a.pointer::<c_void>(1).is_null() {
                    return STOR_STATUS_INVALID_PARAMETER;
                }
                let address = system_address(request.mdl());
                a.pointer::<*mut c_void>(1).write(address);
                if address.is_null() { STOR_STATUS_INSUFFICIENT_RESOURCES } else { STOR_STATUS_SUCCESS }
            }
            // GetOriginalMdl (and GetDataInBufferMdl): SRB, result.
            6 | 42 => {
                let Some(request) = request(adapter, a.pointer(0)) else { return STOR_STATUS_INVALID_PARAMETER };
                a.pointer::<*mut Mdl>(1).write(request.mdl());
                STOR_STATUS_SUCCESS
            }
            // CompleteServiceIrp: IRP, whose result the miniport has filled in.
            7 => {
                let irp = a.pointer::<Irp>(0);
                if irp.is_null() {
                    return STOR_STATUS_INVALID_PARAMETER;
                }
                if !adapter.is_virtual() {
                    return STOR_STATUS_INVALID_DEVICE_REQUEST;
                }
                IofCompleteRequest(irp, 0);
                STOR_STATUS_SUCCESS
            }
            // GetDeviceObjects: adapter, physical, lower.
            8 => {
                for (i, device) in [adapter.fdo, adapter.pdo, adapter.lower].into_iter().enumerate() {
                    let to = a.pointer::<*mut c_void>(i);
                    if !to.is_null() {
                        to.write(device.cast());
                    }
                }
                STOR_STATUS_SUCCESS
            }
            // BuildScatterGatherList: MDL, address, bytes, routine, context, to device, buffer, room.
            9 => {
                let dma = adapter.dma.load(Ordering::Acquire);
                if dma.is_null() {
                    return STOR_STATUS_UNSUCCESSFUL;
                }
                let Some(build) = (*(*dma).operations).build_scatter_gather_list else {
                    return STOR_STATUS_NOT_IMPLEMENTED;
                };
                let routine = transmute::<*mut c_void, super::dma::ListControl>(a.pointer(3));
                let status = build(
                    dma,
                    adapter.fdo,
                    a.pointer(0),
                    a.pointer(1),
                    a.number(2) as u32,
                    routine,
                    a.pointer(4),
                    a.number(5) as u8,
                    a.pointer(6),
                    a.number(7) as u32,
                );
                if status >= 0 { STOR_STATUS_SUCCESS } else { STOR_STATUS_BUFFER_TOO_SMALL }
            }
            // PutScatterGatherList: list, to device.
            10 => {
                let dma = adapter.dma.load(Ordering::Acquire);
                if let Some(put) = dma.as_ref().and_then(|d| (*d.operations).put_scatter_gather_list) {
                    put(dma, a.pointer(0), a.number(1) as u8);
                }
                STOR_STATUS_SUCCESS
            }
            // AcquireMSISpinLock: message, result: the IRQL before.
            11 => match interrupt::acquire(adapter, a.number(0) as u32) {
                Some(old) => {
                    a.pointer::<u32>(1).write(u32::from(old));
                    STOR_STATUS_SUCCESS
                }
                None => STOR_STATUS_INVALID_PARAMETER,
            },
            // ReleaseMSISpinLock: message, the IRQL before.
            12 => {
                interrupt::release(adapter, a.number(0) as u32, a.number(1) as u8);
                STOR_STATUS_SUCCESS
            }
            // GetMessageInterruptInformation: message, result.
            13 if interrupt::targets(adapter).is_empty() => STOR_STATUS_INVALID_DEVICE_REQUEST,
            13 => {
                let to = a.pointer::<MessageInterruptInformation>(1);
                match interrupt::information(adapter, a.number(0) as u32) {
                    Some(information) if !to.is_null() => {
                        to.write(information);
                        STOR_STATUS_SUCCESS
                    }
                    _ => STOR_STATUS_INVALID_PARAMETER,
                }
            }
            // InitializePerformanceOptimizations: query, data.
            14 => performance::choose(adapter, a.number(0) as u8 != 0, a.pointer(1)),
            // GetStartIoPerformanceParameters: SRB, parameters.
            15 => match (request(adapter, a.pointer(0)), a.pointer::<StartIoPerformanceParameters>(1).as_mut()) {
                (Some(request), Some(parameters)) => performance::parameters(adapter, request, parameters),
                _ => STOR_STATUS_INVALID_PARAMETER,
            },
            // LogSystemEvent: details, size.
            16 => event::log(adapter, a.pointer(0), a.pointer(1)),
            // GetCurrentProcessorNumber
            17 => {
                ke::KeGetCurrentProcessorNumberEx(a.pointer(0));
                STOR_STATUS_SUCCESS
            }
            // GetActiveGroupCount
            18 => {
                a.pointer::<u16>(0).write(ke::KeQueryActiveGroupCount());
                STOR_STATUS_SUCCESS
            }
            // GetGroupAffinity: group, mask.
            19 if a.pointer::<u64>(1).is_null() => STOR_STATUS_INVALID_PARAMETER,
            19 => {
                let mask = ke::KeQueryGroupAffinity(a.number(0) as u16);
                a.pointer::<u64>(1).write(mask);
                if mask == 0 { STOR_STATUS_UNSUCCESSFUL } else { STOR_STATUS_SUCCESS }
            }
            // GetActiveNodeCount
            20 => {
                a.pointer::<u32>(0).write(1);
                STOR_STATUS_SUCCESS
            }
            // GetNodeAffinity: node, group affinity.
            21 => {
                if a.number(0) as u32 != 0 {
                    return STOR_STATUS_INVALID_PARAMETER;
                }
                let mask = ke::KeQueryGroupAffinity(0);
                a.pointer::<ke::abi::GroupAffinity>(1).write(ke::abi::GroupAffinity {
                    mask,
                    group: 0,
                    reserved: [0; 3],
                });
                STOR_STATUS_SUCCESS
            }
            // GetHighestNodeNumber
            22 => {
                a.pointer::<u32>(0).write(0);
                STOR_STATUS_SUCCESS
            }
            // AllocateContiguousMemorySpecifyCacheNode: bytes, low, high, boundary, cache, node, result.
            24 => {
                let block = MmAllocateContiguousMemorySpecifyCache(
                    a.number(0) as usize,
                    a.number(1),
                    a.number(2),
                    a.number(3),
                    a.number(4) as u32,
                );
                a.pointer::<*mut c_void>(6).write(block);
                if block.is_null() { STOR_STATUS_INSUFFICIENT_RESOURCES } else { STOR_STATUS_SUCCESS }
            }
            // FreeContiguousMemorySpecifyCache: block, bytes, cache.
            25 => {
                MmFreeContiguousMemorySpecifyCache(a.pointer(0), a.number(1) as usize, a.number(2) as u32);
                STOR_STATUS_SUCCESS
            }
            // GetRequestInfo: SRB, result.
            28 => request_info(adapter, a.pointer(0), a.pointer(1)),
            // InitializeWorker: result.
            29 => timer::initialize_worker(adapter, a.pointer(0)),
            // QueueWorkItem: routine, worker, context.
            30 => timer::queue_work(adapter, a.number(0) as usize, a.pointer(1), a.number(2) as usize),
            // FreeWorker
            31 => timer::free_worker(adapter, a.pointer(0)),
            // InitializeTimer: result.
            32 => timer::initialize_timer(adapter, a.pointer(0)),
            // RequestTimer: timer, routine, context, microseconds, tolerable delay, which is none here.
            33 => timer::request_timer(adapter, a.pointer(0), a.number(1) as usize, a.number(2) as usize, a.number(3)),
            // FreeTimer
            34 => timer::free_timer(adapter, a.pointer(0)),
            // InitializeSListHead: head. The others: head, for a push the entry, result.
            35..=39 => list(code, a),
            // GetActivityId: there is none.
            40 => STOR_STATUS_UNSUCCESSFUL,
            // GetSystemPortNumber: address, which gets the port.
            41 => match a.pointer::<StorAddrBtl8>(0).as_mut().filter(|address| is_address(address)) {
                Some(address) => {
                    address.port = adapter.port;
                    STOR_STATUS_SUCCESS
                }
                None => STOR_STATUS_INVALID_PARAMETER,
            },
            // GetDataInBufferScatterGatherList: SRB, result.
            44 => {
                let Some(request) = request(adapter, a.pointer(0)) else { return STOR_STATUS_INVALID_PARAMETER };
                a.pointer::<*mut ScatterGatherList>(1).write(request.list);
                STOR_STATUS_SUCCESS
            }
            // SetUnitAttributes: address, attributes.
            46 => set_attributes(adapter, a.pointer(0), a.number(1) as u32),
            // What has nothing to do here: SetPowerSettingNotificationGuids (there are no settings to notify of),
            // FlushDataBufferMdl (x64 is coherent), SetAdapterBusType.
            26 | 54 | 64 => STOR_STATUS_SUCCESS,
            // QueryPerformanceCounter: frequency, counter.
            47 => {
                let counter = ke::KeQueryPerformanceCounter(a.pointer(0));
                a.pointer::<i64>(1).write(counter);
                STOR_STATUS_SUCCESS
            }
            // DeviceOperationAllowed: address, operation, result.
            55 => {
                a.pointer::<u32>(2).write(0);
                STOR_STATUS_SUCCESS
            }
            // GetProcessorIndexFromNumber: number, result.
            56 => {
                let index = ke::KeGetProcessorIndexFromNumber(a.pointer(0));
                a.pointer::<u32>(1).write(index);
                if index == u32::MAX { STOR_STATUS_INVALID_PARAMETER } else { STOR_STATUS_SUCCESS }
            }
            // RegistryReadAdapterKey: subkey, name, type, data, length.
            62 => registry::read_adapter_key(
                adapter,
                a.pointer(0),
                a.pointer(1),
                a.number(2) as u32,
                a.pointer(3),
                a.pointer(4),
            ),
            // RegistryWriteAdapterKey: subkey, name, type, data, length.
            63 => registry::write_adapter_key(
                adapter,
                a.pointer(0),
                a.pointer(1),
                a.number(2) as u32,
                a.pointer(3),
                a.number(4) as u32,
            ),
            _ => STOR_STATUS_NOT_IMPLEMENTED,
        }
    }
}

/// The request of an SRB that the miniport has.
fn request(adapter: &Adapter, srb: *mut c_void) -> Option<&Request> {
    // SAFETY: outstanding requests stay alive until the miniport completes them, and it is the miniport that asks.
    adapter.outstanding(srb).map(|request| unsafe { &*request })
}

/// Whether an address is a `STOR_ADDR_BTL8`.
fn is_address(address: &StorAddrBtl8) -> bool {
    // STOR_ADDRESS_TYPE_BTL8, STOR_ADDR_BTL8_ADDRESS_LENGTH
    address.kind == 1 && address.address_length >= 4
}

/// The bits of `STOR_UNIT_ATTRIBUTES` that are not reserved, and the one for AsyncNotificationSupported.
const ATTRIBUTES: u32 = 0x7;
const ASYNC_NOTIFICATION: u32 = 0x2;

/// StorPortSetUnitAttributes.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportsetunitattributes>
unsafe fn set_attributes(adapter: &Adapter, address: *const StorAddrBtl8, attributes: u32) -> u32 {
    // SAFETY: the miniport's address.
    let address = unsafe { address.as_ref() }.filter(|address| is_address(address));
    match address.and_then(|at| adapter.unit((at.path, at.target, at.lun))) {
        Some(unit) if attributes & !ATTRIBUTES == 0 => {
            unit.attributes.store(attributes, Ordering::Release);
            STOR_STATUS_SUCCESS
        }
        _ => STOR_STATUS_INVALID_PARAMETER,
    }
}

/// What StorPortAsyncNotificationDetected says. Any IRQL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportasyncnotificationdetected>
///
/// # Safety
/// The address is null or leads to a `STOR_ADDRESS`.
pub unsafe fn notified(adapter: &Adapter, address: *const StorAddrBtl8, flags: u64) -> u32 {
    // RAID_ASYNC_NOTIFY_SUPPORTED_FLAGS
    const SUPPORTED: u64 = 0x7;
    // SAFETY: the caller's promise.
    let Some(at) = unsafe { address.as_ref() }.filter(|address| is_address(address) && flags & !SUPPORTED == 0) else {
        return STOR_STATUS_INVALID_PARAMETER;
    };
    let unit = adapter.unit((at.path, at.target, at.lun));
    match unit.filter(|unit| unit.attributes.load(Ordering::Acquire) & ASYNC_NOTIFICATION != 0) {
        Some(_) => STOR_STATUS_SUCCESS,
        None => STOR_STATUS_INVALID_DEVICE_REQUEST,
    }
}

/// The functions for singly linked lists.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportinitializeslisthead>
///
/// # Safety
/// The pointers are null or the miniport's.
unsafe fn list(code: u32, a: &Arguments) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let head = a.pointer::<SlistHeader>(0);
        let result = a.pointer::<*mut SingleEntry>(if code == 38 { 2 } else { 1 });
        let entry = a.pointer::<SingleEntry>(1);
        if head.is_null() || code != 35 && result.is_null() || code == 38 && entry.is_null() {
            return STOR_STATUS_INVALID_PARAMETER;
        }
        match code {
            35 => InitializeSListHead(head),
            36 => result.write(ExpInterlockedFlushSList(head)),
            37 => result.write(ExpInterlockedPopEntrySList(head)),
            38 => result.write(ExpInterlockedPushEntrySList(head, entry)),
            _ => result.cast::<u16>().write(ExQueryDepthSList(head)),
        }
    }
    STOR_STATUS_SUCCESS
}

/// `STOR_REQUEST_INFO_V1`, the part that both versions have.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportgetrequestinfo>
unsafe fn request_info(adapter: &Adapter, srb: *mut c_void, info: *mut c_void) -> u32 {
    if request(adapter, srb).is_none() || info.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the miniport gives a structure as long as its version asks for.
    unsafe {
        match info.cast::<u16>().read() {
            1 => {}
            // No name of a file is known, and no process.
            2 => {
                info.cast::<*mut c_void>().add(3).write(ptr::null_mut());
                info.cast::<u32>().add(8).write(0);
            }
            _ => return STOR_STATUS_UNSUPPORTED_VERSION,
        }
        let words = info.cast::<u32>();
        // StorIoPriorityNormal
        words.add(1).write(2);
        words.add(2).write(0);
        words.add(3).write(0);
        words.add(4).write(super::srb::Srb::new(srb).transfer_length());
        let write = super::srb::Srb::new(srb).flags() & SRB_FLAGS_DATA_OUT != 0;
        words.add(5).cast::<u8>().write(u8::from(write));
    }
    STOR_STATUS_SUCCESS
}
