//! The Windows that this runs on, as a [`Machine`].

mod certificates;
mod drivers;
mod facts;
mod files;
mod registry;
mod services;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::process::Command;

use bootcfg::{Programs, Tool};
use windows_sys::Win32::Foundation::{CloseHandle, ERROR_ALREADY_EXISTS, GetLastError, HANDLE};
use windows_sys::Win32::System::Threading::CreateMutexW;

pub use facts::facts;

use crate::machine::{CertificateStore, Machine, Output, StoredDriver, Value};

/// See the module.
pub struct Windows {
    programs: Programs,
    log: Option<RefCell<File>>,
}

impl Windows {
    /// With a file that every line is added to, if it can be opened.
    pub fn new(log: Option<File>) -> Self {
        Self { programs: Programs::of_windows(), log: log.map(RefCell::new) }
    }
}

/// Text as Windows takes it.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// The outcome of a function that returns 0 where it fails.
fn check(outcome: i32) -> io::Result<()> {
    if outcome == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A folder that Windows names in the environment.
fn folder(variable: &str, otherwise: &str) -> String {
    std::env::var(variable).ok().filter(|path| !path.is_empty()).unwrap_or_else(|| otherwise.into())
}

/// Where the suite is installed. Only administrators write there, and it is always the same place, so that a later run
/// finds what an earlier one recorded.
pub fn root() -> String {
    format!(r"{}\Xen PV", folder("ProgramFiles", r"C:\Program Files"))
}

/// That no other setup runs at the same time.
pub struct Alone(HANDLE);

impl Alone {
    /// `None`: another one runs.
    ///
    /// # Errors
    /// Windows refuses.
    pub fn new() -> io::Result<Option<Self>> {
        let name = wide(r"Global\Xen PV drivers setup");
        // SAFETY: the name ends with a NUL and outlives the call; no attributes are the default ones.
        let handle = unsafe { CreateMutexW(std::ptr::null(), 1, name.as_ptr()) };
        // SAFETY: it has no requirement.
        let error = unsafe { GetLastError() };
        if handle.is_null() {
            return Err(io::Error::from_raw_os_error(error.cast_signed()));
        }
        let alone = Self(handle);
        Ok((error != ERROR_ALREADY_EXISTS).then_some(alone))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once.
        unsafe { CloseHandle(self.0) };
    }
}

impl Machine for Windows {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        files::read(path)
    }

    fn write(&self, path: &str, content: &[u8]) -> io::Result<()> {
        files::write(path, content)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        files::rename(from, to)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        files::remove(path)
    }

    fn has_folder(&self, path: &str) -> bool {
        std::path::Path::new(path).is_dir()
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        files::make_folder(path)
    }

    fn remove_folder(&self, path: &str) -> io::Result<()> {
        files::remove_folder(path)
    }

    fn has_key(&self, key: &str) -> bool {
        registry::has_key(key)
    }

    fn make_key(&self, key: &str) -> io::Result<()> {
        registry::make_key(key)
    }

    fn remove_key(&self, key: &str) -> io::Result<()> {
        registry::remove_key(key)
    }

    fn remove_tree(&self, key: &str) -> io::Result<()> {
        registry::remove_tree(key)
    }

    fn value_names(&self, key: &str) -> io::Result<Vec<String>> {
        registry::value_names(key)
    }

    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        registry::value(key, name)
    }

    fn set_value(&self, key: &str, name: &str, value: &Value) -> io::Result<()> {
        registry::set_value(key, name, value)
    }

    fn remove_value(&self, key: &str, name: &str) -> io::Result<()> {
        registry::remove_value(key, name)
    }

    fn flush_registry(&self) -> io::Result<()> {
        registry::flush()
    }

    fn stored_drivers(&self) -> io::Result<Vec<StoredDriver>> {
        drivers::stored()
    }

    fn install_driver(&self, inf: &str) -> io::Result<bool> {
        drivers::install(inf)
    }

    fn remove_driver(&self, published: &str) -> io::Result<bool> {
        drivers::remove(published)
    }

    fn remove_devices(&self, enumerator: &str, service: &str) -> io::Result<bool> {
        drivers::remove_devices(enumerator, service)
    }

    fn stop_service(&self, name: &str) -> io::Result<()> {
        services::stop(name)
    }

    fn remove_service(&self, name: &str) -> io::Result<()> {
        services::remove(name)
    }

    fn has_certificate(&self, store: CertificateStore, sha256: &str) -> io::Result<bool> {
        certificates::has(store, sha256)
    }

    fn add_certificate(&self, store: CertificateStore, certificate: &[u8]) -> io::Result<()> {
        certificates::add(store, certificate)
    }

    fn remove_certificate(&self, store: CertificateStore, sha256: &str) -> io::Result<()> {
        certificates::remove(store, sha256)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> io::Result<Output> {
        let output = Command::new(program).args(arguments).output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Output { code: output.status.code().unwrap_or(-1), text })
    }

    fn system_drive(&self) -> String {
        folder("SystemDrive", "C:")
    }

    fn system_folder(&self) -> String {
        format!(r"{}\System32", folder("SystemRoot", r"C:\Windows"))
    }

    fn boot_tool(&self) -> &dyn Tool {
        &self.programs
    }

    fn note(&self, line: &str) {
        println!("{line}");
        if let Some(log) = &self.log {
            // A log that cannot be written to has nowhere to say so.
            let _ = writeln!(log.borrow_mut(), "{line}\r");
        }
    }
}
