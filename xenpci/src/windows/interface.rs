//! The C table of `xenbus::interface` over a [`Child`], and BUS_INTERFACE_STANDARD: the one place where pointers of
//! other drivers come in and callbacks of theirs are called.
//!
//! Every function below is called by a frontend's driver with the context of its own table: a counted reference on the
//! child. Pointers and lengths are its own memory, valid for the call.

use alloc::vec::Vec;
use core::{ffi::c_void, mem::ManuallyDrop};

use wdm::{
    dma::{self, BUS_INTERFACE_STANDARD_VERSION, BusInterfaceStandard},
    interface::InterfaceQuery,
    memory::Shared,
    status::{Result, Status},
};
use xenbus::interface::{
    DeviceInfo, EventCallback, EventHandle, EventOutcome, LogLevel, SuspendCallbacks, VERSION, WatchCallback,
    WatchHandle, XenbusInterface,
};

use super::{
    child::{Child, Watch},
    emulated,
    events::Channel,
    platform::store_status,
};
use crate::core::store::{self, StoreError};

/// Longest path of the store (`XENSTORE_ABS_PATH_MAX`).
const PATH_MAX: u32 = 3072;
/// Longest value.
const VALUE_MAX: u32 = 4096;
/// References of one call of `grant_alloc` and `grant_free`.
const REFERENCES_MAX: u32 = 1 << 16;
/// Longest log line.
const LOG_MAX: u32 = 512;

/// A channel's callback in a frontend's driver.
struct ForeignEvent {
    callback: EventCallback,
    arg: *mut c_void,
}

// SAFETY: the interface has the callback be called from any processor.
unsafe impl Send for ForeignEvent {}
// SAFETY: see above; never twice at once for one channel.
unsafe impl Sync for ForeignEvent {}

impl ForeignEvent {
    /// IRQL = DISPATCH_LEVEL.
    fn call(&self) -> EventOutcome {
        // SAFETY: the driver keeps callback and argument valid until event_close has returned.
        unsafe { (self.callback)(self.arg) }
    }
}

/// A watch's callback in a frontend's driver.
pub(crate) struct ForeignWatch {
    callback: WatchCallback,
    arg: *mut c_void,
}

// SAFETY: the interface has the callback be called on the device's thread.
unsafe impl Send for ForeignWatch {}
// SAFETY: see above.
unsafe impl Sync for ForeignWatch {}

impl ForeignWatch {
    /// Tells that `path` changed. PASSIVE_LEVEL.
    pub(crate) fn call(&self, path: &[u8]) {
        // SAFETY: the driver keeps callback and argument valid until store_unwatch has returned.
        unsafe { (self.callback)(self.arg, path.as_ptr(), path.len() as u32) }
    }
}

/// The suspend callbacks of a frontend's driver.
#[derive(Clone, Copy)]
pub(crate) struct ForeignSuspend(SuspendCallbacks);

// SAFETY: the interface has the callbacks be called on the device's thread.
unsafe impl Send for ForeignSuspend {}

impl ForeignSuspend {
    /// PASSIVE_LEVEL.
    pub(crate) fn freeze(self) {
        // SAFETY: the driver keeps callbacks and argument valid until suspend_unregister has returned.
        unsafe { (self.0.freeze)(self.0.arg) }
    }

    /// PASSIVE_LEVEL.
    pub(crate) fn resume(self, cancelled: bool) {
        // SAFETY: see above.
        unsafe { (self.0.resume)(self.0.arg, cancelled.into()) }
    }
}

/// Answers a query for the interface: as much of the table as the asker has room for.
pub(crate) fn answer(child: &Shared<Child>, query: &InterfaceQuery) -> Result {
    if query.version != VERSION {
        return Err(Status::NOT_SUPPORTED);
    }
    // The head at least, or the reference could not be given back.
    if usize::from(query.size) < core::mem::offset_of!(XenbusInterface, device_info) {
        return Err(Status::INVALID_PARAMETER);
    }
    let size = query.size.min(size_of::<XenbusInterface>() as u16);
    let table = XenbusInterface {
        size,
        version: VERSION,
        context: context(child),
        reference,
        dereference,
        device_info,
        log: write_log,
        store_read,
        store_directory,
        store_write,
        store_remove,
        store_transaction_start,
        store_transaction_end,
        store_watch,
        store_unwatch,
        event_open,
        event_send,
        event_trigger,
        event_close,
        event_bind_cpu,
        grant_alloc,
        grant_free,
        grant_access,
        grant_end,
        suspend_register,
        suspend_unregister,
        request_eject,
        report_missing,
        unplugged: Some(unplugged),
        report_working: Some(report_working),
    };
    // SAFETY: the table is the one that the GUID names; its reference was taken by `context`.
    unsafe { query.answer(&table) }
    Ok(())
}

/// A new reference as a context.
fn context(child: &Shared<Child>) -> *mut c_void {
    child.clone().into_raw().cast_mut().cast()
}

/// The child of a context, borrowed: the reference stays the frontend's.
///
/// # Safety
/// `context` is that of a table whose reference was not given back.
unsafe fn child_of(context: *mut c_void) -> ManuallyDrop<Shared<Child>> {
    // SAFETY: by contract the pointer came from `context` above and its reference is alive.
    ManuallyDrop::new(unsafe { Shared::from_raw(context.cast_const().cast::<Child>()) })
}

/// Bytes that a frontend passed; `None` for a null pointer or more than `most`.
///
/// # Safety
/// `data` is null or points to `len` bytes that stay valid for `'a`.
unsafe fn bytes<'a>(data: *const u8, len: u32, most: u32) -> Option<&'a [u8]> {
    if len > most || (data.is_null() && len != 0) {
        return None;
    }
    // SAFETY: by contract; an empty slice needs no memory.
    Some(if len == 0 { &[] } else { unsafe { core::slice::from_raw_parts(data, len as usize) } })
}

unsafe extern "C" fn reference(context: *mut c_void) {
    // SAFETY: the caller's table is alive; the clone's count stays for the new reference.
    let child = unsafe { child_of(context) };
    core::mem::forget(Shared::clone(&child));
}

unsafe extern "C" fn dereference(context: *mut c_void) {
    // SAFETY: the caller gives this reference back.
    drop(ManuallyDrop::into_inner(unsafe { child_of(context) }));
}

unsafe extern "C" fn device_info(context: *mut c_void, info: *mut DeviceInfo) {
    // SAFETY: the caller's table is alive and it has room for the answer.
    unsafe {
        let child = child_of(context);
        if !info.is_null() {
            info.write(child.info());
        }
    }
}

unsafe extern "C" fn write_log(context: *mut c_void, level: LogLevel, text: *const u8, len: u32) {
    // SAFETY: the caller's table is alive; the text is its own.
    let (child, text) = unsafe { (child_of(context), bytes(text, len.min(LOG_MAX), LOG_MAX)) };
    let text = text.unwrap_or_default();
    let valid = match core::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
    };
    child.log(level, valid);
}

/// Runs a store request on a path that a frontend passed.
///
/// # Safety
/// As [`child_of`] and [`bytes`].
unsafe fn with_path<R>(
    context: *mut c_void,
    path: *const u8,
    len: u32,
    work: impl FnOnce(&Shared<Child>, &[u8]) -> Result<R>,
) -> Result<R> {
    // SAFETY: by contract.
    let (child, path) = unsafe { (child_of(context), bytes(path, len, PATH_MAX)) };
    let path = path.filter(|path| !path.contains(&0)).ok_or(Status::INVALID_PARAMETER)?;
    work(&child, path)
}

/// Copies an answer out: `*len` is the room before and the answer's length afterwards.
///
/// # Safety
/// `len` points to the caller's word and `buf` to as many bytes as it says.
unsafe fn hand_out(answer: &[u8], buf: *mut u8, len: *mut u32) -> Result {
    // SAFETY: by contract; no more than the room is written.
    unsafe {
        let word = len.as_mut().ok_or(Status::INVALID_PARAMETER)?;
        let room = core::mem::replace(word, answer.len() as u32) as usize;
        if answer.len() > room {
            return Err(Status::BUFFER_TOO_SMALL);
        }
        if !answer.is_empty() {
            if buf.is_null() {
                return Err(Status::INVALID_PARAMETER);
            }
            core::ptr::copy_nonoverlapping(answer.as_ptr(), buf, answer.len());
        }
    }
    Ok(())
}

/// `store_read` and `store_directory`.
///
/// # Safety
/// As [`with_path`] and [`hand_out`].
unsafe fn fetch(
    context: *mut c_void,
    path: *const u8,
    path_len: u32,
    buf: *mut u8,
    len: *mut u32,
    ask: impl FnOnce(&super::store::Store, &[u8]) -> core::result::Result<Vec<u8>, StoreError>,
) -> i32 {
    // SAFETY: by contract.
    let outcome = unsafe {
        with_path(context, path, path_len, |child, path| {
            ask(child.platform().store(), &child.path(path)?).map_err(store_status)
        })
        .and_then(|answer| hand_out(&answer, buf, len))
    };
    Status::from(outcome).0
}

unsafe extern "C" fn store_read(
    context: *mut c_void,
    transaction: u32,
    path: *const u8,
    path_len: u32,
    buf: *mut u8,
    len: *mut u32,
) -> i32 {
    // SAFETY: the caller's pointers are as the interface says.
    unsafe { fetch(context, path, path_len, buf, len, |store, path| store::read(store, transaction, path)) }
}

unsafe extern "C" fn store_directory(
    context: *mut c_void,
    transaction: u32,
    path: *const u8,
    path_len: u32,
    buf: *mut u8,
    len: *mut u32,
) -> i32 {
    // SAFETY: the caller's pointers are as the interface says.
    unsafe { fetch(context, path, path_len, buf, len, |store, path| store::directory(store, transaction, path)) }
}

unsafe extern "C" fn store_write(
    context: *mut c_void,
    transaction: u32,
    path: *const u8,
    path_len: u32,
    value: *const u8,
    value_len: u32,
) -> i32 {
    // SAFETY: the caller's pointers are as the interface says.
    let outcome = unsafe {
        with_path(context, path, path_len, |child, path| {
            let value = bytes(value, value_len, VALUE_MAX).ok_or(Status::INVALID_PARAMETER)?;
            store::write(&**child.platform().store(), transaction, &child.path(path)?, value).map_err(store_status)
        })
    };
    Status::from(outcome).0
}

unsafe extern "C" fn store_remove(context: *mut c_void, transaction: u32, path: *const u8, path_len: u32) -> i32 {
    // SAFETY: the caller's pointers are as the interface says.
    let outcome = unsafe {
        with_path(context, path, path_len, |child, path| {
            store::remove(&**child.platform().store(), transaction, &child.path(path)?).map_err(store_status)
        })
    };
    Status::from(outcome).0
}

unsafe extern "C" fn store_transaction_start(context: *mut c_void, transaction: *mut u32) -> i32 {
    // SAFETY: the caller's table is alive and it has room for the number.
    let (child, out) = unsafe { (child_of(context), transaction.as_mut()) };
    let Some(out) = out else { return Status::INVALID_PARAMETER.0 };
    let started = store::transaction_start(&**child.platform().store()).map_err(store_status);
    Status::from(started.map(|number| *out = number)).0
}

unsafe extern "C" fn store_transaction_end(context: *mut c_void, transaction: u32, commit: u8) -> i32 {
    // SAFETY: the caller's table is alive.
    let child = unsafe { child_of(context) };
    let ended = store::transaction_end(&**child.platform().store(), transaction, commit != 0);
    Status::from(ended.map_err(store_status)).0
}

unsafe extern "C" fn store_watch(
    context: *mut c_void,
    path: *const u8,
    path_len: u32,
    callback: WatchCallback,
    arg: *mut c_void,
    handle: *mut WatchHandle,
) -> i32 {
    // SAFETY: the caller's pointers are as the interface says.
    let outcome = unsafe {
        let Some(handle) = handle.as_mut() else { return Status::INVALID_PARAMETER.0 };
        with_path(context, path, path_len, |child, path| {
            let watch = Child::watch(child, path, ForeignWatch { callback, arg })?;
            *handle = watch.into_raw().cast_mut().cast();
            Ok(())
        })
    };
    Status::from(outcome).0
}

unsafe extern "C" fn store_unwatch(context: *mut c_void, handle: WatchHandle) {
    if handle.is_null() {
        return;
    }
    // SAFETY: the caller's table is alive; the handle came from `store_watch` and is given back here.
    let (child, watch) = unsafe { (child_of(context), Shared::from_raw(handle.cast_const().cast::<Watch>())) };
    child.unwatch(&watch);
}

/// The channel of a handle, borrowed.
///
/// # Safety
/// `handle` came from `event_open` and was not closed.
unsafe fn channel_of(handle: EventHandle) -> Option<ManuallyDrop<Shared<Channel>>> {
    if handle.is_null() {
        return None;
    }
    // SAFETY: by contract.
    Some(ManuallyDrop::new(unsafe { Shared::from_raw(handle.cast_const().cast::<Channel>()) }))
}

unsafe extern "C" fn event_open(
    context: *mut c_void,
    callback: EventCallback,
    arg: *mut c_void,
    handle: *mut EventHandle,
    port: *mut u32,
) -> i32 {
    // SAFETY: the caller's table is alive and it has room for the answers.
    let (child, handle, port) = unsafe { (child_of(context), handle.as_mut(), port.as_mut()) };
    let (Some(handle), Some(port)) = (handle, port) else { return Status::INVALID_PARAMETER.0 };
    let foreign = ForeignEvent { callback, arg };
    match child.platform().events().open(child.backend(), move || foreign.call()) {
        Ok(channel) => {
            *port = channel.port();
            *handle = channel.into_raw().cast_mut().cast();
            Status::SUCCESS.0
        }
        Err(status) => status.0,
    }
}

unsafe extern "C" fn event_send(context: *mut c_void, handle: EventHandle) {
    // SAFETY: the caller's table and handle are alive.
    if let (child, Some(channel)) = unsafe { (child_of(context), channel_of(handle)) } {
        child.platform().events().send(&channel);
    }
}

unsafe extern "C" fn event_trigger(context: *mut c_void, handle: EventHandle) {
    // SAFETY: the caller's table and handle are alive.
    if let (child, Some(channel)) = unsafe { (child_of(context), channel_of(handle)) } {
        child.platform().events().trigger(&channel);
    }
}

unsafe extern "C" fn event_close(context: *mut c_void, handle: EventHandle) {
    // SAFETY: the caller's table is alive, and the handle is given back here.
    if let (child, Some(channel)) = unsafe { (child_of(context), channel_of(handle)) } {
        child.platform().events().close(&channel);
        drop(ManuallyDrop::into_inner(channel));
    }
}

unsafe extern "C" fn event_bind_cpu(context: *mut c_void, handle: EventHandle, cpu: u32) -> i32 {
    // SAFETY: the caller's table and handle are alive.
    match unsafe { (child_of(context), channel_of(handle)) } {
        (child, Some(channel)) => Status::from(child.platform().events().bind(&channel, cpu)).0,
        (_, None) => Status::INVALID_PARAMETER.0,
    }
}

unsafe extern "C" fn grant_alloc(context: *mut c_void, refs: *mut u32, count: u32) -> i32 {
    if refs.is_null() || count > REFERENCES_MAX {
        return Status::INVALID_PARAMETER.0;
    }
    // SAFETY: the caller's table is alive and it has room for `count` numbers, of which none was written yet.
    let (child, refs) = unsafe {
        refs.write_bytes(0, count as usize);
        (child_of(context), core::slice::from_raw_parts_mut(refs, count as usize))
    };
    Status::from(child.platform().allocate_grants(refs)).0
}

unsafe extern "C" fn grant_free(context: *mut c_void, refs: *const u32, count: u32) {
    if refs.is_null() || count > REFERENCES_MAX {
        return;
    }
    // SAFETY: the caller's table is alive and it has `count` numbers there.
    let (child, refs) = unsafe { (child_of(context), core::slice::from_raw_parts(refs, count as usize)) };
    child.platform().grants().release(refs);
}

unsafe extern "C" fn grant_access(context: *mut c_void, reference: u32, gfn: u64, read_only: u8) -> i32 {
    // SAFETY: the caller's table is alive.
    let child = unsafe { child_of(context) };
    Status::from(child.platform().grants().access(reference, child.backend(), gfn, read_only != 0)).0
}

unsafe extern "C" fn grant_end(context: *mut c_void, reference: u32) -> i32 {
    // SAFETY: the caller's table is alive.
    let child = unsafe { child_of(context) };
    Status::from(child.platform().grants().end(reference)).0
}

unsafe extern "C" fn suspend_register(context: *mut c_void, callbacks: *const SuspendCallbacks) -> i32 {
    // SAFETY: the caller's table is alive and the callbacks are its own.
    let (child, callbacks) = unsafe { (child_of(context), callbacks.as_ref()) };
    let Some(callbacks) = callbacks else { return Status::INVALID_PARAMETER.0 };
    Status::from(child.register_suspend(ForeignSuspend(*callbacks))).0
}

unsafe extern "C" fn suspend_unregister(context: *mut c_void) {
    // SAFETY: the caller's table is alive.
    unsafe { child_of(context) }.unregister_suspend();
}

unsafe extern "C" fn request_eject(context: *mut c_void) {
    // SAFETY: the caller's table is alive.
    unsafe { child_of(context) }.request_eject();
}

unsafe extern "C" fn unplugged(context: *mut c_void) -> u32 {
    // SAFETY: the caller's table is alive.
    unsafe { child_of(context) }.platform().unplugged().bits().into()
}

unsafe extern "C" fn report_working(context: *mut c_void) {
    // SAFETY: the caller's table is alive.
    emulated::note_working(unsafe { child_of(context) }.name());
}

unsafe extern "C" fn report_missing(context: *mut c_void) {
    // SAFETY: the caller's table is alive.
    unsafe { child_of(context) }.report_missing();
}

/// Answers a query for BUS_INTERFACE_STANDARD.
pub(crate) fn answer_bus_standard(child: &Shared<Child>, query: &InterfaceQuery) -> Result {
    if usize::from(query.size) < size_of::<BusInterfaceStandard>() {
        return Err(Status::INVALID_PARAMETER);
    }
    let table = BusInterfaceStandard {
        size: size_of::<BusInterfaceStandard>() as u16,
        version: BUS_INTERFACE_STANDARD_VERSION,
        context: context(child),
        reference,
        dereference,
        translate,
        get_dma_adapter,
        set_bus_data: no_bus_data,
        get_bus_data: no_bus_data,
    };
    // SAFETY: the table is the one that the GUID names; its reference was taken by `context`.
    unsafe { query.answer(&table) }
    Ok(())
}

/// Bus addresses are physical addresses.
unsafe extern "C" fn translate(
    _context: *mut c_void,
    address: i64,
    _length: u32,
    space: *mut u32,
    translated: *mut i64,
) -> u8 {
    /// Memory space.
    const MEMORY: u32 = 0;
    // SAFETY: the caller has room for both answers.
    unsafe {
        if space.is_null() || translated.is_null() || *space != MEMORY {
            return 0;
        }
        *translated = address;
    }
    1
}

unsafe extern "C" fn get_dma_adapter(
    context: *mut c_void,
    description: *mut c_void,
    map_registers: *mut u32,
) -> *mut wdm::sys::DMA_ADAPTER {
    // SAFETY: the caller's table is alive; the bus is a device on a PCI bus.
    unsafe {
        match child_of(context).bus() {
            Some(bus) => dma::non_bouncing_adapter(bus, description, map_registers),
            None => core::ptr::null_mut(),
        }
    }
}

/// The children have no configuration space.
unsafe extern "C" fn no_bus_data(
    _context: *mut c_void,
    _space: u32,
    _buffer: *mut c_void,
    _offset: u32,
    _length: u32,
) -> u32 {
    0
}
