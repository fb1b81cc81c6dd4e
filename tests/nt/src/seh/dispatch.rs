//! Exceptions: looking for a handler up the stack, and unwinding to it.
//!
//! Frames are those of loaded images. A search ends at the first frame that is not: where the personality called the
//! driver. Nothing above it takes part, as no driver may let an exception out of a routine that the kernel called.
//! <https://learn.microsoft.com/cpp/build/exception-handling-x64>

use super::abi::*;
use super::context::{self, raising_export};
use super::images;
use super::unwind::{self, Direct, Memory, virtual_unwind};
use core::ffi::c_void;
use core::ptr;

/// `ExceptionContinueExecution`.
const CONTINUE_EXECUTION: i32 = 0;
/// `ExceptionContinueSearch`.
const CONTINUE_SEARCH: i32 = 1;
/// `ExceptionNestedException`.
const NESTED: i32 = 2;

/// One frame on the way up: where it is, and the context of its caller.
struct Frame {
    image_base: u64,
    /// Where control is in the function.
    control_pc: u64,
    function: *const RuntimeFunction,
    step: unwind::Step,
    caller: Context,
}

/// Where control is for the tables of an image. A call that never returns may end its function: then the return address
/// lies behind it, in padding or in the next function, and it is the call that counts. Compilers for Windows put an
/// instruction behind such a call; clang does not always.
fn control_pc(memory: &Direct, rip: u64) -> u64 {
    let mut code = [0; 6];
    let outside = images::function_at(rip).is_none() && images::function_at(rip.wrapping_sub(1)).is_some();
    // `call rel32`, or `call [rip + disp32]` as imports are called.
    if outside && memory.read(rip - 6, &mut code).is_some() && (code[1] == 0xe8 || code[..2] == [0xff, 0x15]) {
        return rip - 1;
    }
    rip
}

/// Steps out of the frame that `context` stands in. `None`: it is no frame of an image, or its data is broken.
fn step(memory: &Direct, kinds: u32, context: &Context) -> Option<Frame> {
    let mut caller = *context;
    let control_pc = control_pc(memory, context.rip);
    let Some((image, function)) = images::function_at(control_pc) else {
        let image = images::image_at(control_pc)?;
        let establisher_frame = context.rsp();
        unwind::leaf(memory, &mut caller)?;
        let step = unwind::Step { establisher_frame, handler: None };
        return Some(Frame { image_base: image.base, control_pc, function: ptr::null(), step, caller });
    };
    // SAFETY: entries of registered images stay valid.
    let entry = unsafe { function.read_unaligned() };
    let step = virtual_unwind(memory, kinds, image.base, control_pc, entry, &mut caller)?;
    Some(Frame { image_base: image.base, control_pc, function, step, caller })
}

/// Calls the handler of a frame.
///
/// # Safety
/// The frame stands, and `record` and `context` are those of the exception.
unsafe fn call_handler(frame: &mut Frame, target_ip: u64, record: *mut ExceptionRecord, context: *mut Context) -> i32 {
    let Some(handler) = frame.step.handler else { return CONTINUE_SEARCH };
    // SAFETY: the address of a language handler, as the image's own unwind data gives it.
    let routine = unsafe { core::mem::transmute::<usize, ExceptionRoutine>(handler.routine as usize) };
    let mut dispatcher = DispatcherContext {
        control_pc: frame.control_pc,
        image_base: frame.image_base,
        function: frame.function,
        establisher_frame: frame.step.establisher_frame,
        target_ip,
        context: &raw mut frame.caller,
        handler: Some(routine),
        handler_data: handler.data as *const c_void,
        history: ptr::null_mut(),
        scope_index: 0,
        fill: 0,
    };
    // SAFETY: called as the ABI asks, with all arguments alive.
    unsafe { routine(record, frame.step.establisher_frame, context, &mut dispatcher) }
}

/// Offers an exception to the handlers of the frames above `context`. True: go on with `context`, which a filter may
/// have changed. Does not return if a handler takes it. False: nobody wants it.
///
/// The platform calls this on the stack of the fault, below `context`'s stack pointer.
///
/// # Safety
/// `context` is where the exception arose, on the stack of the current thread.
pub unsafe fn dispatch(record: &mut ExceptionRecord, context: &mut Context) -> bool {
    // SAFETY: the stack of the current thread, which the walk does not leave.
    let memory = unsafe { Direct::above(context.rsp()) };
    let mut at = *context;
    for _ in 0..256 {
        let Some(mut frame) = step(&memory, UNW_FLAG_EHANDLER, &at) else { return false };
        // SAFETY: the frame was found on the stack above.
        match unsafe { call_handler(&mut frame, 0, record, context) } {
            CONTINUE_EXECUTION => return record.flags & EXCEPTION_NONCONTINUABLE == 0,
            CONTINUE_SEARCH | NESTED => {}
            _ => return false,
        }
        if frame.caller.rsp() <= at.rsp() && frame.caller.rip == at.rip {
            return false;
        }
        at = frame.caller;
    }
    false
}

/// Unwinds from `start` to `target_frame` (0: to the end), runs the termination handlers on the way, and goes on at
/// `target_ip` with `value` in RAX.
///
/// # Safety
/// `start` is a context on the stack of the current thread, below which this runs.
unsafe fn unwind_to(target_frame: u64, target_ip: u64, record: *mut ExceptionRecord, value: u64, start: &Context) -> ! {
    let mut own = ExceptionRecord::new(STATUS_UNWIND, 0, start.rip);
    let record = if record.is_null() { &raw mut own } else { record };
    // SAFETY: the stack of the current thread, which the walk does not leave.
    let memory = unsafe { Direct::above(start.rsp()) };
    let mut at = *start;
    while let Some(mut frame) = step(&memory, UNW_FLAG_UHANDLER, &at) {
        let here = frame.step.establisher_frame;
        let target = target_frame != 0 && here == target_frame;
        // SAFETY: the record lives; the frame was found on the stack above.
        unsafe {
            (*record).flags |= EXCEPTION_UNWINDING
                | if target { EXCEPTION_TARGET_UNWIND } else { 0 }
                | if target_frame == 0 { EXCEPTION_EXIT_UNWIND } else { 0 };
            let mut passed = at;
            passed.gpr[RAX] = value;
            call_handler(&mut frame, target_ip, record, &mut passed);
        }
        if target {
            at.gpr[RAX] = value;
            at.rip = target_ip;
            // SAFETY: the registers are those that the target's body had at its call.
            unsafe { context::restore(&raw const at) }
        }
        at = frame.caller;
    }
    // SAFETY: a stop code and its arguments.
    unsafe { unhandled(STATUS_UNWIND, start.rip, record, start) }
}

/// Stops the machine: `KMODE_EXCEPTION_NOT_HANDLED`.
///
/// # Safety
/// `record` is null or valid.
unsafe fn unhandled(code: i32, address: u64, record: *const ExceptionRecord, context: *const Context) -> ! {
    // SAFETY: any IRQL.
    unsafe { crate::ke::KeBugCheckEx(0x1e, code as u32 as usize, address as usize, record as usize, context as usize) }
}

/// Raises `record` at `context`, the place that an export was called from.
///
/// # Safety
/// As [`dispatch`].
pub unsafe fn raise(record: &mut ExceptionRecord, context: &mut Context) {
    // SAFETY: the caller's promise.
    unsafe {
        if dispatch(record, context) {
            context::restore(context);
        }
        unhandled(record.code, record.address, record, context);
    }
}

/// Raises a status that cannot be continued at `context`.
///
/// # Safety
/// As [`dispatch`].
pub unsafe fn raise_status(status: i32, context: *mut Context) -> ! {
    // SAFETY: the caller's promise.
    unsafe {
        let mut record = ExceptionRecord::new(status, EXCEPTION_NONCONTINUABLE, (*context).rip);
        raise(&mut record, &mut *context);
        unhandled(status, (*context).rip, &raw const record, context)
    }
}

raising_export! {
    /// `ExRaiseStatus` (and `RtlRaiseStatus`). IRQL <= APC_LEVEL in Windows; the search touches the stack and images.
    fn ExRaiseStatus(status: i32) = raise_status_body;
    /// `ExRaiseAccessViolation`.
    fn ExRaiseAccessViolation() = raise_access_violation_body;
    /// `ExRaiseDatatypeMisalignment`.
    fn ExRaiseDatatypeMisalignment() = raise_misalignment_body;
    /// `RtlRaiseException`.
    fn RtlRaiseException(record: *mut ExceptionRecord) = raise_exception_body;
    /// `RtlUnwind`: target frame, target address, record, value.
    fn RtlUnwind(frame: u64, ip: u64, record: *mut ExceptionRecord, value: u64) = unwind_body;
    /// `RtlUnwindEx`: as [`RtlUnwind`]; its further arguments are scratch memory that is not needed.
    fn RtlUnwindEx(frame: u64, ip: u64, record: *mut ExceptionRecord, value: u64) = unwind_body;
    /// `ProbeForRead`: raises STATUS_DATATYPE_MISALIGNMENT or STATUS_ACCESS_VIOLATION unless the range is aligned and
    /// of user space. IRQL <= APC_LEVEL.
    fn ProbeForRead(address: u64, length: usize, alignment: u32) = probe_body;
    /// `ProbeForWrite`: as [`ProbeForRead`].
    fn ProbeForWrite(address: u64, length: usize, alignment: u32) = probe_body;
}

unsafe extern "win64" fn raise_status_body(status: u64, _: u64, _: u64, _: u64, context: *mut Context) -> u64 {
    // SAFETY: the shim took the context of the caller.
    unsafe { raise_status(status as i32, context) }
}

unsafe extern "win64" fn raise_access_violation_body(_: u64, _: u64, _: u64, _: u64, context: *mut Context) -> u64 {
    // SAFETY: the shim took the context of the caller.
    unsafe { raise_status(STATUS_ACCESS_VIOLATION, context) }
}

unsafe extern "win64" fn raise_misalignment_body(_: u64, _: u64, _: u64, _: u64, context: *mut Context) -> u64 {
    // SAFETY: the shim took the context of the caller.
    unsafe { raise_status(STATUS_DATATYPE_MISALIGNMENT, context) }
}

unsafe extern "win64" fn raise_exception_body(record: u64, _: u64, _: u64, _: u64, context: *mut Context) -> u64 {
    // SAFETY: the caller gives a record; the shim took the context of the caller.
    unsafe {
        let record = &mut *(record as *mut ExceptionRecord);
        record.address = (*context).rip;
        raise(record, &mut *context);
    }
    0
}

unsafe extern "win64" fn unwind_body(frame: u64, ip: u64, record: u64, value: u64, context: *mut Context) -> u64 {
    // SAFETY: the caller gives a frame above its own; the shim took the context of the caller.
    unsafe { unwind_to(frame, ip, record as *mut ExceptionRecord, value, &*context) }
}

/// The first address above user space, `MmUserProbeAddress`.
const USER_PROBE_ADDRESS: u64 = 0x7fff_ffff_0000;

unsafe extern "win64" fn probe_body(address: u64, len: u64, alignment: u64, _: u64, context: *mut Context) -> u64 {
    if len != 0 {
        let alignment = u64::from(alignment as u32).max(1);
        if address & (alignment - 1) != 0 {
            // SAFETY: the shim took the context of the caller.
            unsafe { raise_status(STATUS_DATATYPE_MISALIGNMENT, context) }
        }
        if address.checked_add(len).is_none_or(|end| end > USER_PROBE_ADDRESS) {
            // SAFETY: the shim took the context of the caller.
            unsafe { raise_status(STATUS_ACCESS_VIOLATION, context) }
        }
    }
    0
}

/// One entry of the scope table of `__C_specific_handler`: addresses relative to the image.
#[derive(Clone, Copy)]
#[repr(C)]
struct Scope {
    begin: u32,
    end: u32,
    /// A filter (1: take everything) or, without `target`, a termination handler.
    handler: u32,
    /// The `__except` block, or 0.
    target: u32,
}

/// `__C_specific_handler`: the language handler of `__try` with `__except` and `__finally`.
pub unsafe extern "win64" fn __C_specific_handler(
    record: *mut ExceptionRecord,
    frame: u64,
    context: *mut Context,
    dispatcher: *mut DispatcherContext,
) -> i32 {
    // SAFETY: the dispatcher gives a scope table of the image, and a context and record that live.
    unsafe {
        let dispatcher = &mut *dispatcher;
        let base = dispatcher.image_base;
        let pc = (dispatcher.control_pc - base) as u32;
        let table = dispatcher.handler_data.cast::<u32>();
        let count = table.read_unaligned();
        let scopes = table.add(1).cast::<Scope>();
        let unwinding = (*record).flags & EXCEPTION_UNWIND != 0;
        let target = (dispatcher.target_ip.wrapping_sub(base)) as u32;
        while dispatcher.scope_index < count {
            let scope = scopes.add(dispatcher.scope_index as usize).read_unaligned();
            dispatcher.scope_index += 1;
            if !(scope.begin..scope.end).contains(&pc) {
                continue;
            }
            if unwinding {
                let targeted = (*record).flags & EXCEPTION_TARGET_UNWIND != 0;
                if targeted && (scope.begin..scope.end).contains(&target) {
                    // The unwind stays within this scope: neither it nor those around it are left.
                    return CONTINUE_SEARCH;
                }
                if scope.target == 0 {
                    let finally = core::mem::transmute::<usize, unsafe extern "win64" fn(u8, u64)>(
                        (base + u64::from(scope.handler)) as usize,
                    );
                    finally(1, frame);
                } else if targeted && scope.target == target {
                    return CONTINUE_SEARCH;
                }
            } else if scope.target != 0 {
                let verdict = if scope.handler == 1 {
                    1
                } else {
                    let filter = core::mem::transmute::<
                        usize,
                        unsafe extern "win64" fn(*mut ExceptionPointers, u64) -> i32,
                    >((base + u64::from(scope.handler)) as usize);
                    filter(&mut ExceptionPointers { record, context }, frame)
                };
                if verdict < 0 {
                    return CONTINUE_EXECUTION;
                }
                if verdict > 0 {
                    let code = (*record).code as u32;
                    unwind_to(frame, base + u64::from(scope.target), record, u64::from(code), &*context);
                }
            }
        }
    }
    CONTINUE_SEARCH
}

/// `RtlRestoreContext`: goes on with a context. The record is for consolidated unwinds, which are not used in drivers.
pub unsafe extern "win64" fn RtlRestoreContext(context: *const Context, _record: *mut ExceptionRecord) {
    // SAFETY: the caller gives a context to go on with.
    unsafe { context::restore(context) }
}

/// `RtlLookupFunctionEntry`. Any IRQL.
pub unsafe extern "win64" fn RtlLookupFunctionEntry(
    pc: u64,
    image_base: *mut u64,
    _history: *mut c_void,
) -> *const RuntimeFunction {
    // SAFETY: the caller gives room for the base.
    unsafe {
        if let Some(image) = images::image_at(pc) {
            image_base.write(image.base);
        }
    }
    images::function_at(pc).map_or(ptr::null(), |(_, function)| function)
}

/// `RtlVirtualUnwind`: one step up. Any IRQL, if the stack is resident.
pub unsafe extern "win64" fn RtlVirtualUnwind(
    kinds: u32,
    image_base: u64,
    pc: u64,
    function: *const RuntimeFunction,
    context: *mut Context,
    handler_data: *mut *const c_void,
    establisher_frame: *mut u64,
    _pointers: *mut c_void,
) -> Option<ExceptionRoutine> {
    // SAFETY: the caller gives an entry of the image, a context on a readable stack and room for the results.
    unsafe {
        let memory = Direct::above((*context).rsp());
        let found = virtual_unwind(&memory, kinds, image_base, pc, function.read_unaligned(), &mut *context);
        let Some(step) = found else {
            (*context).rip = 0;
            return None;
        };
        establisher_frame.write(step.establisher_frame);
        step.handler.map(|handler| {
            handler_data.write(handler.data as *const c_void);
            core::mem::transmute::<usize, ExceptionRoutine>(handler.routine as usize)
        })
    }
}

/// `RtlPcToFileHeader`: the base of the image that `pc` is in. Any IRQL.
pub unsafe extern "win64" fn RtlPcToFileHeader(pc: u64, base: *mut u64) -> u64 {
    let found = images::image_at(pc).map_or(0, |i| i.base);
    // SAFETY: the caller gives room for the base.
    unsafe { base.write(found) };
    found
}

/// Collects return addresses above `context`, `skip` of them left out.
///
/// # Safety
/// `context` is on a readable stack; `out` has `max` places.
unsafe fn collect(context: &Context, skip: usize, max: usize, out: *mut u64) -> usize {
    // SAFETY: the caller's promise.
    let memory = unsafe { Direct::above(context.rsp()) };
    let (mut seen, mut n) = (0, 0);
    unwind::walk(&memory, *context, &mut |frame| {
        if seen >= skip && n < max {
            // SAFETY: `n < max`.
            unsafe { out.add(n).write(frame.rip) };
            n += 1;
        }
        seen += 1;
        n < max
    });
    n
}

raising_export! {
    /// `RtlCaptureStackBackTrace`: `hash`, if not null, is the sum of the addresses. Any IRQL, if the stack is resident.
    fn RtlCaptureStackBackTrace(skip: u32, max: u32, frames: *mut u64, hash: *mut u32) -> u16 = back_trace_body;
    /// `RtlWalkFrameChain`. Any IRQL, if the stack is resident.
    fn RtlWalkFrameChain(frames: *mut u64, max: u32, flags: u32) -> u32 = frame_chain_body;
}

unsafe extern "win64" fn back_trace_body(skip: u64, max: u64, frames: u64, hash: u64, context: *mut Context) -> u64 {
    // SAFETY: the caller gives room for `max` addresses; the shim took its context.
    unsafe {
        let out = frames as *mut u64;
        let n = collect(&*context, skip as u32 as usize, max as u32 as usize, out);
        if hash != 0 {
            let sum = (0..n).fold(0u32, |sum, i| sum.wrapping_add(out.add(i).read() as u32));
            (hash as *mut u32).write(sum);
        }
        n as u64
    }
}

unsafe extern "win64" fn frame_chain_body(frames: u64, max: u64, _flags: u64, _: u64, context: *mut Context) -> u64 {
    // SAFETY: the caller gives room for `max` addresses; the shim took its context.
    unsafe { collect(&*context, 0, max as u32 as usize, frames as *mut u64) as u64 }
}
