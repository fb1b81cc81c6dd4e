//! The device interface of `xenpci`.
//!
//! The handle is opened for overlapped I/O: on any other the pended read would keep every write back.

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use windows_sys::Win32::Devices::DeviceAndDriverInstallation::{
    CM_GET_DEVICE_INTERFACE_LIST_PRESENT, CM_Get_Device_Interface_List_SizeW, CM_Get_Device_Interface_ListW, CR_SUCCESS,
};
use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_ACCESS_DENIED, ERROR_IO_PENDING, ERROR_NOT_ENOUGH_QUOTA, GENERIC_READ, GENERIC_WRITE,
    GetLastError, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{CreateFileW, FILE_FLAG_OVERLAPPED, OPEN_EXISTING, ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Threading::CreateEventW;
use windows_sys::core::GUID;
use xenbus::control::INTERFACE_CLASS;

use crate::{Error, Result, Transport};

/// A handle that is closed when it is dropped.
struct Owned(HANDLE);

// SAFETY: a handle may be used by every thread of its process.
unsafe impl Send for Owned {}
// SAFETY: as above; every operation has an OVERLAPPED of its own.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle is open and not used any more.
        unsafe { CloseHandle(self.0) };
    }
}

/// An open Xen platform device.
pub struct Device {
    file: Owned,
    closing: AtomicBool,
}

impl Device {
    /// Opens the first one that works.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::AccessDenied`], [`Error::Io`].
    pub fn open() -> Result<Self> {
        let path = first_interface().ok_or(Error::NoDevice)?;
        // SAFETY: the path ends with a NUL; no pointer outlives the call.
        let file = unsafe {
            CreateFileW(
                path.as_ptr(),
                GENERIC_READ | GENERIC_WRITE,
                0,
                ptr::null(),
                OPEN_EXISTING,
                FILE_FLAG_OVERLAPPED,
                ptr::null_mut(),
            )
        };
        if file != INVALID_HANDLE_VALUE {
            return Ok(Self { file: Owned(file), closing: AtomicBool::new(false) });
        }
        // SAFETY: it has no requirement.
        match unsafe { GetLastError() } {
            ERROR_ACCESS_DENIED => Err(Error::AccessDenied),
            code => Err(Error::Io(io::Error::from_raw_os_error(code as i32))),
        }
    }

    /// Starts an operation and waits for its end; how many bytes it moved.
    fn run(&self, start: impl FnOnce(HANDLE, *mut OVERLAPPED) -> i32) -> io::Result<usize> {
        // SAFETY: the event has neither name nor attributes.
        let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        let event = Owned(event);
        let mut overlapped = OVERLAPPED { hEvent: event.0, ..OVERLAPPED::default() };
        let started = start(self.file.0, &raw mut overlapped);
        // SAFETY: it has no requirement.
        if started == 0 && unsafe { GetLastError() } != ERROR_IO_PENDING {
            return Err(io::Error::last_os_error());
        }
        if self.closing.load(Ordering::SeqCst) {
            // `shut_down` may have looked before the operation was there.
            self.cancel();
        }
        let mut moved = 0;
        // SAFETY: the operation was started with this block, which stays here until it has ended.
        let ended = unsafe { GetOverlappedResult(self.file.0, &raw const overlapped, &raw mut moved, 1) };
        if ended == 0 { Err(io::Error::last_os_error()) } else { Ok(moved as usize) }
    }

    fn cancel(&self) {
        // SAFETY: the handle is open. An error means that nothing was under way.
        unsafe { CancelIoEx(self.file.0, ptr::null()) };
    }
}

impl Transport for Device {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (start, length) = (buffer.as_mut_ptr(), u32::try_from(buffer.len()).unwrap_or(u32::MAX));
        // SAFETY: the buffer stays until `run` returns, when the operation has ended.
        self.run(|file, overlapped| unsafe { ReadFile(file, start, length, ptr::null_mut(), overlapped) })
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        let (start, length) = (message.as_ptr(), u32::try_from(message.len()).unwrap_or(u32::MAX));
        // SAFETY: the message stays until `run` returns, when the operation has ended.
        let sent = self.run(|file, overlapped| unsafe { WriteFile(file, start, length, ptr::null_mut(), overlapped) });
        match sent {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(ERROR_NOT_ENOUGH_QUOTA as i32) => {
                Err(io::ErrorKind::QuotaExceeded.into())
            }
            Err(error) => Err(error),
        }
    }

    fn shut_down(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.cancel();
    }
}

/// The path of the first device interface of `xenpci`, with its NUL.
fn first_interface() -> Option<Vec<u16>> {
    let c = INTERFACE_CLASS;
    let class = GUID {
        data1: u32::from_le_bytes([c[0], c[1], c[2], c[3]]),
        data2: u16::from_le_bytes([c[4], c[5]]),
        data3: u16::from_le_bytes([c[6], c[7]]),
        data4: [c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15]],
    };
    let flags = CM_GET_DEVICE_INTERFACE_LIST_PRESENT;
    let mut length = 0;
    // SAFETY: the answer goes to a local.
    let sized = unsafe { CM_Get_Device_Interface_List_SizeW(&raw mut length, &raw const class, ptr::null(), flags) };
    if sized != CR_SUCCESS || length < 2 {
        return None;
    }
    let mut list = vec![0_u16; length as usize];
    // SAFETY: the list has room for as many characters as are announced.
    let listed =
        unsafe { CM_Get_Device_Interface_ListW(&raw const class, ptr::null(), list.as_mut_ptr(), length, flags) };
    let end = list.iter().position(|character| *character == 0)?;
    if listed != CR_SUCCESS || end == 0 {
        return None;
    }
    list.truncate(end + 1);
    Some(list)
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("file", &self.file.0.cast::<c_void>()).finish_non_exhaustive()
    }
}
