//! Safe views for a physical miniport: the adapter, an SRB that is owned until it is completed, its scatter-gather
//! list, and the configuration that HwFindAdapter fills in.

use core::{ffi::c_void, marker::PhantomData, ptr::NonNull, slice};

use super::abi::{
    DMA64_FULL_SUPPORT, HwInitializationData, HwPassiveInitialize, HwTimer, PortConfigurationInformation,
    STOR_MAP_NON_READ_WRITE_BUFFERS, STOR_STATUS_SUCCESS, STOR_SYNCHRONIZE_FULL_DUPLEX, ScatterGatherElement,
    ScatterGatherList, ScsiRequestBlock, StorPortExtendedFunction, StorPortGetScatterGatherList, StorPortInitialize,
    StorPortNotification, StorPortSetDeviceQueueDepth, extended_function, notification, srb_flags,
};
use crate::status::Status;

/// Registers the miniport with storport.
///
/// # Errors
/// Storport's NTSTATUS.
///
/// # Safety
/// The arguments are DriverEntry's own, and the routines in `data` keep storport's contract.
pub unsafe fn initialize(
    driver_object: *mut c_void,
    registry_path: *mut c_void,
    data: &mut HwInitializationData,
) -> crate::Result {
    // SAFETY: as the caller says.
    unsafe { crate::driver::remember(driver_object.cast()) };
    // SAFETY: as the caller says.
    let status = unsafe { StorPortInitialize(driver_object, registry_path, data, core::ptr::null_mut()) };
    Status(status as i32).ok()
}

/// The device objects of an adapter, as storport knows them.
#[derive(Clone, Copy)]
pub struct DeviceObjects {
    /// Storport's own.
    pub functional: NonNull<c_void>,
    /// The bus driver's.
    pub physical: NonNull<c_void>,
    /// The one that storport sends IRPs down to.
    pub lower: NonNull<c_void>,
}

/// An adapter: storport's `HwDeviceExtension`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Adapter(NonNull<c_void>);

// SAFETY: storport's routines may be called on any processor; the value is only an address to give them.
unsafe impl Send for Adapter {}
// SAFETY: see above.
unsafe impl Sync for Adapter {}

impl Adapter {
    /// The adapter of a routine that storport called.
    ///
    /// # Safety
    /// `extension` is what storport gave to one of the miniport's routines, and the adapter lives as long as the value
    /// is used.
    pub const unsafe fn from_extension(extension: *mut c_void) -> Option<Self> {
        match NonNull::new(extension) {
            Some(extension) => Some(Self(extension)),
            None => None,
        }
    }

    /// Gives a finished SRB back. IRQL <= DISPATCH_LEVEL.
    #[expect(clippy::needless_pass_by_value, reason = "the SRB is storport's from here on")]
    pub fn complete(self, srb: Srb) {
        // SAFETY: both came from storport; the SRB is given up here, so it is completed once.
        unsafe { StorPortNotification(notification::REQUEST_COMPLETE, self.0.as_ptr(), srb.0.as_ptr()) }
    }

    /// Says that the devices on the bus changed: storport scans it again. IRQL <= DISPATCH_LEVEL.
    pub fn bus_change_detected(self) {
        // SAFETY: the adapter is storport's; the argument is the path id.
        unsafe { StorPortNotification(notification::BUS_CHANGE_DETECTED, self.0.as_ptr(), 0u32) }
    }

    /// Asks for one call of `routine` at DISPATCH_LEVEL in `microseconds`; 0 cancels. Storport keeps one timer an
    /// adapter. IRQL <= DISPATCH_LEVEL.
    pub fn request_timer(self, routine: HwTimer, microseconds: u32) {
        // SAFETY: the adapter is storport's; the routine has HW_TIMER's type.
        unsafe { StorPortNotification(notification::REQUEST_TIMER_CALL, self.0.as_ptr(), routine, microseconds) }
    }

    /// From HwInitialize only: asks for `routine` at PASSIVE_LEVEL. Whether it will be called. IRQL = DIRQL.
    pub fn enable_passive_initialization(self, routine: HwPassiveInitialize) -> bool {
        let mut accepted: i32 = 0;
        // SAFETY: the adapter is storport's; the result is a local.
        unsafe {
            StorPortNotification(
                notification::ENABLE_PASSIVE_INITIALIZATION,
                self.0.as_ptr(),
                routine,
                &raw mut accepted,
            );
        }
        accepted != 0
    }

    /// The device objects. PASSIVE_LEVEL.
    pub fn device_objects(self) -> Option<DeviceObjects> {
        let mut objects = [core::ptr::null_mut::<c_void>(); 3];
        let [functional, physical, lower] = objects.each_mut();
        // SAFETY: the adapter is storport's; it writes three pointers.
        let status = unsafe {
            StorPortExtendedFunction(
                extended_function::GET_DEVICE_OBJECTS,
                self.0.as_ptr(),
                core::ptr::from_mut(functional),
                core::ptr::from_mut(physical),
                core::ptr::from_mut(lower),
            )
        };
        if status != STOR_STATUS_SUCCESS {
            return None;
        }
        let [functional, physical, lower] = objects;
        Some(DeviceObjects {
            functional: NonNull::new(functional)?,
            physical: NonNull::new(physical)?,
            lower: NonNull::new(lower)?,
        })
    }

    /// How many requests storport may have outstanding on the only logical unit. IRQL <= DISPATCH_LEVEL.
    pub fn set_queue_depth(self, depth: u32) -> bool {
        // SAFETY: the adapter is storport's.
        unsafe { StorPortSetDeviceQueueDepth(self.0.as_ptr(), 0, 0, 0, depth) != 0 }
    }

    /// The pointer to the miniport's per-adapter memory.
    pub const fn extension(self) -> NonNull<c_void> {
        self.0
    }
}

/// An SRB that the miniport owns: from the start-I/O routine until [`Adapter::complete`].
pub struct Srb(NonNull<ScsiRequestBlock>);

// SAFETY: an SRB belongs to whoever holds the value; storport does not touch it before completion.
unsafe impl Send for Srb {}

impl Srb {
    /// Takes ownership of an SRB that storport handed over.
    ///
    /// # Safety
    /// `srb` is the argument of the miniport's start-I/O routine, is owned by nobody else, and is used only until it
    /// is completed.
    pub const unsafe fn from_raw(srb: *mut ScsiRequestBlock) -> Option<Self> {
        match NonNull::new(srb) {
            Some(srb) => Some(Self(srb)),
            None => None,
        }
    }

    /// The SRB's address, which is what names it to a debugger. The owner stays the owner.
    pub const fn as_ptr(&self) -> *mut ScsiRequestBlock {
        self.0.as_ptr()
    }

    /// The block itself.
    pub const fn block(&self) -> &ScsiRequestBlock {
        // SAFETY: the SRB is owned and alive.
        unsafe { self.0.as_ref() }
    }

    /// The block itself, to write results.
    pub const fn block_mut(&mut self) -> &mut ScsiRequestBlock {
        // SAFETY: the SRB is owned and alive.
        unsafe { self.0.as_mut() }
    }

    /// The command, no longer than the SRB says and than the block holds.
    pub fn cdb(&self) -> &[u8] {
        let block = self.block();
        let len = usize::from(block.cdb_length).min(block.cdb.len());
        block.cdb.get(..len).unwrap_or(&[])
    }

    /// The mapped data buffer of a request that is neither read nor write; empty where there is none.
    pub fn data(&mut self) -> &mut [u8] {
        let block = self.block();
        if block.data_buffer.is_null() || block.srb_flags & (srb_flags::DATA_IN | srb_flags::DATA_OUT) == 0 {
            return &mut [];
        }
        let len = block.data_transfer_length as usize;
        // SAFETY: storport mapped `data_transfer_length` bytes there (STOR_MAP_NON_READ_WRITE_BUFFERS) and they belong
        // to the owner of the SRB. Every bit pattern is a byte.
        unsafe { slice::from_raw_parts_mut(block.data_buffer.cast::<u8>(), len) }
    }

    /// Writes sense data, cut to the room that there is. Whether any was written: not where the requester forbade it.
    pub fn set_sense(&mut self, sense: &[u8]) -> bool {
        let block = self.block_mut();
        let len = sense.len().min(usize::from(block.sense_info_buffer_length));
        if len == 0 || block.sense_info_buffer.is_null() || block.srb_flags & srb_flags::DISABLE_AUTOSENSE != 0 {
            return false;
        }
        // SAFETY: storport's sense buffer has `sense_info_buffer_length` bytes, of which no more are written.
        unsafe { core::ptr::copy_nonoverlapping(sense.as_ptr(), block.sense_info_buffer.cast::<u8>(), len) };
        block.sense_info_buffer_length = len as u8;
        true
    }

    /// The address of the miniport's memory for this request; null if it asked for none.
    pub const fn extension(&self) -> *mut c_void {
        self.block().srb_extension
    }

    /// The physical runs of the data buffer. From start-I/O only; they stay valid until completion.
    /// IRQL <= DISPATCH_LEVEL.
    pub fn scatter_gather(&mut self, adapter: Adapter) -> Option<ScatterGather> {
        // SAFETY: both came from storport.
        let list = NonNull::new(unsafe { StorPortGetScatterGatherList(adapter.0.as_ptr(), self.0.as_ptr()) })?;
        Some(ScatterGather { list })
    }

    /// A system address of the whole data buffer, mapped now if need be and until completion. None: no system page
    /// table entries are left; the request has to be tried again. From start-I/O only. IRQL <= DISPATCH_LEVEL.
    pub fn system_address(&mut self, adapter: Adapter) -> Option<NonNull<u8>> {
        let mut address = core::ptr::null_mut::<c_void>();
        // SAFETY: both came from storport; it writes one pointer.
        let status = unsafe {
            StorPortExtendedFunction(
                extended_function::GET_SYSTEM_ADDRESS,
                adapter.0.as_ptr(),
                self.0.as_ptr(),
                &raw mut address,
            )
        };
        if status == STOR_STATUS_SUCCESS { NonNull::new(address.cast()) } else { None }
    }
}

/// The scatter-gather list of an SRB. Valid until the SRB is completed, which whoever holds both must see to: the
/// value belongs into the SRB's own extension.
#[derive(Clone, Copy)]
pub struct ScatterGather {
    list: NonNull<ScatterGatherList>,
}

// SAFETY: storport's list does not change and may be read on any processor.
unsafe impl Send for ScatterGather {}
// SAFETY: see above.
unsafe impl Sync for ScatterGather {}

impl ScatterGather {
    /// The elements.
    ///
    /// # Safety
    /// The SRB that the list belongs to is not completed while the slice is in use.
    pub const unsafe fn elements<'a>(self) -> &'a [ScatterGatherElement] {
        let list = self.list.as_ptr();
        // SAFETY: the list has that many elements behind its head, and lives as the caller says.
        unsafe { slice::from_raw_parts((&raw const (*list).list).cast(), (*list).number_of_elements as usize) }
    }
}

/// The configuration that HwFindAdapter fills in.
pub struct PortConfig<'a> {
    raw: &'a mut PortConfigurationInformation,
    _not_send: PhantomData<*mut ()>,
}

impl PortConfig<'_> {
    /// Wraps HwFindAdapter's argument.
    ///
    /// # Safety
    /// `config` is HwFindAdapter's argument, and what is returned is gone before that routine returns.
    pub const unsafe fn from_raw(config: *mut PortConfigurationInformation) -> Option<Self> {
        if config.is_null() {
            return None;
        }
        // SAFETY: as the caller says.
        Some(Self { raw: unsafe { &mut *config }, _not_send: PhantomData })
    }

    /// One bus, one target, one logical unit; scatter-gather with 64-bit addresses; start-I/O and completion in
    /// parallel. `transfer` in bytes, `breaks` and `depth` as counts.
    pub fn describe_single_unit(&mut self, transfer: u32, breaks: u32, depth: u32) {
        let raw = &mut *self.raw;
        raw.maximum_transfer_length = transfer;
        raw.number_of_physical_breaks = breaks;
        // Any alignment is accepted: what the device cannot take is copied.
        raw.alignment_mask = 0;
        raw.number_of_buses = 1;
        raw.initiator_bus_id[0] = 1;
        raw.scatter_gather = 1;
        raw.master = 1;
        raw.caches_data = 0;
        raw.map_buffers = STOR_MAP_NON_READ_WRITE_BUFFERS;
        raw.need_physical_addresses = 1;
        raw.tagged_queuing = 1;
        raw.auto_request_sense = 1;
        raw.multiple_request_per_lu = 1;
        raw.maximum_number_of_targets = 1;
        raw.maximum_number_of_logical_units = 1;
        raw.dma32_bit_addresses = 0;
        raw.dma64_bit_addresses = DMA64_FULL_SUPPORT;
        raw.reset_target_supported = 1;
        raw.wmi_data_provider = 0;
        raw.synchronization_model = STOR_SYNCHRONIZE_FULL_DUPLEX;
        raw.max_number_of_io = depth;
        raw.max_ios_per_lun = depth;
        raw.initial_lun_queue_depth = depth;
    }

    /// Whether storport loads the miniport for a crash dump or a hibernation file.
    pub const fn is_dump(&self) -> bool {
        self.raw.dump_mode != 0
    }
}
