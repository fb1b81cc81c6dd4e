//! The user-mode interface of `xenpci`: a device interface over which SYSTEM and Administrators talk to xenstore.
//!
//! Every handle is a connection of its own, as a socket of xenstored is:
//! - A write is exactly one message of xenstore's wire protocol: a header and as much payload as it announces. It
//!   completes when the message is on its way.
//! - Reads give the replies and watch events of that handle as a stream of bytes, replies in the order of the requests.
//!   A read waits until there is something, so open the handle for overlapped I/O; such a read can be cancelled.
//! - Request ids, transaction ids and watch tokens are the handle's own. Nobody sees another's, nor the driver's.
//! - What a handle leaves open is ended when it is closed.
//! - A suspend is not seen but in this: transactions that were open end with `EAGAIN`, watches fire once more.
//!
//! A handle that asks for more than the limits below gets `STATUS_QUOTA_EXCEEDED`. Other answers to a write:
//! `STATUS_INVALID_PARAMETER` for what is no message or may not be sent by a user, `STATUS_DEVICE_NOT_CONNECTED` while
//! there is no xenstore, `STATUS_DEVICE_REMOVED` once the device is gone.

/// `{4B9E6C0D-2F67-4B0B-9C53-0B1D3F1A6E21}`: the device interface class.
pub const INTERFACE_CLASS: [u8; 16] =
    [0x0d, 0x6c, 0x9e, 0x4b, 0x67, 0x2f, 0x0b, 0x4b, 0x9c, 0x53, 0x0b, 0x1d, 0x3f, 0x1a, 0x6e, 0x21];

/// Handles that may be open.
pub const HANDLES: usize = 32;
/// Watches of one handle.
pub const WATCHES: usize = 16;
/// Watches of all handles together: xenstored's own limit for a domain is 128 as a rule, and the devices have theirs.
pub const ALL_WATCHES: usize = 48;
/// Open transactions of one handle.
pub const TRANSACTIONS: usize = 4;
/// Open transactions of all handles together: xenstored's own limit is ten as a rule.
pub const ALL_TRANSACTIONS: usize = 6;
/// Replies of one handle that are under way or not read yet.
pub const REPLIES: usize = 16;
/// Requests of all handles together that are under way; the driver has as many slots again for itself.
pub const ALL_REQUESTS: usize = 32;
/// Bytes of a watch's token.
pub const TOKEN_MAX: usize = 64;
