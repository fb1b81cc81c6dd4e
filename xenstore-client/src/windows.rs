//! The device interface of `xenpci`.
//!
//! The handle is opened for overlapped I/O: on any other the pended read would keep every write back.

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use windows_sys::Win32::Devices::DeviceAndDriverInstallation::{
    CM_GET_DEVICE_INTERFACE_LIST_PRESENT, CM_Get_Device_Interface_List_SizeW, CM_Get_Device_Interface_ListW,
    CM_NOTIFY_ACTION, CM_NOTIFY_ACTION_DEVICEQUERYREMOVE, CM_NOTIFY_EVENT_DATA, CM_NOTIFY_FILTER, CM_NOTIFY_FILTER_0,
    CM_NOTIFY_FILTER_0_1, CM_NOTIFY_FILTER_TYPE_DEVICEHANDLE, CM_Register_Notification, CM_Unregister_Notification,
    CR_SUCCESS, HCMNOTIFICATION,
};
use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_ACCESS_DENIED, ERROR_IO_PENDING, ERROR_NOT_ENOUGH_QUOTA, ERROR_SUCCESS, GENERIC_READ,
    GENERIC_WRITE, GetLastError, HANDLE, INVALID_HANDLE_VALUE,
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

/// The handle, and what is under way on it.
struct File {
    /// None: it was closed, because Windows wants to remove the device.
    handle: Option<Owned>,
    /// Operations that use it.
    running: usize,
    /// No further operation begins.
    closing: bool,
}

/// What the device shares with Windows' call.
struct Shared {
    file: Mutex<File>,
    /// An operation has ended.
    ended: Condvar,
}

impl Shared {
    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No operation begins any more, and those that wait end.
    fn cancel(&self) {
        let mut file = self.file();
        file.closing = true;
        if let Some(handle) = &file.handle {
            // SAFETY: the handle is open. An error means that nothing was under way.
            unsafe { CancelIoEx(handle.0, ptr::null()) };
        }
    }

    /// Closes the handle, once nothing is under way on it.
    fn close(&self) {
        loop {
            self.cancel();
            let file = self.file();
            if file.running == 0 {
                break;
            }
            // One that was just being started is cancelled by the next round.
            drop(self.ended.wait_timeout(file, CANCEL_AGAIN));
        }
        self.file().handle = None;
    }
}

/// How long an operation has to end after it was cancelled, before it is cancelled once more.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// Windows asks whether the device may be removed: not while somebody has it open. The connection is lost by that, and whoever
/// wants another opens one; that works again if the device stays after all.
/// <https://learn.microsoft.com/windows/win32/api/cfgmgr32/nf-cfgmgr32-cm_register_notification>
unsafe extern "system" fn asked(
    _notification: HCMNOTIFICATION,
    shared: *const c_void,
    action: CM_NOTIFY_ACTION,
    _event: *const CM_NOTIFY_EVENT_DATA,
    _size: u32,
) -> u32 {
    if action == CM_NOTIFY_ACTION_DEVICEQUERYREMOVE {
        // SAFETY: the device keeps what it shares until it has unregistered this function, which waits for its end.
        unsafe { &*shared.cast::<Shared>() }.close();
    }
    ERROR_SUCCESS
}

/// That Windows asks before it removes the device.
struct Notification(HCMNOTIFICATION);

// SAFETY: it is used once, to unregister, which any thread may do but the one that Windows calls.
unsafe impl Send for Notification {}
// SAFETY: as above.
unsafe impl Sync for Notification {}

impl Drop for Notification {
    fn drop(&mut self) {
        // SAFETY: it is registered, and unregistered once.
        unsafe { CM_Unregister_Notification(self.0) };
    }
}

/// An open Xen platform device. When Windows wants to remove it, it is closed, and every call fails from then on.
pub struct Device {
    // In this order: what is shared lives until Windows does not call any more.
    _notification: Option<Notification>,
    shared: Arc<Shared>,
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
            return Ok(Self::with(Owned(file)));
        }
        // SAFETY: it has no requirement.
        match unsafe { GetLastError() } {
            ERROR_ACCESS_DENIED => Err(Error::AccessDenied),
            code => Err(Error::Io(io::Error::from_raw_os_error(code as i32))),
        }
    }

    fn with(handle: Owned) -> Self {
        let filter = CM_NOTIFY_FILTER {
            cbSize: size_of::<CM_NOTIFY_FILTER>() as u32,
            FilterType: CM_NOTIFY_FILTER_TYPE_DEVICEHANDLE,
            u: CM_NOTIFY_FILTER_0 { DeviceHandle: CM_NOTIFY_FILTER_0_1 { hTarget: handle.0 } },
            ..CM_NOTIFY_FILTER::default()
        };
        let file = Mutex::new(File { handle: Some(handle), running: 0, closing: false });
        let shared = Arc::new(Shared { file, ended: Condvar::new() });
        let mut notification = ptr::null_mut();
        // SAFETY: the filter is whole and names an open handle; what is shared outlives the registration, see `Device`.
        let registered = unsafe {
            CM_Register_Notification(&raw const filter, Arc::as_ptr(&shared).cast(), Some(asked), &raw mut notification)
        };
        // Without it the device works all the same; it is only not removed while it is open.
        let notification = (registered == CR_SUCCESS).then_some(Notification(notification));
        Self { _notification: notification, shared }
    }

    /// Starts an operation and waits for its end; how many bytes it moved.
    fn run(&self, start: impl FnOnce(HANDLE, *mut OVERLAPPED) -> i32) -> io::Result<usize> {
        let handle = {
            let mut file = self.shared.file();
            let open = file.handle.as_ref().filter(|_| !file.closing).map(|handle| handle.0);
            let handle = open.ok_or(io::ErrorKind::BrokenPipe)?;
            file.running += 1;
            handle
        };
        let outcome = self.run_on(handle, start);
        self.shared.file().running -= 1;
        self.shared.ended.notify_all();
        outcome
    }

    /// The same on the handle, which is not closed meanwhile.
    fn run_on(&self, handle: HANDLE, start: impl FnOnce(HANDLE, *mut OVERLAPPED) -> i32) -> io::Result<usize> {
        // SAFETY: the event has neither name nor attributes.
        let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        let event = Owned(event);
        let mut overlapped = OVERLAPPED { hEvent: event.0, ..OVERLAPPED::default() };
        let started = start(handle, &raw mut overlapped);
        // SAFETY: it has no requirement.
        if started == 0 && unsafe { GetLastError() } != ERROR_IO_PENDING {
            return Err(io::Error::last_os_error());
        }
        if self.shared.file().closing {
            // Whoever cancels may have looked before the operation was there.
            self.shared.cancel();
        }
        let mut moved = 0;
        // SAFETY: the operation was started with this block, which stays here until it has ended.
        let ended = unsafe { GetOverlappedResult(handle, &raw const overlapped, &raw mut moved, 1) };
        if ended == 0 { Err(io::Error::last_os_error()) } else { Ok(moved as usize) }
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
        self.shared.cancel();
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
        let open = self.shared.file().handle.is_some();
        f.debug_struct("Device").field("open", &open).finish_non_exhaustive()
    }
}
