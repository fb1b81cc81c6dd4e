//! One view of a request for both of its forms: `SCSI_REQUEST_BLOCK` and `STORAGE_REQUEST_BLOCK`.

use super::abi::*;
use core::ffi::c_void;
use core::ptr;

/// A pointer to a request of either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Srb(*mut ScsiRequestBlock);

/// Writes a field by its path in whichever form the request has.
macro_rules! field {
    ($srb:expr, $short:ident, $long:ident) => {
        if $srb.is_extended() {
            // SAFETY: the promise of `Srb::new`.
            unsafe { (&raw const (*$srb.long()).$long).read() as _ }
        } else {
            // SAFETY: the promise of `Srb::new`.
            unsafe { (&raw const (*$srb.0).$short).read() as _ }
        }
    };
    ($srb:expr, $short:ident, $long:ident = $value:expr) => {
        if $srb.is_extended() {
            // SAFETY: the promise of `Srb::new`.
            unsafe { (&raw mut (*$srb.long()).$long).write($value as _) }
        } else {
            // SAFETY: the promise of `Srb::new`.
            unsafe { (&raw mut (*$srb.0).$short).write($value as _) }
        }
    };
}

impl Srb {
    /// A view of a request.
    ///
    /// # Safety
    /// `srb` is a whole request of either form, and stays one as long as the view is used.
    pub unsafe fn new(srb: *mut c_void) -> Srb {
        Srb(srb.cast())
    }

    /// The pointer.
    pub fn pointer(self) -> *mut c_void {
        self.0.cast()
    }

    /// Whether it is a `STORAGE_REQUEST_BLOCK`.
    pub fn is_extended(self) -> bool {
        // SAFETY: the promise of `new`; both forms start alike.
        unsafe { (*self.0).function == SRB_FUNCTION_STORAGE_REQUEST_BLOCK }
    }

    fn long(self) -> *mut StorageRequestBlock {
        self.0.cast()
    }

    /// The SCSI part of an extended request.
    fn cdb16(self) -> *mut SrbExDataScsiCdb16 {
        // SAFETY: the promise of `new`; the offset is checked against the length.
        unsafe {
            let long = self.long();
            let offset = (*long).srb_ex_data_offset[0];
            let end = offset as usize + size_of::<SrbExDataScsiCdb16>();
            if (*long).num_srb_ex_data == 0 || offset < 0x80 || end > (*long).srb_length as usize {
                return ptr::null_mut();
            }
            let part = long.byte_add(offset as usize).cast::<SrbExDataScsiCdb16>();
            if (*part).kind == 0x40 { part } else { ptr::null_mut() }
        }
    }

    fn address(self) -> *mut StorAddrBtl8 {
        // SAFETY: the promise of `new`.
        unsafe { self.long().byte_add((*self.long()).address_offset as usize).cast() }
    }

    /// `SRB_FUNCTION_*`.
    pub fn function(self) -> u8 {
        field!(self, function, srb_function)
    }

    /// `SRB_STATUS_*` with its flags.
    pub fn status(self) -> u8 {
        field!(self, srb_status, srb_status)
    }

    /// Sets `SRB_STATUS_*`.
    pub fn set_status(self, status: u8) {
        field!(self, srb_status, srb_status = status);
    }

    /// `SRB_FLAGS_*`.
    pub fn flags(self) -> u32 {
        field!(self, srb_flags, srb_flags)
    }

    /// Bytes to move, or moved.
    pub fn transfer_length(self) -> u32 {
        field!(self, data_transfer_length, data_transfer_length)
    }

    /// Sets the bytes moved.
    pub fn set_transfer_length(self, length: u32) {
        field!(self, data_transfer_length, data_transfer_length = length);
    }

    /// The data buffer.
    pub fn data_buffer(self) -> *mut c_void {
        // SAFETY: the promise of `new`.
        unsafe { if self.is_extended() { (*self.long()).data_buffer } else { (*self.0).data_buffer } }
    }

    /// Sets the data buffer.
    pub fn set_data_buffer(self, buffer: *mut c_void) {
        // SAFETY: the promise of `new`.
        unsafe {
            if self.is_extended() {
                (*self.long()).data_buffer = buffer;
            } else {
                (*self.0).data_buffer = buffer;
            }
        }
    }

    /// Seconds until it times out; 0: never.
    pub fn time_out(self) -> u32 {
        field!(self, time_out_value, time_out_value)
    }

    /// Sets the IRP and the miniport's part.
    pub fn set_owner(self, irp: *mut c_void, extension: *mut c_void) {
        // SAFETY: the promise of `new`.
        unsafe {
            if self.is_extended() {
                (*self.long()).original_request = irp;
                (*self.long()).miniport_context = extension;
            } else {
                (*self.0).original_request = irp;
                (*self.0).srb_extension = extension;
            }
        }
    }

    /// Path, target and logical unit.
    pub fn place(self) -> (u8, u8, u8) {
        // SAFETY: the promise of `new`.
        unsafe {
            if self.is_extended() {
                let a = self.address();
                ((*a).path, (*a).target, (*a).lun)
            } else {
                ((*self.0).path_id, (*self.0).target_id, (*self.0).lun)
            }
        }
    }

    /// Sets path, target and logical unit.
    pub fn set_place(self, (path, target, lun): (u8, u8, u8), port: u16) {
        // SAFETY: the promise of `new`.
        unsafe {
            if self.is_extended() {
                self.address().write(StorAddrBtl8 { kind: 1, port, address_length: 4, path, target, lun, reserved: 0 });
            } else {
                ((*self.0).path_id, (*self.0).target_id, (*self.0).lun) = (path, target, lun);
            }
        }
    }

    /// The command, empty if there is none.
    pub fn cdb(&self) -> &[u8] {
        // SAFETY: the promise of `new`; the length is bounded by the field.
        unsafe {
            let (cdb, len) = if self.is_extended() {
                let part = self.cdb16();
                if part.is_null() {
                    return &[];
                }
                ((&raw const (*part).cdb).cast::<u8>(), (*part).cdb_length)
            } else {
                ((&raw const (*self.0).cdb).cast::<u8>(), (*self.0).cdb_length)
            };
            core::slice::from_raw_parts(cdb, usize::from(len.min(16)))
        }
    }

    /// The target's status.
    pub fn scsi_status(self) -> u8 {
        // SAFETY: the promise of `new`.
        unsafe {
            if !self.is_extended() {
                return (*self.0).scsi_status;
            }
            let part = self.cdb16();
            if part.is_null() { 0 } else { (*part).scsi_status }
        }
    }

    /// The sense buffer and its length.
    pub fn sense(self) -> (*mut u8, u8) {
        // SAFETY: the promise of `new`.
        unsafe {
            if !self.is_extended() {
                return ((*self.0).sense_info_buffer.cast(), (*self.0).sense_info_buffer_length);
            }
            let part = self.cdb16();
            if part.is_null() {
                (ptr::null_mut(), 0)
            } else {
                ((*part).sense_info_buffer.cast(), (*part).sense_info_buffer_length)
            }
        }
    }
}

/// What a request for one SCSI command is made of.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// The command.
    pub cdb: &'a [u8],
    /// `SRB_FLAGS_DATA_IN`, `SRB_FLAGS_DATA_OUT` or 0, and further flags.
    pub flags: u32,
    /// The data.
    pub data: *mut c_void,
    /// Bytes of data.
    pub length: u32,
    /// Where sense data goes, and bytes there.
    pub sense: (*mut u8, u8),
    /// Seconds.
    pub time_out: u32,
}

/// Writes a `SCSI_REQUEST_BLOCK` for a command.
///
/// # Safety
/// `srb` has room for it.
pub unsafe fn write_short(srb: *mut ScsiRequestBlock, command: &Command<'_>) {
    let mut cdb = [0; 16];
    let len = command.cdb.len().min(16);
    cdb[..len].copy_from_slice(&command.cdb[..len]);
    let value = ScsiRequestBlock {
        length: size_of::<ScsiRequestBlock>() as u16,
        function: SRB_FUNCTION_EXECUTE_SCSI,
        srb_status: 0,
        scsi_status: 0,
        path_id: 0,
        target_id: 0,
        lun: 0,
        queue_tag: 0xff,
        queue_action: 0x20,
        cdb_length: len as u8,
        sense_info_buffer_length: command.sense.1,
        srb_flags: command.flags,
        data_transfer_length: command.length,
        time_out_value: command.time_out,
        data_buffer: command.data,
        sense_info_buffer: command.sense.0.cast(),
        next_srb: ptr::null_mut(),
        original_request: ptr::null_mut(),
        srb_extension: ptr::null_mut(),
        internal_status: 0,
        reserved: 0,
        cdb,
    };
    // SAFETY: the caller's promise.
    unsafe { srb.write(value) };
}

/// A `STORAGE_REQUEST_BLOCK` with its address and SCSI part.
#[repr(C, align(8))]
pub struct LongSrb {
    head: StorageRequestBlock,
    address: StorAddrBtl8,
    pad: u32,
    cdb: SrbExDataScsiCdb16,
}

/// Writes a `STORAGE_REQUEST_BLOCK` for a command.
///
/// # Safety
/// `srb` has room for it.
pub unsafe fn write_long(srb: *mut LongSrb, command: &Command<'_>) {
    let mut cdb = [0; 16];
    let len = command.cdb.len().min(16);
    cdb[..len].copy_from_slice(&command.cdb[..len]);
    let value = LongSrb {
        head: StorageRequestBlock {
            length: size_of::<StorageRequestBlock>() as u16,
            function: SRB_FUNCTION_STORAGE_REQUEST_BLOCK,
            srb_status: 0,
            reserved_uchar1: [0; 4],
            signature: SRB_SIGNATURE,
            version: 1,
            srb_length: size_of::<LongSrb>() as u32,
            srb_function: u32::from(SRB_FUNCTION_EXECUTE_SCSI),
            srb_flags: command.flags,
            reserved_ulong1: 0,
            request_tag: 0xff,
            request_priority: 2,
            request_attribute: 0x20,
            time_out_value: command.time_out,
            system_status: 0,
            zero_guard1: 0,
            address_offset: core::mem::offset_of!(LongSrb, address) as u32,
            num_srb_ex_data: 1,
            data_transfer_length: command.length,
            data_buffer: command.data,
            zero_guard2: ptr::null_mut(),
            original_request: ptr::null_mut(),
            class_context: ptr::null_mut(),
            port_context: ptr::null_mut(),
            miniport_context: ptr::null_mut(),
            next_srb: ptr::null_mut(),
            srb_ex_data_offset: [core::mem::offset_of!(LongSrb, cdb) as u32],
        },
        address: StorAddrBtl8 { kind: 1, port: 0, address_length: 4, path: 0, target: 0, lun: 0, reserved: 0 },
        pad: 0,
        cdb: SrbExDataScsiCdb16 {
            kind: 0x40,
            length: 0x20,
            scsi_status: 0,
            sense_info_buffer_length: command.sense.1,
            cdb_length: len as u8,
            reserved: 0,
            reserved1: 0,
            sense_info_buffer: command.sense.0.cast(),
            cdb,
        },
    };
    // SAFETY: the caller's promise.
    unsafe { srb.write(value) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_alike() {
        let mut sense = [0u8; 18];
        let command = Command {
            cdb: &[0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0],
            flags: SRB_FLAGS_DATA_IN,
            data: 0x1000 as *mut c_void,
            length: 512,
            sense: (sense.as_mut_ptr(), 18),
            time_out: 10,
        };
        let mut short = core::mem::MaybeUninit::<ScsiRequestBlock>::uninit();
        let mut long = core::mem::MaybeUninit::<LongSrb>::uninit();
        // SAFETY: both are written before they are looked at.
        let views = unsafe {
            write_short(short.as_mut_ptr(), &command);
            write_long(long.as_mut_ptr(), &command);
            [Srb::new(short.as_mut_ptr().cast()), Srb::new(long.as_mut_ptr().cast())]
        };
        assert!(!views[0].is_extended() && views[1].is_extended());
        for view in views {
            view.set_place((1, 2, 3), 0);
            view.set_status(SRB_STATUS_BUSY);
            assert_eq!(view.place(), (1, 2, 3));
            assert_eq!((view.function(), view.status(), view.flags()), (0, 5, SRB_FLAGS_DATA_IN));
            assert_eq!((view.transfer_length(), view.time_out()), (512, 10));
            assert_eq!(view.cdb(), command.cdb);
            assert_eq!(view.sense(), (sense.as_mut_ptr(), 18));
        }
    }
}
