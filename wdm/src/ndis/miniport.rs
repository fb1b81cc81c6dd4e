//! The trait that a miniport implements, its registration, and the entry points that NDIS calls.
//!
//! An adapter's value lives in nonpaged pool from MiniportInitializeEx to the end of MiniportHaltEx; its address is the
//! adapter's context. NDIS calls no other entry point outside of that time.

use alloc::boxed::Box;
use core::{
    ffi::c_void,
    mem::MaybeUninit,
    ptr::NonNull,
    sync::atomic::{AtomicPtr, Ordering},
};

use super::{
    abi::{self, DriverCharacteristics, Handle, InitParameters, ObjectHeader, object, oid, packet},
    adapter::{Adapter, Initializing},
    oid::OidRequest,
    receive::ReceiveChain,
    send::{CancelId, SendChain},
    status::NdisStatus,
};
use crate::memory::try_box;

/// Why an adapter is halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The device is gone already.
    SurpriseRemoved,
    /// It is disabled, stopped, removed in order, or failed to start.
    Ordinary,
}

/// What a miniport answers to a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseOutcome {
    /// Every send is completed and every received list is back.
    Paused,
    /// That is not so yet: [`Adapter::pause_complete`] follows.
    Pending,
}

/// What the PnP or the power manager tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PnpEvent {
    /// The device is gone.
    SurpriseRemoved,
    /// Nothing that a paravirtual device cares for.
    Other(i32),
}

/// The driver's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major part.
    pub major: u8,
    /// Minor part.
    pub minor: u8,
}

/// An NDIS 6.30 miniport. One value per adapter.
///
/// Functions are for PASSIVE_LEVEL unless they say otherwise. Sends, returns and cancels may come on several processors
/// at once.
pub trait Miniport: Send + Sync + Sized + 'static {
    /// Makes the adapter's value: what can be known before NDIS is told anything.
    ///
    /// # Errors
    /// The device does not start.
    fn new(adapter: Adapter) -> Result<Self, NdisStatus>;
    /// Tells NDIS what the adapter is and starts it. On an error the value is dropped, so nothing may be left running.
    ///
    /// # Errors
    /// The device does not start.
    fn start(&self, adapter: &Initializing) -> Result<(), NdisStatus>;
    /// Stops it for good. The adapter is paused; the value is dropped afterwards.
    fn halt(&self, why: Halt);
    /// Completes or gives up every send and indicates nothing any more.
    fn pause(&self) -> PauseOutcome;
    /// Goes on.
    ///
    /// # Errors
    /// It stays paused.
    fn restart(&self) -> Result<(), NdisStatus>;
    /// Answers an OID request, at once.
    fn oid_request(&self, request: &mut OidRequest<'_>) -> NdisStatus;
    /// Sends. IRQL <= DISPATCH_LEVEL; `dispatch` says that it is DISPATCH_LEVEL.
    fn send(&self, lists: SendChain, dispatch: bool);
    /// Takes indicated lists back. IRQL <= DISPATCH_LEVEL.
    fn receives_returned(&self, lists: ReceiveChain);
    /// Completes sends with that id that have not been handed over yet. IRQL <= DISPATCH_LEVEL.
    fn cancel_send(&self, id: CancelId);
    /// Gets sends going again that hang. IRQL <= DISPATCH_LEVEL.
    fn reset(&self) -> NdisStatus;
    /// Is told.
    fn pnp_event(&self, event: PnpEvent);
    /// The machine goes down. Any IRQL up to the one of a bug check: nothing may be waited for.
    fn shutdown(&self);
}

/// What NdisMRegisterMiniportDriver gave; a driver image registers one miniport.
static DRIVER: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Registers the miniport, from DriverEntry. Its DriverUnload is set by NDIS and undoes it.
///
/// # Errors
/// NDIS's.
///
/// # Safety
/// The pointers are DriverEntry's own arguments.
pub unsafe fn register<M: Miniport>(
    driver_object: *mut c_void,
    registry_path: *mut c_void,
    version: Version,
) -> Result<(), NdisStatus> {
    let characteristics = DriverCharacteristics {
        header: ObjectHeader::new(object::MINIPORT_DRIVER_CHARACTERISTICS, 2, size_of::<DriverCharacteristics>()),
        major_ndis_version: abi::NDIS_MAJOR,
        minor_ndis_version: abi::NDIS_MINOR,
        major_driver_version: version.major,
        minor_driver_version: version.minor,
        flags: 0,
        set_options: core::ptr::null_mut(),
        initialize: initialize::<M>,
        halt: halt::<M>,
        unload,
        pause: pause::<M>,
        restart: restart::<M>,
        oid_request: oid_request::<M>,
        send_net_buffer_lists: send_net_buffer_lists::<M>,
        return_net_buffer_lists: return_net_buffer_lists::<M>,
        cancel_send: cancel_send::<M>,
        check_for_hang: core::ptr::null_mut(),
        reset: reset::<M>,
        device_pnp_event_notify: pnp_event::<M>,
        shutdown: shutdown::<M>,
        cancel_oid_request,
        direct_oid_request: core::ptr::null_mut(),
        cancel_direct_oid_request: core::ptr::null_mut(),
    };
    let mut handle: Handle = core::ptr::null_mut();
    // SAFETY: the first two are DriverEntry's; NDIS copies the characteristics and writes the handle.
    NdisStatus(unsafe {
        abi::NdisMRegisterMiniportDriver(
            driver_object,
            registry_path,
            core::ptr::null_mut(),
            &raw const characteristics,
            &raw mut handle,
        )
    })
    .ok()?;
    DRIVER.store(handle, Ordering::Release);
    Ok(())
}

/// The adapter's value.
///
/// # Safety
/// `context` is the one that `initialize` registered, and NDIS has not come back from the halt handler.
unsafe fn miniport<'a, M: Miniport>(context: Handle) -> &'a M {
    // SAFETY: it is the address of a box that lives until the halt handler's end.
    unsafe { &*context.cast::<M>() }
}

unsafe extern "C" fn initialize<M: Miniport>(
    handle: Handle,
    _driver: Handle,
    _parameters: *const InitParameters,
) -> i32 {
    match NonNull::new(handle) {
        // SAFETY: the handle is the adapter's, valid until it is halted.
        Some(handle) => NdisStatus::from(start::<M>(unsafe { Adapter::from_raw(handle) })).0,
        None => NdisStatus::INVALID_PARAMETER.0,
    }
}

fn start<M: Miniport>(adapter: Adapter) -> Result<(), NdisStatus> {
    // The context's address comes first: NDIS wants it before it is asked for anything.
    let place = try_box(MaybeUninit::<M>::uninit())?;
    let initializing = Initializing::new(adapter);
    initializing.register(place.as_ptr().cast_mut().cast())?;
    let value = make(place, adapter)?;
    value.start(&initializing)?;
    // `halt` takes it back.
    let _ = Box::into_raw(value);
    Ok(())
}

/// Not inlined, to keep the copies of the value out of the frame of what runs after it.
#[inline(never)]
fn make<M: Miniport>(mut place: Box<MaybeUninit<M>>, adapter: Adapter) -> Result<Box<M>, NdisStatus> {
    place.write(M::new(adapter)?);
    // SAFETY: it was written just now.
    Ok(unsafe { Box::from_raw(Box::into_raw(place).cast::<M>()) })
}

unsafe extern "C" fn halt<M: Miniport>(context: Handle, action: i32) {
    let why = if action == abi::HALT_SURPRISE_REMOVED { Halt::SurpriseRemoved } else { Halt::Ordinary };
    // SAFETY: `start` made the box and gave it away; nothing is called with its address after this.
    let value = unsafe { Box::from_raw(context.cast::<M>()) };
    value.halt(why);
}

unsafe extern "C" fn unload(_driver: *mut c_void) {
    let handle = DRIVER.swap(core::ptr::null_mut(), Ordering::AcqRel);
    if !handle.is_null() {
        // SAFETY: it is what NDIS gave, and is given back once.
        unsafe { abi::NdisMDeregisterMiniportDriver(handle) };
    }
}

unsafe extern "C" fn pause<M: Miniport>(context: Handle, _parameters: *const c_void) -> i32 {
    // SAFETY: NDIS's argument.
    match unsafe { miniport::<M>(context) }.pause() {
        PauseOutcome::Paused => NdisStatus::SUCCESS.0,
        PauseOutcome::Pending => NdisStatus::PENDING.0,
    }
}

unsafe extern "C" fn restart<M: Miniport>(context: Handle, _parameters: *const c_void) -> i32 {
    // SAFETY: NDIS's argument.
    NdisStatus::from(unsafe { miniport::<M>(context) }.restart()).0
}

unsafe extern "C" fn oid_request<M: Miniport>(context: Handle, request: *mut oid::OidRequest) -> i32 {
    // SAFETY: NDIS's arguments; the request is ours until this returns.
    match unsafe { OidRequest::from_raw(request) } {
        // SAFETY: as above.
        Some(mut request) => unsafe { miniport::<M>(context) }.oid_request(&mut request).0,
        None => NdisStatus::INVALID_PARAMETER.0,
    }
}

unsafe extern "C" fn send_net_buffer_lists<M: Miniport>(
    context: Handle,
    lists: *mut packet::NetBufferList,
    _port: u32,
    flags: u32,
) {
    // SAFETY: NDIS's argument; the lists are ours until they are completed.
    let lists = unsafe { SendChain::from_raw(lists) };
    // SAFETY: NDIS's argument.
    unsafe { miniport::<M>(context) }.send(lists, flags & packet::FLAG_DISPATCH_LEVEL != 0);
}

unsafe extern "C" fn return_net_buffer_lists<M: Miniport>(
    context: Handle,
    lists: *mut packet::NetBufferList,
    _flags: u32,
) {
    // SAFETY: NDIS gives back what the miniport indicated.
    let lists = unsafe { ReceiveChain::from_raw(lists) };
    // SAFETY: NDIS's argument.
    unsafe { miniport::<M>(context) }.receives_returned(lists);
}

unsafe extern "C" fn cancel_send<M: Miniport>(context: Handle, id: *mut c_void) {
    // SAFETY: NDIS's argument.
    unsafe { miniport::<M>(context) }.cancel_send(CancelId::new(id));
}

unsafe extern "C" fn reset<M: Miniport>(context: Handle, addressing: *mut u8) -> i32 {
    if !addressing.is_null() {
        // Filter and multicast list are kept.
        // SAFETY: NDIS's own byte.
        unsafe { addressing.write(0) };
    }
    // SAFETY: NDIS's argument.
    unsafe { miniport::<M>(context) }.reset().0
}

unsafe extern "C" fn pnp_event<M: Miniport>(context: Handle, event: *const abi::DevicePnpEvent) {
    // SAFETY: NDIS's argument.
    let Some(event) = (unsafe { event.as_ref() }) else { return };
    let event = match event.event {
        abi::PNP_SURPRISE_REMOVED => PnpEvent::SurpriseRemoved,
        other => PnpEvent::Other(other),
    };
    // SAFETY: NDIS's argument.
    unsafe { miniport::<M>(context) }.pnp_event(event);
}

unsafe extern "C" fn shutdown<M: Miniport>(context: Handle, _action: i32) {
    // SAFETY: NDIS's argument.
    unsafe { miniport::<M>(context) }.shutdown();
}

unsafe extern "C" fn cancel_oid_request(_context: Handle, _id: *mut c_void) {
    // Every request is answered before its handler returns, so there is none to cancel.
}
