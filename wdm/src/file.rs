//! What a user opens: a device interface, the file objects on it, and the buffers of their reads and writes.

use core::ffi::c_void;

use wdk_sys::{PDEVICE_OBJECT, UNICODE_STRING, ntddk};

use crate::{
    device::DeviceObject,
    irp::{Dispatched, Irp, major},
    memory::Shared,
    status::{Result, Status},
    string::guid,
};

/// A device interface: a name under which user mode finds the device. Disabled and forgotten when it is dropped.
pub struct DeviceInterface {
    link: UNICODE_STRING,
}

// SAFETY: the string is only read.
unsafe impl Send for DeviceInterface {}
// SAFETY: see above.
unsafe impl Sync for DeviceInterface {}

impl DeviceInterface {
    /// Registers an interface of class `class` for the stack of `pdo`, a reported PDO. It is disabled.
    ///
    /// # Errors
    /// What `IoRegisterDeviceInterface` returns.
    pub fn register(pdo: DeviceObject, class: &[u8; 16]) -> Result<Self> {
        let mut link = UNICODE_STRING::default();
        let class = guid(class);
        let pdo: PDEVICE_OBJECT = pdo.as_raw();
        // SAFETY: the PDO is reported; the answer goes to a local. There is no reference string.
        Status(unsafe {
            ntddk::IoRegisterDeviceInterface(pdo, &raw const class, core::ptr::null_mut(), &raw mut link)
        })
        .ok()?;
        Ok(Self { link })
    }

    /// Lets users find and open it, or no more.
    ///
    /// # Errors
    /// What `IoSetDeviceInterfaceState` returns.
    pub fn enable(&self, enable: bool) -> Result {
        let mut link = self.link;
        // SAFETY: the link is the one that was registered.
        Status(unsafe { ntddk::IoSetDeviceInterfaceState(&raw mut link, enable.into()) }).ok()
    }
}

impl Drop for DeviceInterface {
    fn drop(&mut self) {
        // It may be disabled already.
        let _ = self.enable(false);
        // SAFETY: the string came from IoRegisterDeviceInterface, and is not used any more.
        unsafe { ntddk::RtlFreeUnicodeString(&raw mut self.link) }
    }
}

impl Irp {
    /// Whether IRP_MJ_CREATE names something below the device.
    pub fn opens_name(&self) -> bool {
        // SAFETY: an IRP_MJ_CREATE has its file object.
        unsafe { self.stack().FileObject.as_ref() }.is_some_and(|file| file.FileName.Length != 0)
    }

    /// Gives the file object of an IRP_MJ_CREATE the driver's own context.
    pub fn set_file_context<T: Send + Sync>(&mut self, context: Shared<T>) {
        // SAFETY: an IRP_MJ_CREATE has its file object, whose FsContext is the driver's.
        if let Some(file) = unsafe { self.stack().FileObject.as_mut() } {
            file.FsContext = context.into_raw().cast_mut().cast::<c_void>();
        }
    }

    /// The context of the file object that the IRP is for. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Safety
    /// Contexts of this device's file objects are of type `T`.
    pub unsafe fn file_context<T: Send + Sync>(&self) -> Option<Shared<T>> {
        // SAFETY: the file object lives as long as an IRP for it does.
        let file = unsafe { self.stack().FileObject.as_ref() }?;
        if file.FsContext.is_null() {
            return None;
        }
        // SAFETY: `set_file_context` stored a reference, which stays there until IRP_MJ_CLOSE; by contract it is a T's.
        let stored = core::mem::ManuallyDrop::new(unsafe { Shared::from_raw(file.FsContext.cast_const().cast::<T>()) });
        Some(Shared::clone(&stored))
    }

    /// Takes the context out of the file object of an IRP_MJ_CLOSE.
    ///
    /// # Safety
    /// As [`Irp::file_context`].
    pub unsafe fn take_file_context<T: Send + Sync>(&mut self) -> Option<Shared<T>> {
        // SAFETY: no other IRP for the file object is under way.
        let file = unsafe { self.stack().FileObject.as_mut() }?;
        let stored = core::mem::replace(&mut file.FsContext, core::ptr::null_mut());
        if stored.is_null() {
            return None;
        }
        // SAFETY: the reference that `set_file_context` stored is taken back; by contract it is a T's.
        Some(unsafe { Shared::from_raw(stored.cast_const().cast::<T>()) })
    }

    /// What an IRP_MJ_WRITE of a device with buffered I/O brings: a copy of the user's bytes. IRQL <= DISPATCH_LEVEL.
    pub fn written(&self) -> &[u8] {
        if self.major() != major::WRITE {
            return &[];
        }
        // SAFETY: the major function says which member is valid; with buffered I/O the system buffer has that length.
        unsafe {
            let length = self.stack().Parameters.Write.Length as usize;
            let buffer = self.system_buffer();
            if buffer.is_null() { &[] } else { core::slice::from_raw_parts(buffer, length) }
        }
    }

    /// Where an IRP_MJ_READ of a device with buffered I/O wants its bytes. IRQL <= DISPATCH_LEVEL.
    pub fn read_buffer(&mut self) -> &mut [u8] {
        if self.major() != major::READ {
            return &mut [];
        }
        // SAFETY: as above; the buffer is the IRP's, which is borrowed mutably.
        unsafe {
            let length = self.stack().Parameters.Read.Length as usize;
            let buffer = self.system_buffer();
            if buffer.is_null() { &mut [] } else { core::slice::from_raw_parts_mut(buffer, length) }
        }
    }

    /// Completes it, having moved `bytes`. IRQL <= DISPATCH_LEVEL.
    pub fn complete_moved(mut self, bytes: usize) -> Dispatched {
        self.set_information(bytes);
        self.complete(Status::SUCCESS)
    }
}
