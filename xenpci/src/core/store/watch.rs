//! Watches of xenstore: their names, tokens and events.

use alloc::vec::Vec;

/// Names a watch. Its last ten bits are the place in the table, the others a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchId(pub(super) u32);

/// A watch's token, as it goes over the wire.
pub type Token = [u8; 8];

impl WatchId {
    /// The token: eight hexadecimal digits.
    pub fn token(self) -> Token {
        let mut token = [0; 8];
        for (place, digit) in token.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(self.0 >> (28 - 4 * place)) as usize & 0xF];
        }
        token
    }

    /// The watch that a token names.
    pub fn from_token(token: &[u8]) -> Option<Self> {
        if token.len() != 8 {
            return None;
        }
        token
            .iter()
            .try_fold(0_u32, |value, byte| match byte {
                b'0'..=b'9' => Some(value << 4 | u32::from(byte - b'0')),
                b'a'..=b'f' => Some(value << 4 | u32::from(byte - b'a' + 10)),
                _ => None,
            })
            .map(Self)
    }

    pub(super) fn index(self) -> usize {
        (self.0 & 0x3FF) as usize
    }
}

#[derive(Debug)]
pub(super) struct Watch {
    pub(super) id: WatchId,
    pub(super) path: Vec<u8>,
    /// Its events that wait.
    pub(super) waiting: usize,
    /// It fired, but there was no room to remember where.
    pub(super) lost: bool,
}

/// A watch that fired.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// Which watch.
    pub watch: WatchId,
    /// What changed, as xenstored says it: relative if the watch is.
    pub path: Vec<u8>,
}
