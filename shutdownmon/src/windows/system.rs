//! What the monitor asks of Windows.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bootcfg::process;
use shutdownmon_core::{Adapter, Facts, Level, Shutdown, System};
use windows_registry::LOCAL_MACHINE;
use windows_service::service::{ServiceAccess, ServiceState};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_NOT_ALL_ASSIGNED, ERROR_SERVICE_ALREADY_RUNNING, ERROR_SHUTDOWN_IS_SCHEDULED, GetLastError,
    HANDLE, LUID,
};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED, TOKEN_ADJUST_PRIVILEGES,
    TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows_sys::Win32::System::Shutdown::{
    AbortSystemShutdownW, InitiateSystemShutdownExW, SHTDN_REASON_FLAG_PLANNED, SHTDN_REASON_MAJOR_OTHER,
    SHTDN_REASON_MINOR_OTHER,
};
use windows_sys::Win32::System::SystemInformation::{
    COMPUTER_NAME_FORMAT, ComputerNameDnsDomain, ComputerNameDnsHostname, GetComputerNameExW, GlobalMemoryStatusEx,
    MEMORYSTATUSEX,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::event_log::EventLog;
use super::service::is;

/// Where Windows says which it is.
const VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
/// The first build that calls itself Windows 11; its registry still says 10.
const WINDOWS_11: u32 = 22_000;
/// What a user who is logged on reads.
const MESSAGE: &str = "The host has asked this computer to go down.";
/// How long he reads it, in seconds.
const NOTICE: u32 = 5;
/// The service that sets the clock. Windows itself runs it only now and then where the computer is in no domain.
const TIME_SERVICE: &str = "W32Time";
/// How long the time service may take to start, and to hear that the clock is to be set.
const CLOCK_LIMIT: Duration = Duration::from_secs(30);

/// The Windows that this runs on.
pub struct Windows {
    log: Option<EventLog>,
    /// Notes go to standard output.
    console: bool,
    /// What of Windows cannot change while it runs.
    release: Mutex<Option<(String, [u32; 3])>>,
}

impl Windows {
    /// As a service: notes go to the event log.
    pub fn service() -> Self {
        Self { log: EventLog::open().ok(), console: false, release: Mutex::new(None) }
    }

    /// In a console: notes go there.
    pub fn console() -> Self {
        Self { log: None, console: true, release: Mutex::new(None) }
    }
}

fn check(outcome: i32) -> io::Result<()> {
    if outcome == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// A handle that is closed when it is dropped.
struct Owned(HANDLE);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once.
        unsafe { CloseHandle(self.0) };
    }
}

/// Turns the privilege on that shutting down takes; a service's account has it.
fn allow_shutdown() -> io::Result<()> {
    let mut token = std::ptr::null_mut();
    // SAFETY: the result goes to a local.
    check(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY, &raw mut token) })?;
    let token = Owned(token);
    let mut luid = LUID { LowPart: 0, HighPart: 0 };
    let name = wide("SeShutdownPrivilege");
    // SAFETY: the name ends with a NUL and outlives the call; the result goes to a local.
    check(unsafe { LookupPrivilegeValueW(std::ptr::null(), name.as_ptr(), &raw mut luid) })?;
    let privileges = TOKEN_PRIVILEGES {
        PrivilegeCount: 1,
        Privileges: [LUID_AND_ATTRIBUTES { Luid: luid, Attributes: SE_PRIVILEGE_ENABLED }],
    };
    // SAFETY: the structure outlives the call, which only reads it; no previous state is asked for.
    check(unsafe {
        AdjustTokenPrivileges(token.0, 0, &raw const privileges, 0, std::ptr::null_mut(), std::ptr::null_mut())
    })?;
    // Success also says that the account lacks it.
    // SAFETY: it has no requirement.
    if unsafe { GetLastError() } == ERROR_NOT_ALL_ASSIGNED {
        return Err(io::Error::from_raw_os_error(ERROR_NOT_ALL_ASSIGNED.cast_signed()));
    }
    Ok(())
}

/// Has Windows go down in [`NOTICE`] seconds.
fn initiate(how: Shutdown) -> io::Result<()> {
    let message = wide(MESSAGE);
    let reason = SHTDN_REASON_MAJOR_OTHER | SHTDN_REASON_MINOR_OTHER | SHTDN_REASON_FLAG_PLANNED;
    let restart = i32::from(how == Shutdown::Reboot);
    // Programs with unsaved work are closed: the administrator of the host has decided.
    // SAFETY: the message ends with a NUL and outlives the call; a null name is this computer.
    check(unsafe { InitiateSystemShutdownExW(std::ptr::null(), message.as_ptr(), NOTICE, 1, restart, reason) })
}

/// Has the time service run: it alone sets the clock.
fn start_time_service() -> anyhow::Result<()> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)?;
    let access = ServiceAccess::START | ServiceAccess::QUERY_STATUS;
    let service = manager.open_service(TIME_SERVICE, access).context(TIME_SERVICE)?;
    let until = Instant::now() + CLOCK_LIMIT;
    let mut asked = false;
    loop {
        match service.query_status().context(TIME_SERVICE)?.current_state {
            ServiceState::Running => return Ok(()),
            ServiceState::Stopped if !asked => match service.start::<&str>(&[]) {
                Err(error) if !is(&error, ERROR_SERVICE_ALREADY_RUNNING) => return Err(error).context(TIME_SERVICE),
                _ => asked = true,
            },
            state if Instant::now() > until => bail!("{TIME_SERVICE} is still {state:?}"),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn computer_name(format: COMPUTER_NAME_FORMAT) -> String {
    let mut buffer = [0; 256];
    let mut length = buffer.len() as u32;
    // SAFETY: the buffer's length goes with it.
    let done = unsafe { GetComputerNameExW(format, buffer.as_mut_ptr(), &raw mut length) };
    String::from_utf16_lossy(buffer.get(..length as usize).filter(|_| done != 0).unwrap_or_default())
}

fn release() -> (String, [u32; 3]) {
    let Ok(key) = LOCAL_MACHINE.open(VERSION) else { return (String::new(), [0; 3]) };
    let build = key.get_string("CurrentBuildNumber").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let major = key.get_u32("CurrentMajorVersionNumber").unwrap_or(0);
    let minor = key.get_u32("CurrentMinorVersionNumber").unwrap_or(0);
    let mut name = key.get_string("ProductName").unwrap_or_default();
    if build >= WINDOWS_11 {
        name = name.replacen("Windows 10", "Windows 11", 1);
    }
    (name, [major, minor, build])
}

/// All and free memory in KiB.
fn memory() -> [u64; 2] {
    let mut status = MEMORYSTATUSEX { dwLength: size_of::<MEMORYSTATUSEX>() as u32, ..MEMORYSTATUSEX::default() };
    // SAFETY: the structure's size is filled in.
    if unsafe { GlobalMemoryStatusEx(&raw mut status) } == 0 {
        return [0; 2];
    }
    [status.ullTotalPhys / 1024, status.ullAvailPhys / 1024]
}

fn adapters() -> Vec<Adapter> {
    let found = ipconfig::get_adapters().unwrap_or_default();
    let adapter = |adapter: &ipconfig::Adapter| {
        let mac = adapter.physical_address()?.try_into().ok()?;
        let mut addresses = adapter.ip_addresses().to_vec();
        addresses.sort();
        Some(Adapter { mac, addresses })
    };
    found.iter().filter_map(adapter).collect()
}

impl System for Windows {
    fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        allow_shutdown()?;
        let scheduled = Some(ERROR_SHUTDOWN_IS_SCHEDULED.cast_signed());
        match initiate(how) {
            // Somebody ordered one for later, and Windows keeps one order. The host's counts.
            Err(error) if error.raw_os_error() == scheduled => {
                // SAFETY: a null name is this computer.
                check(unsafe { AbortSystemShutdownW(std::ptr::null()) })?;
                initiate(how)
            }
            outcome => outcome,
        }
    }

    fn facts(&self) -> Facts {
        let (name, version) =
            self.release.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert_with(release).clone();
        Facts {
            name,
            version,
            host: computer_name(ComputerNameDnsHostname),
            domain: computer_name(ComputerNameDnsDomain),
            memory: memory(),
            adapters: adapters(),
        }
    }

    fn set_clock(&self) -> io::Result<()> {
        start_time_service().map_err(|error| io::Error::other(format!("{error:#}")))?;
        let root = std::env::var_os("SystemRoot").ok_or_else(|| io::Error::other("SystemRoot is not set"))?;
        let program = PathBuf::from(root).join(r"System32\w32tm.exe");
        let output = process::output(Command::new(program).args(["/resync", "/nowait"]), CLOCK_LIMIT)?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("w32tm: {}", String::from_utf8_lossy(&output.stdout).trim())))
    }

    fn note(&self, level: Level, text: &str) {
        if self.console {
            let word = match level {
                Level::Error => "error: ",
                Level::Warning => "warning: ",
                Level::Information => "",
            };
            println!("{word}{text}");
        }
        if let Some(log) = &self.log {
            log.report(level, text);
        }
    }
}
