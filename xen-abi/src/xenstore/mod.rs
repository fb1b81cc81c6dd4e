//! xenstore's wire protocol (`xen/include/public/io/xs_wire.h`, `docs/misc/xenstore.txt` in Xen's source).
//!
//! A message is a 16-byte [`Header`] and at most 4096 bytes of payload. Replies carry the request's id and type, or the
//! type [`MessageType::Error`] with an error's name. Watch events come in between, unasked.
//!
//! [`ring`] is the page over which a guest talks to xenstored, [`decode`] puts a stream of bytes together to messages,
//! [`payload`] reads what is in them.

pub mod decode;
pub mod payload;
pub mod ring;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::errno::Errno;

/// Most bytes of a payload (`XENSTORE_PAYLOAD_MAX`).
pub const PAYLOAD_MAX: usize = 4096;
/// Bytes of a header.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// Most bytes of an absolute path (`XENSTORE_ABS_PATH_MAX`).
pub const ABS_PATH_MAX: usize = 3072;
/// Most bytes of a relative path (`XENSTORE_REL_PATH_MAX`).
pub const REL_PATH_MAX: usize = 2048;

/// `enum xsd_sockmsg_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum MessageType {
    /// `XS_CONTROL`.
    Control = 0,
    /// `XS_DIRECTORY`: the names below a node.
    Directory = 1,
    /// `XS_READ`: a node's value.
    Read = 2,
    /// `XS_GET_PERMS`.
    GetPerms = 3,
    /// `XS_WATCH`: path and token.
    Watch = 4,
    /// `XS_UNWATCH`: path and token.
    Unwatch = 5,
    /// `XS_TRANSACTION_START`: the reply is the transaction's id in decimal.
    TransactionStart = 6,
    /// `XS_TRANSACTION_END`: `T` commits, `F` drops it.
    TransactionEnd = 7,
    /// `XS_INTRODUCE`.
    Introduce = 8,
    /// `XS_RELEASE`.
    Release = 9,
    /// `XS_GET_DOMAIN_PATH`: a domain's home.
    GetDomainPath = 10,
    /// `XS_WRITE`: path, NUL, value.
    Write = 11,
    /// `XS_MKDIR`.
    Mkdir = 12,
    /// `XS_RM`.
    Rm = 13,
    /// `XS_SET_PERMS`.
    SetPerms = 14,
    /// `XS_WATCH_EVENT`: path and token of a watch that fired. Never a request.
    WatchEvent = 15,
    /// `XS_ERROR`: an error's name. Never a request.
    Error = 16,
    /// `XS_IS_DOMAIN_INTRODUCED`.
    IsDomainIntroduced = 17,
    /// `XS_RESUME`.
    Resume = 18,
    /// `XS_SET_TARGET`.
    SetTarget = 19,
    /// `XS_RESET_WATCHES`: drops this guest's watches and transactions.
    ResetWatches = 21,
    /// `XS_DIRECTORY_PART`: the names below a node, from an offset on.
    DirectoryPart = 22,
    /// `XS_GET_FEATURE`.
    GetFeature = 23,
    /// `XS_SET_FEATURE`.
    SetFeature = 24,
    /// `XS_GET_QUOTA`.
    GetQuota = 25,
    /// `XS_SET_QUOTA`.
    SetQuota = 26,
}

impl MessageType {
    /// The type with that number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Control,
            1 => Self::Directory,
            2 => Self::Read,
            3 => Self::GetPerms,
            4 => Self::Watch,
            5 => Self::Unwatch,
            6 => Self::TransactionStart,
            7 => Self::TransactionEnd,
            8 => Self::Introduce,
            9 => Self::Release,
            10 => Self::GetDomainPath,
            11 => Self::Write,
            12 => Self::Mkdir,
            13 => Self::Rm,
            14 => Self::SetPerms,
            15 => Self::WatchEvent,
            16 => Self::Error,
            17 => Self::IsDomainIntroduced,
            18 => Self::Resume,
            19 => Self::SetTarget,
            21 => Self::ResetWatches,
            22 => Self::DirectoryPart,
            23 => Self::GetFeature,
            24 => Self::SetFeature,
            25 => Self::GetQuota,
            26 => Self::SetQuota,
            _ => return None,
        })
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// `struct xsd_sockmsg`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MessageType`], as a number, since a peer may send others.
    pub kind: u32,
    /// Repeated in the reply.
    pub req_id: u32,
    /// Transaction, 0: none.
    pub tx_id: u32,
    /// Bytes of the payload.
    pub len: u32,
}

/// A payload has more than [`PAYLOAD_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Header {
    /// The header of a message whose payload is `parts`, one behind the other.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn new(kind: MessageType, req_id: u32, tx_id: u32, parts: &[&[u8]]) -> Result<Self, TooLong> {
        let mut len = 0_usize;
        for part in parts {
            len = len.checked_add(part.len()).filter(|len| *len <= PAYLOAD_MAX).ok_or(TooLong)?;
        }
        Ok(Self { kind: kind.number(), req_id, tx_id, len: len as u32 })
    }

    /// As it goes over the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        transmute!(*self)
    }

    /// From the wire.
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        transmute!(*bytes)
    }

    /// The type, if it is one that is known.
    pub const fn message_type(&self) -> Option<MessageType> {
        MessageType::from_number(self.kind)
    }
}

/// The errors that xenstored sends by name (`xsd_errors`).
pub const ERRORS: [Errno; 16] = [
    Errno::EINVAL,
    Errno::EACCES,
    Errno::EEXIST,
    Errno::EISDIR,
    Errno::ENOENT,
    Errno::ENOMEM,
    Errno::ENOSPC,
    Errno::EIO,
    Errno::ENOTEMPTY,
    Errno::ENOSYS,
    Errno::EROFS,
    Errno::EBUSY,
    Errno::EAGAIN,
    Errno::EISCONN,
    Errno::E2BIG,
    Errno::EPERM,
];

/// The error with that name, as it stands in the payload of [`MessageType::Error`] (without the NUL). A name that is
/// not in [`ERRORS`] is [`Errno::EIO`]: some error it is.
pub fn error_from_name(name: &[u8]) -> Errno {
    match Errno::from_name(name) {
        Some(errno) if ERRORS.contains(&errno) => errno,
        _ => Errno::EIO,
    }
}

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// Nothing.
    Empty,
    /// Longer than xenstored takes.
    TooLong,
    /// A byte other than a letter, a digit and `-/_@`.
    Byte(u8),
    /// `//`, or a `/` at the end.
    Slash,
}

/// Checks a path by xenstored's rules: absolute (`/…`), special (`@…`) or relative to the caller's home.
///
/// # Errors
/// [`PathError`].
pub fn check_path(path: &[u8]) -> Result<(), PathError> {
    let Some(first) = path.first() else { return Err(PathError::Empty) };
    let most = if *first == b'/' { ABS_PATH_MAX } else { REL_PATH_MAX };
    if path.len() > most {
        return Err(PathError::TooLong);
    }
    if let Some(byte) = path.iter().find(|byte| !byte.is_ascii_alphanumeric() && !b"-/_@".contains(byte)) {
        return Err(PathError::Byte(*byte));
    }
    if path.len() > 1 && path.ends_with(b"/") || path.windows(2).any(|pair| pair == b"//") {
        return Err(PathError::Slash);
    }
    Ok(())
}

const _: () = assert!(HEADER_SIZE == 16);
