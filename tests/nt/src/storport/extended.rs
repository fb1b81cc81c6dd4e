//! StorPortExtendedFunction: the port driver's functions that are reached by number.
//!
//! What is not listed answers `STOR_STATUS_NOT_IMPLEMENTED`, as Windows does for what it does not have: runtime power
//! management, ACPI, event tracing, host memory buffers.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/>

use super::abi::*;
use super::adapter::{self, Adapter, NON_PAGED_POOL_NX, Request};
use super::{interrupt, performance, registry, violation};
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::abi::Irp;
use crate::io::irp::IofCompleteRequest;
use crate::ke;
use crate::ke::abi::{DISPATCH_LEVEL, Dpc, Timer};
use crate::ke::irql::*;
use crate::mm::abi::Mdl;
use crate::mm::mdl::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool, system_address};
use crate::mm::memory::{MmAllocateContiguousMemorySpecifyCache, MmFreeContiguousMemorySpecifyCache};
use alloc::boxed::Box;
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

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
            // AllocatePool: bytes, tag, result.
            0 => {
                let block = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, a.number(0) as u32 as usize, a.number(1) as u32);
                a.pointer::<*mut c_void>(2).write(block.cast());
                if block.is_null() { STOR_STATUS_INSUFFICIENT_RESOURCES } else { STOR_STATUS_SUCCESS }
            }
            // FreePool: block.
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
                if request.mdl().is_null() {
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
            13 => match interrupt::information(adapter, a.number(0) as u32) {
                Some(information) => {
                    a.pointer::<MessageInterruptInformation>(1).write(information);
                    STOR_STATUS_SUCCESS
                }
                None => STOR_STATUS_INVALID_PARAMETER,
            },
            // InitializePerformanceOptimizations: query, data.
            14 => performance::choose(adapter, a.number(0) as u8 != 0, a.pointer(1)),
            // GetStartIoPerformanceParameters: SRB, parameters.
            15 => match a.pointer::<StartIoPerformanceParameters>(1).as_mut() {
                Some(parameters) => performance::parameters(adapter, parameters),
                None => STOR_STATUS_INVALID_PARAMETER,
            },
            // LogSystemEvent: details, size.
            16 => {
                crate::platform::platform().log("storport: the miniport logged a system event");
                STOR_STATUS_SUCCESS
            }
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
            19 => {
                let mask = ke::KeQueryGroupAffinity(a.number(0) as u16);
                a.pointer::<u64>(1).write(mask);
                if mask == 0 { STOR_STATUS_INVALID_PARAMETER } else { STOR_STATUS_SUCCESS }
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
            29 => {
                let worker = Box::into_raw(Box::new(Worker(AtomicUsize::new(0))));
                a.pointer::<*mut Worker>(0).write(worker);
                STOR_STATUS_SUCCESS
            }
            // QueueWorkItem: routine, worker, context.
            30 => {
                let worker = a.pointer::<Worker>(1);
                if (*worker).0.swap(1, Ordering::AcqRel) != 0 {
                    return STOR_STATUS_BUSY;
                }
                let job = [adapter.extension() as usize, a.number(2) as usize, worker as usize, a.number(0) as usize];
                super::work::queue(Box::new(move || {
                    let [extension, context, worker, routine] = job;
                    (*(worker as *const Worker)).0.store(0, Ordering::Release);
                    let routine = transmute::<usize, HwWorkItem>(routine);
                    routine(extension as *mut c_void, context as *mut c_void, worker as *mut c_void);
                }));
                STOR_STATUS_SUCCESS
            }
            // FreeWorker
            31 => {
                let worker = a.pointer::<Worker>(0);
                if (*worker).0.load(Ordering::Acquire) != 0 {
                    return STOR_STATUS_BUSY;
                }
                drop(Box::from_raw(worker));
                STOR_STATUS_SUCCESS
            }
            // InitializeTimer: result.
            32 => {
                let timer = HwTimer::make(adapter);
                a.pointer::<*mut HwTimer>(0).write(timer);
                STOR_STATUS_SUCCESS
            }
            // RequestTimer: timer, routine, context, microseconds, tolerable delay.
            33 => (*a.pointer::<HwTimer>(0)).set(a.number(1) as usize, a.number(2) as usize, a.number(3)),
            // FreeTimer
            34 => {
                let timer = a.pointer::<HwTimer>(0);
                if (*timer).routine.load(Ordering::Acquire) != 0 {
                    return STOR_STATUS_BUSY;
                }
                ke::KeCancelTimer(&raw mut (*timer).timer);
                drop(Box::from_raw(timer));
                STOR_STATUS_SUCCESS
            }
            // GetActivityId: there is none.
            40 => STOR_STATUS_UNSUCCESSFUL,
            // GetSystemPortNumber: address, which gets the port.
            41 => {
                (*a.pointer::<StorAddrBtl8>(0)).port = adapter.port;
                STOR_STATUS_SUCCESS
            }
            // GetDataInBufferScatterGatherList: SRB, result.
            44 => {
                let Some(request) = request(adapter, a.pointer(0)) else { return STOR_STATUS_INVALID_PARAMETER };
                a.pointer::<*mut ScatterGatherList>(1).write(request.list);
                STOR_STATUS_SUCCESS
            }
            // What has nothing to do here: SetPowerSettingNotificationGuids (there are no settings to notify of),
            // SetUnitAttributes, FlushDataBufferMdl (x64 is coherent), SetAdapterBusType.
            26 | 46 | 54 | 64 => STOR_STATUS_SUCCESS,
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

/// `STOR_REQUEST_INFO_V1`, the part that both versions have.
unsafe fn request_info(adapter: &Adapter, srb: *mut c_void, info: *mut c_void) -> u32 {
    let Some(request) = request(adapter, srb) else { return STOR_STATUS_INVALID_PARAMETER };
    // SAFETY: the miniport gives a structure as long as its size says.
    unsafe {
        let size = info.cast::<u16>().add(1).read();
        if size < 24 || request.irp().is_null() {
            return STOR_STATUS_INVALID_PARAMETER;
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

/// A work item of a miniport: 1 while queued.
struct Worker(AtomicUsize);

/// A timer of a miniport.
struct HwTimer {
    timer: Timer,
    dpc: Dpc,
    adapter: *const Adapter,
    routine: AtomicUsize,
    context: AtomicUsize,
}

impl HwTimer {
    fn make(adapter: &Adapter) -> *mut HwTimer {
        // SAFETY: all zero is valid for timer and DPC, which are initialised before they are used.
        unsafe {
            let timer = Box::into_raw(Box::new(HwTimer {
                timer: core::mem::zeroed(),
                dpc: core::mem::zeroed(),
                adapter,
                routine: AtomicUsize::new(0),
                context: AtomicUsize::new(0),
            }));
            ke::KeInitializeTimer(&raw mut (*timer).timer);
            ke::KeInitializeDpc(&raw mut (*timer).dpc, Some(timer_routine), timer.cast());
            timer
        }
    }

    /// Sets it, or with 0 microseconds cancels it.
    fn set(&mut self, routine: usize, context: usize, microseconds: u64) -> u32 {
        // SAFETY: timer and DPC live until the miniport frees them.
        unsafe {
            if KeGetCurrentIrql() > DISPATCH_LEVEL {
                violation("StorPortRequestTimer above DISPATCH_LEVEL", 0, 0);
            }
            if microseconds == 0 {
                ke::KeCancelTimer(&raw mut self.timer);
                self.routine.store(0, Ordering::Release);
                return STOR_STATUS_SUCCESS;
            }
            if self.routine.swap(routine, Ordering::AcqRel) != 0 {
                // Set before and not run yet: it starts again.
                ke::KeCancelTimer(&raw mut self.timer);
            }
            self.context.store(context, Ordering::Release);
            ke::KeSetTimer(&raw mut self.timer, -10 * microseconds as i64, &raw mut self.dpc);
        }
        STOR_STATUS_SUCCESS
    }
}

unsafe extern "win64" fn timer_routine(_: *mut Dpc, timer: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the timer lives until the miniport frees it, which it may not do while it is set.
    unsafe {
        let timer = &*timer.cast::<HwTimer>();
        let context = timer.context.load(Ordering::Acquire);
        let routine = timer.routine.swap(0, Ordering::AcqRel);
        if routine != 0 {
            let routine = transmute::<usize, HwTimerEx>(routine);
            routine((*timer.adapter).extension(), context as *mut c_void);
        }
    }
}
