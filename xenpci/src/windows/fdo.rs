//! The platform device: PnP and power, the interrupts it was given, its children.

use alloc::vec::Vec;
use core::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
};

use wdm::{
    cpu,
    device::{self, DeviceKind, DeviceObject, NewDevice, OwnDevice, Relations},
    driver::DriverObject,
    event::Mutex,
    file::DeviceInterface,
    irp::{Dispatched, Irp, major},
    log,
    memory::{Shared, try_push, try_vec},
    pnp::{PnpRequest, RelationKind, UsageKind},
    port,
    power::{self, PowerRequest},
    remove_lock::RemoveLock,
    resource::{self, InterruptResource, Resource},
    spinlock::SpinLock,
    status::{Result, Status},
};
use xen_abi::{
    cpuid::Registers,
    detect::{self, Cpuid},
    errno::Errno,
    xenbus::XenbusState,
};

use xenbus::control::INTERFACE_CLASS;

use super::{
    Node, Settings,
    control::Handle,
    pdo::Pdo,
    platform::{Platform, Started, store_status},
    store::Store,
    suspend::BusThreads,
};
use crate::core::{
    enumerate::{DeviceName, Listing},
    store::{self, NO_TRANSACTION, StoreError},
};

/// `PNP_DEVICE_NOT_DISABLEABLE`.
const NOT_DISABLEABLE: usize = 0x20;

/// The CPUID instruction.
pub(crate) struct Processor;

impl Cpuid for Processor {
    fn cpuid(&self, leaf: u32) -> Registers {
        port::cpuid(leaf, 0)
    }
}

/// A domain has one grant table and one store connection, so one platform device drives them; a second one (QEMU may
/// offer both PCI ids) gets no FDO.
struct Active;

/// Whether a platform device is driven.
static ACTIVE: AtomicBool = AtomicBool::new(false);

impl Active {
    fn claim() -> Result<Self> {
        if ACTIVE.swap(true, Ordering::AcqRel) {
            wdm::info!("another platform device is driven already; this one is left alone");
            return Err(Status::NOT_SUPPORTED);
        }
        Ok(Self)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        ACTIVE.store(false, Ordering::Release);
    }
}

/// Special files whose path leads over the bus.
#[derive(Clone, Copy, Default)]
struct Usage {
    paging: u32,
    dump: u32,
    hibernation: u32,
}

impl Usage {
    fn any(self) -> bool {
        self.paging != 0 || self.dump != 0 || self.hibernation != 0
    }

    fn count(&mut self, kind: UsageKind) -> Option<&mut u32> {
        match kind {
            UsageKind::Paging => Some(&mut self.paging),
            UsageKind::Dump => Some(&mut self.dump),
            UsageKind::Hibernation => Some(&mut self.hibernation),
            UsageKind::Other => None,
        }
    }
}

/// A frontend that the bus knows.
struct Entry {
    name: DeviceName,
    /// Its PDO; `None`: it was ejected, and stays away until the toolstack has taken its directory away.
    pdo: Option<Shared<Pdo>>,
    /// The toolstack took its directory away. A directory of that name which is there now is another device's.
    gone: bool,
    /// A frontend's driver had it when it was ejected: see [`renewed`].
    driven: bool,
}

/// The platform device's FDO.
pub(crate) struct Fdo {
    driver: DriverObject,
    object: DeviceObject,
    lower: DeviceObject,
    pdo: DeviceObject,
    xen: detect::Xen,
    _active: Active,
    remove_lock: RemoveLock,
    usage: SpinLock<Usage>,
    /// It has agreed to be removed, and is not yet: nobody opens it.
    leaving: AtomicBool,
    /// Made by the first start, kept until the device is removed: a stop only takes the interrupts away.
    started: Mutex<Option<Started>>,
    platform: SpinLock<Option<Shared<Platform>>>,
    children: Mutex<Vec<Entry>>,
    threads: Mutex<Option<BusThreads>>,
    /// The name for users; none if it could not be registered.
    interface: Mutex<Option<DeviceInterface>>,
    /// The right to delete the device object.
    own: SpinLock<Option<OwnDevice<Node>>>,
}

/// What a user's file object refers to. It keeps the store, not the FDO: a handle may be closed late.
struct Opened {
    store: Shared<Store>,
    handle: Shared<Handle>,
}

/// `AddDevice`: only where Xen is, and not before that is known.
pub(crate) fn add(driver: DriverObject, pdo: DeviceObject) -> Result {
    let xen = detect::detect(&Processor).map_err(|reason| {
        wdm::error!("not started, this is no Xen domain that it can drive: {reason}");
        Status::NOT_SUPPORTED
    })?;
    let active = Active::claim()?;
    log::use_ports();
    wdm::info!(
        "Xen {} at leaf {:#x}{}, {:?}",
        xen.version,
        xen.base,
        if xen.viridian { " behind Viridian" } else { "" },
        xen.instruction
    );
    let mut new = NewDevice::create::<Node>(driver, DeviceKind::Function)?;
    let remove_lock = RemoveLock::new()?;
    let (started, children, threads) = (Mutex::new(None)?, Mutex::new(try_vec(16)?)?, Mutex::new(None)?);
    let interface = Mutex::new(None)?;
    new.buffer_io();
    let lower = new.attach(pdo)?;
    let fdo = Shared::new(Fdo {
        driver,
        object: new.object(),
        lower,
        pdo,
        xen,
        _active: active,
        remove_lock,
        usage: SpinLock::new(Usage::default()),
        leaving: AtomicBool::new(false),
        started,
        platform: SpinLock::new(None),
        children,
        threads,
        interface,
        own: SpinLock::new(None),
    })?;
    match DeviceInterface::register(pdo, &INTERFACE_CLASS) {
        Ok(interface) => *fdo.interface.lock() = Some(interface),
        // The devices work without.
        Err(status) => wdm::warning!("users cannot reach xenstore: {status}"),
    }
    let own = new.publish(Node::Fdo(fdo.clone()))?;
    *fdo.own.lock() = Some(own);
    Ok(())
}

/// Handles an IRP of the FDO. IRQL <= DISPATCH_LEVEL for IRP_MJ_POWER.
pub(crate) fn dispatch(fdo: &Shared<Fdo>, irp: Irp) -> Dispatched {
    // A handle is closed whatever became of the device.
    match irp.major() {
        major::CLEANUP => return cleanup(irp),
        major::CLOSE => return close(irp),
        _ => {}
    }
    let guard = match fdo.remove_lock.acquire() {
        Ok(guard) => guard,
        Err(status) => return irp.complete(status),
    };
    match irp.major() {
        major::PNP => {
            if let PnpRequest::Remove = irp.pnp() {
                guard.release_and_wait();
                return fdo.remove(irp);
            }
            pnp(fdo, irp)
        }
        major::POWER => fdo.power(irp),
        major::SYSTEM_CONTROL => irp.forward(fdo.lower),
        major::CREATE => open(fdo, irp),
        major::READ => match opened(&irp) {
            Some(opened) => opened.store.user_read(&opened.handle, irp),
            None => irp.complete(Status::INVALID_DEVICE_REQUEST),
        },
        major::WRITE => match opened(&irp) {
            Some(opened) => opened.store.user_write(&opened.handle, irp),
            None => irp.complete(Status::INVALID_DEVICE_REQUEST),
        },
        _ => irp.complete(Status::INVALID_DEVICE_REQUEST),
    }
}

/// `IRP_MJ_CREATE`. Who may come here the INF's security descriptor says. Whoever comes while the device is leaving may try
/// again: it can be called off.
/// <https://learn.microsoft.com/windows-hardware/drivers/kernel/handling-an-irp-mn-query-remove-device-request>
fn open(fdo: &Shared<Fdo>, mut irp: Irp) -> Dispatched {
    if irp.opens_name() {
        return irp.complete(Status::OBJECT_NAME_NOT_FOUND);
    }
    if fdo.leaving.load(Ordering::Acquire) {
        return irp.complete(Status::DEVICE_NOT_READY);
    }
    let opened = fdo.platform().ok_or(Status::DEVICE_NOT_READY).and_then(|platform| {
        let store = platform.store().clone();
        let handle = store.open()?;
        Shared::new(Opened { store: store.clone(), handle: handle.clone() }).inspect_err(|_| store.user_close(&handle))
    });
    match opened {
        Ok(opened) => {
            irp.set_file_context(opened);
            irp.complete_moved(0)
        }
        Err(status) => irp.complete(status),
    }
}

/// What a file object refers to.
fn opened(irp: &Irp) -> Option<Shared<Opened>> {
    // SAFETY: only `open` gives file objects of this device a context.
    unsafe { irp.file_context::<Opened>() }
}

/// `IRP_MJ_CLEANUP`: the last handle is closed.
fn cleanup(irp: Irp) -> Dispatched {
    if let Some(opened) = opened(&irp) {
        opened.store.user_close(&opened.handle);
    }
    irp.complete(Status::SUCCESS)
}

/// `IRP_MJ_CLOSE`: no IRP refers to the file object any more.
fn close(mut irp: Irp) -> Dispatched {
    // SAFETY: as in `opened`.
    let opened = unsafe { irp.take_file_context::<Opened>() };
    drop(opened);
    irp.complete(Status::SUCCESS)
}

fn pnp(fdo: &Shared<Fdo>, mut irp: Irp) -> Dispatched {
    match irp.pnp() {
        PnpRequest::Start => {
            let outcome = irp.forward_and_wait(fdo.lower).ok().and_then(|()| start(fdo, &irp));
            irp.complete(outcome.into())
        }
        PnpRequest::FilterResourceRequirements => {
            let below = irp.forward_and_wait(fdo.lower);
            // STATUS_NOT_SUPPORTED from below is usual: nobody else filters.
            if (below.is_success() || below == Status::NOT_SUPPORTED) && Settings::vectors() {
                match ask_for_vectors(&mut irp) {
                    Ok(()) => irp.set_status(Status::SUCCESS),
                    Err(status) => wdm::warning!("no upcall vectors are asked for: {status}"),
                }
            }
            irp.complete_unchanged()
        }
        PnpRequest::QueryStop | PnpRequest::QueryRemove if fdo.usage.lock().any() => irp.complete(Status::DEVICE_BUSY),
        PnpRequest::QueryStop | PnpRequest::CancelStop => fdo.pass(irp),
        request @ (PnpRequest::QueryRemove | PnpRequest::CancelRemove) => {
            // An open that came before counts: Windows looks for handles when all have agreed.
            fdo.leaving.store(matches!(request, PnpRequest::QueryRemove), Ordering::Release);
            fdo.pass(irp)
        }
        PnpRequest::Stop => {
            if let Some(started) = fdo.started.lock().as_ref() {
                started.disconnect_interrupts();
            }
            fdo.pass(irp)
        }
        PnpRequest::SurpriseRemoval => {
            fdo.enable_interface(false);
            if let Some(platform) = fdo.platform() {
                platform.store().remove_users();
            }
            for entry in fdo.children.lock().iter() {
                if let Some(pdo) = &entry.pdo {
                    pdo.set_missing();
                }
            }
            fdo.pass(irp)
        }
        PnpRequest::QueryRelations(RelationKind::Bus) => match fdo.answer_children(&mut irp) {
            Ok(()) => fdo.pass(irp),
            Err(status) => irp.complete(status),
        },
        PnpRequest::QueryDeviceState => {
            if fdo.usage.lock().any() {
                irp.set_information(irp.information() | NOT_DISABLEABLE);
            }
            fdo.pass(irp)
        }
        PnpRequest::UsageNotification { kind, in_path } => {
            let outcome = irp.forward_and_wait(fdo.lower);
            if outcome.is_success() {
                fdo.count_usage(kind, in_path);
            }
            irp.complete(outcome)
        }
        _ => irp.forward(fdo.lower),
    }
}

/// Adds a message interrupt for each processor.
fn ask_for_vectors(irp: &mut Irp) -> Result {
    let count = cpu::count();
    let mut processors = try_vec(count as usize)?;
    for index in 0..count {
        try_push(&mut processors, cpu::processor(index)?)?;
    }
    resource::add_message_interrupts(irp, &processors)
}

/// `IRP_MN_START_DEVICE`, after the devices below have started.
fn start(fdo: &Shared<Fdo>, irp: &Irp) -> Result {
    let resources = resource::assigned(irp)?;
    let mut bar = None;
    let mut interrupts: Vec<InterruptResource> = try_vec(resources.len())?;
    for resource in resources {
        match resource {
            Resource::Memory { start, length } => bar = bar.or(Some((start, length))),
            Resource::Interrupt(interrupt) => try_push(&mut interrupts, interrupt)?,
            Resource::Port { .. } => {}
        }
    }
    let mut started = fdo.started.lock();
    if let Some(started) = started.as_ref() {
        // After a stop: everything but the interrupts is still there.
        return started.connect_interrupts(fdo.pdo, &interrupts);
    }
    let new = Platform::start(&fdo.xen, fdo.pdo, bar, &interrupts)
        .inspect_err(|status| wdm::error!("the platform device does not start: {status}"))?;
    *fdo.platform.lock() = Some(new.platform().clone());
    *started = Some(new);
    drop(started);
    rescan(fdo);
    if let Some(platform) = fdo.platform() {
        match BusThreads::start(fdo.clone(), &platform) {
            Ok(threads) => *fdo.threads.lock() = Some(threads),
            // The devices that are there work; only what happens later is not seen.
            Err(status) => wdm::error!("neither suspend nor hot-plug: {status}"),
        }
    }
    fdo.enable_interface(true);
    Ok(())
}

/// Reads `device/<class>/<id>` from the store.
fn list(platform: &Platform) -> Result<Listing> {
    let store = &**platform.store();
    let mut listing = Listing::new();
    let classes = match store::directory(store, NO_TRANSACTION, b"device") {
        Err(StoreError::Answer(Errno::ENOENT)) => return Ok(listing),
        classes => classes.map_err(store_status)?,
    };
    for class in classes.split(|&byte| byte == 0).filter(|class| !class.is_empty()) {
        let mut path = try_vec(class.len() + 7)?;
        path.extend_from_slice(b"device/");
        path.extend_from_slice(class);
        let ids = match store::directory(store, NO_TRANSACTION, &path) {
            // The toolstack took the last one away meanwhile.
            Err(StoreError::Answer(Errno::ENOENT)) => continue,
            ids => ids.map_err(store_status)?,
        };
        for id in ids.split(|&byte| byte == 0).filter(|id| !id.is_empty()) {
            listing.add(class, id).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        }
    }
    Ok(listing)
}

/// Compares the store's `device` directory with the children; tells Windows if there is a difference. On the bus's own
/// thread, or from START before there is one.
pub(crate) fn rescan(fdo: &Shared<Fdo>) {
    let Some(platform) = fdo.platform() else { return };
    let compared = list(&platform).and_then(|listing| compare(fdo, &listing, &renewed(fdo, &platform)?));
    match compared {
        Ok(true) => fdo.relations_changed(),
        Ok(false) => {}
        Err(status) => wdm::warning!("the devices cannot be listed: {status}"),
    }
}

/// The ejected devices whose directory has become another device's. No listing shows that if the old one went and the
/// new one came between two listings; but a frontend's driver leaves the state Closing or Closed behind, and
/// Initialising is what the toolstack writes into a new directory.
fn renewed(fdo: &Fdo, platform: &Platform) -> Result<Vec<DeviceName>> {
    let mut names = Vec::new();
    for entry in fdo.children.lock().iter().filter(|entry| entry.pdo.is_none() && entry.driven) {
        try_push(&mut names, entry.name)?;
    }
    names.retain(|name| {
        let mut path = name.path();
        path.write_str("/state").is_ok()
            && store::read(&**platform.store(), NO_TRANSACTION, path.as_bytes())
                .is_ok_and(|state| XenbusState::parse(&state) == Some(XenbusState::Initialising))
    });
    Ok(names)
}

/// Marks the children that are gone and makes those that are new; whether there were any. The names `renewed` are those
/// of ejected devices that are to be forgotten.
fn compare(fdo: &Shared<Fdo>, listing: &Listing, renewed: &[DeviceName]) -> Result<bool> {
    if listing.refused() != 0 {
        wdm::debug!("{} names below device/ are no devices", listing.refused());
    }
    let mut changed = false;
    let mut children = fdo.children.lock();
    children.retain(|entry| entry.pdo.is_some() || !renewed.contains(&entry.name));
    let changes =
        listing.changes(children.iter().map(|entry| &entry.name)).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
    for entry in children.iter_mut().filter(|entry| changes.gone.contains(&entry.name)) {
        entry.gone = true;
        if let Some(pdo) = &entry.pdo
            && pdo.set_missing()
        {
            wdm::info!("{}: gone", entry.name);
            changed = true;
        }
    }
    // An ejected one is forgotten when the toolstack has taken its directory away.
    children.retain(|entry| entry.pdo.is_some() || !changes.gone.contains(&entry.name));
    for name in changes.arrived {
        let added = Pdo::create(fdo.driver, fdo, name).and_then(|pdo| {
            try_push(&mut children, Entry { name, pdo: Some(pdo.clone()), gone: false, driven: false })
                .inspect_err(|_| pdo.delete())
        });
        match added {
            Ok(()) => {
                wdm::info!("{name}: found");
                changed = true;
            }
            Err(status) => wdm::error!("{name}: no device can be made: {status}"),
        }
    }
    Ok(changed)
}

impl Fdo {
    /// Shows the device to users, or hides it.
    fn enable_interface(&self, enable: bool) {
        if let Some(interface) = self.interface.lock().as_ref()
            && let Err(status) = interface.enable(enable)
        {
            wdm::debug!("the device interface cannot be changed: {status}");
        }
    }

    /// The FDO's device object.
    pub(crate) fn object(&self) -> DeviceObject {
        self.object
    }

    /// The platform device's PDO, of the PCI bus.
    pub(crate) fn pdo(&self) -> DeviceObject {
        self.pdo
    }

    /// The connection to Xen, once it is there. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn platform(&self) -> Option<Shared<Platform>> {
        self.platform.lock().clone()
    }

    /// Has the PnP manager ask for the children again. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn relations_changed(&self) {
        self.pdo.invalidate(Relations::Bus);
    }

    /// The children that stand. Their number may change at once.
    pub(crate) fn pdos(&self) -> Result<Vec<Shared<Pdo>>> {
        let children = self.children.lock();
        let mut pdos = try_vec(children.len())?;
        pdos.extend(children.iter().filter_map(|entry| entry.pdo.clone()));
        Ok(pdos)
    }

    /// A PDO's device object is about to be deleted. Its name is remembered as long as the store has it, so that an
    /// ejected device does not come back by itself.
    pub(crate) fn forget(&self, pdo: &Pdo) {
        let mut children = self.children.lock();
        for entry in children.iter_mut() {
            if entry.pdo.as_ref().is_some_and(|known| known.object() == pdo.object()) {
                entry.pdo = None;
                entry.driven = pdo.was_driven();
            }
        }
        children.retain(|entry| entry.pdo.is_some() || !entry.gone);
        drop(children);
        // A device of the same name may have come while the old one's PDO was still there.
        if let Some(threads) = self.threads.lock().as_ref() {
            threads.rescan();
        }
    }

    fn answer_children(&self, irp: &mut Irp) -> Result {
        let children = self.children.lock();
        let mut present = try_vec(children.len())?;
        present.extend(
            children.iter().filter_map(|entry| entry.pdo.as_ref()).filter(|pdo| pdo.report()).map(|pdo| pdo.object()),
        );
        irp.answer_relations(&present)?;
        irp.set_status(Status::SUCCESS);
        Ok(())
    }

    fn count_usage(&self, kind: UsageKind, in_path: bool) {
        let paging = {
            let mut usage = self.usage.lock();
            if let Some(count) = usage.count(kind) {
                *count = if in_path { *count + 1 } else { count.saturating_sub(1) };
            }
            usage.paging
        };
        if paging != 0 {
            // Power IRPs of a device in the paging path must not come at a level where they could page.
            device::set_power_pagable(self.object, false);
        }
    }

    /// Passes an IRP on that this driver has no objection to.
    fn pass(&self, mut irp: Irp) -> Dispatched {
        irp.set_status(Status::SUCCESS);
        irp.forward(self.lower)
    }

    fn remove(&self, mut irp: Irp) -> Dispatched {
        let interface = self.interface.lock().take();
        drop(interface);
        // No suspend and no rescan any more, then no child, then no interrupt, then nothing of Xen's.
        let threads = self.threads.lock().take();
        drop(threads);
        let children = core::mem::take(&mut *self.children.lock());
        for pdo in children.iter().filter_map(|entry| entry.pdo.as_ref()) {
            pdo.delete();
        }
        drop(children);
        let started = self.started.lock().take();
        if let Some(started) = started {
            started.stop();
        }
        let platform = self.platform.lock().take();
        drop(platform);
        irp.set_status(Status::SUCCESS);
        let dispatched = irp.forward(self.lower);
        device::detach(self.lower);
        let own = self.own.lock().take();
        if let Some(own) = own {
            own.delete();
        }
        dispatched
    }

    fn power(&self, irp: Irp) -> Dispatched {
        match irp.power() {
            PowerRequest::SetDevice(state) => {
                // The device has no state of its own to save: Xen keeps it.
                power::set_device_state(self.object, state);
                irp.forward(self.lower)
            }
            PowerRequest::SetSystem(_) | PowerRequest::QuerySystem(_) => {
                irp.forward_system_power(self.object, self.lower)
            }
            PowerRequest::QueryDevice(_) | PowerRequest::Other => irp.forward(self.lower),
        }
    }
}
