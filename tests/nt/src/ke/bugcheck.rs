//! Bug checks: the end of a run, with a report that names the driver.

use super::abi::*;
use crate::platform::{Stop, platform};
use crate::sync::IrqLock;
use crate::verifier;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, Ordering};

/// `KiBugCheckData`: the code and its four parameters, zero while the system lives.
pub static mut KiBugCheckData: [usize; 5] = [0; 5];

/// `KBUGCHECK_CALLBACK_RECORD`.
#[repr(C)]
pub struct CallbackRecord {
    /// On the list.
    pub entry: ListEntry,
    /// The routine.
    pub routine: Option<unsafe extern "win64" fn(buffer: *mut c_void, length: u32)>,
    /// Its buffer.
    pub buffer: *mut c_void,
    /// Bytes of the buffer.
    pub length: u32,
    /// The driver's name.
    pub component: *const u8,
    /// Checks the record.
    pub checksum: usize,
    /// `BUGCHECK_BUFFER_STATE`: 0 empty, 1 inserted.
    pub state: u8,
}

/// `KBUGCHECK_REASON_CALLBACK_RECORD`.
#[repr(C)]
pub struct ReasonRecord {
    /// On the list.
    pub entry: ListEntry,
    /// The routine.
    pub routine:
        Option<unsafe extern "win64" fn(reason: i32, record: *mut ReasonRecord, data: *mut c_void, length: u32)>,
    /// The driver's name.
    pub component: *const u8,
    /// Checks the record.
    pub checksum: usize,
    /// `KBUGCHECK_CALLBACK_REASON`.
    pub reason: i32,
    /// 1: inserted.
    pub state: u8,
}

const _: () = {
    assert!(size_of::<CallbackRecord>() == 0x40 && size_of::<ReasonRecord>() == 0x30);
};

#[derive(Clone, Copy)]
enum Record {
    Plain(*mut CallbackRecord),
    Reason(*mut ReasonRecord),
}
// SAFETY: records belong to no processor.
unsafe impl Send for Record {}

static CALLBACKS: IrqLock<Vec<Record>> = IrqLock::new(Vec::new());
static DYING: AtomicBool = AtomicBool::new(false);

/// `KeRegisterBugCheckCallback`. Any IRQL.
pub unsafe extern "win64" fn KeRegisterBugCheckCallback(
    record: *mut CallbackRecord,
    routine: unsafe extern "win64" fn(*mut c_void, u32),
    buffer: *mut c_void,
    length: u32,
    component: *const u8,
) -> u8 {
    // SAFETY: the caller gives an initialised record.
    unsafe {
        if (*record).state != 0 {
            return 0;
        }
        (*record).routine = Some(routine);
        (*record).buffer = buffer;
        (*record).length = length;
        (*record).component = component;
        (*record).checksum = (routine as usize).wrapping_add(buffer as usize).wrapping_add(length as usize);
        (*record).state = 1;
    }
    CALLBACKS.lock().push(Record::Plain(record));
    1
}

/// `KeDeregisterBugCheckCallback`. Any IRQL.
pub unsafe extern "win64" fn KeDeregisterBugCheckCallback(record: *mut CallbackRecord) -> u8 {
    let mut callbacks = CALLBACKS.lock();
    let before = callbacks.len();
    callbacks.retain(|r| !matches!(r, Record::Plain(p) if core::ptr::eq(*p, record)));
    if callbacks.len() == before {
        return 0;
    }
    // SAFETY: it was registered, so it is a record.
    unsafe { (*record).state = 0 };
    1
}

/// `KeRegisterBugCheckReasonCallback`. Any IRQL.
pub unsafe extern "win64" fn KeRegisterBugCheckReasonCallback(
    record: *mut ReasonRecord,
    routine: unsafe extern "win64" fn(i32, *mut ReasonRecord, *mut c_void, u32),
    reason: i32,
    component: *const u8,
) -> u8 {
    // SAFETY: the caller gives an initialised record.
    unsafe {
        if (*record).state != 0 {
            return 0;
        }
        (*record).routine = Some(routine);
        (*record).component = component;
        (*record).reason = reason;
        (*record).checksum = (routine as usize).wrapping_add(reason as usize);
        (*record).state = 1;
    }
    CALLBACKS.lock().push(Record::Reason(record));
    1
}

/// `KeDeregisterBugCheckReasonCallback`. Any IRQL.
pub unsafe extern "win64" fn KeDeregisterBugCheckReasonCallback(record: *mut ReasonRecord) -> u8 {
    let mut callbacks = CALLBACKS.lock();
    let before = callbacks.len();
    callbacks.retain(|r| !matches!(r, Record::Reason(p) if core::ptr::eq(*p, record)));
    if callbacks.len() == before {
        return 0;
    }
    // SAFETY: it was registered, so it is a record.
    unsafe { (*record).state = 0 };
    1
}

/// Whether a registered callback lies in a range of memory that is going.
pub fn any_in(start: usize, end: usize) -> bool {
    let range = start..end;
    CALLBACKS.lock().iter().any(|record| match record {
        Record::Plain(p) => range.contains(&(*p as usize)),
        Record::Reason(p) => range.contains(&(*p as usize)),
    })
}

/// `KeInitializeCrashDumpHeader`: no dump is written here. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn KeInitializeCrashDumpHeader(
    _kind: u32,
    _flags: u32,
    _buffer: *mut c_void,
    _size: u32,
    needed: *mut u32,
) -> i32 {
    if !needed.is_null() {
        // SAFETY: the caller gives a place.
        unsafe { needed.write(0x2000) }
    }
    crate::status::STATUS_NOT_SUPPORTED
}

/// `KeBugCheck`. Any IRQL.
pub unsafe extern "win64" fn KeBugCheck(code: u32) -> ! {
    // SAFETY: any IRQL.
    unsafe { KeBugCheckEx(code, 0, 0, 0, 0) }
}

/// `KeBugCheckEx`: ends the run. Any IRQL.
pub unsafe extern "win64" fn KeBugCheckEx(code: u32, p1: usize, p2: usize, p3: usize, p4: usize) -> ! {
    let mut report = String::new();
    let _ = writeln!(report, "bug check {code:#x} ({p1:#x}, {p2:#x}, {p3:#x}, {p4:#x})");
    stop(code, [p1, p2, p3, p4], report)
}

/// Ends the run with a report; adds where the machine stands, and lets bug check callbacks run. Any IRQL.
pub fn stop(code: u32, parameters: [usize; 4], mut report: String) -> ! {
    let platform = platform();
    verifier::stop_judging();
    platform.disable_interrupts();
    let irql = platform.irql();
    platform.set_irql(HIGH_LEVEL);
    let _ = writeln!(report, "  processor {}, IRQL {irql}", platform.current_processor());
    verifier::describe_callers(&mut report);
    let stop = Stop { code, parameters: parameters.map(|p| p as u64), report };
    if DYING.swap(true, Ordering::AcqRel) {
        platform.stop(&stop);
    }
    // SAFETY: written once, by the processor that stops the machine.
    unsafe { KiBugCheckData = [code as usize, parameters[0], parameters[1], parameters[2], parameters[3]] };
    let callbacks = core::mem::take(&mut *CALLBACKS.lock());
    for record in callbacks {
        // SAFETY: registered records are valid, and their routines may be called at HIGH_LEVEL now.
        unsafe {
            match record {
                Record::Plain(record) => {
                    if let Some(routine) = (*record).routine {
                        routine((*record).buffer, (*record).length);
                    }
                }
                Record::Reason(record) => {
                    // KbCallbackDumpIo and the like need a dump; the reserved and the triage ones are told as they
                    // are.
                    if let Some(routine) = (*record).routine.filter(|_| (*record).reason == 1) {
                        let mut data = [0_u64; 8];
                        routine((*record).reason, record, data.as_mut_ptr().cast(), 64);
                    }
                }
            }
        }
    }
    platform.stop(&stop)
}
