//! A frontend as Windows sees it: the PDO of `device/<class>/<id>`.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use wdm::{
    device::{DeviceKind, DeviceObject, NewDevice, OwnDevice},
    dma::BUS_INTERFACE_STANDARD_GUID,
    driver::DriverObject,
    interface::InterfaceQuery,
    irp::{Dispatched, Irp, major},
    memory::Shared,
    pnp::{self, IdKind, PnpRequest, RelationKind, TextKind, UsageKind},
    power::{self, PowerRequest},
    spinlock::SpinLock,
    status::{Result, Status},
};
use xenbus::interface::INTERFACE_GUID;

use super::{Node, child::Child, fdo::Fdo, interface, not_openable};
use crate::core::enumerate::DeviceName;

/// `{0B1B5C46-0C5B-4E1E-8F51-2B3C5D0E9A77}`: the bus type in IRP_MN_QUERY_BUS_INFORMATION.
const BUS_TYPE: [u8; 16] =
    [0x46, 0x5c, 0x1b, 0x0b, 0x5b, 0x0c, 0x1e, 0x4e, 0x8f, 0x51, 0x2b, 0x3c, 0x5d, 0x0e, 0x9a, 0x77];

/// `PNP_DEVICE_NOT_DISABLEABLE`.
const NOT_DISABLEABLE: usize = 0x20;

/// Where a PDO is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Made or removed: no driver uses it.
    Idle,
    /// A driver has started it.
    Started,
    /// A stop or a removal was asked for; the flag says what to go back to.
    Pending {
        /// Whether it was started before.
        started: bool,
    },
    /// Gone by surprise.
    Surprised,
    /// The device object is deleted.
    Deleted,
}

struct State {
    phase: Phase,
    /// Not to be reported any more.
    missing: bool,
    /// Windows was told so: it was left out of an answer.
    omitted: bool,
    /// How many paging files are in the path.
    paging: u32,
}

/// A frontend's PDO.
pub(crate) struct Pdo {
    object: DeviceObject,
    fdo: Shared<Fdo>,
    child: Shared<Child>,
    name: DeviceName,
    /// A frontend's driver has fetched the bus's interface.
    driven: AtomicBool,
    state: SpinLock<State>,
    /// The right to delete the device object, once it is published.
    own: SpinLock<Option<OwnDevice<Node>>>,
}

/// Handles an IRP of a PDO. IRQL <= DISPATCH_LEVEL for IRP_MJ_POWER.
pub(crate) fn dispatch(pdo: &Shared<Pdo>, irp: Irp) -> Dispatched {
    match irp.major() {
        major::PNP => pdo.pnp(irp),
        major::POWER => pdo.power(irp),
        // Not for this driver: a PDO completes what it does not know as it came.
        major::SYSTEM_CONTROL => irp.complete_unchanged(),
        _ => not_openable(irp),
    }
}

impl Pdo {
    /// Makes the PDO of a frontend. It is reported when the PnP manager asks the bus next.
    pub(crate) fn create(driver: DriverObject, fdo: &Shared<Fdo>, name: DeviceName) -> Result<Shared<Self>> {
        let platform = fdo.platform().ok_or(Status::DEVICE_NOT_READY)?;
        let new = NewDevice::create::<Node>(driver, DeviceKind::Physical)?;
        let child = Child::create(platform, name, new.object(), fdo.pdo())?;
        let state = State { phase: Phase::Idle, missing: false, omitted: false, paging: 0 };
        let pdo = Shared::new(Self {
            object: new.object(),
            fdo: fdo.clone(),
            child: child.clone(),
            name,
            driven: AtomicBool::new(false),
            state: SpinLock::new(state),
            own: SpinLock::new(None),
        });
        match pdo.and_then(|pdo| new.publish(Node::Pdo(pdo.clone())).map(|own| (pdo, own))) {
            Ok((pdo, own)) => {
                *pdo.own.lock() = Some(own);
                Ok(pdo)
            }
            Err(status) => {
                child.disconnect();
                Err(status)
            }
        }
    }

    pub(crate) fn name(&self) -> &DeviceName {
        &self.name
    }

    pub(crate) fn child(&self) -> &Shared<Child> {
        &self.child
    }

    pub(crate) fn object(&self) -> DeviceObject {
        self.object
    }

    /// Has it be left out of the bus's relations from now on; `false`: it is already. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn set_missing(&self) -> bool {
        !core::mem::replace(&mut self.state.lock().missing, true)
    }

    /// Whether it is to be reported; if it is not, Windows is taken to know from now on. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn report(&self) -> bool {
        let mut state = self.state.lock();
        state.missing |= self.child.is_missing();
        if state.missing {
            state.omitted = true;
        }
        !state.missing
    }

    /// Whether the device object is gone.
    pub(crate) fn is_deleted(&self) -> bool {
        self.state.lock().phase == Phase::Deleted
    }

    /// Deletes a device object that no driver uses: Windows never saw it, or the bus itself is removed.
    pub(crate) fn delete(&self) {
        let before = core::mem::replace(&mut self.state.lock().phase, Phase::Deleted);
        if before == Phase::Deleted {
            return;
        }
        self.child.disconnect();
        let own = self.own.lock().take();
        if let Some(own) = own {
            own.delete();
        }
    }

    fn pnp(&self, mut irp: Irp) -> Dispatched {
        if self.is_deleted() {
            return irp.complete(Status::NO_SUCH_DEVICE);
        }
        let outcome = match irp.pnp() {
            PnpRequest::Start => {
                self.move_to(Phase::Started);
                Ok(())
            }
            PnpRequest::QueryStop | PnpRequest::QueryRemove => self.query_stop(),
            PnpRequest::CancelStop | PnpRequest::CancelRemove => {
                self.cancel_stop();
                Ok(())
            }
            PnpRequest::Stop => {
                self.move_to(Phase::Idle);
                Ok(())
            }
            PnpRequest::SurpriseRemoval => {
                wdm::info!("{}: gone by surprise", self.name);
                self.move_to(Phase::Surprised);
                Ok(())
            }
            PnpRequest::Remove => return self.remove(irp),
            PnpRequest::Eject => {
                self.eject();
                Ok(())
            }
            PnpRequest::QueryRelations(RelationKind::Target) => irp.answer_relations(&[self.object]),
            PnpRequest::QueryInterface(query) => match self.interface(&query) {
                Some(outcome) => outcome,
                None => return irp.complete_unchanged(),
            },
            PnpRequest::QueryCapabilities => self.capabilities(&mut irp),
            // The device has no resources of its own.
            PnpRequest::QueryResources | PnpRequest::QueryResourceRequirements => return irp.complete_unchanged(),
            PnpRequest::QueryId(kind) => match self.id(kind) {
                Some(id) => id.and_then(|id| irp.answer_characters(&id)),
                None => return irp.complete_unchanged(),
            },
            PnpRequest::QueryText(kind) => match self.text(kind) {
                Some(text) => text.and_then(|text| irp.answer_characters(&text)),
                None => return irp.complete_unchanged(),
            },
            PnpRequest::QueryBusInformation => irp.answer_bus_information(&BUS_TYPE, 0),
            PnpRequest::QueryDeviceState => {
                if self.state.lock().paging != 0 {
                    irp.set_information(irp.information() | NOT_DISABLEABLE);
                }
                Ok(())
            }
            PnpRequest::UsageNotification { kind, in_path } => self.usage(kind, in_path),
            PnpRequest::QueryRelations(_) | PnpRequest::FilterResourceRequirements | PnpRequest::Other(_) => {
                return irp.complete_unchanged();
            }
        };
        irp.complete(outcome.into())
    }

    fn move_to(&self, phase: Phase) {
        self.state.lock().phase = phase;
    }

    fn query_stop(&self) -> Result {
        let mut state = self.state.lock();
        if state.paging != 0 {
            return Err(Status::DEVICE_BUSY);
        }
        state.phase = match state.phase {
            Phase::Pending { started } => Phase::Pending { started },
            phase => Phase::Pending { started: phase == Phase::Started },
        };
        Ok(())
    }

    fn cancel_stop(&self) {
        let mut state = self.state.lock();
        if let Phase::Pending { started } = state.phase {
            state.phase = if started { Phase::Started } else { Phase::Idle };
        }
    }

    /// `IRP_MN_REMOVE_DEVICE`: a device that is still there waits for its next driver.
    fn remove(&self, irp: Irp) -> Dispatched {
        let gone = {
            let mut state = self.state.lock();
            if !state.omitted {
                state.phase = Phase::Idle;
            }
            state.omitted
        };
        if gone {
            self.fdo.forget(self);
            self.delete();
        }
        irp.complete(Status::SUCCESS)
    }

    /// `IRP_MN_EJECT`: the driver has let go of the device. It stays away until the toolstack has taken it away.
    fn eject(&self) {
        wdm::info!("{}: ejected", self.name);
        self.set_missing();
        self.fdo.relations_changed();
    }

    fn usage(&self, kind: UsageKind, in_path: bool) -> Result {
        if kind != UsageKind::Paging {
            // Neither dump nor hibernation is supported yet: the answer is honest.
            return Err(Status::NOT_SUPPORTED);
        }
        pnp::send_usage_notification(self.fdo.object(), kind, in_path).ok()?;
        let mut state = self.state.lock();
        state.paging = if in_path { state.paging + 1 } else { state.paging.saturating_sub(1) };
        Ok(())
    }

    fn capabilities(&self, irp: &mut Irp) -> Result {
        use wdm::sys::{_DEVICE_POWER_STATE as device, _SYSTEM_POWER_STATE as system};
        let capabilities = irp.capabilities().ok_or(Status::INVALID_PARAMETER)?;
        // Ejectable, since the toolstack may ask for it. Not removable: Windows would take the disk for one that is
        // pulled at any moment, and turn its write cache off.
        capabilities.set_EjectSupported(1);
        capabilities.set_UniqueID(1);
        capabilities.set_SilentInstall(1);
        let number = self.name.id().parse().unwrap_or(u32::MAX);
        capabilities.Address = number;
        capabilities.UINumber = number;
        capabilities.DeviceState.fill(device::PowerDeviceD3);
        capabilities.DeviceState[system::PowerSystemUnspecified as usize] = device::PowerDeviceUnspecified;
        capabilities.DeviceState[system::PowerSystemWorking as usize] = device::PowerDeviceD0;
        capabilities.SystemWake = system::PowerSystemUnspecified;
        capabilities.DeviceWake = device::PowerDeviceUnspecified;
        (capabilities.D1Latency, capabilities.D2Latency, capabilities.D3Latency) = (0, 0, 0);
        Ok(())
    }

    /// The answer to IRP_MN_QUERY_ID, NULs included; `None`: there is no such id.
    fn id(&self, kind: IdKind) -> Option<Result<Vec<u16>>> {
        Some(match kind {
            IdKind::Device => characters(&[self.name.device_id().as_str()], false),
            IdKind::Hardware => {
                let ids = self.name.hardware_ids();
                characters(&[ids[0].as_str(), ids[1].as_str()], true)
            }
            IdKind::Compatible => characters(&[self.name.compatible_ids()[0].as_str()], true),
            IdKind::Instance => characters(&[self.name.instance_id().as_str()], false),
            // Without a container id the device belongs to the computer itself.
            IdKind::Container | IdKind::Other => return None,
        })
    }

    fn text(&self, kind: TextKind) -> Option<Result<Vec<u16>>> {
        Some(match kind {
            TextKind::Description => characters(&[self.name.description().as_str()], false),
            TextKind::Location => characters(&[self.name.path().as_str()], false),
            TextKind::Other => return None,
        })
    }

    /// Whether a frontend's driver has ever had it. Such a driver leaves the state Closing or Closed behind. Any IRQL.
    pub(crate) fn was_driven(&self) -> bool {
        self.driven.load(Ordering::Acquire)
    }

    /// Answers IRP_MN_QUERY_INTERFACE; `None`: not an interface of this bus.
    fn interface(&self, query: &InterfaceQuery) -> Option<Result> {
        match query.guid {
            INTERFACE_GUID => {
                let answered = interface::answer(&self.child, query);
                self.driven.fetch_or(answered.is_ok(), Ordering::AcqRel);
                Some(answered)
            }
            BUS_INTERFACE_STANDARD_GUID => Some(interface::answer_bus_standard(&self.child, query)),
            _ => None,
        }
    }

    fn power(&self, irp: Irp) -> Dispatched {
        match irp.power() {
            PowerRequest::SetDevice(state) => {
                power::set_device_state(self.object, state);
                irp.complete(Status::SUCCESS)
            }
            PowerRequest::SetSystem(_) | PowerRequest::QueryDevice(_) | PowerRequest::QuerySystem(_) => {
                irp.complete(Status::SUCCESS)
            }
            PowerRequest::Other => irp.complete_unchanged(),
        }
    }
}

/// Texts in UTF-16, each with a NUL; a list ends with one more.
fn characters(texts: &[&str], list: bool) -> Result<Vec<u16>> {
    let mut all = wdm::memory::try_vec(texts.iter().map(|text| text.len() + 1).sum::<usize>() + usize::from(list))?;
    for text in texts {
        all.extend(text.encode_utf16());
        all.push(0);
    }
    if list {
        all.push(0);
    }
    Ok(all)
}
