//! States of a PV device's two ends (`xen/include/public/io/xenbus.h`).

/// The value of a `state` node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum XenbusState {
    /// The node is not there, or nobody knows.
    Unknown = 0,
    /// Nothing was done yet.
    Initialising = 1,
    /// The backend has published what it offers, and waits for the frontend.
    InitWait = 2,
    /// This end has published all it has, and waits for the other.
    Initialised = 3,
    /// Working.
    Connected = 4,
    /// Going away.
    Closing = 5,
    /// Gone, or not started.
    Closed = 6,
    /// Being configured anew.
    Reconfiguring = 7,
    /// Configured anew.
    Reconfigured = 8,
}

impl XenbusState {
    /// The state with that number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unknown,
            1 => Self::Initialising,
            2 => Self::InitWait,
            3 => Self::Initialised,
            4 => Self::Connected,
            5 => Self::Closing,
            6 => Self::Closed,
            7 => Self::Reconfiguring,
            8 => Self::Reconfigured,
            _ => return None,
        })
    }

    /// Reads a `state` node's value: one decimal digit, 0 to 8. Anything else is `None`.
    pub const fn parse(value: &[u8]) -> Option<Self> {
        match value {
            [digit @ b'0'..=b'8'] => Self::from_number((*digit - b'0') as u32),
            _ => None,
        }
    }

    /// A `state` node's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }
}

impl core::fmt::Display for XenbusState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}
