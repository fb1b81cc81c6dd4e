//! IRP_MN_QUERY_INTERFACE, both ways.

use core::ffi::c_void;

use crate::{
    device::DeviceObject,
    irp::Irp,
    pnp::{minor, send_pnp},
    status::{Result, Status},
    string::{guid, guid_bytes},
};

/// Asks the stack that `device` is in for an interface. `table` holds the caller's Size and Version and defaults; the
/// bus overwrites as much as it offers. Success takes a reference on the interface, which the caller gives back
/// through the table's InterfaceDereference.
///
/// # Errors
/// [`Status::NOT_SUPPORTED`]: nobody in the stack knows it; [`Status::INSUFFICIENT_RESOURCES`]; what the bus answers.
///
/// # Safety
/// `T` is the C table that `interface` names, beginning with the INTERFACE head, and `size_of::<T>()` is at most what
/// its Size says.
pub unsafe fn query<T: Copy>(device: DeviceObject, interface: &[u8; 16], version: u16, table: T) -> Result<T> {
    let size = u16::try_from(size_of::<T>()).map_err(|_| Status::INVALID_PARAMETER)?;
    let guid = guid(interface);
    let mut table = table;
    let pointer = &raw mut table;
    // SAFETY: guid and table stay until the IRP is done, for which the call waits.
    unsafe {
        send_pnp(device, minor::QUERY_INTERFACE, |parameters| {
            parameters.QueryInterface.InterfaceType = &raw const guid;
            parameters.QueryInterface.Size = size;
            parameters.QueryInterface.Version = version;
            parameters.QueryInterface.Interface = pointer.cast();
            parameters.QueryInterface.InterfaceSpecificData = core::ptr::null_mut();
        })
    }
    .ok()?;
    Ok(table)
}

/// What an IRP_MN_QUERY_INTERFACE asks for.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceQuery {
    /// The interface type, as it lies in memory.
    pub guid: [u8; 16],
    /// Bytes of table that the caller has room for.
    pub size: u16,
    /// The version that the caller wants.
    pub version: u16,
    table: *mut u8,
}

impl InterfaceQuery {
    /// From an IRP of that minor function.
    pub(crate) fn of(irp: &Irp) -> Option<Self> {
        // SAFETY: the minor function says which member is valid; the PnP manager or a driver filled it in.
        unsafe {
            let parameters = &irp.stack().Parameters.QueryInterface;
            let guid = parameters.InterfaceType.as_ref()?;
            if parameters.Interface.is_null() {
                return None;
            }
            Some(Self {
                guid: guid_bytes(guid),
                size: parameters.Size,
                version: parameters.Version,
                table: parameters.Interface.cast(),
            })
        }
    }

    /// Gives the caller the first `self.size` bytes of `table`, no more than there are.
    ///
    /// # Safety
    /// `T` is the C table that `self.guid` names; the caller of the interface gets a reference that was taken for it.
    pub unsafe fn answer<T: Copy>(&self, table: &T) {
        let bytes = usize::from(self.size).min(size_of::<T>());
        // SAFETY: the caller has room for `size` bytes, and the source is at least as long as what is copied.
        unsafe { core::ptr::copy_nonoverlapping(core::ptr::from_ref(table).cast::<u8>(), self.table, bytes) }
    }
}

/// A context pointer of an interface table.
pub type Context = *mut c_void;
