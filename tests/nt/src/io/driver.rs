//! Driver objects: loading, DriverEntry, unloading, extensions.
use super::abi::*;
use super::irp::IofCompleteRequest;
use super::kernel::{note, pool_alloc, pool_free, violation};
use super::status::*;
use super::text;
use crate::loader::{LoadError, Loaded};
use crate::ob::{self, Kind, namespace};
use crate::rtl::abi::UnicodeString;
use crate::sync::IrqLock;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::mem::size_of;
use core::ptr;

/// `DRIVER_REINITIALIZE`.
pub type Reinitialize = unsafe extern "win64" fn(driver: *mut DriverObject, context: *mut c_void, count: u32);

/// DRVO_UNLOAD_INVOKED.
const UNLOAD_INVOKED: u32 = 1;
const TAG: u32 = u32::from_le_bytes(*b"Drvr");

/// An extension that a driver asked for, by its identification.
struct ClientExtension {
    driver: *mut DriverObject,
    id: usize,
    memory: *mut u8,
}

/// A routine to be called after the boot drivers.
struct Again {
    driver: *mut DriverObject,
    routine: Reinitialize,
    context: *mut c_void,
}

struct State {
    drivers: Vec<(String, *mut DriverObject)>,
    extensions: Vec<ClientExtension>,
    boot_again: Vec<Again>,
    again: Vec<Again>,
}
// SAFETY: driver objects belong to no processor.
unsafe impl Send for State {}

static STATE: IrqLock<State> =
    IrqLock::new(State { drivers: Vec::new(), extensions: Vec::new(), boot_again: Vec::new(), again: Vec::new() });

/// What a major function does that a driver did not set: the request is not valid.
unsafe extern "win64" fn invalid_request(_: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: an IRP that came to this driver.
    unsafe {
        (*irp).io_status = IoStatusBlock::new(STATUS_INVALID_DEVICE_REQUEST, 0);
        IofCompleteRequest(irp, 0);
    }
    STATUS_INVALID_DEVICE_REQUEST
}

unsafe fn delete(body: *mut c_void) {
    let driver = body.cast::<DriverObject>();
    // SAFETY: the last reference is gone.
    unsafe {
        if !(*driver).name.buffer.is_null() {
            pool_free((*driver).name.buffer.cast(), 0);
        }
        if !(*driver).extension.is_null() {
            pool_free((*(*driver).extension).service_key_name.buffer.cast(), 0);
            pool_free((*driver).extension.cast(), TAG);
        }
    }
}

/// Makes a driver object for a service, with no routine set.
fn make(service: &str) -> Result<*mut DriverObject, NtStatus> {
    let object = ob::allocate(Kind::Driver, size_of::<DriverObject>(), Some(delete));
    if object.is_null() {
        return Err(STATUS_INSUFFICIENT_RESOURCES);
    }
    let driver = object.cast::<DriverObject>();
    let extension = pool_alloc(size_of::<DriverExtension>(), TAG).cast::<DriverExtension>();
    let path = alloc::format!("\\Driver\\{service}");
    // SAFETY: fresh memory.
    unsafe {
        if extension.is_null() {
            ob::ObfDereferenceObject(object);
            return Err(STATUS_INSUFFICIENT_RESOURCES);
        }
        (*extension).driver = driver;
        (*extension).service_key_name = text::to_unicode(service);
        (*driver).kind = IO_TYPE_DRIVER;
        (*driver).size = size_of::<DriverObject>() as i16;
        (*driver).extension = extension;
        (*driver).name = text::to_unicode(&path);
        (*driver).hardware_database = hardware_database();
        (*driver).major = [Some(invalid_request as Dispatch); mj::MAXIMUM as usize + 1];
        // The name has the object's first reference.
        if let Err(status) = namespace::insert(&path, object) {
            ob::ObfDereferenceObject(object);
            return Err(status);
        }
    }
    STATE.lock().drivers.push((service.to_string(), driver));
    Ok(driver)
}

fn hardware_database() -> *mut UnicodeString {
    static TEXT: IrqLock<usize> = IrqLock::new(0);
    let mut text = TEXT.lock();
    if *text == 0 {
        let string = alloc::boxed::Box::new(text::to_unicode(r"\REGISTRY\MACHINE\HARDWARE\DESCRIPTION\SYSTEM"));
        *text = alloc::boxed::Box::into_raw(string) as usize;
    }
    *text as *mut UnicodeString
}

/// A driver of the personality itself (`\Driver\PCI`, the root bus): its routines are Rust functions.
///
/// # Errors
/// The name is taken, or there is no memory.
pub fn builtin(name: &str, setup: impl FnOnce(&mut DriverObject)) -> Result<*mut DriverObject, NtStatus> {
    let driver = make(name)?;
    // SAFETY: just made, nobody else has it.
    setup(unsafe { &mut *driver });
    Ok(driver)
}

/// A loaded driver by its service name.
pub fn find(service: &str) -> Option<*mut DriverObject> {
    STATE.lock().drivers.iter().find(|(name, _)| name.eq_ignore_ascii_case(service)).map(|(_, driver)| *driver)
}

/// The service name of a driver.
pub fn name_of(driver: *mut DriverObject) -> String {
    let found = STATE.lock().drivers.iter().find(|(_, d)| *d == driver).map(|(name, _)| name.clone());
    found.unwrap_or_default()
}

/// The names of all drivers that are loaded.
pub fn loaded() -> Vec<String> {
    STATE.lock().drivers.iter().map(|(name, _)| name.clone()).collect()
}

/// Loads an image and, before it, the export drivers that it imports from: they are looked for where drivers are.
fn load_image(name: &str, image: &[u8], depth: u32) -> Result<Loaded, LoadError> {
    const MOST: u32 = 16;
    loop {
        let missing = match crate::loader::load(name, image) {
            Err(LoadError::MissingModule(module)) if depth < MOST => module,
            done => return done,
        };
        let found = crate::pnp::with_library(|library| {
            let place = alloc::format!(r"System32\drivers\{missing}");
            library.files.read(&place).or_else(|| {
                let file = missing.to_ascii_lowercase();
                library.store.packages().iter().find_map(|p| p.files.get(&file).cloned())
            })
        });
        let Some(bytes) = found else { return Err(LoadError::MissingModule(missing)) };
        load_image(&missing, &bytes, depth + 1)?;
    }
}

/// Loads the driver of a service from its image and calls DriverEntry. IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// Why it did not load: the loader's reason is in the log, or what DriverEntry returned.
pub fn load(service: &str, image_name: &str, image: &[u8]) -> Result<*mut DriverObject, NtStatus> {
    if let Some(driver) = find(service) {
        return Ok(driver);
    }
    let loaded = match load_image(image_name, image, 0) {
        Ok(loaded) => loaded,
        Err(error) => {
            note(format_args!("{service}: {image_name} does not load: {error}"));
            return Err(STATUS_DRIVER_UNABLE_TO_LOAD);
        }
    };
    let driver = make(service)?;
    let registry = text::to_unicode(&alloc::format!(r"\Registry\Machine\System\CurrentControlSet\Services\{service}"));
    // SAFETY: the image is loaded, its entry point is a DriverEntry.
    unsafe {
        (*driver).start = loaded.base.cast();
        (*driver).image_size = loaded.size as u32;
        (*driver).section = loaded.section.cast();
        let entry: DriverInitialize = core::mem::transmute(loaded.entry);
        (*driver).init = Some(entry);
        let mut path = UnicodeString { ..registry };
        let status = entry(driver, &raw mut path);
        if crate::ke::KeGetCurrentIrql() != 0 {
            violation("DRIVER-ENTRY", format_args!("{service}: DriverEntry came back above PASSIVE_LEVEL"));
        }
        pool_free(registry.buffer.cast(), 0);
        if status < 0 {
            note(format_args!("{service}: DriverEntry failed with {status:#x}"));
            if !(*driver).devices.is_null() {
                violation("DRIVER-ENTRY", format_args!("{service}: DriverEntry failed and left a device object"));
            }
            forget(driver);
            crate::loader::unload(loaded.base);
            return Err(status);
        }
        // Devices that DriverEntry made are ready now.
        let mut device = (*driver).devices;
        while !device.is_null() {
            (*device).flags &= !do_flags::DEVICE_INITIALIZING;
            device = (*device).next;
        }
        for slot in &mut (*driver).major {
            slot.get_or_insert(invalid_request);
        }
    }
    Ok(driver)
}

unsafe fn forget(driver: *mut DriverObject) {
    let mut gone = Vec::new();
    {
        let mut state = STATE.lock();
        state.drivers.retain(|(_, d)| *d != driver);
        state.boot_again.retain(|a| a.driver != driver);
        state.again.retain(|a| a.driver != driver);
        let mut index = 0;
        while index < state.extensions.len() {
            if state.extensions[index].driver == driver {
                gone.push(state.extensions.swap_remove(index).memory);
            } else {
                index += 1;
            }
        }
    }
    for memory in gone {
        pool_free(memory, 0);
    }
    namespace::remove_object(driver.cast());
}

/// Unloads a driver that has no device left: calls its Unload routine and takes the image away. IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// It has devices, or no Unload routine.
pub fn unload(service: &str) -> Result<(), NtStatus> {
    let driver = find(service).ok_or(STATUS_OBJECT_NAME_NOT_FOUND)?;
    // SAFETY: a driver of the list.
    unsafe {
        if !(*driver).devices.is_null() {
            return Err(STATUS_DEVICE_BUSY);
        }
        let Some(routine) = (*driver).unload else { return Err(STATUS_INVALID_DEVICE_REQUEST) };
        (*driver).flags |= UNLOAD_INVOKED;
        routine(driver);
        if !(*driver).devices.is_null() {
            violation("UNLOAD", format_args!("{service}: Unload left a device object"));
        }
        let base = (*driver).start;
        forget(driver);
        if !base.is_null() {
            crate::loader::unload(base.cast());
        }
    }
    Ok(())
}

/// Allocates memory for a driver, found again by `id`. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// Driver and result are valid.
pub unsafe extern "win64" fn IoAllocateDriverObjectExtension(
    driver: *mut DriverObject,
    id: *mut c_void,
    size: u32,
    result: *mut *mut c_void,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { *result = ptr::null_mut() };
    let memory = pool_alloc(size as usize, TAG);
    if memory.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let mut state = STATE.lock();
    if state.extensions.iter().any(|e| e.driver == driver && e.id == id as usize) {
        drop(state);
        pool_free(memory, TAG);
        return STATUS_OBJECT_NAME_COLLISION;
    }
    state.extensions.push(ClientExtension { driver, id: id as usize, memory });
    // SAFETY: per the contract.
    unsafe { *result = memory.cast() };
    STATUS_SUCCESS
}

/// What [`IoAllocateDriverObjectExtension`] allocated, or NULL. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn IoGetDriverObjectExtension(driver: *mut DriverObject, id: *mut c_void) -> *mut c_void {
    let state = STATE.lock();
    let found = state.extensions.iter().find(|e| e.driver == driver && e.id == id as usize);
    found.map_or(ptr::null_mut(), |e| e.memory.cast())
}

/// Asks for a call after the boot drivers were initialized and devices enumerated. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The driver is valid.
pub unsafe extern "win64" fn IoRegisterBootDriverReinitialization(
    driver: *mut DriverObject,
    routine: Reinitialize,
    context: *mut c_void,
) {
    STATE.lock().boot_again.push(Again { driver, routine, context });
}

/// Asks for a call after the DriverEntry of all drivers of this round. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The driver is valid.
pub unsafe extern "win64" fn IoRegisterDriverReinitialization(
    driver: *mut DriverObject,
    routine: Reinitialize,
    context: *mut c_void,
) {
    STATE.lock().again.push(Again { driver, routine, context });
}

/// Calls the reinitialization routines. A routine that registers again is called in the next round.
pub fn reinitialize(boot: bool) {
    let mut state = STATE.lock();
    let list = core::mem::take(if boot { &mut state.boot_again } else { &mut state.again });
    drop(state);
    for again in list {
        // SAFETY: the driver is loaded; unloading it takes its entries out.
        unsafe {
            (*(*again.driver).extension).count += 1;
            (again.routine)(again.driver, again.context, (*(*again.driver).extension).count);
        }
    }
}

/// Makes a driver object without an image and calls its initialization. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The routine is a DriverEntry.
pub unsafe extern "win64" fn IoCreateDriver(name: *const UnicodeString, entry: DriverInitialize) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let name = text::from_unicode(name);
        let service = name.rsplit('\\').next().unwrap_or("").to_string();
        match make(&service) {
            Ok(driver) => {
                (*driver).init = Some(entry);
                let status = entry(driver, ptr::null_mut());
                if status < 0 {
                    forget(driver);
                }
                status
            }
            Err(status) => status,
        }
    }
}

/// Deletes what [`IoCreateDriver`] made. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The driver is the caller's.
pub unsafe extern "win64" fn IoDeleteDriver(driver: *mut DriverObject) {
    // SAFETY: per the contract.
    unsafe { forget(driver) };
}

/// Whether the system has at least that version of WDM; it is 6.0 since Windows Vista. Any IRQL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn IoIsWdmVersionAvailable(major: u8, minor: u8) -> u8 {
    u8::from((major, minor) <= (6, 0))
}
