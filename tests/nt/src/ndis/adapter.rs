//! An adapter: its state machine as NDIS documents it, and what is kept of it.
//! <https://learn.microsoft.com/windows-hardware/drivers/network/miniport-adapter-states-and-operations>

use super::abi::*;
use super::binding::{Binding, Counters};
use super::driver::Driver;
use super::oid_abi::{LinkState, oid};
use super::wait::{Gate, Turns, sleep_ms};
use super::{owned, violation};
use crate::io::abi::DeviceObject;
use crate::sync::IrqLock;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};

/// Milliseconds that a miniport gets to complete what it said it would complete later.
const PENDING_MS: u64 = 120_000;

/// Where an adapter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not initialized, or halted.
    Halted,
    /// In MiniportInitializeEx.
    Initializing,
    /// Initialized, without traffic.
    Paused,
    /// In MiniportRestart.
    Restarting,
    /// Carries traffic.
    Running,
    /// In MiniportPause.
    Pausing,
}

/// An operation that the miniport may complete later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Pending {
    /// None.
    None,
    /// MiniportPause.
    Pause,
    /// MiniportRestart.
    Restart,
    /// MiniportResetEx.
    Reset,
}

/// What a miniport said of itself with NdisMSetMiniportAttributes.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// `NDIS_MINIPORT_ATTRIBUTES_*`.
    pub flags: u32,
    /// The registration attributes were set.
    pub registered: bool,
    /// The general attributes were set.
    pub described: bool,
    /// Bytes of a frame behind its Ethernet header.
    pub mtu: u32,
    /// Bits a second.
    pub max_speed: u64,
    /// `NDIS_MAC_OPTION_*`.
    pub mac_options: u32,
    /// `NDIS_PACKET_TYPE_*` that it can filter by.
    pub filters: u32,
    /// Multicast addresses that it takes.
    pub max_multicast: u32,
    /// The address that the device came with.
    pub permanent_address: [u8; 6],
    /// The address that it uses.
    pub current_address: [u8; 6],
    /// The OIDs that it lists.
    pub oids: Vec<u32>,
    /// It says what it can do about power.
    pub power: bool,
    /// Its RSS capabilities.
    pub rss: Option<RssCapabilities>,
    /// What it can offload.
    pub hardware: Option<Offload>,
    /// What it offloads now.
    pub offload: Option<Offload>,
}

/// Received lists that wait for their way back.
#[derive(Default)]
pub(super) struct Returns {
    pub lists: Vec<usize>,
}

/// An adapter.
pub struct Adapter {
    /// Its driver.
    pub driver: Arc<Driver>,
    /// The port's device object.
    pub fdo: *mut DeviceObject,
    /// The device.
    pub pdo: *mut DeviceObject,
    /// The device object below.
    pub lower: *mut DeviceObject,
    /// IfIndex.
    pub index: u32,
    /// NetCfgInstanceId, a GUID in braces.
    pub instance: String,
    state: AtomicU8,
    pub(super) context: AtomicPtr<core::ffi::c_void>,
    /// What it said of itself.
    pub about: IrqLock<About>,
    pub(super) link: IrqLock<LinkState>,
    pub(super) resources: IrqLock<(Vec<u8>, Vec<u8>)>,
    pub(super) resource_copy: AtomicPtr<u8>,
    pub(super) control: Turns,
    pub(super) oids: Turns,
    pending: AtomicU8,
    pending_gate: Gate,
    pending_status: AtomicI32,
    pub(super) oid: AtomicPtr<super::oid_abi::OidRequest>,
    pub(super) oid_gate: Gate,
    pub(super) oid_status: AtomicI32,
    pub(super) bindings: IrqLock<Vec<Arc<Binding>>>,
    pub(super) calls: AtomicUsize,
    pub(super) sends_out: AtomicUsize,
    pub(super) receives_out: AtomicUsize,
    pub(super) returns: IrqLock<Returns>,
    pub(super) batching: AtomicUsize,
    pub(super) filter: AtomicU32,
    pub(super) multicast: IrqLock<Vec<u8>>,
    pub(super) low_power: AtomicBool,
    pub(super) addressing_reset: AtomicBool,
    pub(super) gone: AtomicBool,
    /// Figures.
    pub counters: Counters,
}

// SAFETY: device objects and contexts belong to no processor.
unsafe impl Send for Adapter {}
// SAFETY: what changes is locked or atomic.
unsafe impl Sync for Adapter {}

static ADAPTERS: IrqLock<Vec<Arc<Adapter>>> = IrqLock::new(Vec::new());

/// The adapters that stand now.
pub fn adapters() -> Vec<Arc<Adapter>> {
    ADAPTERS.lock().clone()
}

/// The adapter behind a handle of NDIS's. Any IRQL.
pub fn of(handle: Handle, call: &'static str) -> Arc<Adapter> {
    let found = ADAPTERS.lock().iter().find(|a| Arc::as_ptr(a).cast() == handle.cast_const()).cloned();
    found.unwrap_or_else(|| violation(call, format_args!("{handle:p} is no adapter's handle")))
}

/// The adapter behind a handle, if it is one. Any IRQL.
pub fn find(handle: Handle) -> Option<Arc<Adapter>> {
    ADAPTERS.lock().iter().find(|a| Arc::as_ptr(a).cast() == handle.cast_const()).cloned()
}

impl Adapter {
    /// A new adapter, which is on the list from now on.
    pub fn new(driver: Arc<Driver>, devices: [*mut DeviceObject; 3], index: u32, instance: String) -> Arc<Self> {
        let adapter = Arc::new(Self {
            driver,
            fdo: devices[0],
            pdo: devices[1],
            lower: devices[2],
            index,
            instance,
            state: AtomicU8::new(State::Halted as u8),
            context: AtomicPtr::new(ptr::null_mut()),
            about: IrqLock::new(About::default()),
            link: IrqLock::new(LinkState::default()),
            resources: IrqLock::new((Vec::new(), Vec::new())),
            resource_copy: AtomicPtr::new(ptr::null_mut()),
            control: Turns::default(),
            oids: Turns::default(),
            pending: AtomicU8::new(Pending::None as u8),
            pending_gate: Gate::new(false),
            pending_status: AtomicI32::new(0),
            oid: AtomicPtr::new(ptr::null_mut()),
            oid_gate: Gate::new(false),
            oid_status: AtomicI32::new(0),
            bindings: IrqLock::new(Vec::new()),
            calls: AtomicUsize::new(0),
            sends_out: AtomicUsize::new(0),
            receives_out: AtomicUsize::new(0),
            returns: IrqLock::new(Returns::default()),
            batching: AtomicUsize::new(0),
            filter: AtomicU32::new(0),
            multicast: IrqLock::new(Vec::new()),
            low_power: AtomicBool::new(false),
            addressing_reset: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            counters: Counters::default(),
        });
        ADAPTERS.lock().push(adapter.clone());
        adapter
    }

    /// Takes it off the list.
    pub fn forget(self: &Arc<Self>) {
        let gone: Vec<_> = {
            let mut all = ADAPTERS.lock();
            let (gone, left) = core::mem::take(&mut *all).into_iter().partition(|a| Arc::ptr_eq(a, self));
            *all = left;
            gone
        };
        drop(gone);
    }

    /// What stands for it in the calls of its miniport.
    pub fn handle(self: &Arc<Self>) -> Handle {
        Arc::as_ptr(self).cast_mut().cast()
    }

    /// What the miniport's functions get as MiniportAdapterContext.
    pub(super) fn context(&self) -> Handle {
        self.context.load(Ordering::Acquire)
    }

    /// Where it stands. Any IRQL.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            1 => State::Initializing,
            2 => State::Paused,
            3 => State::Restarting,
            4 => State::Running,
            5 => State::Pausing,
            _ => State::Halted,
        }
    }

    fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Whether its device was taken away.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The link as last indicated. IRQL <= DISPATCH_LEVEL.
    pub fn link(&self) -> LinkState {
        *self.link.lock()
    }

    /// Lists that the miniport has to send, and lists of its that protocols hold. Any IRQL.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.sends_out.load(Ordering::Acquire), self.receives_out.load(Ordering::Acquire))
    }

    /// Has the miniport do something that it may complete later, and waits for the end of it.
    fn run(&self, what: Pending, call: impl FnOnce() -> NdisStatus) -> NdisStatus {
        self.pending.store(what as u8, Ordering::Release);
        let status = call();
        if status != NDIS_STATUS_PENDING {
            if self.pending.swap(Pending::None as u8, Ordering::AcqRel) == Pending::None as u8 {
                violation("completion", format_args!("{what:?} was completed, and then returned {status:#x}"));
            }
            return status;
        }
        if !self.pending_gate.wait_ms(PENDING_MS) {
            let (sends, receives) = self.in_flight();
            violation(
                "completion",
                format_args!(
                    "{what:?} was not completed in {PENDING_MS} ms; {sends} sends and {receives} receives are out"
                ),
            );
        }
        self.pending_status.load(Ordering::Acquire)
    }

    /// The miniport completes what it left pending. IRQL <= DISPATCH_LEVEL.
    pub(super) fn complete(&self, what: Pending, status: NdisStatus, call: &'static str) {
        let (want, none) = (what as u8, Pending::None as u8);
        if what == Pending::Pause {
            self.check_idle(call);
        }
        self.pending_status.store(status, Ordering::Release);
        if self.pending.compare_exchange(want, none, Ordering::AcqRel, Ordering::Acquire).is_err() {
            violation(call, format_args!("nothing of that kind is pending"));
        }
        self.pending_gate.open();
    }

    /// At the end of a pause nothing may be out.
    fn check_idle(&self, call: &'static str) {
        let (sends, receives) = self.in_flight();
        if sends != 0 || receives != 0 {
            violation(
                call,
                format_args!("paused with {sends} sends not completed and {receives} receives not returned"),
            );
        }
    }

    /// Initializes the adapter and lets it run. IRQL = PASSIVE_LEVEL.
    ///
    /// # Errors
    /// What MiniportInitializeEx or MiniportRestart says.
    pub fn start(self: &Arc<Self>) -> Result<(), NdisStatus> {
        let _turn = self.control.take();
        self.initialize()?;
        self.restart()
    }

    fn initialize(self: &Arc<Self>) -> Result<(), NdisStatus> {
        let Some(initialize) = self.driver.calls.initialize else { return Err(NDIS_STATUS_FAILURE) };
        let translated = self.resources.lock().1.clone();
        let copy =
            if translated.is_empty() { ptr::null_mut() } else { crate::io::kernel::pool_alloc(translated.len(), TAG) };
        if !copy.is_null() {
            // SAFETY: allocated with that size.
            unsafe { ptr::copy_nonoverlapping(translated.as_ptr(), copy, translated.len()) };
        }
        self.resource_copy.store(copy, Ordering::Release);
        *self.about.lock() = About::default();
        self.context.store(ptr::null_mut(), Ordering::Release);
        self.set_state(State::Initializing);
        let mut parameters = InitParameters {
            header: Header::new(object::MINIPORT_INIT_PARAMETERS, 1, size_of::<InitParameters>()),
            flags: 0,
            allocated_resources: copy.cast(),
            im_device_instance_context: ptr::null_mut(),
            add_device_context: ptr::null_mut(),
            if_index: self.index,
            // IF_TYPE_ETHERNET_CSMACD above, the index below.
            net_luid: 6 << 48 | u64::from(self.index) << 24,
            default_port_auth_states: ptr::null_mut(),
            pci_device_custom_properties: ptr::null_mut(),
        };
        // SAFETY: the miniport's function, called as documented at PASSIVE_LEVEL.
        let status = unsafe { initialize(self.handle(), self.driver.context, &raw mut parameters) };
        Self::check_irql("MiniportInitializeEx");
        if status == NDIS_STATUS_PENDING {
            violation("MiniportInitializeEx", format_args!("it returned NDIS_STATUS_PENDING"));
        }
        if status != NDIS_STATUS_SUCCESS {
            self.set_state(State::Halted);
            self.check_leaks("a failed MiniportInitializeEx");
            return Err(status);
        }
        let about = self.about.lock().clone();
        if !about.registered || !about.described {
            violation("MiniportInitializeEx", format_args!("it did not set registration and general attributes"));
        }
        self.set_state(State::Paused);
        // As NDIS does behind every initialization: NdisPowerProfileAcOnLine.
        self.notify(pnp_event::POWER_PROFILE_CHANGED, &mut 1_u32.to_le_bytes());
        Ok(())
    }

    fn check_irql(call: &'static str) {
        // SAFETY: any IRQL.
        let irql = unsafe { crate::ke::KeGetCurrentIrql() };
        if irql != 0 {
            violation(call, format_args!("it came back at IRQL {irql}"));
        }
    }

    /// MiniportDevicePnPEventNotify. IRQL = PASSIVE_LEVEL.
    pub(super) fn notify(&self, event: i32, data: &mut [u8]) {
        let Some(notify) = self.driver.calls.pnp_notify else { return };
        let mut event = DevicePnpEvent {
            header: Header::new(object::DEFAULT, 1, size_of::<DevicePnpEvent>()),
            port: 0,
            event,
            buffer: if data.is_empty() { ptr::null_mut() } else { data.as_mut_ptr().cast() },
            buffer_length: data.len() as u32,
            reserved: [0; 2],
        };
        // SAFETY: the miniport's function, called as documented.
        unsafe { notify(self.context(), &raw mut event) };
        Self::check_irql("MiniportDevicePnPEventNotify");
    }

    /// Paused -> Running. The turn is taken.
    fn restart(self: &Arc<Self>) -> Result<(), NdisStatus> {
        let Some(restart) = self.driver.calls.restart else { return Err(NDIS_STATUS_FAILURE) };
        self.set_state(State::Restarting);
        let mut parameters = RestartParameters {
            header: Header::new(object::DEFAULT, 1, crate::through!(RestartParameters, flags, u32)),
            attributes: ptr::null_mut(),
            flags: 0,
        };
        // SAFETY: the miniport's function, called as documented.
        let status = self.run(Pending::Restart, || unsafe { restart(self.context(), &raw mut parameters) });
        Self::check_irql("MiniportRestart");
        if status != NDIS_STATUS_SUCCESS {
            self.set_state(State::Paused);
            return Err(status);
        }
        self.set_state(State::Running);
        for binding in self.bound() {
            binding.protocol.restarted();
        }
        Ok(())
    }

    /// Running -> Paused. The turn is taken.
    fn pause(self: &Arc<Self>, reason: u32) {
        let Some(pause) = self.driver.calls.pause else { return };
        // As in Windows, the protocols are paused before the miniport.
        for binding in self.bound() {
            binding.protocol.pausing();
        }
        self.set_state(State::Pausing);
        let mut parameters =
            PauseParameters { header: Header::new(object::DEFAULT, 1, size_of::<PauseParameters>()), flags: 0, reason };
        // SAFETY: the miniport's function, called as documented.
        let status = self.run(Pending::Pause, || unsafe { pause(self.context(), &raw mut parameters) });
        Self::check_irql("MiniportPause");
        if status != NDIS_STATUS_SUCCESS {
            violation("MiniportPause", format_args!("it failed with {status:#x}; it must not"));
        }
        // A send that found the adapter running may still be on its way in; the miniport has to refuse it.
        while self.calls.load(Ordering::Acquire) != 0 {
            sleep_ms(1);
        }
        self.check_idle("MiniportPause");
        self.set_state(State::Paused);
        self.counters.pauses.fetch_add(1, Ordering::Relaxed);
    }

    /// Pauses and restarts, as NDIS does when a binding or a filter comes or goes. IRQL = PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The adapter does not run, or MiniportRestart failed.
    pub fn pause_and_restart(self: &Arc<Self>) -> Result<(), NdisStatus> {
        let _turn = self.control.take();
        if self.state() != State::Running {
            return Err(NDIS_STATUS_PAUSED);
        }
        self.pause(pause::NDIS_INTERNAL);
        self.restart()
    }

    /// Pauses. IRQL = PASSIVE_LEVEL. Whether it ran.
    pub fn stop_traffic(self: &Arc<Self>, reason: u32) -> bool {
        let _turn = self.control.take();
        let running = self.state() == State::Running;
        if running {
            self.pause(reason);
        }
        running
    }

    /// Restarts a paused adapter. IRQL = PASSIVE_LEVEL.
    ///
    /// # Errors
    /// It is not paused, or MiniportRestart failed.
    pub fn resume_traffic(self: &Arc<Self>) -> Result<(), NdisStatus> {
        let _turn = self.control.take();
        if self.state() != State::Paused {
            return Err(NDIS_STATUS_FAILURE);
        }
        self.restart()
    }

    /// Resets the adapter. IRQL = PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The miniport has no MiniportResetEx, or it failed.
    pub fn reset(self: &Arc<Self>) -> Result<(), NdisStatus> {
        let Some(reset) = self.driver.calls.reset else { return Err(NDIS_STATUS_NOT_SUPPORTED) };
        let _turn = self.control.take();
        let mut addressing = 0_u8;
        // SAFETY: the miniport's function, called as documented.
        let status = self.run(Pending::Reset, || unsafe { reset(self.context(), &raw mut addressing) });
        Self::check_irql("MiniportResetEx");
        if status != NDIS_STATUS_SUCCESS {
            return Err(status);
        }
        self.counters.resets.fetch_add(1, Ordering::Relaxed);
        if addressing != 0 || self.addressing_reset.swap(false, Ordering::AcqRel) {
            // The hardware forgot what it filters by.
            let list = self.multicast.lock().clone();
            let bits = self.filter.load(Ordering::Acquire).to_le_bytes();
            for answer in [self.set(oid::ETH_MULTICAST_LIST, &list), self.set(oid::GEN_CURRENT_PACKET_FILTER, &bits)] {
                if !answer.ok() {
                    return Err(answer.status);
                }
            }
        }
        Ok(())
    }

    /// Halts the adapter for good or until it is started again. IRQL = PASSIVE_LEVEL.
    pub fn halt(self: &Arc<Self>, action: i32) {
        let _turn = self.control.take();
        if self.state() == State::Halted {
            return;
        }
        if self.state() == State::Running {
            self.pause(pause::MINIPORT_DEVICE_REMOVE);
        }
        let Some(halt) = self.driver.calls.halt else { return };
        let turn = self.oids.take();
        // SAFETY: the miniport's function, called as documented.
        unsafe { halt(self.context(), action) };
        Self::check_irql("MiniportHaltEx");
        drop(turn);
        self.set_state(State::Halted);
        self.check_leaks("MiniportHaltEx");
        self.filter.store(0, Ordering::Release);
        self.multicast.lock().clear();
    }

    /// The adapter goes: it is paused, so that every send is back with the binding that it came from; then its protocols are
    /// told, and those that stay bound are cut off. IRQL = PASSIVE_LEVEL.
    pub fn unbind_all(self: &Arc<Self>) {
        self.gone.store(true, Ordering::Release);
        self.stop_traffic(pause::MINIPORT_DEVICE_REMOVE);
        let bound = core::mem::take(&mut *self.bindings.lock());
        for binding in bound {
            binding.protocol.unbound();
        }
    }

    fn check_leaks(self: &Arc<Self>, call: &'static str) {
        let copy = self.resource_copy.swap(ptr::null_mut(), Ordering::AcqRel);
        if !copy.is_null() {
            crate::io::kernel::pool_free(copy, TAG);
        }
        self.check_idle(call);
        if let Some(left) = owned::leak_of(self.handle()) {
            violation("leak", format_args!("{call} left behind {left}"));
        }
    }

    /// Calls MiniportShutdownEx for the end of the system. IRQL = PASSIVE_LEVEL.
    pub fn shut_down(&self) {
        if let (Some(shutdown), true) = (self.driver.calls.shutdown, self.state() != State::Halted) {
            // NdisShutdownPowerOff
            // SAFETY: the miniport's function, called as documented.
            unsafe { shutdown(self.context(), 0) };
        }
    }

    /// Asks the miniport whether it hangs, as NDIS does now and then. `None`: it has no such function. IRQL = PASSIVE_LEVEL.
    pub fn check_for_hang(&self) -> Option<bool> {
        let check = self.driver.calls.check_for_hang?;
        // SAFETY: the miniport's function, called as documented.
        Some(unsafe { check(self.context()) } != 0)
    }
}

pub(super) const TAG: u32 = u32::from_le_bytes(*b"NDis");
