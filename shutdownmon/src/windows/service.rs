//! The service: its entry in the service manager, and its life.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use shutdownmon_core::{Level, Monitor, Stopper, System};
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept,
    ServiceErrorControl, ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo,
    ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};
use windows_sys::Win32::Foundation::{
    ERROR_FAILED_SERVICE_CONTROLLER_CONNECT, ERROR_SERVICE_ALREADY_RUNNING, ERROR_SERVICE_CANNOT_ACCEPT_CTRL,
    ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_NOT_ACTIVE,
};
use xenstore_client::{Client, Store};

use super::{Windows, arming, event_log};
use crate::arming::End;

/// The service's name.
pub const NAME: &str = "shutdownmon";
const DISPLAY_NAME: &str = "Xen shutdown monitor";
const DESCRIPTION: &str =
    "Shuts down and restarts Windows when the Xen toolstack wants it, and tells the toolstack what runs in the domain.";
/// How long a stop may take: PowerShell is asked about the network, and bcdedit told of the next boot.
const STOP_TIME: Duration = Duration::from_mins(2);
/// After a crash the service is started again: at once, after 10 seconds, and then after a minute each.
const RESTARTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_mins(1)];

define_windows_service!(entry, entered);

/// Whether Windows answered with that error.
pub(super) fn is(error: &windows_service::Error, code: u32) -> bool {
    let windows_service::Error::Winapi(error) = error else { return false };
    error.raw_os_error() == Some(code.cast_signed())
}

/// Installs the service, or brings one that is there up to date, and starts it.
///
/// # Errors
/// Not an administrator; the service manager refuses.
pub fn install() -> anyhow::Result<ExitCode> {
    let manager = manager(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START | ServiceAccess::QUERY_STATUS;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: DISPLAY_NAME.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: std::env::current_exe().context("the path of this program")?,
        launch_arguments: vec!["service".into()],
        dependencies: vec![],
        account_name: None,
        account_password: None,
    };
    let service = match manager.open_service(NAME, access) {
        Ok(service) => {
            service.change_config(&info).context("changing the service")?;
            service
        }
        Err(error) if is(&error, ERROR_SERVICE_DOES_NOT_EXIST) => {
            manager.create_service(&info, access).context("making the service")?
        }
        Err(error) => return Err(error).context("opening the service"),
    };
    service.set_description(DESCRIPTION).context("the service's description")?;
    // Windows 10 waits 10 seconds where nothing is said.
    service.set_preshutdown_timeout(STOP_TIME).context("the time for a shutdown")?;
    let actions = RESTARTS.map(|delay| ServiceAction { action_type: ServiceActionType::Restart, delay });
    let failure = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_hours(24)),
        reboot_msg: None,
        command: None,
        actions: Some(actions.to_vec()),
    };
    service.update_failure_actions(failure).context("what follows a crash of the service")?;
    // Without it only a crash is followed by a restart.
    if let Err(error) = service.set_failure_actions_on_non_crash_failures(true) {
        eprintln!("warning: what follows a failure of the service cannot be set: {error}");
    }
    event_log::register().context("the source in the event log")?;
    // One that is just stopping cannot be started yet.
    if until(&service, |state| state != ServiceState::StopPending)? == ServiceState::Stopped {
        match service.start::<OsString>(&[]) {
            Err(error) if !is(&error, ERROR_SERVICE_ALREADY_RUNNING) => {
                return Err(error).context("starting the service");
            }
            _ => {}
        }
    }
    println!("{NAME} is installed and started");
    Ok(ExitCode::SUCCESS)
}

fn state(service: &Service) -> anyhow::Result<ServiceState> {
    Ok(service.query_status().context("the service's state")?.current_state)
}

/// Waits until the service is in a state that is `good`: that state.
fn until(service: &Service, good: impl Fn(ServiceState) -> bool) -> anyhow::Result<ServiceState> {
    let end = Instant::now() + STOP_TIME;
    loop {
        let now = state(service)?;
        if good(now) {
            return Ok(now);
        }
        if Instant::now() > end {
            bail!("the service is still {now:?} after {} s", STOP_TIME.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Stops the service. One that is starting takes no order yet, and one that runs may end by itself.
fn stop(service: &Service) -> anyhow::Result<()> {
    let settled = |state| ![ServiceState::StartPending, ServiceState::StopPending].contains(&state);
    if until(service, settled)? != ServiceState::Stopped {
        match service.stop() {
            Err(error) if !is(&error, ERROR_SERVICE_NOT_ACTIVE) && !is(&error, ERROR_SERVICE_CANNOT_ACCEPT_CTRL) => {
                return Err(error).context("stopping the service");
            }
            _ => {}
        }
    }
    until(service, |state| state == ServiceState::Stopped).map(drop)
}

/// Stops the service and removes it. One that is not there is removed already.
///
/// # Errors
/// Not an administrator; the service manager refuses; the service does not stop.
pub fn uninstall() -> anyhow::Result<ExitCode> {
    let manager = manager(ServiceManagerAccess::CONNECT)?;
    let access = ServiceAccess::STOP | ServiceAccess::QUERY_STATUS | ServiceAccess::DELETE;
    let service = match manager.open_service(NAME, access) {
        Ok(service) => service,
        Err(error) if is(&error, ERROR_SERVICE_DOES_NOT_EXIST) => {
            println!("{NAME} is not installed");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error).context("opening the service"),
    };
    stop(&service)?;
    if let Err(error) = arming::take_back() {
        eprintln!("warning: what was armed cannot be taken back: {error:#}");
    }
    service.delete().context("removing the service")?;
    if let Err(error) = event_log::unregister() {
        eprintln!("warning: the source in the event log cannot be removed: {error}");
    }
    println!("{NAME} is removed");
    Ok(ExitCode::SUCCESS)
}

/// Says how the service and its connection are. Exit code 3: the service does not run; 4: xenstore cannot be reached.
///
/// # Errors
/// The service manager refuses.
pub fn status() -> anyhow::Result<ExitCode> {
    let manager = manager(ServiceManagerAccess::CONNECT)?;
    let running = match manager.open_service(NAME, ServiceAccess::QUERY_STATUS) {
        Ok(service) => {
            let state = state(&service)?;
            println!("service: {state:?}");
            state == ServiceState::Running
        }
        Err(error) if is(&error, ERROR_SERVICE_DOES_NOT_EXIST) => {
            println!("service: not installed");
            false
        }
        Err(error) => return Err(error).context("opening the service"),
    };
    let name = Client::open().and_then(|client| client.read_string("name"));
    match &name {
        Ok(name) => println!("xenstore: connected; the domain is {name}"),
        Err(error) => println!("xenstore: {error}"),
    }
    if let Err(error) = arming::print_status() {
        println!("next boot: not known: {error:#}");
    }
    Ok(match (running, name) {
        (true, Ok(_)) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(3),
        (true, Err(_)) => ExitCode::from(4),
    })
}

fn manager(access: ServiceManagerAccess) -> anyhow::Result<ServiceManager> {
    ServiceManager::local_computer(None::<&str>, access).context("the service manager (is this an administrator?)")
}

/// Started by the service manager.
///
/// # Errors
/// It was started by somebody else.
pub fn serve() -> anyhow::Result<ExitCode> {
    match service_dispatcher::start(NAME, entry) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if is(&error, ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) => {
            bail!("only the service manager starts this; see `install` and `console`")
        }
        Err(error) => Err(error).context("the service manager"),
    }
}

/// The service's own thread.
fn entered(_arguments: Vec<OsString>) {
    let system = Windows::service();
    if let Err(error) = live(&system) {
        system.note(Level::Error, &format!("the service ends: {error:#}"));
        // Not told that it has stopped, the service manager takes this for a crash, and starts it again.
        std::process::exit(1);
    }
}

fn live(system: &Windows) -> anyhow::Result<()> {
    let handle = arming::beside(system, |end| watch(system, end))?;
    let stopped = told(ServiceState::Stopped, ServiceControlAccept::empty(), Duration::ZERO);
    handle.set_service_status(stopped).context("telling that the service has stopped")
}

/// Until the service is to end; what is left then is arming's.
fn watch(system: &Windows, end: Sender<End>) -> anyhow::Result<ServiceStatusHandle> {
    let monitor = Monitor::new(system);
    let ends: Mutex<(Stopper, Sender<End>)> = Mutex::new((monitor.stopper(), end));
    let handle = service_control_handler::register(NAME, move |control| {
        let why = match control {
            ServiceControl::Stop => End::Stop,
            ServiceControl::Preshutdown => End::Shutdown,
            ServiceControl::Interrogate => return ServiceControlHandlerResult::NoError,
            _ => return ServiceControlHandlerResult::NotImplemented,
        };
        let (stopper, end) = &*ends.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever does not listen any more has ended.
        let _ = end.send(why);
        stopper.stop();
        ServiceControlHandlerResult::NoError
    })
    .context("the control handler")?;
    // Before Windows goes down, not while: then programs still start (bcdedit, PowerShell).
    let accepted = ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN;
    let running = told(ServiceState::Running, accepted, Duration::ZERO);
    handle.set_service_status(running).context("telling that the service runs")?;
    monitor.run(Client::open);
    let stopping = told(ServiceState::StopPending, ServiceControlAccept::empty(), STOP_TIME);
    handle.set_service_status(stopping).context("telling that the service stops")?;
    Ok(handle)
}

fn told(state: ServiceState, accepted: ServiceControlAccept, wait_hint: Duration) -> ServiceStatus {
    ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: accepted,
        exit_code: ServiceExitCode::Win32(0),
        checkpoint: 0,
        wait_hint,
        process_id: None,
    }
}
