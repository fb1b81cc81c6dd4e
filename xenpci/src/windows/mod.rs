//! The driver around [`crate::core`].
//!
//! - [`fdo`] is the platform device: PnP, power, its interrupts. It owns the [`platform`], which is the connection to
//!   Xen: shared frames, event channels, grants, the store.
//! - [`pdo`] is a frontend as Windows sees it, [`child`] the same as `xenbus::interface` sees it. A child outlives its
//!   PDO as long as the frontend's driver has a reference on the interface.
//! - [`interface`] is the C table over a child: the only `unsafe` besides [`shared`], which maps frames, and
//!   [`hypercall`].
//! - [`control`] is the device interface for users, with one session of [`crate::core::control`] a handle.
//! - [`emulated`] is about the devices that the paravirtual ones stand for.

mod child;
mod control;
mod emulated;
mod events;
mod fdo;
mod grants;
mod hypercall;
mod interface;
mod pdo;
mod platform;
mod shared;
mod store;
mod suspend;

use core::sync::atomic::{AtomicBool, Ordering};

use wdm::{
    device::{Device, DeviceObject},
    driver::{Driver, DriverObject},
    irp::{Dispatched, Irp},
    log::{self, Level},
    memory::Shared,
    registry::Parameters,
    status::{Result, Status},
    string::UnicodeStr,
};

extern crate wdk_panic;

#[global_allocator]
static ALLOCATOR: wdk_alloc::WdkAllocator = wdk_alloc::WdkAllocator;

wdm::driver_entry!(Xenpci);

/// The registry's switches. See `xenpci.inf`.
pub(crate) struct Settings {
    fifo: AtomicBool,
    vectors: AtomicBool,
    bar: AtomicBool,
}

static SETTINGS: Settings =
    Settings { fifo: AtomicBool::new(true), vectors: AtomicBool::new(true), bar: AtomicBool::new(false) };

impl Settings {
    /// `UseFifo`: the FIFO layout of event channels, where Xen has it.
    pub(crate) fn fifo() -> bool {
        SETTINGS.fifo.load(Ordering::Relaxed)
    }

    /// `UseVectors`: one upcall vector per processor, where Windows grants them.
    pub(crate) fn vectors() -> bool {
        SETTINGS.vectors.load(Ordering::Relaxed)
    }

    /// `UseBar`: Xen's frames over the device's memory BAR, not over ballooned pages.
    pub(crate) fn bar() -> bool {
        SETTINGS.bar.load(Ordering::Relaxed)
    }
}

/// The driver.
struct Xenpci;

impl Driver for Xenpci {
    type Device = Node;

    fn init(service: UnicodeStr<'_>) -> Result {
        log::init("xenpci");
        let parameters = Parameters::open(service);
        if let Some(level) = Level::from_number(parameters.number("LogLevel", Level::Info as u32, 0..=3)) {
            log::set_level(level);
        }
        SETTINGS.fifo.store(parameters.switch("UseFifo", true), Ordering::Relaxed);
        SETTINGS.vectors.store(parameters.switch("UseVectors", true), Ordering::Relaxed);
        SETTINGS.bar.store(parameters.switch("UseBar", false), Ordering::Relaxed);
        Ok(())
    }

    fn add_device(driver: DriverObject, pdo: DeviceObject) -> Result {
        fdo::add(driver, pdo)
    }

    fn unload() {
        wdm::debug!("unloaded");
    }
}

/// What a device object of this driver is.
#[derive(Clone)]
pub(crate) enum Node {
    /// The platform device.
    Fdo(Shared<fdo::Fdo>),
    /// A frontend.
    Pdo(Shared<pdo::Pdo>),
}

impl Device for Node {
    fn dispatch(&self, irp: Irp) -> Dispatched {
        match self {
            Self::Fdo(fdo) => fdo::dispatch(fdo, irp),
            Self::Pdo(pdo) => pdo::dispatch(pdo, irp),
        }
    }
}

/// `IRP_MJ_CREATE` and its kin: frontends cannot be opened.
fn not_openable(irp: Irp) -> Dispatched {
    irp.complete(Status::INVALID_DEVICE_REQUEST)
}
