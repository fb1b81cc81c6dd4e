//! The service manager.

use std::io;
use std::time::{Duration, Instant};

use windows_service::service::{Service, ServiceAccess, ServiceState};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{
    ERROR_SERVICE_CANNOT_ACCEPT_CTRL, ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_MARKED_FOR_DELETE,
    ERROR_SERVICE_NOT_ACTIVE,
};

/// How long a service may take to stop, and how often is looked whether it has.
const STOP_TIME: Duration = Duration::from_mins(3);
const PAUSE: Duration = Duration::from_millis(100);

fn plain(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        other => io::Error::other(other),
    }
}

fn open(name: &str, access: ServiceAccess) -> io::Result<Service> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).map_err(plain)?;
    manager.open_service(name, access).map_err(plain)
}

/// Takes an error for success if it is one of those.
fn unless(outcome: io::Result<()>, harmless: &[u32]) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error().is_some_and(|code| harmless.contains(&code.cast_unsigned())) => Ok(()),
        outcome => outcome,
    }
}

/// Stops one. It may be starting, or stopping already: neither takes an order, so it is told again.
pub fn stop(name: &str) -> io::Result<()> {
    let service = match open(name, ServiceAccess::STOP | ServiceAccess::QUERY_STATUS) {
        Err(error) => return unless(Err(error), &[ERROR_SERVICE_DOES_NOT_EXIST]),
        Ok(service) => service,
    };
    let until = Instant::now() + STOP_TIME;
    loop {
        match service.query_status().map_err(plain)?.current_state {
            ServiceState::Stopped => return Ok(()),
            ServiceState::StopPending => {}
            _ => {
                let told = service.stop().map(drop).map_err(plain);
                unless(told, &[ERROR_SERVICE_NOT_ACTIVE, ERROR_SERVICE_CANNOT_ACCEPT_CTRL])?;
            }
        }
        if Instant::now() > until {
            return Err(io::Error::other(format!("the service {name} does not stop within {} s", STOP_TIME.as_secs())));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Removes one. A driver that is loaded stays until Windows ends, and its entry with it.
pub fn remove(name: &str) -> io::Result<()> {
    let outcome = open(name, ServiceAccess::DELETE).and_then(|service| service.delete().map_err(plain));
    unless(outcome, &[ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_MARKED_FOR_DELETE])
}
