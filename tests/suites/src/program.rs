//! A user-mode program on the device interface of xenpci, as the cases of `control` have it: xenstore's wire protocol over
//! a file handle. Declared here a second time, from Xen's documentation.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use nt::io::security::Token;
use nt::io::user::{self, Overlapped, UserFile};

use crate::case::{Ctx, Failure};
use crate::{check, fail};

/// The class of the device interface: `{4B9E6C0D-2F67-4B0B-9C53-0B1D3F1A6E21}`.
pub const CLASS: [u8; 16] =
    [0x0d, 0x6c, 0x9e, 0x4b, 0x67, 0x2f, 0x0b, 0x4b, 0x9c, 0x53, 0x0b, 0x1d, 0x3f, 0x1a, 0x6e, 0x21];
/// GENERIC_READ.
pub const GENERIC_READ: u32 = 0x8000_0000;
/// GENERIC_WRITE.
pub const GENERIC_WRITE: u32 = 0x4000_0000;
/// Milliseconds in which an answer comes.
const ANSWER_MS: u64 = 20_000;

/// Types of xenstore's messages, from its documentation (`docs/misc/xenstore.txt` in Xen's source).
pub mod kind {
    /// `XS_DIRECTORY`.
    pub const DIRECTORY: u32 = 1;
    /// `XS_READ`.
    pub const READ: u32 = 2;
    /// `XS_WATCH`.
    pub const WATCH: u32 = 4;
    /// `XS_UNWATCH`.
    pub const UNWATCH: u32 = 5;
    /// `XS_TRANSACTION_START`.
    pub const TRANSACTION_START: u32 = 6;
    /// `XS_TRANSACTION_END`.
    pub const TRANSACTION_END: u32 = 7;
    /// `XS_WRITE`.
    pub const WRITE: u32 = 11;
    /// `XS_RM`.
    pub const RM: u32 = 13;
    /// `XS_WATCH_EVENT`.
    pub const WATCH_EVENT: u32 = 15;
    /// `XS_ERROR`.
    pub const ERROR: u32 = 16;
    /// `XS_RESET_WATCHES`.
    pub const RESET_WATCHES: u32 = 21;
}

/// A message as it goes over the wire.
pub fn message(kind: u32, id: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [kind, id, transaction, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its type.
    pub kind: u32,
    /// Whose request it answers.
    pub id: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Reply {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// The link under which programs find the device.
///
/// # Errors
/// There is none, or more than one.
pub fn link() -> Result<String, Failure> {
    let mut links = user::interfaces(CLASS);
    check!(links.len() == 1, "there are {} device interfaces for xenstore", links.len());
    Ok(links.remove(0))
}

/// A program's connection.
pub struct Program {
    /// The handle.
    pub file: UserFile,
    /// What was read and not taken apart yet.
    pub stream: Vec<u8>,
    /// Id of the last request.
    pub last_id: u32,
}

impl Program {
    /// An administrator's.
    ///
    /// # Errors
    /// The device does not open.
    pub fn open() -> Result<Self, Failure> {
        let file = UserFile::open(&link()?, GENERIC_READ | GENERIC_WRITE, Token::Administrator)
            .map_err(|status| format!("an administrator cannot open the device: {status:#x}"))?;
        Ok(Self { file, stream: Vec::new(), last_id: 100 })
    }

    /// Sends a request; its id.
    ///
    /// # Errors
    /// It is refused.
    pub fn send(&mut self, kind: u32, transaction: u32, payload: &[u8]) -> Result<u32, Failure> {
        self.last_id += 1;
        let bytes = message(kind, self.last_id, transaction, payload);
        match self.file.write(&bytes) {
            Ok(written) => {
                check!(written == bytes.len(), "{written} of {} bytes were written", bytes.len());
                Ok(self.last_id)
            }
            Err(status) => fail!("request {kind} is refused: {status:#x}"),
        }
    }

    /// The next message that comes.
    ///
    /// # Errors
    /// None comes, or what comes is none.
    pub fn next(&mut self, ctx: &Ctx<'_>) -> Result<Reply, Failure> {
        loop {
            if let Some(reply) = self.take()? {
                return Ok(reply);
            }
            let read = self.file.read(4096 + 16).map_err(|status| format!("a read is refused: {status:#x}"))?;
            let (status, _, bytes) = finish(ctx, read)?;
            check!(status == 0, "a read ended with {status:#x}");
            check!(!bytes.is_empty(), "a read ended with nothing");
            self.stream.extend_from_slice(&bytes);
        }
    }

    /// A message out of what was read.
    ///
    /// # Errors
    /// It is none.
    pub fn take(&mut self) -> Result<Option<Reply>, Failure> {
        let Some(head) = self.stream.first_chunk::<16>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, id, length) = (word(0), word(4), word(12) as usize);
        check!(length <= 4096, "a message of {length} bytes came");
        if self.stream.len() < 16 + length {
            return Ok(None);
        }
        let rest = self.stream.split_off(16 + length);
        let payload = core::mem::replace(&mut self.stream, rest).split_off(16);
        Ok(Some(Reply { kind, id, payload }))
    }

    /// Sends a request and waits for its reply; watch events before it are dropped.
    ///
    /// # Errors
    /// There is no reply, or it is another request's.
    pub fn ask(&mut self, ctx: &Ctx<'_>, kind: u32, transaction: u32, payload: &[u8]) -> Result<Reply, Failure> {
        let id = self.send(kind, transaction, payload)?;
        loop {
            let reply = self.next(ctx)?;
            if reply.kind != kind::WATCH_EVENT {
                check!(reply.id == id, "the reply to {id} has the id {}", reply.id);
                check!(reply.kind == kind || reply.kind == kind::ERROR, "a reply of type {} to {kind}", reply.kind);
                return Ok(reply);
            }
        }
    }

    /// As [`Program::ask`]; the reply must be good.
    ///
    /// # Errors
    /// It is not.
    pub fn good(&mut self, ctx: &Ctx<'_>, kind: u32, transaction: u32, payload: &[u8]) -> Result<Reply, Failure> {
        let reply = self.ask(ctx, kind, transaction, payload)?;
        check!(reply.kind == kind, "request {kind} failed with {}", reply.text());
        Ok(reply)
    }

    /// As [`Program::ask`]; the reply must be that error.
    ///
    /// # Errors
    /// It is not.
    pub fn bad(
        &mut self,
        ctx: &Ctx<'_>,
        kind: u32,
        transaction: u32,
        payload: &[u8],
        name: &str,
    ) -> Result<(), Failure> {
        let reply = self.ask(ctx, kind, transaction, payload)?;
        check!(
            reply.kind == kind::ERROR && reply.payload == [name.as_bytes(), b"\0"].concat(),
            "request {kind} gave {:?}, {name} is due",
            reply.text()
        );
        Ok(())
    }

    /// Begins a transaction; its number.
    ///
    /// # Errors
    /// It does not begin.
    pub fn begin(&mut self, ctx: &Ctx<'_>) -> Result<u32, Failure> {
        let reply = self.good(ctx, kind::TRANSACTION_START, 0, b"\0")?;
        let text = reply.text();
        text.trim_end_matches('\0').parse().map_err(|_| format!("the transaction is {text:?}").into())
    }

    /// Waits for an event of a watch with that token; its path.
    ///
    /// # Errors
    /// None comes, or another watch's.
    pub fn event(&mut self, ctx: &Ctx<'_>, token: &str) -> Result<String, Failure> {
        loop {
            let reply = self.next(ctx)?;
            let text = reply.text();
            let mut parts = text.split('\0');
            if reply.kind == kind::WATCH_EVENT
                && let (Some(path), Some(found)) = (parts.next(), parts.next())
            {
                check!(found == token, "an event with the token {found:?} came, {token:?} is due");
                return Ok(path.to_string());
            }
        }
    }
}

/// Waits for the end of a read: status, bytes moved, the bytes.
///
/// # Errors
/// It does not end.
pub fn finish(ctx: &Ctx<'_>, read: Overlapped) -> Result<(i32, usize, Vec<u8>), Failure> {
    let mut waited = 0;
    while !read.is_done() {
        check!(waited < ANSWER_MS, "a read has waited {waited} ms");
        ctx.world.sleep_ms(1);
        waited += 1;
    }
    Ok(read.wait())
}
