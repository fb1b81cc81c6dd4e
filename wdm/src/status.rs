//! NTSTATUS as a type, and `Result` over it.
//!
//! Values: <https://learn.microsoft.com/openspecs/windows_protocols/ms-erref/596a1078-e883-4972-9bbc-49e60bebca55>

use core::fmt;

/// An NTSTATUS.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
#[must_use]
pub struct Status(pub i32);

/// What a wrapper returns: a value, or the status that says why there is none.
pub type Result<T = ()> = core::result::Result<T, Status>;

macro_rules! statuses {
    ($($name:ident = $value:literal, $doc:literal;)*) => {
        impl Status {
            $(#[doc = $doc] pub const $name: Self = Self($value as u32 as i32);)*

            /// The name that Windows gives the value, where it is one of ours.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(concat!("STATUS_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x0000_0000, "Done.";
    TIMEOUT = 0x0000_0102, "A wait ended before its object was signalled. Counts as success.";
    PENDING = 0x0000_0103, "The IRP completes later. Counts as success.";
    DEVICE_BUSY = 0x8000_0011, "The device is busy.";
    BUFFER_OVERFLOW = 0x8000_0005, "The data did not fit; part of it was returned.";
    UNSUCCESSFUL = 0xC000_0001, "It failed, without a better word.";
    NOT_IMPLEMENTED = 0xC000_0002, "Not implemented.";
    INVALID_PARAMETER = 0xC000_000D, "An argument is not valid.";
    NO_SUCH_DEVICE = 0xC000_000E, "There is no such device.";
    INVALID_DEVICE_REQUEST = 0xC000_0010, "The device does not do that.";
    MORE_PROCESSING_REQUIRED = 0xC000_0016, "From a completion routine: the IRP is not done yet.";
    NO_MEMORY = 0xC000_0017, "No memory.";
    ACCESS_DENIED = 0xC000_0022, "Access denied.";
    BUFFER_TOO_SMALL = 0xC000_0023, "The buffer is too small.";
    OBJECT_NAME_NOT_FOUND = 0xC000_0034, "There is no such name.";
    OBJECT_NAME_COLLISION = 0xC000_0035, "The name exists already.";
    QUOTA_EXCEEDED = 0xC000_0044, "The caller has too much open.";
    REVISION_MISMATCH = 0xC000_0059, "The two sides are of different versions.";
    INSUFFICIENT_RESOURCES = 0xC000_009A, "No memory, or no other resource of a kind, is left.";
    DEVICE_NOT_CONNECTED = 0xC000_009D, "The device is not there.";
    DEVICE_NOT_READY = 0xC000_00A3, "The device is not ready.";
    IO_TIMEOUT = 0xC000_00B5, "The other side did not answer in time.";
    NOT_SUPPORTED = 0xC000_00BB, "Not supported. An IRP with it is passed on unchanged.";
    DELETE_PENDING = 0xC000_0056, "The object is being deleted.";
    CANCELLED = 0xC000_0120, "Cancelled.";
    INTEGER_OVERFLOW = 0xC000_0095, "A number does not fit.";
    DEVICE_REMOVED = 0xC000_02B6, "The device is gone.";
    DEVICE_CONFIGURATION_ERROR = 0xC000_0182, "The device's resources are not what they should be.";
    DEVICE_PROTOCOL_ERROR = 0xC000_0186, "The other side broke the protocol.";
    RETRY = 0xC000_022D, "The operation has to be run again.";
    NOT_FOUND = 0xC000_0225, "Not found.";
    OBJECT_TYPE_MISMATCH = 0xC000_0024, "The object has another type.";
}

impl Status {
    /// `NT_SUCCESS`: success and informational values.
    pub const fn is_success(self) -> bool {
        self.0 >= 0
    }

    /// `Ok` for what `NT_SUCCESS` accepts, else the status itself.
    ///
    /// # Errors
    /// Every value with severity warning or error.
    pub const fn ok(self) -> Result {
        if self.is_success() { Ok(()) } else { Err(self) }
    }
}

impl From<Result> for Status {
    fn from(result: Result) -> Self {
        match result {
            Ok(()) => Self::SUCCESS,
            Err(status) => status,
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "status {:#010x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_decides_success() {
        assert!(Status::SUCCESS.is_success());
        assert!(Status::PENDING.is_success());
        assert!(!Status::DEVICE_BUSY.is_success());
        assert_eq!(Status::RETRY.ok(), Err(Status::RETRY));
        assert_eq!(Status::from(Err(Status::CANCELLED)), Status::CANCELLED);
    }

    #[test]
    fn values_print_by_name_or_number() {
        assert_eq!(Status::NOT_SUPPORTED.to_string(), "STATUS_NOT_SUPPORTED");
        assert_eq!(Status(0xC000_1234_u32 as i32).to_string(), "status 0xc0001234");
    }
}
