//! What there is to know of this machine.

use std::io;

use windows_sys::Win32::Security::{
    CheckTokenMembership, CreateWellKnownSid, SECURITY_MAX_SID_SIZE, WinBuiltinAdministratorsSid,
};
use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, IsWow64Process2};

use super::{drivers, folder, registry, wide};
use crate::check::{Device, Facts, Service};
use crate::foreign;
use crate::machine::Value;

const VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
/// <https://learn.microsoft.com/windows-hardware/manufacture/desktop/windows-secure-boot-key-creation-and-management-guidance>
const SECURE_BOOT: &str = r"SYSTEM\CurrentControlSet\Control\SecureBoot\State";
/// <https://learn.microsoft.com/windows/security/hardware-security/enable-virtualization-based-protection-of-code-integrity>
const MEMORY_INTEGRITY: &str =
    r"SYSTEM\CurrentControlSet\Control\DeviceGuard\Scenarios\HypervisorEnforcedCodeIntegrity";
const CONTROL: &str = r"SYSTEM\CurrentControlSet\Control";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";
const ENUM: &str = r"SYSTEM\CurrentControlSet\Enum";
/// Buses of Xen drivers of other suites.
const BUSES: [&str; 3] = ["XENBUS", "XENVIF", "XEN"];

fn is_set(key: &str, name: &str) -> bool {
    registry::value(key, name).is_ok_and(|value| value == Some(Value::Number(1)))
}

fn text(key: &str, name: &str) -> Option<String> {
    match registry::value(key, name) {
        Ok(Some(Value::Text(text))) => Some(text),
        _ => None,
    }
}

fn architecture() -> u16 {
    let (mut process, mut native) = (0, 0);
    // SAFETY: the handle is this process's own; the results go to locals.
    let done = unsafe { IsWow64Process2(GetCurrentProcess(), &raw mut process, &raw mut native) };
    if done == 0 { 0 } else { native }
}

/// Whether administrators are enabled in this thread's token: they are there to be denied alone where an administrator's
/// program was not elevated. <https://learn.microsoft.com/windows/win32/api/securitybaseapi/nf-securitybaseapi-checktokenmembership>
fn administrator() -> io::Result<bool> {
    // A SID is aligned to 4 bytes.
    let mut sid = [0_u32; SECURITY_MAX_SID_SIZE.div_ceil(4) as usize];
    let mut size = SECURITY_MAX_SID_SIZE;
    let mut member = 0;
    // SAFETY: the buffer has `size` bytes, and outlives the call; the kind needs no domain.
    let made = unsafe {
        CreateWellKnownSid(WinBuiltinAdministratorsSid, std::ptr::null_mut(), sid.as_mut_ptr().cast(), &raw mut size)
    };
    super::check(made)?;
    // SAFETY: the SID was just made; no token is that of this thread; the result goes to a local.
    super::check(unsafe { CheckTokenMembership(std::ptr::null_mut(), sid.as_mut_ptr().cast(), &raw mut member) })?;
    Ok(member != 0)
}

fn free(drive: &str) -> Option<u64> {
    let path = wide(&format!(r"{drive}\"));
    let mut free = 0;
    // SAFETY: the path ends with a NUL and outlives the call; the result goes to a local.
    let done = unsafe { GetDiskFreeSpaceExW(path.as_ptr(), &raw mut free, std::ptr::null_mut(), std::ptr::null_mut()) };
    (done != 0).then_some(free)
}

fn devices() -> io::Result<Vec<Device>> {
    let mut found = Vec::new();
    for bus in BUSES {
        for device in registry::key_names(&format!(r"{ENUM}\{bus}"))? {
            for instance in registry::key_names(&format!(r"{ENUM}\{bus}\{device}"))? {
                let id = format!(r"{bus}\{device}\{instance}");
                let service = text(&format!(r"{ENUM}\{id}"), "Service").unwrap_or_default();
                found.push(Device { id, service });
            }
        }
    }
    Ok(found)
}

/// Finds it out.
///
/// # Errors
/// The driver store or the registry cannot be read.
pub fn facts() -> io::Result<Facts> {
    let options = text(CONTROL, "SystemStartOptions").unwrap_or_default();
    let service = |name: &str| {
        let image = text(&format!(r"{SERVICES}\{name}"), "ImagePath")?;
        Some(Service { name: name.to_owned(), image })
    };
    Ok(Facts {
        architecture: architecture(),
        build: text(VERSION, "CurrentBuildNumber").and_then(|build| build.parse().ok()).unwrap_or(0),
        administrator: administrator()?,
        secure_boot: is_set(SECURE_BOOT, "UEFISecureBootEnabled"),
        memory_integrity: is_set(MEMORY_INTEGRITY, "Enabled"),
        test_mode: options.split_whitespace().any(|word| word.eq_ignore_ascii_case("TESTSIGNING")),
        free: free(&folder("SystemDrive", "C:")),
        services: foreign::services_to_look_at().filter_map(service).collect(),
        drivers: drivers::stored()?,
        devices: devices()?,
    })
}
