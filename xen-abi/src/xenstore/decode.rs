//! Puts a stream of bytes, in whatever pieces it comes, together to messages.

use zerocopy::{FromBytes, IntoBytes};

use super::{HEADER_SIZE, Header, PAYLOAD_MAX};

/// The stream cannot be followed any further: the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A header announces more than the protocol allows, or than the buffer holds.
    Length(u32),
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self::Length(length) = self;
        write!(f, "a message of {length} bytes is announced")
    }
}

/// A whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// As many bytes as the header says.
    pub payload: &'a [u8],
}

/// The decoder. `B` holds the payload; with [`PAYLOAD_MAX`] bytes every message fits.
#[derive(Debug)]
pub struct Decoder<B> {
    header: [u8; HEADER_SIZE],
    buffer: B,
    /// Bytes of the present message, header included.
    have: usize,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Decoder<B> {
    /// A decoder at the beginning of a message.
    pub const fn new(buffer: B) -> Self {
        Self { header: [0; HEADER_SIZE], buffer, have: 0 }
    }

    fn parsed(&self) -> Option<Header> {
        if self.have >= HEADER_SIZE { Header::read_from_bytes(&self.header).ok() } else { None }
    }

    /// Bytes that are missing until the header or, after it, the message is whole; 0 when it is.
    pub fn missing(&self) -> usize {
        match self.parsed() {
            None => HEADER_SIZE - self.have,
            Some(header) => HEADER_SIZE + header.len as usize - self.have,
        }
    }

    /// Whether a message has begun and is not whole.
    pub fn in_message(&self) -> bool {
        self.have > 0 && self.message().is_none()
    }

    /// Takes bytes until the message is whole; how many were taken. While a whole message lies here none are: read it
    /// with [`message`](Self::message) and go on after [`next`](Self::next).
    ///
    /// # Errors
    /// [`DecodeError`]. The decoder takes no more bytes until [`reset`](Self::reset).
    pub fn feed(&mut self, input: &[u8]) -> Result<usize, DecodeError> {
        let mut taken = 0;
        if self.have < HEADER_SIZE {
            let count = input.len().min(HEADER_SIZE - self.have);
            self.header[self.have..self.have + count].copy_from_slice(&input[..count]);
            self.have += count;
            taken = count;
        }
        let Some(header) = self.parsed() else { return Ok(taken) };
        let most = self.buffer.as_ref().len().min(PAYLOAD_MAX);
        if header.len as usize > most {
            return Err(DecodeError::Length(header.len));
        }
        let got = self.have - HEADER_SIZE;
        let count = (input.len() - taken).min(header.len as usize - got);
        self.buffer.as_mut()[got..got + count].copy_from_slice(&input[taken..taken + count]);
        self.have += count;
        Ok(taken + count)
    }

    /// The message, once it is whole.
    pub fn message(&self) -> Option<Message<'_>> {
        let header = self.parsed()?;
        let payload = self.buffer.as_ref().get(..header.len as usize)?;
        (self.have == HEADER_SIZE + payload.len()).then_some(Message { header, payload })
    }

    /// Lets go of a whole message; the next one may begin.
    pub fn next(&mut self) {
        if self.message().is_some() {
            self.have = 0;
        }
    }

    /// Forgets everything: the stream begins anew.
    pub fn reset(&mut self) {
        self.header.as_mut_bytes().fill(0);
        self.have = 0;
    }
}
