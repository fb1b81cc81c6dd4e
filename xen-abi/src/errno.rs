//! Errors of hypercalls (`xen/include/public/errno.h`). Xen's numbers are the ones Linux has on x86; a hypercall
//! returns them negated. Numbers that Xen keeps to itself (EINTR, ERESTART) are left out.

/// An error number of Xen, positive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub u16);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// Name as in the header, or `None` for a number that it does not list.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The number with that name.
            pub fn from_name(name: &[u8]) -> Option<Self> {
                $(if name == stringify!($name).as_bytes() { return Some(Self::$name); })*
                None
            }
        }
    };
}

errnos! {
    /// Operation not permitted.
    EPERM = 1;
    /// No such thing.
    ENOENT = 2;
    /// No such domain.
    ESRCH = 3;
    /// I/O error.
    EIO = 5;
    /// No such device.
    ENXIO = 6;
    /// Too large; xenstore: a directory that does not fit into one reply.
    E2BIG = 7;
    /// Wrong format.
    ENOEXEC = 8;
    /// Bad handle.
    EBADF = 9;
    /// No child.
    ECHILD = 10;
    /// Try again.
    EAGAIN = 11;
    /// Out of memory.
    ENOMEM = 12;
    /// Access denied.
    EACCES = 13;
    /// Bad address.
    EFAULT = 14;
    /// Busy.
    EBUSY = 16;
    /// Exists already.
    EEXIST = 17;
    /// Different devices.
    EXDEV = 18;
    /// No such device.
    ENODEV = 19;
    /// Not a directory.
    ENOTDIR = 20;
    /// A directory.
    EISDIR = 21;
    /// Invalid argument.
    EINVAL = 22;
    /// Too many files.
    ENFILE = 23;
    /// Too many files.
    EMFILE = 24;
    /// No space left.
    ENOSPC = 28;
    /// Read-only.
    EROFS = 30;
    /// Too many links.
    EMLINK = 31;
    /// Outside of the domain of the function.
    EDOM = 33;
    /// Out of range.
    ERANGE = 34;
    /// Deadlock.
    EDEADLK = 35;
    /// Name too long.
    ENAMETOOLONG = 36;
    /// No locks.
    ENOLCK = 37;
    /// Not implemented.
    ENOSYS = 38;
    /// Not empty.
    ENOTEMPTY = 39;
    /// No data.
    ENODATA = 61;
    /// Timer expired.
    ETIME = 62;
    /// Bad message.
    EBADMSG = 74;
    /// Overflow.
    EOVERFLOW = 75;
    /// Illegal byte sequence.
    EILSEQ = 84;
    /// Not a socket.
    ENOTSOCK = 88;
    /// Message too long.
    EMSGSIZE = 90;
    /// Not supported.
    EOPNOTSUPP = 95;
    /// Address in use.
    EADDRINUSE = 98;
    /// Address not available.
    EADDRNOTAVAIL = 99;
    /// No buffers.
    ENOBUFS = 105;
    /// Connected already.
    EISCONN = 106;
    /// Not connected.
    ENOTCONN = 107;
    /// Timed out.
    ETIMEDOUT = 110;
    /// Connection refused.
    ECONNREFUSED = 111;
}

impl Errno {
    /// Largest number that a return value may carry.
    pub const MAX: i64 = 4095;

    /// Splits a hypercall's return value.
    ///
    /// # Errors
    /// The error, if the value is negative. Values below -4095, which Xen does not return, become [`Errno::EIO`].
    pub const fn check(returned: i64) -> Result<u64, Self> {
        if returned >= 0 {
            Ok(returned as u64)
        } else if returned >= -Self::MAX {
            Err(Self(-returned as u16))
        } else {
            Err(Self::EIO)
        }
    }

    /// As a hypercall returns it.
    pub const fn returned(self) -> i64 {
        -(self.0 as i64)
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
