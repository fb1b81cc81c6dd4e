//! NDIS_STATUS as a type.
//!
//! Values: the pages of <https://learn.microsoft.com/windows-hardware/drivers/network/ndis-status-codes> and of the
//! functions that return them; some are NTSTATUS values.

use core::fmt;

/// An NDIS_STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
#[must_use]
pub struct NdisStatus(pub i32);

macro_rules! statuses {
    ($($name:ident = $value:literal, $doc:literal;)*) => {
        impl NdisStatus {
            $(#[doc = $doc] pub const $name: Self = Self($value as u32 as i32);)*

            /// The name that Windows gives the value, where it is one of ours.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(concat!("NDIS_STATUS_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x0000_0000, "Done.";
    PENDING = 0x0000_0103, "Completed later.";
    FAILURE = 0xC000_0001, "It failed, without a better word.";
    INVALID_PARAMETER = 0xC000_000D, "An argument is not valid.";
    RESOURCES = 0xC000_009A, "No memory, or no other resource of a kind, is left.";
    NOT_SUPPORTED = 0xC000_00BB, "The miniport does not know the OID or the request.";
    MULTICAST_FULL = 0xC001_0009, "The multicast list is longer than the miniport's.";
    SEND_ABORTED = 0xC001_000C, "A send was cancelled or given up (NDIS_STATUS_REQUEST_ABORTED).";
    RESET_IN_PROGRESS = 0xC001_000D, "A reset goes on.";
    INVALID_PACKET = 0xC001_000F, "A packet to send is malformed.";
    INVALID_LENGTH = 0xC001_0014, "The buffer of an OID request has not the length that it must have.";
    INVALID_DATA = 0xC001_0015, "The buffer of an OID request holds what is not valid.";
    BUFFER_TOO_SHORT = 0xC001_0016, "The buffer of a query is too short; BytesNeeded says how long it must be.";
    INVALID_OID = 0xC001_0017, "The OID does not go with the kind of request.";
    ADAPTER_REMOVED = 0xC001_0018, "The device is gone.";
    MEDIA_DISCONNECTED = 0xC001_001F, "There is no link.";
    PAUSED = 0xC023_002A, "The adapter is paused.";
    LOW_POWER_STATE = 0xC023_002F, "The adapter is in a low power state.";
}

impl NdisStatus {
    /// Success and informational values.
    pub const fn is_success(self) -> bool {
        self.0 >= 0
    }

    /// `Ok` for success, else the status itself.
    ///
    /// # Errors
    /// Every value with severity warning or error.
    pub const fn ok(self) -> Result<(), Self> {
        if self.is_success() { Ok(()) } else { Err(self) }
    }
}

impl From<crate::Status> for NdisStatus {
    fn from(status: crate::Status) -> Self {
        // Those that NDIS has under its own name have the same value.
        Self(status.0)
    }
}

impl From<Result<(), Self>> for NdisStatus {
    fn from(result: Result<(), Self>) -> Self {
        match result {
            Ok(()) => Self::SUCCESS,
            Err(status) => status,
        }
    }
}

impl fmt::Debug for NdisStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NdisStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "NDIS status {:#010x}", self.0),
        }
    }
}
