//! The driver store and the devices.
//! <https://learn.microsoft.com/windows/win32/api/newdev/nf-newdev-diinstalldriverw>,
//! <https://learn.microsoft.com/windows/win32/api/newdev/nf-newdev-diuninstalldriverw>; the same calls take drivers without a
//! device: <https://learn.microsoft.com/windows-hardware/drivers/develop/creating-a-primitive-driver>

use std::io;
use std::path::PathBuf;

use windows_sys::Win32::Devices::DeviceAndDriverInstallation::{
    DIGCF_ALLCLASSES, DiInstallDriverW, DiUninstallDevice, DiUninstallDriverW, HDEVINFO, SP_DEVINFO_DATA,
    SPDRP_SERVICE, SetupDiDestroyDeviceInfoList, SetupDiEnumDeviceInfo, SetupDiGetClassDevsW,
    SetupDiGetDeviceRegistryPropertyW,
};
use windows_sys::Win32::Foundation::{ERROR_INVALID_DATA, ERROR_NO_MORE_ITEMS};

use super::{check, folder, wide};
use crate::inf::Identity;
use crate::machine::StoredDriver;

/// `INVALID_HANDLE_VALUE` of a set of devices.
const NO_SET: HDEVINFO = -1;

fn infs() -> PathBuf {
    PathBuf::from(folder("SystemRoot", r"C:\Windows")).join("INF")
}

/// The packages that did not come with Windows are published as `oem<number>.inf`.
pub fn stored() -> io::Result<Vec<StoredDriver>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(infs())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        let number = name.strip_prefix("oem").and_then(|rest| rest.strip_suffix(".inf"));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
            let identity = Identity::of_inf(&std::fs::read(entry.path())?);
            found.push(StoredDriver { published: name, identity });
        }
    }
    found.sort_by(|one, other| one.published.cmp(&other.published));
    Ok(found)
}

pub fn install(inf: &str) -> io::Result<bool> {
    let path = wide(inf);
    let mut restart = 0;
    // SAFETY: the path ends with a NUL and outlives the call; the result goes to a local.
    match check(unsafe { DiInstallDriverW(std::ptr::null_mut(), path.as_ptr(), 0, &raw mut restart) }) {
        // It is in the store, and no device that is there gets better by it.
        Err(error) if error.raw_os_error() == Some(ERROR_NO_MORE_ITEMS.cast_signed()) => Ok(false),
        outcome => outcome.map(|()| restart != 0),
    }
}

pub fn remove(published: &str) -> io::Result<bool> {
    let path = wide(&infs().join(published).to_string_lossy());
    let mut restart = 0;
    // SAFETY: the path ends with a NUL and outlives the call; the result goes to a local.
    check(unsafe { DiUninstallDriverW(std::ptr::null_mut(), path.as_ptr(), 0, &raw mut restart) })?;
    Ok(restart != 0)
}

/// A set of devices, freed when it is dropped.
struct Devices(HDEVINFO);

impl Devices {
    /// Those of an enumerator, present or not.
    fn of(enumerator: &str) -> io::Result<Self> {
        let name = wide(enumerator);
        // SAFETY: the name ends with a NUL and outlives the call; no class is every class.
        let set =
            unsafe { SetupDiGetClassDevsW(std::ptr::null(), name.as_ptr(), std::ptr::null_mut(), DIGCF_ALLCLASSES) };
        if set != NO_SET {
            return Ok(Self(set));
        }
        match io::Error::last_os_error() {
            // There is no such enumerator.
            error if error.raw_os_error() == Some(ERROR_INVALID_DATA.cast_signed()) => Ok(Self(NO_SET)),
            error => Err(error),
        }
    }

    fn at(&self, index: u32) -> io::Result<Option<SP_DEVINFO_DATA>> {
        let mut device = SP_DEVINFO_DATA { cbSize: size_of::<SP_DEVINFO_DATA>() as u32, ..SP_DEVINFO_DATA::default() };
        // SAFETY: the set is open, and the structure's size is filled in.
        match check(unsafe { SetupDiEnumDeviceInfo(self.0, index, &raw mut device) }) {
            Ok(()) => Ok(Some(device)),
            Err(error) if error.raw_os_error() == Some(ERROR_NO_MORE_ITEMS.cast_signed()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The service of a device; empty if it has none.
    fn service(&self, device: &SP_DEVINFO_DATA) -> String {
        let mut buffer = [0_u16; 256];
        // SAFETY: the set is open and the device of it; the buffer's length in bytes goes with it.
        let done = unsafe {
            SetupDiGetDeviceRegistryPropertyW(
                self.0,
                device,
                SPDRP_SERVICE,
                std::ptr::null_mut(),
                buffer.as_mut_ptr().cast(),
                size_of_val(&buffer) as u32,
                std::ptr::null_mut(),
            )
        };
        let length = buffer.iter().position(|unit| *unit == 0).unwrap_or(buffer.len());
        if done == 0 { String::new() } else { String::from_utf16_lossy(&buffer[..length]) }
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        if self.0 != NO_SET {
            // SAFETY: the set is open and freed once.
            unsafe { SetupDiDestroyDeviceInfoList(self.0) };
        }
    }
}

pub fn remove_devices(enumerator: &str, service: &str) -> io::Result<bool> {
    let devices = Devices::of(enumerator)?;
    if devices.0 == NO_SET {
        return Ok(false);
    }
    let (mut index, mut restart) = (0, false);
    while let Some(device) = devices.at(index)? {
        index += 1;
        if devices.service(&device).eq_ignore_ascii_case(service) {
            let mut needed = 0;
            // SAFETY: the set is open and the device of it; the result goes to a local.
            check(unsafe {
                DiUninstallDevice(std::ptr::null_mut(), devices.0, &raw const device, 0, &raw mut needed)
            })?;
            restart |= needed != 0;
        }
    }
    Ok(restart)
}
