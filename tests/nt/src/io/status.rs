//! The NTSTATUS values of this area, with those that all of the crate uses.
pub use crate::status::*;

macro_rules! statuses {
    ($($name:ident = $value:literal),* $(,)?) => {
        $(
            #[doc = stringify!($name)]
            pub const $name: NtStatus = $value as u32 as i32;
        )*
    };
}

statuses! {
    STATUS_OBJECT_NAME_EXISTS = 0x4000_0000,
    STATUS_NO_MORE_FILES = 0x8000_0006,
    STATUS_END_OF_FILE = 0xC000_0011,
    STATUS_DISK_CORRUPT_ERROR = 0xC000_0032,
    STATUS_OBJECT_PATH_SYNTAX_BAD = 0xC000_003B,
    STATUS_CANNOT_DELETE = 0xC000_0121,
    STATUS_SHARING_VIOLATION = 0xC000_0043,
    STATUS_KEY_DELETED = 0xC000_017C,
    STATUS_CHILD_MUST_BE_VOLATILE = 0xC000_0181,
    STATUS_NAME_TOO_LONG = 0xC000_0106,
    STATUS_INVALID_ADDRESS = 0xC000_0141,
    STATUS_PLUGPLAY_NO_DEVICE = 0xC000_025E,
    STATUS_DEVICE_REMOVED = 0xC000_02B6,
    STATUS_NO_SUCH_FILE = 0xC000_000F,
    STATUS_INVALID_PARAMETER_1 = 0xC000_00EF,
    STATUS_FAILED_DRIVER_ENTRY = 0xC000_0365,
}
