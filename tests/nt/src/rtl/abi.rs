//! Layouts of the run-time library, from public documentation.

/// `STATUS_SUCCESS`.
pub const STATUS_SUCCESS: i32 = 0;
/// `STATUS_BUFFER_OVERFLOW`: a warning.
pub const STATUS_BUFFER_OVERFLOW: i32 = 0x8000_0005_u32 as i32;
/// `STATUS_INVALID_PARAMETER`.
pub const STATUS_INVALID_PARAMETER: i32 = 0xC000_000D_u32 as i32;
/// `STATUS_NO_MEMORY`.
pub const STATUS_NO_MEMORY: i32 = 0xC000_0017_u32 as i32;
/// `STATUS_BUFFER_TOO_SMALL`.
pub const STATUS_BUFFER_TOO_SMALL: i32 = 0xC000_0023_u32 as i32;
/// `STATUS_INVALID_PARAMETER_2`.
pub const STATUS_INVALID_PARAMETER_2: i32 = 0xC000_00F0_u32 as i32;
/// `STATUS_REVISION_MISMATCH`.
pub const STATUS_REVISION_MISMATCH: i32 = 0xC000_0059_u32 as i32;
/// `STATUS_SOME_NOT_MAPPED`.
pub const STATUS_SOME_NOT_MAPPED: i32 = 0x0000_0107;

/// `UNICODE_STRING`: lengths in bytes.
/// <https://learn.microsoft.com/windows/win32/api/ntdef/ns-ntdef-_unicode_string>
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UnicodeString {
    /// Bytes in use.
    pub length: u16,
    /// Bytes of `buffer`.
    pub maximum_length: u16,
    /// The text, not necessarily terminated.
    pub buffer: *mut u16,
}

/// `ANSI_STRING` (`STRING`, `OEM_STRING`): lengths in bytes.
/// <https://learn.microsoft.com/windows/win32/api/ntdef/ns-ntdef-string>
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AnsiString {
    /// Bytes in use.
    pub length: u16,
    /// Bytes of `buffer`.
    pub maximum_length: u16,
    /// The text, not necessarily terminated.
    pub buffer: *mut u8,
}

/// `GUID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Guid {
    /// First 8 hexadecimal digits.
    pub data1: u32,
    /// Next 4.
    pub data2: u16,
    /// Next 4.
    pub data3: u16,
    /// The rest, as it is written.
    pub data4: [u8; 8],
}

/// `TIME_FIELDS`.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_time_fields>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TimeFields {
    /// 1601 to 30827.
    pub year: i16,
    /// 1 to 12.
    pub month: i16,
    /// 1 to 31.
    pub day: i16,
    /// 0 to 23.
    pub hour: i16,
    /// 0 to 59.
    pub minute: i16,
    /// 0 to 59.
    pub second: i16,
    /// 0 to 999.
    pub milliseconds: i16,
    /// 0 = Sunday.
    pub weekday: i16,
}

/// `RTL_OSVERSIONINFOEXW`.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_osversioninfoexw>
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OsVersionInfoEx {
    /// 0x114 for `RTL_OSVERSIONINFOW`, 0x11c for this structure.
    pub size: u32,
    /// 10.
    pub major: u32,
    /// 0.
    pub minor: u32,
    /// 19041 is Windows 10 2004.
    pub build: u32,
    /// `VER_PLATFORM_WIN32_NT` = 2.
    pub platform_id: u32,
    /// Empty: no service pack.
    pub csd_version: [u16; 128],
    /// 0.
    pub service_pack_major: u16,
    /// 0.
    pub service_pack_minor: u16,
    /// `VER_SUITE_*`.
    pub suite_mask: u16,
    /// `VER_NT_WORKSTATION` = 1.
    pub product_type: u8,
    /// 0.
    pub reserved: u8,
}

/// `RTL_BITMAP`.
#[repr(C)]
pub struct Bitmap {
    /// Bits in `buffer`.
    pub size: u32,
    /// The bits, bit 0 of the first word first.
    pub buffer: *mut u32,
}

const _: () = {
    assert!(size_of::<UnicodeString>() == 16 && core::mem::offset_of!(UnicodeString, buffer) == 8);
    assert!(size_of::<AnsiString>() == 16 && core::mem::offset_of!(AnsiString, buffer) == 8);
    assert!(size_of::<Guid>() == 16);
    assert!(size_of::<TimeFields>() == 16);
    assert!(size_of::<OsVersionInfoEx>() == 0x11c);
    assert!(core::mem::offset_of!(OsVersionInfoEx, service_pack_major) == 0x114);
    assert!(size_of::<Bitmap>() == 16 && core::mem::offset_of!(Bitmap, buffer) == 8);
};
