//! The event log: one source, one message per level whose only part is the text itself.

use std::io;

use shutdownmon_core::Level;
use windows_registry::LOCAL_MACHINE;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE, RegisterEventSourceW,
    ReportEventW,
};

use super::service::NAME;
use crate::event_text::event_text;

/// Below it every source of the application log has a key.
const SOURCES: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application";
/// A message file of Windows whose messages 0 to 65535 are nothing but `%1`.
const MESSAGES: &str = r"%SystemRoot%\Microsoft.NET\Framework64\v4.0.30319\EventLogMessages.dll";

/// An open source.
pub struct EventLog(HANDLE);

// SAFETY: the handle may be used by any thread.
unsafe impl Send for EventLog {}
// SAFETY: see above.
unsafe impl Sync for EventLog {}

impl EventLog {
    /// Opens it.
    ///
    /// # Errors
    /// Windows refuses.
    pub fn open() -> io::Result<Self> {
        let name: Vec<u16> = NAME.encode_utf16().chain([0]).collect();
        // SAFETY: the name ends with a NUL and outlives the call; a null computer is this one.
        let handle = unsafe { RegisterEventSourceW(std::ptr::null(), name.as_ptr()) };
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }

    /// Writes one event.
    pub fn report(&self, level: Level, text: &str) {
        let (kind, id) = match level {
            Level::Error => (EVENTLOG_ERROR_TYPE, 3),
            Level::Warning => (EVENTLOG_WARNING_TYPE, 2),
            Level::Information => (EVENTLOG_INFORMATION_TYPE, 1),
        };
        let text = event_text(text);
        let parts = [text.as_ptr()];
        // SAFETY: the handle is open; the one string ends with a NUL and outlives the call. An event that cannot be
        // written has nowhere to be told.
        unsafe {
            ReportEventW(self.0, kind, 0, id, std::ptr::null_mut(), 1, 0, parts.as_ptr(), std::ptr::null());
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once.
        unsafe { DeregisterEventSource(self.0) };
    }
}

/// Makes the source known.
///
/// # Errors
/// The registry refuses.
pub fn register() -> io::Result<()> {
    let key = LOCAL_MACHINE.create(format!(r"{SOURCES}\{NAME}"))?;
    key.set_expand_string("EventMessageFile", MESSAGES)?;
    key.set_u32("TypesSupported", 7)?;
    Ok(())
}

/// Forgets it.
///
/// # Errors
/// The registry refuses.
pub fn unregister() -> io::Result<()> {
    Ok(LOCAL_MACHINE.open(SOURCES)?.remove_tree(NAME)?)
}
