//! The interface that `xenpci` answers to `IRP_MN_QUERY_INTERFACE` with: one table of C functions, versioned and
//! append-only.
//!
//! Rules that keep an old child running on a new bus and the other way round:
//! - [`XenbusInterface::size`] says how much of the table the bus filled in. A child that wants a later function checks
//!   [`XenbusInterface::offers`] first. A function never changes its meaning or its place; a new one goes to the end.
//! - [`VERSION`] changes only if the rule above had to be broken.
//! - A child fills [`XenbusInterface::size`] and [`XenbusInterface::version`] with what it was built with; the bus
//!   copies no more than that.
//!
//! Every function takes the `context` of the table as its first argument. Strings are pointer and length, bytes as
//! xenstore has them, never NUL-terminated. Relative store paths are below the device's own frontend directory
//! (`device/vbd/51712`), absolute ones are used as they stand. Results are NTSTATUS values; the named ones below are
//! all that a child needs to tell apart.

use core::ffi::c_void;

/// `{7B2DA03A-5C5B-4B63-9A0E-6E1B4F6B1F5D}`: the interface type in `IRP_MN_QUERY_INTERFACE`.
pub const INTERFACE_GUID: [u8; 16] =
    [0x3a, 0xa0, 0x2d, 0x7b, 0x5b, 0x5c, 0x63, 0x4b, 0x9a, 0x0e, 0x6e, 0x1b, 0x4f, 0x6b, 0x1f, 0x5d];

/// The version of the table. See the rules above: appending does not change it.
pub const VERSION: u16 = 1;

/// An NTSTATUS, as far as this interface uses them.
pub type Status = i32;
/// Done.
pub const STATUS_SUCCESS: Status = 0;
/// The store's answer to a name that does not exist (`ENOENT`).
pub const STATUS_OBJECT_NAME_NOT_FOUND: Status = 0xC000_0034_u32 as i32;
/// The store's `EACCES`.
pub const STATUS_ACCESS_DENIED: Status = 0xC000_0022_u32 as i32;
/// The transaction has to be run again (`EAGAIN`).
pub const STATUS_RETRY: Status = 0xC000_022D_u32 as i32;
/// The buffer is too small; the length needed was returned.
pub const STATUS_BUFFER_TOO_SMALL: Status = 0xC000_0023_u32 as i32;
/// The peer did not answer within the wait's bound.
pub const STATUS_IO_TIMEOUT: Status = 0xC000_00B5_u32 as i32;
/// No grant reference, event channel or memory is left. Never an I/O error: the caller queues.
pub const STATUS_INSUFFICIENT_RESOURCES: Status = 0xC000_009A_u32 as i32;
/// The grant is still in use by the peer; the entry is unchanged and the page must not be reused.
pub const STATUS_DEVICE_BUSY: Status = 0x8000_0011_u32 as i32;
/// An argument is not valid.
pub const STATUS_INVALID_PARAMETER: Status = 0xC000_000D_u32 as i32;
/// The store answered with something that is not a reply to the request.
pub const STATUS_DEVICE_PROTOCOL_ERROR: Status = 0xC000_0186_u32 as i32;
/// Anything else that the store refused.
pub const STATUS_UNSUCCESSFUL: Status = 0xC000_0001_u32 as i32;

/// What an event-channel callback tells the bus. The bus masks the channel before it calls and unmasks it (Linux calls
/// that a late EOI) according to this answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventOutcome {
    /// There was work and all of it is done: unmask at once.
    Done = 0,
    /// There was no work. Too many of these in a row and the channel is unmasked with a growing delay.
    Spurious = 1,
    /// The budget ended before the work did: call again from a fresh DPC, leave the channel masked.
    More = 2,
}

/// Called by the bus in a DPC, IRQL = DISPATCH_LEVEL, never twice at once for one channel.
pub type EventCallback = unsafe extern "C" fn(arg: *mut c_void) -> EventOutcome;
/// Called on the device's own thread of the bus, IRQL = PASSIVE_LEVEL, when something below the watched path changed.
/// `path` is the full path of what changed.
pub type WatchCallback = unsafe extern "C" fn(arg: *mut c_void, path: *const u8, path_len: u32);
/// See [`SuspendCallbacks`].
pub type FreezeCallback = unsafe extern "C" fn(arg: *mut c_void);
/// See [`SuspendCallbacks`].
pub type ResumeCallback = unsafe extern "C" fn(arg: *mut c_void, cancelled: u8);

/// What a child does around a suspend.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SuspendCallbacks {
    /// The argument of both.
    pub arg: *mut c_void,
    /// Stop submitting, do not wait for the peer, keep every request in flight. IRQL = PASSIVE_LEVEL, on the device's
    /// own thread. No paged memory, no registry, no file. After it returns the child makes no hypercall through this
    /// table and touches no shared page until `resume`.
    pub freeze: FreezeCallback,
    /// `cancelled` = 1: nothing happened, go on with the old ring. `cancelled` = 0: every event channel and grant of
    /// the old domain is void; close and free the handles (they accept it), connect again and re-issue what was in
    /// flight. IRQL = PASSIVE_LEVEL, on the device's own thread; devices run in parallel.
    pub resume: ResumeCallback,
}

/// An open event channel of the bus.
pub type EventHandle = *mut c_void;
/// A registered watch of the bus.
pub type WatchHandle = *mut c_void;

/// Severity of a log line, as in the registry value `LogLevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    /// Something failed for good.
    Error = 0,
    /// Something is wrong and was dealt with.
    Warning = 1,
    /// What an administrator may want to know: connected, resized, closed.
    Info = 2,
    /// What a driver engineer may want to know.
    Debug = 3,
}

/// What the bus knows of the device that asks.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DeviceInfo {
    /// The backend's domain id, read when the PDO was made and again after every resume.
    pub backend_domid: u16,
    /// Virtual CPUs that can take upcalls.
    pub cpus: u16,
    /// Grant references that the whole domain may still get (the table's limit less what is used).
    pub grants_available: u32,
    /// Bytes used of `path`.
    pub path_len: u32,
    /// The frontend directory, relative to the domain's home: `device/vbd/51712`.
    pub path: [u8; 64],
}

/// The table. `INTERFACE` of wdm.h is its head: Size, Version, Context, InterfaceReference, InterfaceDereference.
///
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_interface>
#[derive(Clone, Copy)]
#[repr(C)]
pub struct XenbusInterface {
    /// Bytes of this table that are filled in.
    pub size: u16,
    /// [`VERSION`].
    pub version: u16,
    /// First argument of every function.
    pub context: *mut c_void,
    /// Takes a reference on the device's side of the bus.
    pub reference: unsafe extern "C" fn(context: *mut c_void),
    /// Gives it back.
    pub dereference: unsafe extern "C" fn(context: *mut c_void),

    /// IRQL <= DISPATCH_LEVEL.
    pub device_info: unsafe extern "C" fn(context: *mut c_void, info: *mut DeviceInfo),
    /// Any IRQL. Longer lines are cut at 512 bytes. The bus puts the device's path before the text.
    pub log: unsafe extern "C" fn(context: *mut c_void, level: LogLevel, text: *const u8, len: u32),

    /// Reads a node. `transaction` 0 = none. `*len` in: room in `buf`, out: the value's length.
    /// IRQL = PASSIVE_LEVEL. Bounded wait: [`STATUS_IO_TIMEOUT`].
    pub store_read: unsafe extern "C" fn(
        context: *mut c_void,
        transaction: u32,
        path: *const u8,
        path_len: u32,
        buf: *mut u8,
        len: *mut u32,
    ) -> Status,
    /// Lists a node's children, names separated by NUL. As `store_read`.
    pub store_directory: unsafe extern "C" fn(
        context: *mut c_void,
        transaction: u32,
        path: *const u8,
        path_len: u32,
        buf: *mut u8,
        len: *mut u32,
    ) -> Status,
    /// Writes a node. IRQL = PASSIVE_LEVEL. Bounded wait.
    pub store_write: unsafe extern "C" fn(
        context: *mut c_void,
        transaction: u32,
        path: *const u8,
        path_len: u32,
        value: *const u8,
        value_len: u32,
    ) -> Status,
    /// Removes a node and all below it. IRQL = PASSIVE_LEVEL. Bounded wait.
    pub store_remove:
        unsafe extern "C" fn(context: *mut c_void, transaction: u32, path: *const u8, path_len: u32) -> Status,
    /// Starts a transaction. IRQL = PASSIVE_LEVEL.
    pub store_transaction_start: unsafe extern "C" fn(context: *mut c_void, transaction: *mut u32) -> Status,
    /// Ends it; `commit` 0 drops it. [`STATUS_RETRY`]: run it again. IRQL = PASSIVE_LEVEL.
    pub store_transaction_end: unsafe extern "C" fn(context: *mut c_void, transaction: u32, commit: u8) -> Status,
    /// Watches a path. The callback comes once at once (as xenstore does) and survives suspend and resume: the bus
    /// sets the watch again. After an error a callback that has begun may still run, until the next `store_unwatch` or
    /// `suspend_unregister` returns. IRQL = PASSIVE_LEVEL.
    pub store_watch: unsafe extern "C" fn(
        context: *mut c_void,
        path: *const u8,
        path_len: u32,
        callback: WatchCallback,
        arg: *mut c_void,
        handle: *mut WatchHandle,
    ) -> Status,
    /// Ends a watch. No callback runs after it returned, unless it is called from that callback itself.
    /// IRQL = PASSIVE_LEVEL.
    pub store_unwatch: unsafe extern "C" fn(context: *mut c_void, handle: WatchHandle),

    /// Allocates an unbound event channel for the device's backend. `*port` is what goes into the store.
    /// IRQL = PASSIVE_LEVEL.
    pub event_open: unsafe extern "C" fn(
        context: *mut c_void,
        callback: EventCallback,
        arg: *mut c_void,
        handle: *mut EventHandle,
        port: *mut u32,
    ) -> Status,
    /// Sends an event to the backend: one hypercall. Any IRQL.
    pub event_send: unsafe extern "C" fn(context: *mut c_void, handle: EventHandle),
    /// Runs the callback as if an event had come. IRQL <= DISPATCH_LEVEL.
    pub event_trigger: unsafe extern "C" fn(context: *mut c_void, handle: EventHandle),
    /// Closes it. No callback runs after it returned. IRQL = PASSIVE_LEVEL.
    pub event_close: unsafe extern "C" fn(context: *mut c_void, handle: EventHandle),
    /// Moves the channel's upcalls to the processor with that Windows index. IRQL = PASSIVE_LEVEL.
    pub event_bind_cpu: unsafe extern "C" fn(context: *mut c_void, handle: EventHandle, cpu: u32) -> Status,

    /// Takes `count` grant references out of the bus's pool; all or none. IRQL <= DISPATCH_LEVEL; grows the table at
    /// PASSIVE_LEVEL only. [`STATUS_INSUFFICIENT_RESOURCES`].
    pub grant_alloc: unsafe extern "C" fn(context: *mut c_void, refs: *mut u32, count: u32) -> Status,
    /// Gives references back. A reference whose access was not ended is leaked and logged instead.
    /// IRQL <= DISPATCH_LEVEL.
    pub grant_free: unsafe extern "C" fn(context: *mut c_void, refs: *const u32, count: u32),
    /// Lets the device's backend use the page with guest frame number `gfn`. IRQL <= DISPATCH_LEVEL, no hypercall.
    pub grant_access: unsafe extern "C" fn(context: *mut c_void, reference: u32, gfn: u64, read_only: u8) -> Status,
    /// Ends the access: an atomic test-and-clear. [`STATUS_DEVICE_BUSY`]: the peer still has it mapped, nothing was
    /// changed, the page must be kept. IRQL <= DISPATCH_LEVEL, no hypercall.
    pub grant_end: unsafe extern "C" fn(context: *mut c_void, reference: u32) -> Status,

    /// Says what to do around a suspend. One per device. IRQL = PASSIVE_LEVEL.
    pub suspend_register: unsafe extern "C" fn(context: *mut c_void, callbacks: *const SuspendCallbacks) -> Status,
    /// Takes that back; waits for a callback that is running. IRQL = PASSIVE_LEVEL.
    pub suspend_unregister: unsafe extern "C" fn(context: *mut c_void),

    /// Asks Windows to eject the device (the backend wants it closed). Returns at once. IRQL <= DISPATCH_LEVEL.
    pub request_eject: unsafe extern "C" fn(context: *mut c_void),
    /// Says that the device is gone for good (the backend vanished): the bus reports it missing, Windows removes it by
    /// surprise. Returns at once. IRQL <= DISPATCH_LEVEL.
    pub report_missing: unsafe extern "C" fn(context: *mut c_void),

    // From here on appended: a bus that is older than its child leaves them empty.
    /// What was unplugged of the emulated devices in this boot: the bits of `xen_abi::unplug::Unplug`. A device that has
    /// an emulated twin which was not unplugged must not be shown to Windows. Any IRQL.
    pub unplugged: Option<unsafe extern "C" fn(context: *mut c_void) -> u32>,
    /// Says that the device was connected and answered. IRQL = PASSIVE_LEVEL, not between freeze and resume.
    pub report_working: Option<unsafe extern "C" fn(context: *mut c_void)>,
}

impl XenbusInterface {
    /// Whether the bus filled the function at byte `offset` (`core::mem::offset_of!`) in.
    pub fn offers(&self, offset: usize) -> bool {
        offset + size_of::<usize>() <= usize::from(self.size)
    }
}

const _: () = {
    assert!(core::mem::offset_of!(XenbusInterface, context) == 8);
    assert!(core::mem::offset_of!(XenbusInterface, reference) == 16);
    assert!(core::mem::offset_of!(XenbusInterface, device_info) == 32);
    assert!(core::mem::offset_of!(XenbusInterface, event_open) == 112);
    assert!(size_of::<XenbusInterface>() == 232);
};
