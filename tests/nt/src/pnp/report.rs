//! What drivers tell and ask the PnP manager.
use super::{NodeId, enumerate, node_of, queue, remove, start};
use crate::io::abi::*;
use crate::io::kernel::note;
use crate::io::status::*;
use crate::ob::{ObfDereferenceObject, ObfReferenceObject};
use crate::rtl::abi::Guid;
use crate::sync::IrqLock;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;

/// A referenced device on its way to the worker.
struct Carried(*mut DeviceObject);
// SAFETY: device objects belong to no processor.
unsafe impl Send for Carried {}

impl Carried {
    unsafe fn new(device: *mut DeviceObject) -> Self {
        // SAFETY: the caller's device is valid.
        unsafe { ObfReferenceObject(device.cast()) };
        Self(device)
    }

    fn node(&self) -> Option<NodeId> {
        node_of(self.0)
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        // SAFETY: referenced in `new`.
        unsafe { ObfDereferenceObject(self.0.cast()) };
    }
}

/// Says that a device's relations changed; its bus is asked again. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The device is a PDO.
pub unsafe extern "win64" fn IoInvalidateDeviceRelations(pdo: *mut DeviceObject, kind: i32) {
    if kind != super::send::BUS_RELATIONS {
        return;
    }
    // SAFETY: per the contract.
    let carried = unsafe { Carried::new(pdo) };
    queue(move || {
        if let Some(id) = carried.node() {
            enumerate::enumerate(id);
        }
    });
}

/// Says that a device's PnP state changed; it is asked for it. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The device is a PDO.
pub unsafe extern "win64" fn IoInvalidateDeviceState(pdo: *mut DeviceObject) {
    // SAFETY: per the contract.
    let carried = unsafe { Carried::new(pdo) };
    queue(move || {
        if let Some(id) = carried.node() {
            start::check_state(id);
        }
    });
}

/// Asks for the ejection of a device. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The device is a PDO.
pub unsafe extern "win64" fn IoRequestDeviceEject(pdo: *mut DeviceObject) {
    // SAFETY: per the contract.
    let carried = unsafe { Carried::new(pdo) };
    queue(move || {
        if let Some(id) = carried.node()
            && let Err(status) = remove::eject(id)
        {
            note(format_args!("PnP: eject ended with {status:#x}"));
        }
    });
}

/// Reports a device that no bus finds. IRQL = PASSIVE_LEVEL. The caller is its driver and needs no AddDevice.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoReportDetectedDevice(
    driver: *mut DriverObject,
    _legacy_bus: i32,
    _bus_number: u32,
    _slot: u32,
    _resources: *mut c_void,
    _requirements: *mut c_void,
    _assigned: u8,
    device: *mut *mut DeviceObject,
) -> NtStatus {
    let service = crate::io::driver::name_of(driver);
    // SAFETY: per the contract.
    unsafe {
        if !(*device).is_null() {
            return STATUS_SUCCESS;
        }
        let id = alloc::format!(r"ROOT\{}", service.to_ascii_uppercase());
        match super::root::add(&id, "0000", core::slice::from_ref(&id), false) {
            Ok(made) => {
                *device = made;
                STATUS_SUCCESS
            }
            Err(status) => status,
        }
    }
}

/// Reports a root-enumerated device (`IoReportRootDevice`). IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The driver is valid.
pub unsafe extern "win64" fn IoReportRootDevice(driver: *mut DriverObject) -> NtStatus {
    let mut device = ptr::null_mut();
    let none = ptr::null_mut();
    // SAFETY: per the contract.
    unsafe { IoReportDetectedDevice(driver, -1, u32::MAX, u32::MAX, none, none, 0, &raw mut device) }
}

/// `TARGET_DEVICE_CUSTOM_NOTIFICATION`: the head.
#[repr(C)]
pub struct CustomNotification {
    version: u16,
    size: u16,
    event: Guid,
    file: *mut FileObject,
    name_offset: i32,
}

/// `DRIVER_NOTIFICATION_CALLBACK_ROUTINE`.
pub type NotificationRoutine = unsafe extern "win64" fn(notification: *mut c_void, context: *mut c_void) -> NtStatus;
/// `DEVICE_CHANGE_COMPLETE_CALLBACK`.
pub type ChangeComplete = unsafe extern "win64" fn(context: *mut c_void);

struct Registration {
    id: usize,
    category: i32,
    /// For EventCategoryTargetDeviceChange: the PDO.
    device: *mut DeviceObject,
    guid: Option<Guid>,
    routine: NotificationRoutine,
    context: *mut c_void,
}

struct Registrations {
    list: Vec<Registration>,
    next: usize,
}
// SAFETY: used by whatever processor notifies.
unsafe impl Send for Registrations {}

static REGISTRATIONS: IrqLock<Registrations> = IrqLock::new(Registrations { list: Vec::new(), next: 1 });

/// EventCategoryDeviceInterfaceChange.
pub(crate) const CATEGORY_INTERFACE: i32 = 2;
/// EventCategoryTargetDeviceChange.
const CATEGORY_TARGET: i32 = 3;
/// PNPNOTIFY_DEVICE_INTERFACE_INCLUDE_EXISTING_INTERFACES.
const INCLUDE_EXISTING: u32 = 1;

/// Asks for PnP notifications. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid; `data` is what the category says.
pub unsafe extern "win64" fn IoRegisterPlugPlayNotification(
    category: i32,
    flags: u32,
    data: *mut c_void,
    _driver: *mut DriverObject,
    routine: NotificationRoutine,
    context: *mut c_void,
    entry: *mut *mut c_void,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let guid = (category == CATEGORY_INTERFACE && !data.is_null()).then(|| data.cast::<Guid>().read());
        let device = if category == CATEGORY_TARGET && !data.is_null() {
            (*data.cast::<FileObject>()).device
        } else {
            ptr::null_mut()
        };
        let id = {
            let mut all = REGISTRATIONS.lock();
            let id = all.next;
            all.next += 1;
            all.list.push(Registration { id, category, device, guid, routine, context });
            id
        };
        *entry = id as *mut c_void;
        if flags & INCLUDE_EXISTING != 0
            && let Some(guid) = guid
        {
            for link in super::interface::enabled(&guid) {
                super::interface::notify(&guid, &link, true, Some(id));
            }
        }
        STATUS_SUCCESS
    }
}

/// Takes that back. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The entry came from [`IoRegisterPlugPlayNotification`].
pub unsafe extern "win64" fn IoUnregisterPlugPlayNotification(entry: *mut c_void) -> NtStatus {
    REGISTRATIONS.lock().list.retain(|r| r.id != entry as usize);
    STATUS_SUCCESS
}

/// Calls those who registered for an interface class, or only one of them.
pub(crate) fn notify_interface(guid: &Guid, only: Option<usize>, notification: *mut c_void) {
    let list: Vec<(NotificationRoutine, *mut c_void)> = {
        let all = REGISTRATIONS.lock();
        let wanted = |r: &&Registration| {
            r.category == CATEGORY_INTERFACE && r.guid == Some(*guid) && only.is_none_or(|id| id == r.id)
        };
        all.list.iter().filter(wanted).map(|r| (r.routine, r.context)).collect()
    };
    for (routine, context) in list {
        // SAFETY: registered, and the notification is valid for the call.
        unsafe { routine(notification, context) };
    }
}

/// Tells those who registered on a device of something that its driver defines. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The pointers are valid; the notification is copied.
pub unsafe extern "win64" fn IoReportTargetDeviceChangeAsynchronous(
    pdo: *mut DeviceObject,
    notification: *mut c_void,
    callback: Option<ChangeComplete>,
    context: *mut c_void,
) -> NtStatus {
    // SAFETY: per the contract.
    let (carried, bytes) = unsafe {
        let size = usize::from((*notification.cast::<CustomNotification>()).size);
        let bytes = core::slice::from_raw_parts(notification.cast::<u8>(), size).to_vec();
        (Carried::new(pdo), bytes)
    };
    let context = context as usize;
    queue(move || {
        let (carried, mut bytes) = (carried, bytes);
        deliver_target(carried.0, &mut bytes);
        if let Some(callback) = callback {
            // SAFETY: the driver's callback.
            unsafe { callback(context as *mut c_void) };
        }
    });
    STATUS_PENDING
}

/// As above, waited for. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// As above.
pub unsafe extern "win64" fn IoReportTargetDeviceChange(pdo: *mut DeviceObject, notification: *mut c_void) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let size = usize::from((*notification.cast::<CustomNotification>()).size);
        let mut bytes = core::slice::from_raw_parts(notification.cast::<u8>(), size).to_vec();
        deliver_target(pdo, &mut bytes);
    }
    STATUS_SUCCESS
}

fn deliver_target(pdo: *mut DeviceObject, notification: &mut [u8]) {
    // SAFETY: the PDO is referenced, and so is its stack.
    let stack = unsafe { crate::io::device::stack(pdo) };
    let list: Vec<(NotificationRoutine, *mut c_void)> = {
        let all = REGISTRATIONS.lock();
        let wanted = |r: &&Registration| r.category == CATEGORY_TARGET && stack.contains(&r.device);
        all.list.iter().filter(wanted).map(|r| (r.routine, r.context)).collect()
    };
    for (routine, context) in list {
        // SAFETY: registered; the copy is valid for the call.
        unsafe { routine(notification.as_mut_ptr().cast(), context) };
    }
}
