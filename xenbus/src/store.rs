//! Numbers in the store: read with doubt, written without allocation.

use crate::{
    client::{Bus, Error, Result, Transaction},
    interface::LogLevel,
    path::Path,
};

/// A number in the store; None where there is none, or where it is none (which is logged). PASSIVE_LEVEL.
///
/// # Errors
/// The store's, other than that the node is missing.
pub fn number<B: Bus>(bus: &B, directory: &Path, key: &str) -> Result<Option<u64>> {
    let path = directory.join(key).map_err(|_| Error::Protocol)?;
    let mut buf = [0; 32];
    let len = match bus.read(Transaction::NONE, path.as_bytes(), &mut buf) {
        Ok(len) => len,
        Err(Error::NotFound) => return Ok(None),
        Err(Error::TooSmall) => {
            bus.log(LogLevel::Warning, format_args!("{key} is too long for a number: ignored"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let text = buf.get(..len).unwrap_or(&[]);
    let value = decimal(text);
    if value.is_none() {
        bus.log(LogLevel::Warning, format_args!("{key} = \"{}\": no number that fits, ignored", text.escape_ascii()));
    }
    Ok(value)
}

/// A decimal number, and nothing else but spaces around it and a NUL behind it.
pub fn decimal(text: &[u8]) -> Option<u64> {
    let text = text.strip_suffix(&[0]).unwrap_or(text).trim_ascii();
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Text of a decimal number.
pub struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    /// The text of `value`.
    pub fn new(mut value: u64) -> Self {
        let mut digits = [0; 20];
        let mut start = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            start -= 1;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        Self { digits, start }
    }

    /// The digits.
    pub fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or(&[])
    }
}

/// Writes the frontend's state. PASSIVE_LEVEL.
///
/// # Errors
/// The store's.
pub fn write_state<B: Bus>(bus: &B, state: u32) -> Result {
    bus.write(Transaction::NONE, b"state", Decimal::new(u64::from(state)).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for value in [0, 1, 9, 10, 4096, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(decimal(Decimal::new(value).as_bytes()), Some(value));
        }
        assert_eq!(decimal(b" 12\0"), Some(12));
        for text in [&b""[..], b"-1", b"1x", b"0x10", b"18446744073709551616", b"1 2"] {
            assert_eq!(decimal(text), None);
        }
    }
}
