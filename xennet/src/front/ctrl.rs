//! The control ring: the backend is told which hash to make over packets, and to which queue each value goes.
//!
//! One request at a time. The caller says how to wait, and for how long; a backend that does not answer in time is asked
//! no more, and spreads packets as it likes. PASSIVE_LEVEL for all of it.

use core::fmt;

use xen_abi::{
    netif::{
        CTRL_GET_HASH_FLAGS, CTRL_GET_HASH_MAPPING_SIZE, CTRL_SET_HASH_ALGORITHM, CTRL_SET_HASH_FLAGS,
        CTRL_SET_HASH_KEY, CTRL_SET_HASH_MAPPING, CTRL_SET_HASH_MAPPING_SIZE, Ctrl, CtrlRequest, CtrlStatus, HASH_NONE,
        HASH_TOEPLITZ, HashTypes,
    },
    ring::{FrontRing, RingError},
    shared::SharedMemory,
};
use xenbus::{
    client::Bus,
    interface::LogLevel,
    pages::{Memory, give_references},
};

use super::{PAGE, SetupError};

/// Bytes of the longest key; Linux's netback takes no longer one.
pub const MOST_KEY: usize = 40;
/// Entries of the longest mapping; Linux's netback takes no longer one.
pub const MOST_MAPPING: usize = 128;

/// Grant references that a control ring needs.
pub const REFERENCES: usize = 2;

/// How packets are spread over queues.
#[derive(Clone, Copy, Debug)]
pub struct Hash<'a> {
    /// What the hash is made over.
    pub types: HashTypes,
    /// The Toeplitz key, up to [`MOST_KEY`] bytes.
    pub key: &'a [u8],
    /// The queue for each value of the hash modulo the number of entries, up to [`MOST_MAPPING`].
    pub mapping: &'a [u16],
    /// Queues of the connection.
    pub queues: u16,
}

/// Why the backend does not hash as it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtrlError {
    /// The key, the mapping or the types are none that can be asked for.
    Parameter,
    /// It answered a request of this type with this.
    Refused(u16, CtrlStatus),
    /// It hashes over none of what was asked for.
    Types(u32),
    /// It takes a mapping of that many entries only.
    Mapping(u32),
    /// It did not answer a request of this type in time.
    Timeout(u16),
    /// It did not answer an earlier request in time.
    Silent,
    /// It broke the protocol.
    Broken,
}

impl fmt::Display for CtrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter => f.write_str("a hash that cannot be asked for"),
            Self::Refused(kind, status) => write!(f, "control request {kind} was answered {status:?}"),
            Self::Types(types) => write!(f, "the backend hashes over {types:#x} only"),
            Self::Mapping(most) => write!(f, "the backend takes a mapping of {most} entries only"),
            Self::Timeout(kind) => write!(f, "control request {kind} was not answered in time"),
            Self::Silent => f.write_str("an earlier control request was not answered"),
            Self::Broken => f.write_str("the control ring is broken"),
        }
    }
}

/// How a caller lets the backend know, and waits for it.
pub trait Wait {
    /// Sends the control ring's event.
    fn notify(&mut self);
    /// Waits for the ring's event, or a while. False: the time for this request is up.
    fn wait(&mut self) -> bool;
}

/// The control ring of a connection.
pub struct Ring<M: Memory> {
    /// None only while it is closed.
    link: Option<Link<M>>,
    next_id: u16,
    failed: Option<CtrlError>,
}

struct Link<M: Memory> {
    ring: FrontRing<Ctrl, M>,
    /// Key and mapping on their way.
    page: M,
    references: [u32; 2],
}

impl<M: Memory> Ring<M> {
    /// Makes the ring in `ring` and grants it to the backend, and `page`, which the backend may only read; one page
    /// each.
    ///
    /// # Errors
    /// [`SetupError`]; memory and references are freed.
    pub fn new<B: Bus>(bus: &B, ring: M, page: M, references: [u32; REFERENCES]) -> Result<Self, SetupError> {
        let made = Self::share(bus, ring, page, references);
        if made.is_err() {
            give_references(bus, &references);
        }
        made.map(|link| Self { link: Some(link), next_id: 0, failed: None })
    }

    fn share<B: Bus>(bus: &B, ring: M, page: M, references: [u32; 2]) -> Result<Link<M>, SetupError> {
        if ring.size() != PAGE || page.size() != PAGE {
            return Err(SetupError::Memory);
        }
        let [ring_ref, page_ref] = references;
        let (ring_frame, page_frame) = ring.frame(0).zip(page.frame(0)).ok_or(SetupError::Memory)?;
        bus.grant_access(ring_ref, ring_frame, false).map_err(|_| SetupError::NoGrants)?;
        bus.grant_access(page_ref, page_frame, true).map_err(|_| SetupError::NoGrants)?;
        let ring = FrontRing::new(ring).map_err(|_| SetupError::Memory)?;
        Ok(Link { ring, page, references })
    }

    /// Reference of the ring's page, for the store. None: it is closed.
    pub fn ring_ref(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.references[0])
    }

    /// Whether the backend broke the protocol.
    pub fn is_broken(&self) -> bool {
        self.failed == Some(CtrlError::Broken)
    }

    /// Ends both pages' grants.
    pub fn close<B: Bus>(&mut self, bus: &B) {
        let Some(Link { ring, page, references: [ring_ref, page_ref] }) = self.link.take() else { return };
        let (ring_kept, page_kept) = (give_references(bus, &[ring_ref]), give_references(bus, &[page_ref]));
        if ring_kept {
            ring.into_memory().leak();
        }
        if page_kept {
            page.leak();
        }
        if ring_kept || page_kept {
            bus.log(LogLevel::Warning, format_args!("the backend keeps pages of the control ring: they are given up"));
        }
    }

    /// Has the backend hash packets and spread them. What it hashes over: what was asked for, as far as it knows it.
    /// After an error it spreads them as it likes.
    ///
    /// # Errors
    /// [`CtrlError`].
    pub fn set_hash<B: Bus>(&mut self, bus: &B, hash: &Hash<'_>, wait: &mut impl Wait) -> Result<HashTypes, CtrlError> {
        let sane = hash.key.len() <= MOST_KEY
            && (1..=MOST_MAPPING).contains(&hash.mapping.len())
            && hash.mapping.iter().all(|queue| *queue < hash.queues)
            && !hash.types.is_empty();
        if !sane {
            return Err(CtrlError::Parameter);
        }
        let done = self.try_set_hash(bus, hash, wait);
        if done.is_err() && self.failed.is_none() {
            // Half of it would be worse than nothing. It was refused already; a second refusal says nothing new.
            let _ = self.clear_hash(bus, wait);
        }
        done
    }

    fn try_set_hash<B: Bus>(&mut self, bus: &B, hash: &Hash<'_>, wait: &mut impl Wait) -> Result<HashTypes, CtrlError> {
        let page_ref = self.link.as_ref().map_or(0, |link| link.references[1]);
        self.ask(bus, CTRL_SET_HASH_ALGORITHM, [u32::from(HASH_TOEPLITZ), 0, 0], wait)?;
        let known = self.ask(bus, CTRL_GET_HASH_FLAGS, [0; 3], wait)?;
        let types = hash.types & HashTypes::from_bits_truncate(known);
        if types.is_empty() {
            return Err(CtrlError::Types(known));
        }
        self.ask(bus, CTRL_SET_HASH_FLAGS, [types.bits(), 0, 0], wait)?;
        self.put(0, hash.key);
        self.ask(bus, CTRL_SET_HASH_KEY, [page_ref, hash.key.len() as u32, 0], wait)?;
        let most = self.ask(bus, CTRL_GET_HASH_MAPPING_SIZE, [0; 3], wait)?;
        let entries = hash.mapping.len() as u32;
        if most < entries {
            return Err(CtrlError::Mapping(most));
        }
        self.ask(bus, CTRL_SET_HASH_MAPPING_SIZE, [entries, 0, 0], wait)?;
        for (number, queue) in hash.mapping.iter().enumerate() {
            self.put(number * 4, &u32::from(*queue).to_le_bytes());
        }
        self.ask(bus, CTRL_SET_HASH_MAPPING, [page_ref, entries, 0], wait)?;
        Ok(types)
    }

    /// Has the backend spread packets as it likes.
    ///
    /// # Errors
    /// [`CtrlError`].
    pub fn clear_hash<B: Bus>(&mut self, bus: &B, wait: &mut impl Wait) -> Result<(), CtrlError> {
        self.ask(bus, CTRL_SET_HASH_ALGORITHM, [u32::from(HASH_NONE), 0, 0], wait).map(|_| ())
    }

    /// Writes to the page of key and mapping.
    fn put(&self, offset: usize, bytes: &[u8]) {
        if let Some(link) = &self.link {
            link.page.write(offset, bytes);
        }
    }

    /// Asks, and waits for the answer's data.
    fn ask<B: Bus>(&mut self, bus: &B, kind: u16, data: [u32; 3], wait: &mut impl Wait) -> Result<u32, CtrlError> {
        if let Some(failed) = self.failed {
            return Err(if failed == CtrlError::Broken { failed } else { CtrlError::Silent });
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let ring = &mut self.link.as_mut().ok_or(CtrlError::Silent)?.ring;
        // One request at a time: there is room.
        ring.push(&CtrlRequest { id, kind, data }).map_err(|_| CtrlError::Silent)?;
        if ring.publish() {
            wait.notify();
        }
        let answer = loop {
            match next(ring) {
                Ok(Some(answer)) => break answer,
                Ok(None) if wait.wait() => {}
                Ok(None) => {
                    self.failed = Some(CtrlError::Timeout(kind));
                    return Err(CtrlError::Timeout(kind));
                }
                Err(error) => {
                    let (index, taken, asked) = ring.refused();
                    return Err(self.distrust(
                        bus,
                        format_args!("{error}: rsp_prod {index:#x}, not within {taken:#x}..={asked:#x}"),
                    ));
                }
            }
        };
        if answer.id != id || answer.kind != kind {
            let (got, of) = (answer.id, answer.kind);
            return Err(self.distrust(bus, format_args!("response id {got}, type {of} to request {id}, type {kind}")));
        }
        match CtrlStatus::decode(answer.status) {
            Ok(CtrlStatus::Success) => Ok(answer.data),
            Ok(status) => Err(CtrlError::Refused(kind, status)),
            Err(_) => Err(self.distrust(bus, format_args!("status {}: no such status", answer.status))),
        }
    }

    fn distrust<B: Bus>(&mut self, bus: &B, why: fmt::Arguments<'_>) -> CtrlError {
        bus.log(LogLevel::Error, format_args!("control: {why}: the backend is asked no more"));
        self.failed = Some(CtrlError::Broken);
        CtrlError::Broken
    }
}

/// The next answer; None: it will come with an event.
fn next<M: SharedMemory>(ring: &mut FrontRing<Ctrl, M>) -> Result<Option<xen_abi::netif::CtrlResponse>, RingError> {
    if let Some(answer) = ring.take()? {
        return Ok(Some(answer));
    }
    if ring.final_check()? { ring.take() } else { Ok(None) }
}

impl<M: Memory> Drop for Ring<M> {
    fn drop(&mut self) {
        // The peer may still use the pages, if nobody closed the ring.
        if let Some(link) = self.link.take() {
            link.page.leak();
            link.ring.into_memory().leak();
        }
    }
}
