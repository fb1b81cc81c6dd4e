//! IRP_MJ_PNP: what is asked, as a Rust enum, and the answers whose memory the PnP manager frees.

use wdk_sys::{
    DEVICE_CAPABILITIES, DEVICE_OBJECT, DEVICE_RELATIONS, IO_STATUS_BLOCK, IRP_MJ_PNP, PNP_BUS_INFORMATION,
    POOL_FLAG_NON_PAGED, ntddk,
};

use crate::{
    device::DeviceObject,
    event::{Event, EventKind},
    interface::InterfaceQuery,
    irp::Irp,
    status::{Result, Status},
    string::guid,
};

/// Pool tag of answers.
const TAG: u32 = u32::from_le_bytes(*b"XenA");

/// Minor function codes of IRP_MJ_PNP.
///
/// <https://learn.microsoft.com/windows-hardware/drivers/kernel/plug-and-play-minor-irps>
pub(crate) mod minor {
    pub const START_DEVICE: u8 = 0x00;
    pub const QUERY_REMOVE_DEVICE: u8 = 0x01;
    pub const REMOVE_DEVICE: u8 = 0x02;
    pub const CANCEL_REMOVE_DEVICE: u8 = 0x03;
    pub const STOP_DEVICE: u8 = 0x04;
    pub const QUERY_STOP_DEVICE: u8 = 0x05;
    pub const CANCEL_STOP_DEVICE: u8 = 0x06;
    pub const QUERY_DEVICE_RELATIONS: u8 = 0x07;
    pub const QUERY_INTERFACE: u8 = 0x08;
    pub const QUERY_CAPABILITIES: u8 = 0x09;
    pub const QUERY_RESOURCES: u8 = 0x0a;
    pub const QUERY_RESOURCE_REQUIREMENTS: u8 = 0x0b;
    pub const QUERY_DEVICE_TEXT: u8 = 0x0c;
    pub const FILTER_RESOURCE_REQUIREMENTS: u8 = 0x0d;
    pub const EJECT: u8 = 0x11;
    pub const QUERY_ID: u8 = 0x13;
    pub const QUERY_PNP_DEVICE_STATE: u8 = 0x14;
    pub const QUERY_BUS_INFORMATION: u8 = 0x15;
    pub const DEVICE_USAGE_NOTIFICATION: u8 = 0x16;
    pub const SURPRISE_REMOVAL: u8 = 0x17;
}

/// What IRP_MN_QUERY_DEVICE_RELATIONS asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// The children of a bus.
    Bus,
    /// Devices that are ejected together.
    Ejection,
    /// Devices that are removed together.
    Removal,
    /// The PDO itself.
    Target,
    /// Anything else.
    Other,
}

/// What IRP_MN_QUERY_ID asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// The device id.
    Device,
    /// The hardware ids, best first.
    Hardware,
    /// The compatible ids.
    Compatible,
    /// The instance id.
    Instance,
    /// The container id.
    Container,
    /// Anything else.
    Other,
}

/// What IRP_MN_QUERY_DEVICE_TEXT asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// What the device is.
    Description,
    /// Where it is.
    Location,
    /// Anything else.
    Other,
}

/// What a device is in the path of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageKind {
    /// A paging file.
    Paging,
    /// A hibernation file.
    Hibernation,
    /// A crash dump file.
    Dump,
    /// Anything else: boot, guest assigned, post display.
    Other,
}

/// A PnP request.
#[derive(Clone, Copy, Debug)]
pub enum PnpRequest {
    /// `IRP_MN_START_DEVICE`: see [`crate::resource::assigned`].
    Start,
    /// `IRP_MN_QUERY_STOP_DEVICE`.
    QueryStop,
    /// `IRP_MN_CANCEL_STOP_DEVICE`.
    CancelStop,
    /// `IRP_MN_STOP_DEVICE`.
    Stop,
    /// `IRP_MN_QUERY_REMOVE_DEVICE`.
    QueryRemove,
    /// `IRP_MN_CANCEL_REMOVE_DEVICE`.
    CancelRemove,
    /// `IRP_MN_SURPRISE_REMOVAL`.
    SurpriseRemoval,
    /// `IRP_MN_REMOVE_DEVICE`.
    Remove,
    /// `IRP_MN_EJECT`.
    Eject,
    /// `IRP_MN_QUERY_DEVICE_RELATIONS`.
    QueryRelations(RelationKind),
    /// `IRP_MN_QUERY_INTERFACE`.
    QueryInterface(InterfaceQuery),
    /// `IRP_MN_QUERY_CAPABILITIES`: see [`Irp::capabilities`].
    QueryCapabilities,
    /// `IRP_MN_QUERY_RESOURCES`.
    QueryResources,
    /// `IRP_MN_QUERY_RESOURCE_REQUIREMENTS`.
    QueryResourceRequirements,
    /// `IRP_MN_FILTER_RESOURCE_REQUIREMENTS`: see [`crate::resource::add_message_interrupts`].
    FilterResourceRequirements,
    /// `IRP_MN_QUERY_ID`.
    QueryId(IdKind),
    /// `IRP_MN_QUERY_DEVICE_TEXT`.
    QueryText(TextKind),
    /// `IRP_MN_QUERY_BUS_INFORMATION`.
    QueryBusInformation,
    /// `IRP_MN_QUERY_PNP_DEVICE_STATE`.
    QueryDeviceState,
    /// `IRP_MN_DEVICE_USAGE_NOTIFICATION`.
    UsageNotification {
        /// What the path is for.
        kind: UsageKind,
        /// Whether the device comes into the path or leaves it.
        in_path: bool,
    },
    /// Anything else.
    Other(u8),
}

impl Irp {
    /// What an IRP_MJ_PNP asks.
    #[allow(clippy::unnecessary_cast, reason = "enumerations are signed in the WDK's headers, unsigned in mingw's")]
    pub fn pnp(&self) -> PnpRequest {
        use wdk_sys::{
            _BUS_QUERY_ID_TYPE as id, _DEVICE_RELATION_TYPE as relation, _DEVICE_USAGE_NOTIFICATION_TYPE as usage,
        };
        /// `BusQueryContainerID`, of Windows 7.
        const BUS_QUERY_CONTAINER_ID: u32 = 5;
        let code = self.minor();
        let parameters = &self.stack().Parameters;
        match code {
            minor::START_DEVICE => PnpRequest::Start,
            minor::QUERY_STOP_DEVICE => PnpRequest::QueryStop,
            minor::CANCEL_STOP_DEVICE => PnpRequest::CancelStop,
            minor::STOP_DEVICE => PnpRequest::Stop,
            minor::QUERY_REMOVE_DEVICE => PnpRequest::QueryRemove,
            minor::CANCEL_REMOVE_DEVICE => PnpRequest::CancelRemove,
            minor::SURPRISE_REMOVAL => PnpRequest::SurpriseRemoval,
            minor::REMOVE_DEVICE => PnpRequest::Remove,
            minor::EJECT => PnpRequest::Eject,
            minor::QUERY_CAPABILITIES => PnpRequest::QueryCapabilities,
            minor::QUERY_RESOURCES => PnpRequest::QueryResources,
            minor::QUERY_RESOURCE_REQUIREMENTS => PnpRequest::QueryResourceRequirements,
            minor::FILTER_RESOURCE_REQUIREMENTS => PnpRequest::FilterResourceRequirements,
            minor::QUERY_BUS_INFORMATION => PnpRequest::QueryBusInformation,
            minor::QUERY_PNP_DEVICE_STATE => PnpRequest::QueryDeviceState,
            minor::QUERY_INTERFACE => {
                InterfaceQuery::of(self).map_or(PnpRequest::Other(code), PnpRequest::QueryInterface)
            }
            minor::QUERY_DEVICE_RELATIONS => {
                // SAFETY: the minor function says which member is valid.
                let kind = match unsafe { parameters.QueryDeviceRelations.Type } {
                    relation::BusRelations => RelationKind::Bus,
                    relation::EjectionRelations => RelationKind::Ejection,
                    relation::RemovalRelations => RelationKind::Removal,
                    relation::TargetDeviceRelation => RelationKind::Target,
                    _ => RelationKind::Other,
                };
                PnpRequest::QueryRelations(kind)
            }
            minor::QUERY_ID => {
                // SAFETY: the minor function says which member is valid.
                let kind = match unsafe { parameters.QueryId.IdType } {
                    id::BusQueryDeviceID => IdKind::Device,
                    id::BusQueryHardwareIDs => IdKind::Hardware,
                    id::BusQueryCompatibleIDs => IdKind::Compatible,
                    id::BusQueryInstanceID => IdKind::Instance,
                    other if other as u32 == BUS_QUERY_CONTAINER_ID => IdKind::Container,
                    _ => IdKind::Other,
                };
                PnpRequest::QueryId(kind)
            }
            minor::QUERY_DEVICE_TEXT => {
                // DEVICE_TEXT_TYPE: an enumeration without a tag, so each header set names its constants otherwise.
                // SAFETY: the minor function says which member is valid.
                let kind = match unsafe { parameters.QueryDeviceText.DeviceTextType } {
                    0 => TextKind::Description,
                    1 => TextKind::Location,
                    _ => TextKind::Other,
                };
                PnpRequest::QueryText(kind)
            }
            minor::DEVICE_USAGE_NOTIFICATION => {
                // SAFETY: the minor function says which member is valid.
                let (kind, in_path) =
                    unsafe { (parameters.UsageNotification.Type, parameters.UsageNotification.InPath) };
                let kind = match kind {
                    usage::DeviceUsageTypePaging => UsageKind::Paging,
                    usage::DeviceUsageTypeHibernation => UsageKind::Hibernation,
                    usage::DeviceUsageTypeDumpFile => UsageKind::Dump,
                    _ => UsageKind::Other,
                };
                PnpRequest::UsageNotification { kind, in_path: in_path != 0 }
            }
            other => PnpRequest::Other(other),
        }
    }

    /// The structure that IRP_MN_QUERY_CAPABILITIES is to fill in, if it is of the one version there is.
    pub fn capabilities(&mut self) -> Option<&mut DEVICE_CAPABILITIES> {
        if self.minor() != minor::QUERY_CAPABILITIES {
            return None;
        }
        // SAFETY: the minor function says which member is valid; the sender's structure stays until the IRP is done,
        // and its head is there whatever its version.
        let capabilities = unsafe { self.stack().Parameters.DeviceCapabilities.Capabilities.as_mut() }?;
        let whole = capabilities.Version == 1 && usize::from(capabilities.Size) >= size_of::<DEVICE_CAPABILITIES>();
        whole.then_some(capabilities)
    }

    /// Answers with a string in pool, which the PnP manager frees: `Information` points to a copy of `characters`,
    /// which bring their own NULs. For IRP_MN_QUERY_ID and IRP_MN_QUERY_DEVICE_TEXT.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn answer_characters(&mut self, characters: &[u16]) -> Result {
        let copy = answer_memory(size_of_val(characters))?.cast::<u16>();
        // SAFETY: the memory is fresh and as long as the source.
        unsafe { core::ptr::copy_nonoverlapping(characters.as_ptr(), copy, characters.len()) }
        self.set_information(copy as usize);
        Ok(())
    }

    /// Answers IRP_MN_QUERY_DEVICE_RELATIONS with `devices` besides what a driver above has already put there. Takes a
    /// reference on each.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`]: nothing was changed.
    pub fn answer_relations(&mut self, devices: &[DeviceObject]) -> Result {
        let old = self.information() as *mut DEVICE_RELATIONS;
        // SAFETY: Information is null or the list of a driver above; its entries follow its count.
        let before: &[*mut DEVICE_OBJECT] = unsafe {
            old.as_ref().map_or(&[], |list| core::slice::from_raw_parts((*old).Objects.as_ptr(), list.Count as usize))
        };
        let total = before.len() + devices.len();
        let bytes = core::mem::offset_of!(DEVICE_RELATIONS, Objects) + total.max(1) * size_of::<*mut DEVICE_OBJECT>();
        let list = answer_memory(bytes)?.cast::<DEVICE_RELATIONS>();
        // SAFETY: the memory has room for the head and `total` entries.
        unsafe {
            (*list).Count = total as u32;
            let objects = (&raw mut (*list).Objects).cast::<*mut DEVICE_OBJECT>();
            for (index, &object) in before.iter().enumerate() {
                objects.add(index).write(object);
            }
            for (index, device) in devices.iter().enumerate() {
                device.reference();
                objects.add(before.len() + index).write(device.as_raw());
            }
        }
        self.set_information(list as usize);
        if !old.is_null() {
            // SAFETY: the list was the driver's above, which left it to be replaced.
            unsafe { ntddk::ExFreePool(old.cast()) }
        }
        Ok(())
    }

    /// Answers IRP_MN_QUERY_BUS_INFORMATION.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn answer_bus_information(&mut self, bus_type: &[u8; 16], number: u32) -> Result {
        let info = answer_memory(size_of::<PNP_BUS_INFORMATION>())?.cast::<PNP_BUS_INFORMATION>();
        // SAFETY: the memory is fresh and large enough.
        unsafe {
            info.write(PNP_BUS_INFORMATION {
                BusTypeGuid: guid(bus_type),
                LegacyBusType: wdk_sys::_INTERFACE_TYPE::PNPBus,
                BusNumber: number,
            });
        }
        self.set_information(info as usize);
        Ok(())
    }
}

/// Pool for an answer that the PnP manager frees with ExFreePool.
pub(crate) fn answer_memory(bytes: usize) -> Result<*mut u8> {
    // SAFETY: every caller asks for at least one byte.
    let memory = unsafe { ntddk::ExAllocatePool2(POOL_FLAG_NON_PAGED, bytes.max(1) as _, TAG) };
    if memory.is_null() { Err(Status::INSUFFICIENT_RESOURCES) } else { Ok(memory.cast()) }
}

/// Sends an IRP_MJ_PNP to the top of the stack that `device` is in, and waits for it. `fill` writes the parameters.
///
/// # Safety
/// `fill` writes the member of the union that goes with the minor function, and what its pointers point to stays valid
/// until this returns.
pub(crate) unsafe fn send_pnp(
    device: DeviceObject,
    minor: u8,
    fill: impl FnOnce(&mut wdk_sys::_IO_STACK_LOCATION__bindgen_ty_1),
) -> Status {
    let top = device.top_of_stack();
    let done = match Event::new(EventKind::Notification, false) {
        Ok(done) => done,
        Err(status) => return status,
    };
    let mut outcome = IO_STATUS_BLOCK::default();
    // SAFETY: event and status block outlive the IRP, for which this function waits.
    let irp = unsafe {
        ntddk::IoBuildSynchronousFsdRequest(
            IRP_MJ_PNP,
            top.object().as_raw(),
            core::ptr::null_mut(),
            0,
            core::ptr::null_mut(),
            done.as_ptr(),
            &raw mut outcome,
        )
    };
    if irp.is_null() {
        return Status::INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the IRP is fresh; its next stack location (IoGetNextIrpStackLocation) is the top device's. Every PnP IRP
    // starts with STATUS_NOT_SUPPORTED.
    unsafe {
        (*irp).IoStatus.__bindgen_anon_1.Status = Status::NOT_SUPPORTED.0;
        let next = (*irp).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation.sub(1);
        (*next).MinorFunction = minor;
        fill(&mut (*next).Parameters);
    }
    // SAFETY: the IRP is given up; what it points to stays until it is completed.
    let status = Status(unsafe { ntddk::IofCallDriver(top.object().as_raw(), irp) });
    if status != Status::PENDING {
        return status;
    }
    done.wait();
    // SAFETY: the I/O manager wrote the status block before it signalled the event.
    Status(unsafe { outcome.__bindgen_anon_1.Status })
}

/// Tells a stack that it comes into the path of a special file, or leaves it: what a bus driver does for the stack of
/// its own device when one of its children is told so.
pub fn send_usage_notification(device: DeviceObject, kind: UsageKind, in_path: bool) -> Status {
    use wdk_sys::_DEVICE_USAGE_NOTIFICATION_TYPE as usage;
    let kind = match kind {
        UsageKind::Paging => usage::DeviceUsageTypePaging,
        UsageKind::Hibernation => usage::DeviceUsageTypeHibernation,
        UsageKind::Dump => usage::DeviceUsageTypeDumpFile,
        UsageKind::Other => return Status::NOT_SUPPORTED,
    };
    // SAFETY: the member is the one of this minor function and has no pointers.
    unsafe {
        send_pnp(device, minor::DEVICE_USAGE_NOTIFICATION, |parameters| {
            parameters.UsageNotification.InPath = in_path.into();
            parameters.UsageNotification.Type = kind;
        })
    }
}
