//! What can go wrong.

use std::fmt;
use std::io;

use xen_abi::errno::Errno;
use xen_abi::xenstore::payload::Malformed;

/// Why a call did not do what it was asked for.
#[derive(Debug)]
pub enum Error {
    /// xenstored's answer is an error.
    Store(Errno),
    /// The path, the value or the name cannot be sent: it has a NUL, or is longer than the protocol allows.
    Invalid(&'static str),
    /// The value is not UTF-8.
    NotText,
    /// The answer does not fit the request.
    Protocol,
    /// No answer came in time.
    TimedOut,
    /// This connection has too many watches, transactions or requests open.
    Quota,
    /// The connection is lost, or was closed.
    Disconnected,
    /// There is no `xenpci` device, or it does not work.
    NoDevice,
    /// The caller may not open the device: it takes SYSTEM or an administrator.
    AccessDenied,
    /// The transport failed.
    Io(io::Error),
}

impl Error {
    /// Whether it says that there is no such node.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(Errno::ENOENT))
    }

    /// Whether the transaction has to be run again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(Errno::EAGAIN))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(errno) => write!(f, "xenstore: {errno}"),
            Self::Invalid(what) => write!(f, "{what}"),
            Self::NotText => f.write_str("the value is not UTF-8"),
            Self::Protocol => f.write_str("xenstore's answer does not fit the request"),
            Self::TimedOut => f.write_str("xenstore does not answer"),
            Self::Quota => f.write_str("too many watches, transactions or requests on one connection"),
            Self::Disconnected => f.write_str("the connection to xenstore is lost"),
            Self::NoDevice => f.write_str("there is no working Xen platform device (xenpci)"),
            Self::AccessDenied => f.write_str("only SYSTEM and administrators may use xenstore"),
            Self::Io(error) => write!(f, "xenstore: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Io(error) = self { Some(error) } else { None }
    }
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Self::Protocol
    }
}
