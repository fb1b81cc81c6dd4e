//! The way of a request: queued, mapped, started, completed, told.
//!
//! - [`Adapter::submit`] puts a request in its unit's queue; [`Adapter::pump`] starts what the gates let through.
//! - A request is mapped by the DMA adapter, then goes to HwStorBuildIo without a lock and to HwStorStartIo with the locks
//!   that [`Adapter::starting`] says, at DISPATCH_LEVEL or, in half duplex, at DIRQL.
//! - A completion at any IRQL only notes the request; a completion DPC finishes it and pumps again: on the processor of the
//!   completion, or where the miniport's choice of DPC redirection has it (`performance`).

use super::abi::*;
use super::adapter::{ANYWHERE, Adapter, NON_PAGED_POOL_NX, Place, State, TAG, Unit};
use super::dma::DmaAdapter;
use super::queue::Bypass;
use super::request::{Origin, Request, ready, retire};
use super::srb::{Command, Srb, write_short};
use super::violation;
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::abi::DeviceObject;
use crate::io::irp::IofCompleteRequest;
use crate::ke::abi::{DISPATCH_LEVEL, Dpc, Event};
use crate::ke::{self, irql::*};
use crate::mm::abi::Mdl;
use crate::mm::mdl::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool};
use crate::platform::platform;
use crate::status::*;
use crate::sync::IrqGuard;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering;

/// How often a request that came back busy is started again before that is the class driver's business.
const BUSY_RETRIES: u32 = 20;
/// 10 ms until a busy unit without other requests is tried again, in 100 ns.
const BUSY_DELAY: i64 = -100_000;

impl Adapter {
    /// Makes a request for an SRB. IRQL <= DISPATCH_LEVEL. `None` without memory.
    ///
    /// # Safety
    /// `srb` is whole and stays so until the origin is told; its MDL describes its data buffer.
    pub unsafe fn request(
        &self,
        unit: Option<Arc<Unit>>,
        srb: Srb,
        origin: Origin,
        mdl: *mut Mdl,
    ) -> Option<Box<Request>> {
        let bytes = self.config().srb_extension_size.max(self.hw.srb_extension_size) as usize;
        let spare = self.state.lock().spares.take();
        let (home, memory) = ready(spare, bytes)?;
        let irp = match origin {
            Origin::Irp(irp) => irp.cast(),
            _ => ptr::null_mut(),
        };
        srb.set_owner(irp, memory.extension());
        srb.set_status(SRB_STATUS_PENDING);
        if let Some(unit) = &unit {
            srb.set_place(unit.place, self.port);
        }
        let flags = srb.flags();
        let bypass = Bypass {
            frozen: flags & SRB_FLAGS_BYPASS_FROZEN_QUEUE != 0,
            locked: flags & SRB_FLAGS_BYPASS_LOCKED_QUEUE != 0,
        };
        let request = Request {
            adapter: self,
            unit,
            srb,
            origin,
            bypass,
            mdl,
            list: ptr::null_mut(),
            length: srb.transfer_length(),
            flags,
            seconds: srb.time_out(),
            retries: 0,
            processor: 0,
            memory,
        };
        Some(match home {
            Some(mut home) => {
                *home = request;
                home
            }
            None => Box::new(request),
        })
    }

    /// Queues a request and starts what may start. IRQL <= DISPATCH_LEVEL.
    pub fn submit(&self, mut request: Box<Request>) {
        let bypass = request.bypass;
        let place = request.unit.as_ref().map(|u| u.place);
        // SAFETY: raised and lowered in pairs.
        let irql = unsafe { KfRaiseIrql(DISPATCH_LEVEL) };
        request.processor = platform().current_processor();
        let request = Box::into_raw(request);
        let mut state = self.state.lock();
        if let Some(slot) = state.slots.iter_mut().find(|s| Some(s.unit.place) == place) {
            slot.queue.push(request, bypass);
            self.pump_with(state);
        } else {
            drop(state);
            // SAFETY: made above.
            unsafe { self.fail(request, SRB_STATUS_NO_DEVICE) };
        }
        // SAFETY: as above.
        unsafe { KeLowerIrql(irql) };
    }

    /// Starts a request past all queues: resets, and requests for the adapter itself. IRQL <= DISPATCH_LEVEL.
    pub fn start_now(&self, mut request: Box<Request>) {
        // SAFETY: raised and lowered in pairs.
        unsafe {
            let irql = KfRaiseIrql(DISPATCH_LEVEL.max(KeGetCurrentIrql()));
            request.processor = platform().current_processor();
            let request = Box::into_raw(request);
            self.state.lock().outstanding.insert((*request).srb.pointer() as usize, request);
            self.start(request);
            KeLowerIrql(irql);
        }
    }

    /// Has the completion DPC pump. Any IRQL.
    pub fn queue_pump(&self) {
        self.queue_list(ANYWHERE);
    }

    /// Has the DPC of a list finish what is in it, and pump. Any IRQL.
    fn queue_list(&self, list: usize) {
        // SAFETY: the DPC lives as long as the adapter.
        unsafe { ke::KeInsertQueueDpc(self.completion[list].get(), list as *mut c_void, ptr::null_mut()) };
    }

    /// Starts what the gates let through. IRQL <= DISPATCH_LEVEL.
    pub fn pump(&self) {
        // SAFETY: raised and lowered in pairs.
        unsafe {
            let irql = KfRaiseIrql(DISPATCH_LEVEL);
            self.pump_with(self.state.lock());
            KeLowerIrql(irql);
        }
    }

    /// As [`Adapter::pump`], with the state locked. IRQL = DISPATCH_LEVEL.
    fn pump_with<'a>(&'a self, mut state: IrqGuard<'a, State>) {
        while let Some(request) = self.next(&mut state) {
            // Whoever queues a request or opens a gate pumps, too.
            let more = state.slots.iter().any(|slot| !slot.queue.is_empty());
            drop(state);
            // SAFETY: the request came out of a queue; it is this processor's now.
            unsafe { self.start(request) };
            if !more {
                return;
            }
            state = self.state.lock();
        }
    }

    /// The next request, units in turn: the miniport has it now.
    fn next(&self, state: &mut State) -> Option<*mut Request> {
        let limit = match self.config().max_number_of_io {
            0 => usize::MAX,
            n => n as usize,
        };
        if !state.running || !state.gate.open() || state.outstanding.len() >= limit {
            return None;
        }
        let count = state.slots.len();
        for i in 0..count {
            let at = (state.turn + i) % count;
            if let Some(request) = state.slots[at].queue.pop() {
                state.turn = at + 1;
                // SAFETY: a request in a queue is alive.
                state.outstanding.insert(unsafe { (*request).srb.pointer() } as usize, request);
                return Some(request);
            }
        }
        None
    }

    /// Maps the data and hands the request to the miniport. IRQL = DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The request is this processor's, and outstanding.
    unsafe fn start(&self, request: *mut Request) {
        // SAFETY: the caller's promise.
        let r = unsafe { &mut *request };
        self.counters.started.fetch_add(1, Ordering::Relaxed);
        let to_device = u8::from(r.flags & SRB_FLAGS_DATA_OUT != 0);
        let has_data = r.length != 0 && !r.mdl.is_null() && r.flags & (SRB_FLAGS_DATA_IN | SRB_FLAGS_DATA_OUT) != 0;
        let dma = self.dma.load(Ordering::Acquire);
        if has_data && !dma.is_null() && r.srb.function() == SRB_FUNCTION_EXECUTE_SCSI {
            // SAFETY: the DMA adapter is that of the PDO; MDL and length belong to the request.
            let status = unsafe { self.map(dma, r, to_device) };
            if !nt_success(status) {
                r.srb.set_status(SRB_STATUS_BUSY);
                self.complete(r.srb.pointer());
            }
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.run(r) };
        }
    }

    /// Has the DMA adapter make the list of a request's data, in the request's own memory where it can.
    /// IRQL = DISPATCH_LEVEL.
    ///
    /// # Safety
    /// As [`Adapter::start`]; the DMA adapter is that of the PDO. The request may be gone when this returns.
    unsafe fn map(&self, dma: *mut DmaAdapter, request: &mut Request, to_device: u8) -> NtStatus {
        // SAFETY: the caller's promise; MDL and length belong to the request.
        unsafe {
            let (mdl, length) = (request.mdl, request.length);
            let va = (*mdl).virtual_address();
            let context = ptr::from_mut(request).cast::<c_void>();
            if let Some(build) = (*dma).build() {
                let Some((list, room)) = request.memory.list(mdl, va, length) else {
                    return STATUS_INSUFFICIENT_RESOURCES;
                };
                let va = va as *mut c_void;
                let status = build(dma, self.fdo, mdl, va, length, list_routine, context, to_device, list, room);
                if status != STATUS_BUFFER_TOO_SMALL {
                    return status;
                }
            }
            let Some(get) = (*(*dma).operations).get_scatter_gather_list else { return STATUS_NOT_SUPPORTED };
            get(dma, self.fdo, mdl, va as *mut c_void, length, list_routine, context, to_device)
        }
    }

    /// HwStorBuildIo, then HwStorStartIo. IRQL = DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The request is outstanding; it may be gone when this returns.
    unsafe fn run(&self, request: &Request) {
        let (srb, extension) = (request.srb, self.extension());
        // SAFETY: the miniport's own routines, called as they are documented.
        unsafe {
            if let Some(build) = self.hw.hw_build_io
                && build(extension, srb.pointer()) == 0
            {
                return;
            }
            let Some(start) = self.hw.hw_start_io else { return };
            let channel = self.state.lock().performance.channel(request.processor);
            let accepted = self.starting(channel, || start(extension, srb.pointer()));
            let refused = accepted == 0 && self.state.lock().outstanding.contains_key(&(srb.pointer() as usize));
            if refused {
                srb.set_status(SRB_STATUS_BUSY);
                self.complete(srb.pointer());
            }
        }
    }

    /// The miniport is done with a request. Any IRQL up to DIRQL.
    pub fn complete(&self, srb: *mut c_void) {
        let mut state = self.state.lock();
        let Some(request) = state.outstanding.remove(&(srb as usize)) else {
            drop(state);
            violation(
                "a request was completed that the miniport does not have",
                srb as usize,
                self.extension() as usize,
            );
        };
        // SAFETY: the request was the miniport's until now.
        let from = unsafe { (*request).processor };
        let list = state.performance.finisher(from).map_or(ANYWHERE, |processor| 1 + processor as usize);
        state.completed[list].push_back(request);
        drop(state);
        self.counters.completed.fetch_add(1, Ordering::Relaxed);
        self.queue_list(list);
    }

    /// Completes what is outstanding at a place (`None`: any value) with a status: `StorPortCompleteRequest`. Any IRQL
    /// up to DIRQL.
    pub fn complete_matching(&self, place: (Option<u8>, Option<u8>, Option<u8>), status: u8) {
        let matches = |(p, t, l): Place| {
            place.0.is_none_or(|x| x == p) && place.1.is_none_or(|x| x == t) && place.2.is_none_or(|x| x == l)
        };
        // A reset in progress is completed by the miniport itself.
        let is_reset = |s: &Srb| {
            matches!(s.function(), SRB_FUNCTION_RESET_LOGICAL_UNIT | SRB_FUNCTION_RESET_DEVICE | SRB_FUNCTION_RESET_BUS)
        };
        let mut found: Vec<Srb> = {
            let state = self.state.lock();
            // SAFETY: outstanding requests are alive.
            state
                .outstanding
                .values()
                .map(|r| unsafe { (**r).srb })
                .filter(|s| matches(s.place()) && !is_reset(s))
                .collect()
        };
        // The same order in every run.
        found.sort_unstable_by_key(|srb| srb.pointer());
        for srb in found {
            srb.set_status(status);
            self.complete(srb.pointer());
        }
    }

    /// The request that an SRB belongs to, while the miniport has it. Any IRQL up to DIRQL.
    pub fn outstanding(&self, srb: *mut c_void) -> Option<*mut Request> {
        self.state.lock().outstanding.get(&(srb as usize)).copied()
    }

    /// Requests that the miniport has.
    pub fn in_flight(&self) -> usize {
        self.state.lock().outstanding.len()
    }

    /// Finishes a request that never reached the miniport.
    ///
    /// # Safety
    /// The request is this processor's.
    pub(super) unsafe fn fail(&self, request: *mut Request, status: u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let request = Box::from_raw(request);
            request.srb.set_status(status);
            request.srb.set_transfer_length(0);
            let spare = self.tell(request);
            self.state.lock().spares.put(spare);
        }
    }

    /// One completed request: checked, unmapped, tried again or told to its origin and a spare one then.
    /// IRQL = DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The request is this processor's.
    unsafe fn finish(&self, request: *mut Request) -> Option<Box<Request>> {
        // SAFETY: the caller's promise.
        let mut request = unsafe { Box::from_raw(request) };
        let srb = request.srb;
        if !request.list.is_null() {
            let dma = self.dma.load(Ordering::Acquire);
            let to_device = u8::from(request.flags & SRB_FLAGS_DATA_OUT != 0);
            // SAFETY: the list came from this adapter.
            unsafe {
                if let Some(put) = (*(*dma).operations).put_scatter_gather_list {
                    put(dma, request.list, to_device);
                }
            }
            request.list = ptr::null_mut();
        }
        Self::check(&request);
        let status = srb.status() & !(SRB_STATUS_AUTOSENSE_VALID | SRB_STATUS_QUEUE_FROZEN);
        let scsi = srb.function() == SRB_FUNCTION_EXECUTE_SCSI;
        let full =
            scsi && status == SRB_STATUS_ERROR && matches!(srb.scsi_status(), SCSISTAT_BUSY | SCSISTAT_QUEUE_FULL);
        let busy = status == SRB_STATUS_BUSY || full;
        if busy {
            self.counters.busy.fetch_add(1, Ordering::Relaxed);
        }
        let place = request.unit.as_ref().map(|u| u.place);
        let queued = matches!(request.origin, Origin::Irp(_) | Origin::Event(_)) && place.is_some();
        {
            let mut state = self.state.lock();
            let left = state.outstanding.len() as u32;
            state.gate.completed(left);
            if queued && let Some(slot) = state.slots.iter_mut().find(|s| Some(s.unit.place) == place) {
                slot.queue.returned();
                slot.stage = if slot.queue.outstanding == 0 { 0 } else { slot.stage };
                if busy && request.retries < BUSY_RETRIES && !slot.queue.dead {
                    request.retries += 1;
                    srb.set_status(SRB_STATUS_PENDING);
                    srb.set_transfer_length(request.length);
                    request.memory.retire();
                    slot.queue.gate.busy(if slot.queue.outstanding == 0 { u32::MAX } else { 1 });
                    let alone = slot.queue.outstanding == 0;
                    let bypass = request.bypass;
                    slot.queue.push_front(Box::into_raw(request), bypass);
                    drop(state);
                    if alone {
                        // SAFETY: timer and DPC live as long as the adapter.
                        unsafe {
                            let pair = self.retry.get();
                            ke::KeSetTimer(&raw mut (*pair).0, BUSY_DELAY, &raw mut (*pair).1);
                        }
                    }
                    return None;
                }
                if scsi && status != SRB_STATUS_SUCCESS && request.flags & SRB_FLAGS_NO_QUEUE_FREEZE == 0 {
                    slot.queue.frozen = true;
                    srb.set_status(srb.status() | SRB_STATUS_QUEUE_FROZEN);
                }
            }
        }
        // SAFETY: the caller's promise.
        Some(unsafe { self.tell(request) })
    }

    /// What a completed request must look like.
    fn check(request: &Request) {
        let (srb, at) = (request.srb, request.srb.pointer() as usize);
        let status = srb.status() & !(SRB_STATUS_AUTOSENSE_VALID | SRB_STATUS_QUEUE_FROZEN);
        if status == SRB_STATUS_PENDING {
            violation("a request was completed with SRB_STATUS_PENDING", at, usize::from(srb.function()));
        }
        if srb.transfer_length() > request.length {
            violation("a request was completed with more data than it asked for", at, srb.transfer_length() as usize);
        }
        if srb.status() & SRB_STATUS_AUTOSENSE_VALID != 0 && (srb.sense().0.is_null() || srb.sense().1 == 0) {
            violation("a request without a sense buffer was completed with sense data", at, usize::from(srb.sense().1));
        }
        let success = status == SRB_STATUS_SUCCESS && srb.function() == SRB_FUNCTION_EXECUTE_SCSI;
        if success && srb.scsi_status() != SCSISTAT_GOOD {
            violation("a request succeeded with a bad SCSI status", at, usize::from(srb.scsi_status()));
        }
    }

    /// Tells the origin of a request, which is a spare one then. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Safety
    /// Nobody else has the request.
    #[expect(clippy::unnecessary_box_returns, reason = "it is the box that is used again")]
    unsafe fn tell(&self, request: Box<Request>) -> Box<Request> {
        let srb = request.srb;
        let status = srb.status() & !(SRB_STATUS_AUTOSENSE_VALID | SRB_STATUS_QUEUE_FROZEN);
        // SAFETY: the extension was allocated with the request; the origin is alive until it is told.
        unsafe {
            srb.set_owner(request.irp().cast(), ptr::null_mut());
            let request = retire(request);
            match request.origin {
                Origin::Irp(irp) => {
                    (*irp).io_status.status = nt_status(status);
                    let moved = matches!(status, SRB_STATUS_SUCCESS | SRB_STATUS_DATA_OVERRUN);
                    (*irp).io_status.information = if moved { srb.transfer_length() as usize } else { 0 };
                    IofCompleteRequest(irp, i8::from(status == SRB_STATUS_SUCCESS));
                }
                Origin::Event(event) => {
                    ke::KeSetEvent(event, 0, 0);
                }
                Origin::Reset(place) => {
                    drop(Box::from_raw(srb.pointer().cast::<ScsiRequestBlock>()));
                    if status != SRB_STATUS_SUCCESS {
                        self.escalate(place);
                    }
                }
            }
            request
        }
    }

    /// Sends one SCSI command of the port driver's own and waits. IRQL = PASSIVE_LEVEL. The data buffer is resident
    /// memory. Returns the SRB status without flags, and the bytes moved.
    pub fn execute(&self, unit: &Arc<Unit>, cdb: &[u8], data: &mut [u8], to_device: bool) -> (u8, u32) {
        let mut sense = [0u8; 18];
        let direction = if data.is_empty() {
            0
        } else if to_device {
            SRB_FLAGS_DATA_OUT
        } else {
            SRB_FLAGS_DATA_IN
        };
        let command = Command {
            cdb,
            flags: direction | SRB_FLAGS_NO_QUEUE_FREEZE | SRB_FLAGS_BYPASS_FROZEN_QUEUE,
            data: ptr::null_mut(),
            length: data.len() as u32,
            sense: (sense.as_mut_ptr(), 18),
            time_out: 10,
        };
        // SAFETY: SRB, event, bounce buffer and MDL live until the event is set.
        unsafe {
            let mut event = core::mem::zeroed::<Event>();
            ke::KeInitializeEvent(&raw mut event, 0, 0);
            let mut mdl = ptr::null_mut();
            let mut bounce = ptr::null_mut();
            if !data.is_empty() {
                bounce = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, data.len(), TAG).cast::<u8>();
                if bounce.is_null() {
                    return (SRB_STATUS_INTERNAL_ERROR, 0);
                }
                ptr::copy_nonoverlapping(data.as_ptr(), bounce, data.len());
                mdl = IoAllocateMdl(bounce.cast(), data.len() as u32, 0, 0, ptr::null_mut());
                if mdl.is_null() {
                    ExFreePool(bounce.cast());
                    return (SRB_STATUS_INTERNAL_ERROR, 0);
                }
                MmBuildMdlForNonPagedPool(mdl);
            }
            let mut long = core::mem::zeroed::<super::srb::LongSrb>();
            let mut short = core::mem::zeroed::<ScsiRequestBlock>();
            let command = Command { data: bounce.cast(), ..command };
            let srb = if self.extended_srbs() {
                super::srb::write_long(&mut long, &command);
                Srb::new((&raw mut long).cast())
            } else {
                write_short(&mut short, &command);
                Srb::new((&raw mut short).cast())
            };
            let mut result = (SRB_STATUS_INTERNAL_ERROR, 0);
            if let Some(request) = self.request(Some(unit.clone()), srb, Origin::Event(&raw mut event), mdl) {
                self.submit(request);
                crate::io::irp::wait_for(&raw mut event);
                result = (srb.status() & 0x3f, srb.transfer_length());
            }
            if !mdl.is_null() {
                ptr::copy_nonoverlapping(bounce, data.as_mut_ptr(), data.len());
                IoFreeMdl(mdl);
                ExFreePool(bounce.cast());
            }
            result
        }
    }

    /// Whether the miniport takes `STORAGE_REQUEST_BLOCK`s.
    pub fn extended_srbs(&self) -> bool {
        self.hw.srb_type_flags & SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK != 0
    }

    /// Sends one function without data to the miniport, past the queues, and waits. IRQL = PASSIVE_LEVEL.
    pub fn execute_function(&self, place: Place, fill: impl FnOnce(&mut ScsiRequestBlock)) -> u8 {
        // SAFETY: SRB and event live until the event is set.
        unsafe {
            let mut event = core::mem::zeroed::<Event>();
            ke::KeInitializeEvent(&raw mut event, 0, 0);
            let mut short = core::mem::zeroed::<ScsiRequestBlock>();
            short.length = size_of::<ScsiRequestBlock>() as u16;
            (short.path_id, short.target_id, short.lun) = place;
            short.time_out_value = 10;
            fill(&mut short);
            let srb = Srb::new((&raw mut short).cast());
            let Some(request) = self.request(None, srb, Origin::Event(&raw mut event), ptr::null_mut()) else {
                return SRB_STATUS_INTERNAL_ERROR;
            };
            self.start_now(request);
            crate::io::irp::wait_for(&raw mut event);
            srb.status() & 0x3f
        }
    }
}

/// The NTSTATUS of an SRB status without its flags.
pub fn nt_status(status: u8) -> NtStatus {
    match status {
        SRB_STATUS_SUCCESS => STATUS_SUCCESS,
        SRB_STATUS_DATA_OVERRUN => STATUS_BUFFER_OVERFLOW,
        SRB_STATUS_BUSY => STATUS_DEVICE_BUSY,
        SRB_STATUS_TIMEOUT | 0x0b => STATUS_IO_TIMEOUT,
        SRB_STATUS_INVALID_REQUEST | SRB_STATUS_BAD_FUNCTION => STATUS_INVALID_DEVICE_REQUEST,
        SRB_STATUS_NO_DEVICE
        | SRB_STATUS_INVALID_LUN
        | SRB_STATUS_INVALID_TARGET_ID
        | SRB_STATUS_INVALID_PATH_ID
        | SRB_STATUS_NO_HBA
        | SRB_STATUS_SELECTION_TIMEOUT => STATUS_DEVICE_DOES_NOT_EXIST,
        SRB_STATUS_REQUEST_FLUSHED => STATUS_UNSUCCESSFUL,
        // STATUS_IO_DEVICE_ERROR
        _ => 0xC000_0185_u32 as i32,
    }
}

/// The DMA adapter made the list of a request. IRQL = DISPATCH_LEVEL.
unsafe extern "win64" fn list_routine(
    _device: *mut DeviceObject,
    _irp: *mut c_void,
    list: *mut ScatterGatherList,
    context: *mut c_void,
) {
    // SAFETY: the context is the request that asked for the list.
    unsafe {
        let request = &mut *context.cast::<Request>();
        request.list = list;
        (*request.adapter).run(request);
    }
}

/// A completion DPC: finishes what the miniport completed and is in its list, then pumps.
///
/// # Safety
/// `context` is an adapter.
pub(super) unsafe extern "win64" fn completion_routine(
    _: *mut Dpc,
    context: *mut c_void,
    list: *mut c_void,
    _: *mut c_void,
) {
    // SAFETY: the context is the adapter, which outlives its DPCs.
    let adapter = unsafe { &*context.cast::<Adapter>() };
    let mut spare = None;
    loop {
        let mut state = adapter.state.lock();
        if let Some(spare) = spare.take() {
            state.spares.put(spare);
        }
        let Some(request) = state.completed[list as usize].pop_front() else { break };
        drop(state);
        // SAFETY: the request came out of the list; it is this processor's now.
        spare = unsafe { adapter.finish(request) };
    }
    if adapter.rescan_wanted.swap(false, Ordering::AcqRel) {
        super::fdo::rescan(adapter);
    }
    adapter.pump();
}
