//! The service manager, as far as drivers are in it.

use std::io;

use windows_service::service::ServiceAccess;
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_MARKED_FOR_DELETE};

fn plain(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        other => io::Error::other(other),
    }
}

/// Removes one. A driver that is loaded stays until Windows ends, and its entry with it.
pub fn remove(name: &str) -> io::Result<()> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).map_err(plain)?;
    let done = |error: &io::Error| {
        let code = error.raw_os_error().map(i32::cast_unsigned);
        [ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_MARKED_FOR_DELETE].iter().any(|is| code == Some(*is))
    };
    let outcome = manager.open_service(name, ServiceAccess::DELETE).and_then(|service| service.delete());
    match outcome.map_err(plain) {
        Err(error) if done(&error) => Ok(()),
        outcome => outcome,
    }
}
