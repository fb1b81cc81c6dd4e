//! IRPs: allocation, the way down the stack, completion on the way up, cancelling.
//!
//! Sources: <https://learn.microsoft.com/windows-hardware/drivers/kernel/handling-irps> and the pages of the functions.
//! The rules of Driver Verifier that hold for every driver are checked here: an IRP completed twice or after its
//! completion, completed with STATUS_PENDING or with a cancel routine set, a dispatch routine that returns
//! STATUS_PENDING for an IRP that is not marked pending or something else for one that is, and one that returns
//! without completing, forwarding or marking
//! (<https://learn.microsoft.com/windows-hardware/drivers/devtest/i-o-verification>).
use super::abi::*;
use super::kernel::{pool_alloc, pool_free, violation};
use super::status::*;
use crate::ke;
use crate::ke::abi::{Event, ListEntry};
use crate::sync::IrqLock;
use core::ffi::c_void;
use core::mem::size_of;
use core::ptr;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Pool tag of IRPs.
const TAG: u32 = u32::from_le_bytes(*b"Irp ");
/// `allocation_flags`: allocated here, with an [`Track`] in front.
const TRACKED: u8 = 0x80;

/// A dispatch routine that is running: what became of the IRP below it.
struct Call {
    /// The record of an outer call for the same stack location (the location was skipped).
    outer: *mut Call,
    /// The location was completed.
    done: bool,
    /// It was marked pending by then.
    marked: bool,
    /// Its driver passed the IRP down with a location of its own.
    passed: bool,
    /// The status it was completed with.
    status: NtStatus,
}

/// What stands in front of an IRP that [`IoAllocateIrp`] made.
#[repr(C, align(16))]
struct Track {
    /// 1 while allocated, 2 in the hands of completion's last stage.
    state: AtomicU8,
    stack_size: i8,
    /// Running calls by stack location, from 1; follows the IRP's stack locations in memory.
    calls: *mut *mut Call,
}

/// Guards the calls' records.
static CALLS: IrqLock<()> = IrqLock::new(());
/// The cancel spin lock of the system.
static CANCEL: AtomicUsize = AtomicUsize::new(0);
/// IRPs that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// IRPs that were allocated with [`IoAllocateIrp`] and its kin and not freed yet. Any IRQL.
pub fn live_irps() -> usize {
    LIVE.load(Ordering::Relaxed)
}

fn locations(irp: *mut Irp) -> *mut StackLocation {
    // SAFETY: the stack locations follow the IRP; only the address is made here.
    unsafe { irp.add(1).cast() }
}

/// Bytes of an IRP with that many stack locations (`IoSizeOfIrp`).
pub const fn size_of_irp(stack_size: i8) -> usize {
    size_of::<Irp>() + stack_size as usize * size_of::<StackLocation>()
}

/// The current stack location.
///
/// # Safety
/// The IRP is valid and has one.
pub unsafe fn current(irp: *mut Irp) -> *mut StackLocation {
    // SAFETY: per the contract.
    unsafe { (*irp).current }
}

/// The stack location of the next lower driver.
///
/// # Safety
/// The IRP is valid.
pub unsafe fn next(irp: *mut Irp) -> *mut StackLocation {
    // SAFETY: per the contract; only the address is made here.
    unsafe { (*irp).current.sub(1) }
}

/// Copies the current location to the next one, without the completion routine
/// (`IoCopyCurrentIrpStackLocationToNext`).
///
/// # Safety
/// The IRP is valid and has a next location.
pub unsafe fn copy_to_next(irp: *mut Irp) {
    // SAFETY: per the contract.
    unsafe {
        let mut copy = *current(irp);
        copy.control = 0;
        copy.completion = None;
        copy.context = ptr::null_mut();
        next(irp).write(copy);
    }
}

/// Gives the current location to the next driver (`IoSkipCurrentIrpStackLocation`).
///
/// # Safety
/// The IRP is valid and has a current location.
pub unsafe fn skip(irp: *mut Irp) {
    // SAFETY: per the contract.
    unsafe {
        (*irp).current_location += 1;
        (*irp).current = (*irp).current.add(1);
    }
}

/// Marks the current location pending (`IoMarkIrpPending`).
///
/// # Safety
/// The IRP is valid and has a current location.
pub unsafe fn mark_pending(irp: *mut Irp) {
    // SAFETY: per the contract.
    unsafe { (*current(irp)).control |= sl::PENDING_RETURNED };
}

/// Sets the completion routine of the next location, called whatever the result.
///
/// # Safety
/// The IRP is valid and has a next location.
pub unsafe fn set_completion(irp: *mut Irp, routine: CompletionRoutine, context: *mut c_void) {
    // SAFETY: per the contract.
    unsafe {
        let location = next(irp);
        (*location).completion = Some(routine);
        (*location).context = context;
        (*location).control = sl::INVOKE_ON_SUCCESS | sl::INVOKE_ON_ERROR | sl::INVOKE_ON_CANCEL;
    }
}

/// Allocates an IRP. IRQL <= DISPATCH_LEVEL. NULL without memory.
///
/// # Safety
/// None needed; the IRP is the caller's to free.
pub unsafe extern "win64" fn IoAllocateIrp(stack_size: i8, _charge_quota: u8) -> *mut Irp {
    if stack_size <= 0 {
        return ptr::null_mut();
    }
    let size = size_of_irp(stack_size);
    let calls = (stack_size as usize + 2) * size_of::<*mut Call>();
    let memory = pool_alloc(size_of::<Track>() + size + calls, TAG);
    if memory.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: the block has room for the three parts.
    unsafe {
        let track = memory.cast::<Track>();
        let irp = track.add(1).cast::<Irp>();
        init(irp, size as u16, stack_size);
        (*irp).allocation_flags = TRACKED;
        let calls = irp.cast::<u8>().add(size).cast();
        track.write(Track { state: AtomicU8::new(1), stack_size, calls });
        LIVE.fetch_add(1, Ordering::Relaxed);
        irp
    }
}

/// Allocates an IRP for a device. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `device` is valid or NULL.
pub unsafe extern "win64" fn IoAllocateIrpEx(device: *mut DeviceObject, stack_size: i8, charge: u8) -> *mut Irp {
    let _ = device;
    // SAFETY: as there.
    unsafe { IoAllocateIrp(stack_size, charge) }
}

unsafe fn init(irp: *mut Irp, size: u16, stack_size: i8) {
    // SAFETY: the caller's memory holds `size` bytes.
    unsafe {
        ptr::write_bytes(irp.cast::<u8>(), 0, usize::from(size));
        (*irp).kind = IO_TYPE_IRP;
        (*irp).size = size;
        (*irp).stack_count = stack_size;
        (*irp).current_location = stack_size + 1;
        (*irp).current = locations(irp).add(stack_size as usize);
        let list = &raw mut (*irp).thread_list;
        ListEntry::init(list);
    }
}

/// Initializes an IRP in the caller's memory. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `irp` points to `size` bytes with room for `stack_size` locations.
pub unsafe extern "win64" fn IoInitializeIrp(irp: *mut Irp, size: u16, stack_size: i8) {
    // SAFETY: per the contract.
    unsafe {
        if usize::from(size) < size_of_irp(stack_size) {
            violation("IRP-SIZE", format_args!("IoInitializeIrp: {size} bytes for {stack_size} stack locations"));
        }
        init(irp, size, stack_size);
    }
}

/// Makes an IRP ready for another use. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP was allocated by its owner and is not in use.
pub unsafe extern "win64" fn IoReuseIrp(irp: *mut Irp, status: NtStatus) {
    // SAFETY: per the contract.
    unsafe {
        let (size, stack, flags) = ((*irp).size, (*irp).stack_count, (*irp).allocation_flags);
        init(irp, size, stack);
        (*irp).allocation_flags = flags;
        (*irp).io_status = IoStatusBlock::new(status, 0);
    }
}

fn track_of(irp: *mut Irp) -> *mut Track {
    // SAFETY: a valid IRP; the record stands in front of it if the flag says so.
    unsafe { if (*irp).allocation_flags & TRACKED != 0 { irp.cast::<Track>().sub(1) } else { ptr::null_mut() } }
}

/// Frees an IRP. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP came from [`IoAllocateIrp`] and is not in use.
pub unsafe extern "win64" fn IoFreeIrp(irp: *mut Irp) {
    // SAFETY: per the contract; what the contract forbids is reported.
    unsafe {
        if (*irp).kind != IO_TYPE_IRP {
            violation("IRP-FREE", format_args!("IoFreeIrp: {irp:p} is not an IRP or was freed before"));
        }
        let track = track_of(irp);
        if track.is_null() {
            // An IRP in a driver's own memory is the driver's; freeing it this way only marks it.
            violation("IRP-FREE", format_args!("IoFreeIrp: {irp:p} was not allocated by IoAllocateIrp"));
        }
        let empty = &raw mut (*irp).thread_list;
        if (*irp).thread_list.next != empty {
            violation("IRP-FREE", format_args!("IoFreeIrp: {irp:p} is still in a thread's list"));
        }
        (*irp).kind = 0;
        LIVE.fetch_sub(1, Ordering::Relaxed);
        pool_free(track.cast(), TAG);
    }
}

/// Passes an IRP to a driver. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// Device and IRP are valid and the IRP's next location is set up.
pub unsafe extern "win64" fn IofCallDriver(device: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: per the contract; what the contract forbids is reported.
    unsafe {
        if (*irp).kind != IO_TYPE_IRP {
            violation("IRP-CALL", format_args!("IoCallDriver: {irp:p} is not an IRP or was freed"));
        }
        if device.is_null() || (*device).kind != IO_TYPE_DEVICE {
            violation("IRP-CALL", format_args!("IoCallDriver: {device:p} is not a device object or was deleted"));
        }
        (*irp).current_location -= 1;
        if (*irp).current_location <= 0 {
            // NO_MORE_IRP_STACK_LOCATIONS
            ke::KeBugCheckEx(0x35, irp as usize, 0, 0, 0);
        }
        (*irp).current = (*irp).current.sub(1);
        let location = (*irp).current;
        (*location).device = device;
        let major = (*location).major;
        let minor = (*location).minor;
        let driver = (*device).driver;
        let Some(dispatch) = (*driver).major.get(usize::from(major)).copied().flatten() else {
            violation("IRP-CALL", format_args!("IoCallDriver: major function {major:#x} is out of range"));
        };

        let track = track_of(irp);
        if track.is_null() {
            return dispatch(device, irp);
        }
        let place = (*irp).current_location;
        let mut call = Call { outer: ptr::null_mut(), done: false, marked: false, passed: false, status: 0 };
        let slot = (*track).calls.add(place as usize);
        {
            let _guard = CALLS.lock();
            call.outer = *slot;
            *slot = &raw mut call;
            // The caller's own location is the one above; it has none there if it did not make this call in its dispatch.
            if (place as usize) < (*irp).stack_count as usize
                && let Some(above) = (*(*track).calls.add(place as usize + 1)).as_mut()
            {
                above.passed = true;
            }
        }
        let before = ke::KeGetCurrentIrql();
        let returned = dispatch(device, irp);
        let after = ke::KeGetCurrentIrql();
        if before != after {
            violation(
                "IRP-IRQL",
                format_args!("the dispatch routine for {major:#x}/{minor:#x} came back at IRQL {after}, not {before}"),
            );
        }
        let guard = CALLS.lock();
        // Read again: a completion on another processor writes it under the lock.
        let call = ptr::read_volatile(&raw const call);
        let marked = if call.done {
            call.marked
        } else {
            // The location was not completed, so the IRP is still there.
            *slot = call.outer;
            let location = locations(irp).add(place as usize - 1);
            (*location).control & sl::PENDING_RETURNED != 0
        };
        drop(guard);
        // What was passed down with a location of its own is marked on its way back up, by the completion routine.
        let later = call.passed && !call.done;
        if returned == STATUS_PENDING && !marked && !later {
            violation(
                "IRP-PENDING",
                format_args!("{major:#x}/{minor:#x}: STATUS_PENDING returned for an IRP that is not marked pending"),
            );
        }
        if returned != STATUS_PENDING && marked {
            violation(
                "IRP-PENDING",
                format_args!("{major:#x}/{minor:#x}: {returned:#x} returned for an IRP that is marked pending"),
            );
        }
        if returned != STATUS_PENDING && returned != STATUS_MORE_PROCESSING_REQUIRED && !call.done {
            violation(
                "IRP-LOST",
                format_args!("{major:#x}/{minor:#x}: {returned:#x} returned, the IRP was neither completed nor kept"),
            );
        }
        if call.done && returned != STATUS_PENDING && returned != call.status {
            super::kernel::note(format_args!(
                "{major:#x}/{minor:#x}: completed with {:#x}, but {returned:#x} returned",
                call.status
            ));
        }
        returned
    }
}

/// Notes that the location `place` was completed: the calls that wait for it learn it.
unsafe fn location_done(track: *mut Track, place: i8, marked: bool, status: NtStatus) {
    if track.is_null() {
        return;
    }
    let _guard = CALLS.lock();
    // SAFETY: the table has a slot for each location; the records live on the stacks of calls that have not returned,
    // because a returning call takes its record out under the same lock.
    unsafe {
        let slot = (*track).calls.add(place as usize);
        let mut call = *slot;
        while !call.is_null() {
            (*call).done = true;
            (*call).marked = marked;
            (*call).status = status;
            call = (*call).outer;
        }
        *slot = ptr::null_mut();
    }
}

/// Completes an IRP: the completion routines from here up, then the originator. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP is valid, owned by the caller, and its status is set.
pub unsafe extern "win64" fn IofCompleteRequest(irp: *mut Irp, _priority_boost: i8) {
    // SAFETY: per the contract; what the contract forbids is reported.
    unsafe {
        if (*irp).kind != IO_TYPE_IRP || (*irp).current_location > (*irp).stack_count + 1 {
            // MULTIPLE_IRP_COMPLETE_REQUESTS
            ke::KeBugCheckEx(0x44, irp as usize, 0, 0, 0);
        }
        if (*irp).io_status.status == STATUS_PENDING || (*irp).io_status.status == -1 {
            violation("IRP-STATUS", format_args!("IRP completed with status {:#x}", (*irp).io_status.status));
        }
        if (*irp).cancel_routine.load(Ordering::Acquire) != 0 {
            violation("IRP-CANCEL", format_args!("IRP completed with its cancel routine still set"));
        }
        let track = track_of(irp);
        while (*irp).current_location <= (*irp).stack_count {
            let place = (*irp).current_location;
            let location = (*irp).current;
            let done = *location;
            (*irp).current_location += 1;
            (*irp).current = location.add(1);
            let pending = done.control & sl::PENDING_RETURNED != 0;
            (*irp).pending_returned = u8::from(pending);
            location_done(track, place, pending, (*irp).io_status.status);
            // The location belongs to nobody now; a driver that still looks at it shall notice.
            ptr::write_bytes(location.cast::<u8>(), 0, size_of::<StackLocation>());
            let last = (*irp).current_location > (*irp).stack_count;
            let wanted = if (*irp).cancel != 0 && done.control & sl::INVOKE_ON_CANCEL != 0 {
                true
            } else if (*irp).io_status.status >= 0 {
                done.control & sl::INVOKE_ON_SUCCESS != 0
            } else {
                done.control & sl::INVOKE_ON_ERROR != 0
            };
            match done.completion.filter(|_| wanted) {
                Some(routine) => {
                    let device = if last { ptr::null_mut() } else { (*(*irp).current).device };
                    if routine(device, irp, done.context) == STATUS_MORE_PROCESSING_REQUIRED {
                        return;
                    }
                    if (*irp).kind != IO_TYPE_IRP {
                        violation(
                            "IRP-FREE",
                            format_args!("a completion routine freed its IRP and let completion go on"),
                        );
                    }
                }
                None if pending && !last => mark_pending(irp),
                None => {}
            }
        }
        finish(irp, track);
    }
}

/// The last stage: results go to the originator, the IRP is freed.
unsafe fn finish(irp: *mut Irp, track: *mut Track) {
    // SAFETY: all locations are done, the IRP is ours.
    unsafe {
        if !track.is_null() && (*track).state.swap(2, Ordering::AcqRel) != 1 {
            ke::KeBugCheckEx(0x44, irp as usize, 1, 0, 0);
        }
        (*irp).current_location = (*irp).stack_count + 2;
        let flags = (*irp).flags;
        if flags & irp_flags::ASSOCIATED_IRP != 0 {
            let master = (*irp).associated.cast::<Irp>();
            let count = &raw mut (*master).associated;
            let left = AtomicUsize::from_ptr(count.cast()).fetch_sub(1, Ordering::AcqRel) as u32;
            free_mdls(irp);
            IoFreeIrp(irp);
            if left == 1 {
                IofCompleteRequest(master, 0);
            }
            return;
        }
        let status = (*irp).io_status;
        if flags & irp_flags::BUFFERED_IO != 0 {
            // A warning still carries data (STATUS_BUFFER_OVERFLOW), an error does not.
            let error = (status.status as u32) >> 30 == 3;
            if flags & irp_flags::INPUT_OPERATION != 0 && !error && !(*irp).user_buffer.is_null() {
                ptr::copy_nonoverlapping(
                    (*irp).associated.cast::<u8>(),
                    (*irp).user_buffer.cast::<u8>(),
                    status.information,
                );
            }
            if flags & irp_flags::DEALLOCATE_BUFFER != 0 {
                pool_free((*irp).associated.cast(), 0);
            }
        }
        free_mdls(irp);
        // An error that came back at once is told by the return value alone.
        let told = status.status < 0 && (status.status as u32) >> 30 == 3 && (*irp).pending_returned == 0;
        let (iosb, event) = ((*irp).user_iosb, (*irp).user_event);
        let file = (*irp).original_file;
        IoFreeIrp(irp);
        if !told {
            if !iosb.is_null() {
                (*iosb).information = status.information;
                AtomicUsize::from_ptr(iosb.cast()).store(status.status as u32 as usize, Ordering::Release);
            }
            if !event.is_null() {
                ke::KeSetEvent(event, 0, 0);
            } else if !file.is_null() {
                ke::KeSetEvent(&raw mut (*file).event, 0, 0);
            }
        }
    }
}

unsafe fn free_mdls(irp: *mut Irp) {
    // SAFETY: MDLs chained to an IRP at its end belong to the I/O manager.
    unsafe {
        let mut mdl = core::mem::replace(&mut (*irp).mdl, ptr::null_mut());
        while !mdl.is_null() {
            let following = super::kernel::mdl_next(mdl);
            super::kernel::mdl_release(mdl);
            mdl = following;
        }
    }
}

/// Whether the caller may wait for an IRP at this IRQL, and waits. Used by the synchronous requests of this crate.
///
/// # Safety
/// The event is valid. IRQL <= APC_LEVEL.
pub unsafe fn wait_for(event: *mut Event) {
    // SAFETY: per the contract.
    unsafe { ke::KeWaitForSingleObject(event.cast(), 0, 0, 0, ptr::null_mut()) };
}

unsafe extern "win64" fn signal_and_keep(_: *mut DeviceObject, irp: *mut Irp, context: *mut c_void) -> NtStatus {
    // SAFETY: the context is the event of `forward_and_wait`, which waits for it.
    unsafe {
        if (*irp).pending_returned != 0 {
            ke::KeSetEvent(context.cast(), 0, 0);
        }
    }
    STATUS_MORE_PROCESSING_REQUIRED
}

/// Sends an IRP whose next location is set up and waits until the lower driver has completed it. The caller owns the
/// IRP then. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// Device and IRP are valid.
pub unsafe fn send_and_wait(device: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: the event outlives the call because it is waited for.
    unsafe {
        let mut event = core::mem::zeroed::<Event>();
        ke::KeInitializeEvent(&raw mut event, 0, 0);
        set_completion(irp, signal_and_keep, (&raw mut event).cast());
        if IofCallDriver(device, irp) == STATUS_PENDING {
            wait_for(&raw mut event);
        }
        (*irp).io_status.status
    }
}

/// Forwards an IRP to the device `device` of the next lower driver and waits for it. IRQL = PASSIVE_LEVEL. FALSE: no
/// location is left.
///
/// # Safety
/// Device and IRP are valid; the caller owns the IRP.
pub unsafe extern "win64" fn IoForwardIrpSynchronously(device: *mut DeviceObject, irp: *mut Irp) -> u8 {
    // SAFETY: per the contract.
    unsafe {
        if (*irp).current_location <= 1 {
            return 0;
        }
        copy_to_next(irp);
        send_and_wait(device, irp);
        1
    }
}

/// As [`IoForwardIrpSynchronously`], the same function under its other name (`IoForwardAndCatchIrp`).
///
/// # Safety
/// As there.
pub unsafe extern "win64" fn IoForwardAndCatchIrp(device: *mut DeviceObject, irp: *mut Irp) -> u8 {
    // SAFETY: per the contract.
    unsafe { IoForwardIrpSynchronously(device, irp) }
}

/// Sets the completion routine and takes a stack location's device reference (`IoSetCompletionRoutineEx`).
/// IRQL <= DISPATCH_LEVEL. The driver cannot unload here while an IRP of its is on its way, so nothing is referenced.
///
/// # Safety
/// As [`set_completion`].
pub unsafe extern "win64" fn IoSetCompletionRoutineEx(
    _device: *mut DeviceObject,
    irp: *mut Irp,
    routine: CompletionRoutine,
    context: *mut c_void,
    on_success: u8,
    on_error: u8,
    on_cancel: u8,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        set_completion(irp, routine, context);
        let mut control = 0;
        for (wanted, bit) in
            [(on_success, sl::INVOKE_ON_SUCCESS), (on_error, sl::INVOKE_ON_ERROR), (on_cancel, sl::INVOKE_ON_CANCEL)]
        {
            if wanted != 0 {
                control |= bit;
            }
        }
        (*next(irp)).control = control;
    }
    STATUS_SUCCESS
}

/// Takes the cancel spin lock. IRQL <= DISPATCH_LEVEL; raises to DISPATCH_LEVEL.
///
/// # Safety
/// `irql` is valid.
pub unsafe extern "win64" fn IoAcquireCancelSpinLock(irql: *mut u8) {
    // SAFETY: per the contract.
    unsafe { *irql = ke::KeAcquireSpinLockRaiseToDpc(CANCEL.as_ptr()) };
}

/// Releases it. IRQL = DISPATCH_LEVEL.
///
/// # Safety
/// The caller holds it, taken at `irql`.
pub unsafe extern "win64" fn IoReleaseCancelSpinLock(irql: u8) {
    // SAFETY: per the contract.
    unsafe { ke::KeReleaseSpinLock(CANCEL.as_ptr(), irql) };
}

/// Cancels an IRP: TRUE if it had a cancel routine, which was called. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP is valid.
pub unsafe extern "win64" fn IoCancelIrp(irp: *mut Irp) -> u8 {
    // SAFETY: per the contract; the cancel routine releases the lock, as documented.
    unsafe {
        let mut irql = 0;
        IoAcquireCancelSpinLock(&raw mut irql);
        (*irp).cancel = 1;
        let routine = (*irp).cancel_routine.swap(0, Ordering::AcqRel);
        if routine == 0 {
            IoReleaseCancelSpinLock(irql);
            return 0;
        }
        (*irp).cancel_irql = irql;
        let routine: CancelRoutine = core::mem::transmute(routine);
        routine((*current(irp)).device, irp);
        1
    }
}

/// Ties an IRP to its master, whose count the master's owner sets. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The master IRP is valid.
pub unsafe extern "win64" fn IoMakeAssociatedIrp(master: *mut Irp, stack_size: i8) -> *mut Irp {
    // SAFETY: per the contract.
    unsafe {
        let irp = IoAllocateIrp(stack_size, 0);
        if !irp.is_null() {
            (*irp).flags |= irp_flags::ASSOCIATED_IRP;
            (*irp).thread = (*master).thread;
            (*irp).associated = master.cast();
        }
        irp
    }
}

/// Whether the IRP's originator can wait: TRUE for a synchronous API. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP is valid.
pub unsafe extern "win64" fn IoIsOperationSynchronous(irp: *mut Irp) -> u8 {
    // SAFETY: per the contract.
    unsafe { u8::from((*irp).flags & (irp_flags::SYNCHRONOUS_API | irp_flags::PAGING_IO) != 0) }
}

/// The identifier of the process that asked for an IRP. Any IRQL.
///
/// # Safety
/// The IRP is valid.
pub unsafe extern "win64" fn IoGetRequestorProcessId(irp: *mut Irp) -> u32 {
    let _ = irp;
    // SAFETY: no arguments.
    unsafe { ke::PsGetCurrentProcessId() as usize as u32 }
}

/// Whether the request came from a 32-bit process: every process here is a 64-bit one. Any IRQL.
///
/// # Safety
/// The IRP is valid or null.
pub unsafe extern "win64" fn IoIs32bitProcess(_irp: *mut Irp) -> u8 {
    0
}

/// The priority of an IRP: IoPriorityNormal, as nobody sets another. Any IRQL.
///
/// # Safety
/// The IRP is valid.
pub unsafe extern "win64" fn IoGetIoPriorityHint(_irp: *mut Irp) -> i32 {
    2
}

/// The process that asked for an IRP. Any IRQL.
///
/// # Safety
/// The IRP is valid.
pub unsafe extern "win64" fn IoGetRequestorProcess(irp: *mut Irp) -> *mut c_void {
    let _ = irp;
    // SAFETY: no arguments.
    unsafe { ke::PsGetCurrentProcess() }
}
