//! Layouts of exception handling on x64, from public documentation.
//! <https://learn.microsoft.com/cpp/build/exception-handling-x64>

use core::ffi::c_void;
use core::mem::offset_of;

/// `CONTEXT` of winnt.h for x64.
/// <https://learn.microsoft.com/windows/win32/api/winnt/ns-winnt-context>
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Context {
    /// Home space of the first arguments.
    pub home: [u64; 6],
    /// `CONTEXT_*`.
    pub flags: u32,
    /// SSE control and status.
    pub mxcsr: u32,
    /// CS DS ES FS GS SS.
    pub segments: [u16; 6],
    /// EFLAGS.
    pub eflags: u32,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15: the order of instruction encodings.
    pub gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// The head of the FXSAVE image.
    pub fx_head: [u8; 0xa0],
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// The rest of the FXSAVE image.
    pub fx_tail: [u8; 0x60],
    /// Vector registers, not used.
    pub vector: [u128; 26],
    /// Vector control and debug registers, not used.
    pub debug_control: [u64; 6],
}

/// Index of RAX in [`Context::gpr`].
pub const RAX: usize = 0;
/// Index of RSP in [`Context::gpr`].
pub const RSP: usize = 4;
/// Index of RBP in [`Context::gpr`].
pub const RBP: usize = 5;

/// `CONTEXT_FULL` for x64: control, integer and floating point.
pub const CONTEXT_FULL: u32 = 0x0010_000b;

impl Context {
    /// All zero.
    pub fn empty() -> Context {
        Context {
            home: [0; 6],
            flags: CONTEXT_FULL,
            mxcsr: 0x1f80,
            segments: [0; 6],
            eflags: 0x202,
            debug: [0; 6],
            gpr: [0; 16],
            rip: 0,
            fx_head: [0; 0xa0],
            xmm: [0; 16],
            fx_tail: [0; 0x60],
            vector: [0; 26],
            debug_control: [0; 6],
        }
    }

    /// RSP.
    pub fn rsp(&self) -> u64 {
        self.gpr[RSP]
    }
}

/// `EXCEPTION_RECORD` for x64.
/// <https://learn.microsoft.com/windows/win32/api/winnt/ns-winnt-exception_record>
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ExceptionRecord {
    /// An NTSTATUS.
    pub code: i32,
    /// `EXCEPTION_*`.
    pub flags: u32,
    /// The exception in whose handling this one arose.
    pub nested: *mut ExceptionRecord,
    /// The instruction.
    pub address: u64,
    /// Parameters in use.
    pub count: u32,
    /// For an access violation: 0 read, 1 write, 8 execute; then the address.
    pub information: [u64; 15],
}

impl ExceptionRecord {
    /// A record without parameters.
    pub fn new(code: i32, flags: u32, address: u64) -> ExceptionRecord {
        ExceptionRecord { code, flags, nested: core::ptr::null_mut(), address, count: 0, information: [0; 15] }
    }
}

/// `EXCEPTION_NONCONTINUABLE`.
pub const EXCEPTION_NONCONTINUABLE: u32 = 1;
/// `EXCEPTION_UNWINDING`.
pub const EXCEPTION_UNWINDING: u32 = 2;
/// `EXCEPTION_EXIT_UNWIND`.
pub const EXCEPTION_EXIT_UNWIND: u32 = 4;
/// `EXCEPTION_TARGET_UNWIND`.
pub const EXCEPTION_TARGET_UNWIND: u32 = 0x20;
/// Either kind of unwind.
pub const EXCEPTION_UNWIND: u32 = 0x66;

/// `STATUS_ACCESS_VIOLATION`.
pub const STATUS_ACCESS_VIOLATION: i32 = 0xC000_0005_u32 as i32;
/// `STATUS_DATATYPE_MISALIGNMENT`.
pub const STATUS_DATATYPE_MISALIGNMENT: i32 = 0x8000_0002_u32 as i32;
/// `STATUS_UNWIND`.
pub const STATUS_UNWIND: i32 = 0xC000_0027_u32 as i32;
/// `STATUS_NONCONTINUABLE_EXCEPTION`.
pub const STATUS_NONCONTINUABLE_EXCEPTION: i32 = 0xC000_0025_u32 as i32;

/// `EXCEPTION_POINTERS`.
#[repr(C)]
pub struct ExceptionPointers {
    /// What happened.
    pub record: *mut ExceptionRecord,
    /// Where.
    pub context: *mut Context,
}

/// `RUNTIME_FUNCTION`: addresses relative to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RuntimeFunction {
    /// First instruction.
    pub begin: u32,
    /// Behind the last one.
    pub end: u32,
    /// The UNWIND_INFO, or with its low bit set another entry.
    pub unwind: u32,
}

/// A language handler: `EXCEPTION_ROUTINE`.
pub type ExceptionRoutine =
    unsafe extern "win64" fn(*mut ExceptionRecord, u64, *mut Context, *mut DispatcherContext) -> i32;

/// `DISPATCHER_CONTEXT` for x64.
#[repr(C)]
pub struct DispatcherContext {
    /// Where control left the frame.
    pub control_pc: u64,
    /// Base of the image.
    pub image_base: u64,
    /// The function.
    pub function: *const RuntimeFunction,
    /// Its frame.
    pub establisher_frame: u64,
    /// Where an unwind goes.
    pub target_ip: u64,
    /// The context of the frame's caller.
    pub context: *mut Context,
    /// The handler.
    pub handler: Option<ExceptionRoutine>,
    /// The handler's data.
    pub handler_data: *const c_void,
    /// Not used.
    pub history: *mut c_void,
    /// First scope that was not run yet.
    pub scope_index: u32,
    /// Fill.
    pub fill: u32,
}

/// `UNW_FLAG_EHANDLER`: there is an exception handler.
pub const UNW_FLAG_EHANDLER: u32 = 1;
/// `UNW_FLAG_UHANDLER`: there is a termination handler.
pub const UNW_FLAG_UHANDLER: u32 = 2;
/// `UNW_FLAG_CHAININFO`: another entry follows.
pub const UNW_FLAG_CHAININFO: u32 = 4;

const _: () = {
    assert!(size_of::<Context>() == 0x4d0 && offset_of!(Context, flags) == 0x30);
    assert!(offset_of!(Context, eflags) == 0x44 && offset_of!(Context, gpr) == 0x78);
    assert!(offset_of!(Context, rip) == 0xf8 && offset_of!(Context, xmm) == 0x1a0);
    assert!(offset_of!(Context, vector) == 0x300 && offset_of!(Context, debug_control) == 0x4a0);
    assert!(size_of::<ExceptionRecord>() == 0x98 && offset_of!(ExceptionRecord, information) == 0x20);
    assert!(size_of::<RuntimeFunction>() == 12);
    assert!(size_of::<DispatcherContext>() == 0x50 && offset_of!(DispatcherContext, handler_data) == 0x38);
};
