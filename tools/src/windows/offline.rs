//! The hive of a Windows that does not run, loaded into the registry of the one that does: WinPE, the recovery environment.
//! Windows itself puts in what is newest from the hive's log.
//! <https://learn.microsoft.com/windows/win32/api/winreg/nf-winreg-regloadkeyw>

use std::io;
use std::os::windows::ffi::OsStrExt;
use std::path::Path;

use windows_sys::Win32::Foundation::{CloseHandle, ERROR_NOT_ALL_ASSIGNED, GetLastError, HANDLE, LUID};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED, TOKEN_ADJUST_PRIVILEGES,
    TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RegLoadKeyW, RegUnLoadKeyW};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::LocalMachine;

/// The name that the hive is loaded under.
const NAME: &str = "xentool-repair";

/// A loaded hive; unloaded, and so written out, by [`close`](Self::close), or when it is dropped.
pub struct LoadedHive(());

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

fn check(status: u32) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(status.cast_signed())) }
}

impl LoadedHive {
    /// Loads a hive file.
    ///
    /// # Errors
    /// Not an administrator; the hive is in use (the Windows that runs has it) or damaged.
    pub fn load(file: &Path) -> io::Result<Self> {
        enable("SeRestorePrivilege")?;
        enable("SeBackupPrivilege")?;
        let name = wide(NAME);
        let file: Vec<u16> = std::path::absolute(file)?.as_os_str().encode_wide().chain([0]).collect();
        // SAFETY: both strings end with a NUL and outlive the call.
        check(unsafe { RegLoadKeyW(HKEY_LOCAL_MACHINE, name.as_ptr(), file.as_ptr()) })?;
        Ok(Self(()))
    }

    /// What is in it.
    pub fn registry(&self) -> LocalMachine {
        LocalMachine::at(NAME)
    }

    /// Unloads it.
    ///
    /// # Errors
    /// It is in use.
    pub fn close(self) -> io::Result<()> {
        let outcome = unload();
        std::mem::forget(self);
        outcome
    }
}

fn unload() -> io::Result<()> {
    let name = wide(NAME);
    // SAFETY: the string ends with a NUL and outlives the call.
    check(unsafe { RegUnLoadKeyW(HKEY_LOCAL_MACHINE, name.as_ptr()) })
}

impl Drop for LoadedHive {
    fn drop(&mut self) {
        if let Err(error) = unload() {
            eprintln!("warning: the hive stays loaded as HKEY_LOCAL_MACHINE\\{NAME}: {error}");
        }
    }
}

struct Owned(HANDLE);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once.
        unsafe { CloseHandle(self.0) };
    }
}

/// Turns a privilege on that the account has.
fn enable(privilege: &str) -> io::Result<()> {
    let checked = |outcome: i32| if outcome == 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let mut token = std::ptr::null_mut();
    // SAFETY: the result goes to a local.
    checked(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY, &raw mut token) })?;
    let token = Owned(token);
    let mut luid = LUID { LowPart: 0, HighPart: 0 };
    let name = wide(privilege);
    // SAFETY: the name ends with a NUL and outlives the call; the result goes to a local.
    checked(unsafe { LookupPrivilegeValueW(std::ptr::null(), name.as_ptr(), &raw mut luid) })?;
    let privileges = TOKEN_PRIVILEGES {
        PrivilegeCount: 1,
        Privileges: [LUID_AND_ATTRIBUTES { Luid: luid, Attributes: SE_PRIVILEGE_ENABLED }],
    };
    // SAFETY: the structure outlives the call, which only reads it; no previous state is asked for.
    checked(unsafe {
        AdjustTokenPrivileges(token.0, 0, &raw const privileges, 0, std::ptr::null_mut(), std::ptr::null_mut())
    })?;
    // Success also says that the account lacks it.
    // SAFETY: it has no requirement.
    match unsafe { GetLastError() } {
        ERROR_NOT_ALL_ASSIGNED => Err(io::Error::other("this takes an administrator")),
        _ => Ok(()),
    }
}
