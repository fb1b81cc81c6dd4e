//! The driver: an FDO that passes everything on.

use wdm::{
    device::{self, Device, DeviceKind, DeviceObject, NewDevice, OwnDevice},
    driver::{Driver, DriverObject},
    irp::{Dispatched, Irp, major},
    log,
    memory::Shared,
    pnp::PnpRequest,
    power::{self, PowerRequest},
    remove_lock::RemoveLock,
    spinlock::SpinLock,
    status::{Result, Status},
    string::UnicodeStr,
};

extern crate wdk_panic;

#[global_allocator]
static ALLOCATOR: wdk_alloc::WdkAllocator = wdk_alloc::WdkAllocator;

wdm::driver_entry!(Xenstub);

/// The driver.
struct Xenstub;

impl Driver for Xenstub {
    type Device = Node;

    fn init(_service: UnicodeStr<'_>) -> Result {
        log::init("xenstub");
        Ok(())
    }

    fn add_device(driver: DriverObject, pdo: DeviceObject) -> Result {
        let mut new = NewDevice::create::<Node>(driver, DeviceKind::Function)?;
        let remove_lock = RemoveLock::new()?;
        let lower = new.attach(pdo)?;
        let node = Node(Shared::new(Fdo { object: new.object(), lower, remove_lock, own: SpinLock::new(None) })?);
        let own = new.publish(node.clone())?;
        *node.0.own.lock() = Some(own);
        Ok(())
    }

    fn unload() {}
}

/// What a device object of this driver is.
#[derive(Clone)]
struct Node(Shared<Fdo>);

struct Fdo {
    object: DeviceObject,
    lower: DeviceObject,
    remove_lock: RemoveLock,
    /// The right to delete the device object.
    own: SpinLock<Option<OwnDevice<Node>>>,
}

impl Device for Node {
    fn dispatch(&self, mut irp: Irp) -> Dispatched {
        let fdo = &*self.0;
        let guard = match fdo.remove_lock.acquire() {
            Ok(guard) => guard,
            Err(status) => return irp.complete(status),
        };
        match irp.major() {
            major::PNP => match irp.pnp() {
                PnpRequest::Start => {
                    let below = irp.forward_and_wait(fdo.lower);
                    irp.complete(below)
                }
                PnpRequest::Remove => {
                    guard.release_and_wait();
                    fdo.remove(irp)
                }
                PnpRequest::QueryStop
                | PnpRequest::CancelStop
                | PnpRequest::Stop
                | PnpRequest::QueryRemove
                | PnpRequest::CancelRemove
                | PnpRequest::SurpriseRemoval => {
                    irp.set_status(Status::SUCCESS);
                    irp.forward(fdo.lower)
                }
                _ => irp.forward(fdo.lower),
            },
            major::POWER => match irp.power() {
                PowerRequest::SetDevice(state) => {
                    power::set_device_state(fdo.object, state);
                    irp.forward(fdo.lower)
                }
                PowerRequest::SetSystem(_) | PowerRequest::QuerySystem(_) => {
                    irp.forward_system_power(fdo.object, fdo.lower)
                }
                PowerRequest::QueryDevice(_) | PowerRequest::Other => irp.forward(fdo.lower),
            },
            major::SYSTEM_CONTROL => irp.forward(fdo.lower),
            _ => irp.complete(Status::INVALID_DEVICE_REQUEST),
        }
    }
}

impl Fdo {
    fn remove(&self, mut irp: Irp) -> Dispatched {
        irp.set_status(Status::SUCCESS);
        let dispatched = irp.forward(self.lower);
        device::detach(self.lower);
        let own = self.own.lock().take();
        if let Some(own) = own {
            own.delete();
        }
        dispatched
    }
}
