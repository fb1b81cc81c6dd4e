//! A safe client of the bus's table, and the trait that fronts are written against so that tests can fake the bus.
//!
//! All `unsafe` of this crate is here: calling the table's functions, and the thunks by which the bus calls back.

use core::{ffi::c_void, fmt, mem::offset_of, ptr::NonNull};

use xen_abi::unplug::Unplug;

use crate::interface::{
    self, DeviceInfo, EventHandle, EventOutcome, LogLevel, Status, SuspendCallbacks, VERSION, WatchHandle,
    XenbusInterface,
};

/// Why the bus did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The store has no such node.
    NotFound,
    /// The store forbids it.
    Denied,
    /// The transaction must be run again.
    Retry,
    /// The value is longer than the room given for it.
    TooSmall,
    /// No answer within the bus's bound.
    Timeout,
    /// No grant reference, event channel or memory is left.
    NoResources,
    /// The peer still uses the page; nothing was changed.
    InUse,
    /// The store's answer makes no sense.
    Protocol,
    /// Anything else: the NTSTATUS.
    Other(Status),
}

impl Error {
    #[cold]
    const fn from_status(status: Status) -> Self {
        match status {
            interface::STATUS_OBJECT_NAME_NOT_FOUND => Self::NotFound,
            interface::STATUS_ACCESS_DENIED => Self::Denied,
            interface::STATUS_RETRY => Self::Retry,
            interface::STATUS_BUFFER_TOO_SMALL => Self::TooSmall,
            interface::STATUS_IO_TIMEOUT => Self::Timeout,
            interface::STATUS_INSUFFICIENT_RESOURCES => Self::NoResources,
            interface::STATUS_DEVICE_BUSY => Self::InUse,
            interface::STATUS_DEVICE_PROTOCOL_ERROR => Self::Protocol,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such node"),
            Self::Denied => f.write_str("access denied"),
            Self::Retry => f.write_str("transaction conflict"),
            Self::TooSmall => f.write_str("value too long"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::NoResources => f.write_str("out of resources"),
            Self::InUse => f.write_str("still in use by the peer"),
            Self::Protocol => f.write_str("protocol error"),
            Self::Other(status) => write!(f, "status {status:#010x}"),
        }
    }
}

/// What every call of the bus returns.
pub type Result<T = ()> = core::result::Result<T, Error>;

#[inline]
const fn check(status: Status) -> Result {
    // Warnings are failures here: STATUS_DEVICE_BUSY is one, and it means that nothing was done.
    if status == interface::STATUS_SUCCESS { Ok(()) } else { Err(Error::from_status(status)) }
}

/// A store transaction; [`Transaction::NONE`] where an operation stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction(pub u32);

impl Transaction {
    /// Not part of a transaction.
    pub const NONE: Self = Self(0);
}

/// What a frontend asks of the bus, without any Windows in it.
pub trait Bus {
    /// Writes a log line. Any IRQL.
    fn log(&self, level: LogLevel, text: fmt::Arguments<'_>);

    /// Reads a node into `buf`; how many bytes the value has. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// [`Error::TooSmall`] if it does not fit, and the store's own.
    fn read(&self, transaction: Transaction, path: &[u8], buf: &mut [u8]) -> Result<usize>;
    /// Writes a node. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The store's.
    fn write(&self, transaction: Transaction, path: &[u8], value: &[u8]) -> Result;
    /// Removes a node. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The store's.
    fn remove(&self, transaction: Transaction, path: &[u8]) -> Result;
    /// Starts a transaction. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The store's.
    fn transaction_start(&self) -> Result<Transaction>;
    /// Ends a transaction. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// [`Error::Retry`]: everything in it has to be done again.
    fn transaction_end(&self, transaction: Transaction, commit: bool) -> Result;

    /// Takes references out of the bus's pool, all or none. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Error::NoResources`].
    fn grant_alloc(&self, references: &mut [u32]) -> Result;
    /// Gives references back; their access must have been ended. IRQL <= DISPATCH_LEVEL.
    fn grant_free(&self, references: &[u32]);
    /// Lets the backend use a page. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Error::Other`] for a reference that is not the caller's.
    fn grant_access(&self, reference: u32, gfn: u64, read_only: bool) -> Result;
    /// Ends that. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Error::InUse`]: nothing was changed, the page must be kept.
    fn grant_end(&self, reference: u32) -> Result;
}

/// How often a transaction that met a conflict is run again.
pub const TRANSACTION_ATTEMPTS: u32 = 64;

/// Runs `body` in a transaction, again while the store says that there was a conflict. PASSIVE_LEVEL.
///
/// # Errors
/// The first error of `body` or of the store; [`Error::Retry`] after [`TRANSACTION_ATTEMPTS`] conflicts.
pub fn transaction<B: Bus + ?Sized, T>(bus: &B, mut body: impl FnMut(Transaction) -> Result<T>) -> Result<T> {
    for _ in 0..TRANSACTION_ATTEMPTS {
        let open = bus.transaction_start()?;
        let value = match body(open) {
            Ok(value) => value,
            Err(error) => {
                // The transaction is dropped; the error of the body is what the caller has to know.
                let _ = bus.transaction_end(open, false);
                return Err(error);
            }
        };
        match bus.transaction_end(open, true) {
            Ok(()) => return Ok(value),
            Err(Error::Retry) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Retry)
}

/// What the bus calls back.
pub trait Device: Sync {
    /// A watch fired. PASSIVE_LEVEL, on the device's own thread.
    fn store_changed(&self, path: &[u8]);
    /// See [`SuspendCallbacks::freeze`].
    fn freeze(&self);
    /// See [`SuspendCallbacks::resume`].
    fn resume(&self, cancelled: bool);
}

/// What an event channel calls back: the device itself, or one of its queues.
pub trait EventHandler: Sync {
    /// An event came. IRQL = DISPATCH_LEVEL, never twice at once for one channel.
    fn event(&self) -> EventOutcome;
}

/// A watch that is set.
#[derive(Debug)]
#[must_use]
pub struct Watch(WatchHandle);

// SAFETY: the handle is only a name to give back to the bus, on whatever processor.
unsafe impl Send for Watch {}

/// An open event channel. May be sent from any processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(EventHandle);

// SAFETY: the handle is only a name to give back to the bus, on whatever processor.
unsafe impl Send for Event {}
// SAFETY: see above.
unsafe impl Sync for Event {}

/// The bus's table, held with a reference.
pub struct Client {
    table: XenbusInterface,
}

// SAFETY: every function of the table may be called on any processor at the IRQL that it names.
unsafe impl Send for Client {}
// SAFETY: see above.
unsafe impl Sync for Client {}

impl Client {
    /// What a child puts into `IRP_MN_QUERY_INTERFACE`: an empty table of the size and version it was built with.
    pub const SIZE: u16 = size_of::<XenbusInterface>() as u16;

    /// Takes over a table that the bus filled in, with the reference that came with it. None: it is not one that this
    /// child can use (the reference stays with the caller).
    ///
    /// # Safety
    /// The table was filled in by the bus, in answer to a query for [`interface::INTERFACE_GUID`].
    pub unsafe fn from_table(table: XenbusInterface) -> Option<Self> {
        // Everything up to and including the last function of version 1.
        let complete = table.version == VERSION && table.offers(offset_of!(XenbusInterface, report_missing));
        if complete { Some(Self { table }) } else { None }
    }

    /// What the bus knows of the device. IRQL <= DISPATCH_LEVEL.
    pub fn info(&self) -> DeviceInfo {
        let mut info = DeviceInfo { backend_domid: 0, cpus: 0, grants_available: 0, path_len: 0, path: [0; 64] };
        // SAFETY: the table is the bus's; it fills a local in.
        unsafe { (self.table.device_info)(self.table.context, &raw mut info) };
        info.path_len = info.path_len.min(info.path.len() as u32);
        info
    }

    /// Watches a path: `device.store_changed` is called, once at once and then whenever it changes. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Safety
    /// `device` lives until [`Client::unwatch`] returned.
    pub unsafe fn watch<D: Device>(&self, path: &[u8], device: NonNull<D>) -> Result<Watch> {
        let mut handle = core::ptr::null_mut();
        // SAFETY: the path is a live slice; the thunk gets the pointer that it expects.
        check(unsafe {
            (self.table.store_watch)(
                self.table.context,
                path.as_ptr(),
                path.len() as u32,
                watch_thunk::<D>,
                device.as_ptr().cast(),
                &raw mut handle,
            )
        })?;
        Ok(Watch(handle))
    }

    /// Ends a watch; none of its callbacks runs after that (but for the one that calls this). PASSIVE_LEVEL.
    #[expect(clippy::needless_pass_by_value, reason = "the watch is used up")]
    pub fn unwatch(&self, watch: Watch) {
        // SAFETY: the handle came from the bus and is given up here.
        unsafe { (self.table.store_unwatch)(self.table.context, watch.0) };
    }

    /// Opens an event channel to the backend: the channel and the port to write into the store. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// [`Error::NoResources`] and the hypervisor's.
    ///
    /// # Safety
    /// `handler` lives until [`Client::close_event`] returned.
    pub unsafe fn open_event<H: EventHandler>(&self, handler: NonNull<H>) -> Result<(Event, u32)> {
        let mut handle = core::ptr::null_mut();
        let mut port = 0;
        // SAFETY: the thunk gets the pointer that it expects; results are locals.
        check(unsafe {
            (self.table.event_open)(
                self.table.context,
                event_thunk::<H>,
                handler.as_ptr().cast(),
                &raw mut handle,
                &raw mut port,
            )
        })?;
        Ok((Event(handle), port))
    }

    /// Moves its callback to the processor with that index. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The bus's; the callback stays where it was.
    pub fn bind_event(&self, event: Event, cpu: u32) -> Result {
        // SAFETY: the handle came from the bus.
        check(unsafe { (self.table.event_bind_cpu)(self.table.context, event.0, cpu) })
    }

    /// Closes it; no callback runs after that. PASSIVE_LEVEL. The event must not be used again.
    pub fn close_event(&self, event: Event) {
        // SAFETY: the handle came from the bus.
        unsafe { (self.table.event_close)(self.table.context, event.0) };
    }

    /// Tells the backend. Any IRQL. One hypercall.
    pub fn send(&self, event: Event) {
        // SAFETY: the handle came from the bus.
        unsafe { (self.table.event_send)(self.table.context, event.0) };
    }

    /// Has the event's callback run as if the backend had sent one. IRQL <= DISPATCH_LEVEL.
    pub fn trigger(&self, event: Event) {
        // SAFETY: the handle came from the bus.
        unsafe { (self.table.event_trigger)(self.table.context, event.0) };
    }

    /// Registers [`Device::freeze`] and [`Device::resume`]. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The bus's.
    ///
    /// # Safety
    /// `device` lives until [`Client::suspend_unregister`] returned.
    pub unsafe fn suspend_register<D: Device>(&self, device: NonNull<D>) -> Result {
        let callbacks =
            SuspendCallbacks { arg: device.as_ptr().cast(), freeze: freeze_thunk::<D>, resume: resume_thunk::<D> };
        // SAFETY: the thunks get the pointer that they expect; the bus copies the structure.
        check(unsafe { (self.table.suspend_register)(self.table.context, &raw const callbacks) })
    }

    /// Takes that back; waits for a callback that runs. PASSIVE_LEVEL.
    pub fn suspend_unregister(&self) {
        // SAFETY: it has no requirement.
        unsafe { (self.table.suspend_unregister)(self.table.context) };
    }

    /// Asks Windows to eject the device. IRQL <= DISPATCH_LEVEL.
    pub fn request_eject(&self) {
        // SAFETY: it has no requirement.
        unsafe { (self.table.request_eject)(self.table.context) };
    }

    /// What was unplugged of the emulated devices in this boot; nothing, where the bus cannot tell. Any IRQL.
    pub fn unplugged(&self) -> Unplug {
        match self.table.unplugged {
            // SAFETY: it has no requirement.
            Some(unplugged) => Unplug::from_bits_truncate(unsafe { unplugged(self.table.context) } as u16),
            None => Unplug::empty(),
        }
    }

    /// Says that the device was connected and answered. PASSIVE_LEVEL, not between freeze and resume.
    pub fn report_working(&self) {
        if let Some(report_working) = self.table.report_working {
            // SAFETY: it has no requirement.
            unsafe { report_working(self.table.context) };
        }
    }

    /// Says that the device is gone. IRQL <= DISPATCH_LEVEL.
    pub fn report_missing(&self) {
        // SAFETY: it has no requirement.
        unsafe { (self.table.report_missing)(self.table.context) };
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: the reference came with the table and is given back once.
        unsafe { (self.table.dereference)(self.table.context) };
    }
}

impl Bus for Client {
    fn log(&self, level: LogLevel, text: fmt::Arguments<'_>) {
        let mut line = Line { bytes: [0; LINE], len: 0 };
        // A line that is too long is cut, which is not an error.
        let _ = fmt::write(&mut line, text);
        // SAFETY: the text is a live local.
        unsafe { (self.table.log)(self.table.context, level, line.bytes.as_ptr(), line.len as u32) };
    }

    fn read(&self, transaction: Transaction, path: &[u8], buf: &mut [u8]) -> Result<usize> {
        let mut len = buf.len() as u32;
        // SAFETY: path and buffer are live slices, their lengths are given.
        check(unsafe {
            (self.table.store_read)(
                self.table.context,
                transaction.0,
                path.as_ptr(),
                path.len() as u32,
                buf.as_mut_ptr(),
                &raw mut len,
            )
        })?;
        Ok((len as usize).min(buf.len()))
    }

    fn write(&self, transaction: Transaction, path: &[u8], value: &[u8]) -> Result {
        // SAFETY: path and value are live slices, their lengths are given.
        check(unsafe {
            (self.table.store_write)(
                self.table.context,
                transaction.0,
                path.as_ptr(),
                path.len() as u32,
                value.as_ptr(),
                value.len() as u32,
            )
        })
    }

    fn remove(&self, transaction: Transaction, path: &[u8]) -> Result {
        // SAFETY: the path is a live slice.
        check(unsafe { (self.table.store_remove)(self.table.context, transaction.0, path.as_ptr(), path.len() as u32) })
    }

    fn transaction_start(&self) -> Result<Transaction> {
        let mut id = 0;
        // SAFETY: the result is a local.
        check(unsafe { (self.table.store_transaction_start)(self.table.context, &raw mut id) })?;
        Ok(Transaction(id))
    }

    fn transaction_end(&self, transaction: Transaction, commit: bool) -> Result {
        // SAFETY: it has no requirement.
        check(unsafe { (self.table.store_transaction_end)(self.table.context, transaction.0, u8::from(commit)) })
    }

    fn grant_alloc(&self, references: &mut [u32]) -> Result {
        // SAFETY: the slice has room for the count.
        check(unsafe { (self.table.grant_alloc)(self.table.context, references.as_mut_ptr(), references.len() as u32) })
    }

    fn grant_free(&self, references: &[u32]) {
        // SAFETY: the slice has that many references.
        unsafe { (self.table.grant_free)(self.table.context, references.as_ptr(), references.len() as u32) };
    }

    #[inline]
    fn grant_access(&self, reference: u32, gfn: u64, read_only: bool) -> Result {
        // SAFETY: it has no requirement.
        check(unsafe { (self.table.grant_access)(self.table.context, reference, gfn, u8::from(read_only)) })
    }

    #[inline]
    fn grant_end(&self, reference: u32) -> Result {
        // SAFETY: it has no requirement.
        check(unsafe { (self.table.grant_end)(self.table.context, reference) })
    }
}

/// As long as a line of the bus may be, less room for the device's path that it puts before.
const LINE: usize = 384;

struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or(&mut []);
        let len = room.len().min(text.len());
        if let (Some(to), Some(from)) = (room.get_mut(..len), text.as_bytes().get(..len)) {
            to.copy_from_slice(from);
        }
        self.len += len;
        Ok(())
    }
}

unsafe extern "C" fn watch_thunk<D: Device>(arg: *mut c_void, path: *const u8, path_len: u32) {
    // SAFETY: `arg` is the device given to `watch`, which lives until the watch is ended.
    let device = unsafe { &*arg.cast::<D>() };
    // SAFETY: the bus gives a live path and its length.
    let path = unsafe { core::slice::from_raw_parts(path, path_len as usize) };
    device.store_changed(path);
}

unsafe extern "C" fn event_thunk<H: EventHandler>(arg: *mut c_void) -> EventOutcome {
    // SAFETY: `arg` is the handler given to `open_event`, which lives until the event is closed.
    unsafe { &*arg.cast::<H>() }.event()
}

unsafe extern "C" fn freeze_thunk<D: Device>(arg: *mut c_void) {
    // SAFETY: `arg` is the device given to `suspend_register`, which lives until that is taken back.
    unsafe { &*arg.cast::<D>() }.freeze();
}

unsafe extern "C" fn resume_thunk<D: Device>(arg: *mut c_void, cancelled: u8) {
    // SAFETY: as in `freeze_thunk`.
    unsafe { &*arg.cast::<D>() }.resume(cancelled != 0);
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::string::String;

    use super::*;

    struct Conflicts {
        left: Cell<u32>,
        ended: Cell<u32>,
    }

    impl Bus for Conflicts {
        fn log(&self, _: LogLevel, _: fmt::Arguments<'_>) {}
        fn read(&self, _: Transaction, _: &[u8], _: &mut [u8]) -> Result<usize> {
            Err(Error::NotFound)
        }
        fn write(&self, _: Transaction, _: &[u8], _: &[u8]) -> Result {
            Ok(())
        }
        fn remove(&self, _: Transaction, _: &[u8]) -> Result {
            Ok(())
        }
        fn transaction_start(&self) -> Result<Transaction> {
            Ok(Transaction(7))
        }
        fn transaction_end(&self, _: Transaction, commit: bool) -> Result {
            self.ended.set(self.ended.get() + 1);
            if commit && self.left.get() > 0 {
                self.left.set(self.left.get() - 1);
                return Err(Error::Retry);
            }
            Ok(())
        }
        fn grant_alloc(&self, _: &mut [u32]) -> Result {
            Err(Error::NoResources)
        }
        fn grant_free(&self, _: &[u32]) {}
        fn grant_access(&self, _: u32, _: u64, _: bool) -> Result {
            Ok(())
        }
        fn grant_end(&self, _: u32) -> Result {
            Ok(())
        }
    }

    #[test]
    fn transactions_are_run_again_and_bounded() {
        let bus = Conflicts { left: Cell::new(3), ended: Cell::new(0) };
        let mut runs = 0;
        transaction(&bus, |_| {
            runs += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(runs, 4);
        bus.left.set(u32::MAX);
        assert_eq!(transaction(&bus, |_| Ok(())), Err(Error::Retry));
    }

    #[test]
    fn a_failing_body_drops_the_transaction() {
        let bus = Conflicts { left: Cell::new(0), ended: Cell::new(0) };
        assert_eq!(transaction::<_, ()>(&bus, |_| Err(Error::Denied)), Err(Error::Denied));
        assert_eq!(bus.ended.get(), 1);
    }

    #[test]
    fn warnings_are_failures() {
        assert_eq!(check(interface::STATUS_DEVICE_BUSY), Err(Error::InUse));
        assert_eq!(check(0), Ok(()));
    }

    #[test]
    fn long_lines_are_cut() {
        let mut line = Line { bytes: [0; LINE], len: 0 };
        let text: String = core::iter::repeat_n('x', 1000).collect();
        fmt::write(&mut line, format_args!("{text}{text}")).unwrap();
        assert_eq!(line.len, LINE);
    }
}
