//! Reads the payloads of replies and watch events. All of it comes from outside: every form is checked.

use super::error_from_name;
use crate::errno::Errno;

/// The payload is not of the form that its type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Splits at the NUL that must be there.
fn split_nul(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let at = bytes.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
    Ok((&bytes[..at], &bytes[at + 1..]))
}

/// One string with a NUL at its end and nowhere else.
///
/// # Errors
/// [`Malformed`].
pub fn string(payload: &[u8]) -> Result<&[u8], Malformed> {
    match split_nul(payload)? {
        (text, []) => Ok(text),
        _ => Err(Malformed),
    }
}

/// A decimal number with nothing before and behind it.
///
/// # Errors
/// [`Malformed`]; also when it does not fit.
pub fn number(text: &[u8]) -> Result<u64, Malformed> {
    if text.is_empty() {
        return Err(Malformed);
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10).ok_or(Malformed)?;
        value.checked_mul(10).and_then(|value| value.checked_add(u64::from(digit))).ok_or(Malformed)
    })
}

/// The reply to `TransactionStart`: the id, not 0.
///
/// # Errors
/// [`Malformed`].
pub fn transaction_id(payload: &[u8]) -> Result<u32, Malformed> {
    let id = number(string(payload)?)?;
    u32::try_from(id).ok().filter(|id| *id != 0).ok_or(Malformed)
}

/// The payload of an `Error` reply.
///
/// # Errors
/// [`Malformed`].
pub fn error(payload: &[u8]) -> Result<Errno, Malformed> {
    Ok(error_from_name(string(payload)?))
}

/// The payload of a reply that says no more than that it was done.
///
/// # Errors
/// [`Malformed`] unless it is `OK`.
pub fn ok(payload: &[u8]) -> Result<(), Malformed> {
    if payload == b"OK\0" { Ok(()) } else { Err(Malformed) }
}

/// A watch event: path and token.
///
/// # Errors
/// [`Malformed`].
pub fn watch_event(payload: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (path, rest) = split_nul(payload)?;
    Ok((path, string(rest)?))
}

/// The reply to `Directory`: names, each with a NUL at its end, none empty.
///
/// # Errors
/// [`Malformed`].
pub fn directory(payload: &[u8]) -> Result<Names<'_>, Malformed> {
    if !payload.is_empty() && (payload.last() != Some(&0) || payload[0] == 0 || payload.windows(2).any(|w| w == [0, 0]))
    {
        return Err(Malformed);
    }
    Ok(Names { rest: payload })
}

/// The names of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    rest: &'a [u8],
}

impl<'a> Names<'a> {
    /// The names as they stand in the payload, each with its NUL.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (name, rest) = split_nul(self.rest).ok()?;
        self.rest = rest;
        Some(name)
    }
}

/// The reply to `DirectoryPart`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPart<'a> {
    /// Changes whenever the directory does; parts with different ones do not fit together.
    pub generation: u64,
    /// Names, each with its NUL.
    pub names: Names<'a>,
    /// Whether this part is the last one.
    pub last: bool,
}

/// The reply to `DirectoryPart`: generation, names, and one more NUL behind the last part.
///
/// # Errors
/// [`Malformed`].
pub fn directory_part(payload: &[u8]) -> Result<DirectoryPart<'_>, Malformed> {
    let (generation, rest) = split_nul(payload)?;
    let generation = number(generation)?;
    // The last part has one NUL more than its names do: alone if there are no names, doubled otherwise.
    let (names, last) = match rest {
        [0] => (&[][..], true),
        [names @ .., 0, 0] => (&rest[..=names.len()], true),
        _ => (rest, false),
    };
    if names.is_empty() && !last {
        return Err(Malformed);
    }
    Ok(DirectoryPart { generation, names: directory(names)?, last })
}

/// A letter and a domain in a node's permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// `r`, `w`, `b` (both) or `n` (none).
    pub access: u8,
    /// For which domain. In the first one: who owns the node; the letter is then for everyone else.
    pub domid: u16,
}

/// One entry of the reply to `GetPerms`, without its NUL.
///
/// # Errors
/// [`Malformed`].
pub fn permission(text: &[u8]) -> Result<Permission, Malformed> {
    match text {
        [access @ (b'r' | b'w' | b'b' | b'n'), domid @ ..] => {
            let domid = u16::try_from(number(domid)?).map_err(|_| Malformed)?;
            Ok(Permission { access: *access, domid })
        }
        _ => Err(Malformed),
    }
}

/// Room for a `u32` in decimal.
pub type Decimal = [u8; 10];

/// Writes `value` in decimal into `room` and returns the part used.
pub fn decimal(mut value: u32, room: &mut Decimal) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &room[at..];
        }
    }
}
