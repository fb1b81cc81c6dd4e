//! The block protocol, 64-bit ABI (`xen/include/public/io/blkif.h`, `protocol` = `x86_64-abi`).
//!
//! A slot is 112 bytes. [`Request`] is what a slot means; [`RawRequest`] is its bytes. Encoding cannot fail, since a
//! [`Request`] cannot hold what a slot cannot; decoding checks every field. Sectors of the ring are always 512 bytes,
//! whatever the disk's own sector size is.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, transmute};

use crate::PAGE_SIZE;
use crate::grant::GrantRef;
use crate::ring::RingProtocol;

/// `protocol` key of this ABI.
pub const PROTOCOL: &str = "x86_64-abi";
/// Bytes of a sector in every sector number and count of the protocol.
pub const SECTOR_SIZE: u32 = 512;
/// Sectors of a page.
pub const SECTORS_PER_PAGE: u8 = (PAGE_SIZE / SECTOR_SIZE as usize) as u8;
/// Most segments of a request whose segments stand in the slot.
pub const MAX_SEGMENTS: usize = 11;
/// Most pages with segments of an indirect request.
pub const MAX_INDIRECT_PAGES: usize = 8;
/// Segments that fit in one page of an indirect request.
pub const SEGMENTS_PER_PAGE: usize = PAGE_SIZE / size_of::<RawSegment>();
/// Most segments of an indirect request. The backend's `feature-max-indirect-segments` is lower as a rule.
pub const MAX_INDIRECT_SEGMENTS: usize = MAX_INDIRECT_PAGES * SEGMENTS_PER_PAGE;

/// `BLKIF_OP_READ`.
pub const OP_READ: u8 = 0;
/// `BLKIF_OP_WRITE`.
pub const OP_WRITE: u8 = 1;
/// `BLKIF_OP_WRITE_BARRIER`.
pub const OP_WRITE_BARRIER: u8 = 2;
/// `BLKIF_OP_FLUSH_DISKCACHE`.
pub const OP_FLUSH: u8 = 3;
/// `BLKIF_OP_DISCARD`.
pub const OP_DISCARD: u8 = 5;
/// `BLKIF_OP_INDIRECT`.
pub const OP_INDIRECT: u8 = 6;

/// `BLKIF_DISCARD_SECURE`.
pub const DISCARD_SECURE: u8 = 1;

/// `BLKIF_RSP_OKAY`.
pub const RSP_OKAY: i16 = 0;
/// `BLKIF_RSP_ERROR`.
pub const RSP_ERROR: i16 = -1;
/// `BLKIF_RSP_EOPNOTSUPP`.
pub const RSP_EOPNOTSUPP: i16 = -2;

bitflags::bitflags! {
    /// The backend's `info` key.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VdiskInfo: u32 {
        /// `VDISK_CDROM`.
        const CDROM = 1;
        /// `VDISK_REMOVABLE`.
        const REMOVABLE = 2;
        /// `VDISK_READONLY`.
        const READ_ONLY = 4;
    }
}

/// The protocol, for [`FrontRing`](crate::ring::FrontRing) and [`BackRing`](crate::ring::BackRing).
#[derive(Debug)]
pub enum Blkif {}

impl RingProtocol for Blkif {
    type Request = RawRequest;
    type Response = RawResponse;
}

/// The bytes of a request's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawRequest {
    words: [u64; 14],
}

/// `struct blkif_response`, with its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawResponse {
    /// Of the request.
    pub id: u64,
    /// Of the request.
    pub operation: u8,
    /// Padding.
    pub pad0: u8,
    /// [`RSP_OKAY`] or an error.
    pub status: i16,
    /// Padding.
    pub pad1: u32,
}

impl RawResponse {
    /// A response.
    pub const fn new(id: u64, operation: u8, status: i16) -> Self {
        Self { id, operation, pad0: 0, status, pad1: 0 }
    }
}

/// `struct blkif_request_segment`, as it stands in a slot or in a page of an indirect request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawSegment {
    /// Grant of the page.
    pub gref: u32,
    /// First sector of the page that is used.
    pub first_sector: u8,
    /// Last sector of the page that is used.
    pub last_sector: u8,
    /// Padding.
    pub pad: u16,
}

/// `struct blkif_request`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RwLayout {
    /// `BLKIF_OP_*`.
    pub operation: u8,
    /// Segments used.
    pub segment_count: u8,
    /// The frontend's virtual device number.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Returned in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector: u64,
    /// The segments.
    pub segments: [RawSegment; MAX_SEGMENTS],
}

/// `struct blkif_request_discard`, filled up to a slot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DiscardLayout {
    /// [`OP_DISCARD`].
    pub operation: u8,
    /// [`DISCARD_SECURE`] or zero.
    pub flag: u8,
    /// The frontend's virtual device number.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Returned in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector: u64,
    /// Sectors.
    pub sector_count: u64,
    /// The rest of the slot.
    pub rest: [u64; 10],
}

/// `struct blkif_request_indirect`, filled up to a slot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndirectLayout {
    /// [`OP_INDIRECT`].
    pub operation: u8,
    /// [`OP_READ`] or [`OP_WRITE`].
    pub indirect_operation: u8,
    /// Segments in the pages.
    pub segment_count: u16,
    /// Padding.
    pub pad0: u32,
    /// Returned in the response.
    pub id: u64,
    /// First sector on the disk.
    pub sector: u64,
    /// The frontend's virtual device number.
    pub handle: u16,
    /// Padding.
    pub pad1: u16,
    /// Grants of the pages with segments.
    pub pages: [u32; MAX_INDIRECT_PAGES],
    /// The rest of the slot.
    pub rest: [u32; 13],
}

/// Part of a granted page: sectors `first..=last` of the eight in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    gref: GrantRef,
    first: u8,
    last: u8,
}

impl Segment {
    /// Sectors `first..=last` of the page granted as `gref`; `None` unless `first <= last < 8`.
    #[inline]
    pub const fn new(gref: GrantRef, first: u8, last: u8) -> Option<Self> {
        if first <= last && last < SECTORS_PER_PAGE { Some(Self { gref, first, last }) } else { None }
    }

    /// Grant of the page.
    pub const fn gref(&self) -> GrantRef {
        self.gref
    }

    /// First sector used.
    pub const fn first(&self) -> u8 {
        self.first
    }

    /// Last sector used.
    pub const fn last(&self) -> u8 {
        self.last
    }

    /// Sectors used, 1 to 8.
    pub const fn sectors(&self) -> u32 {
        (self.last - self.first) as u32 + 1
    }

    /// Offset in the page and length, in bytes.
    pub const fn bytes(&self) -> (usize, usize) {
        (self.first as usize * SECTOR_SIZE as usize, self.sectors() as usize * SECTOR_SIZE as usize)
    }

    /// As it stands in a slot.
    #[inline]
    pub const fn encode(&self) -> RawSegment {
        RawSegment { gref: self.gref, first_sector: self.first, last_sector: self.last, pad: 0 }
    }

    /// Checks what stood in a slot.
    ///
    /// # Errors
    /// [`DecodeError::Segment`].
    pub const fn decode(raw: RawSegment) -> Result<Self, DecodeError> {
        match Self::new(raw.gref, raw.first_sector, raw.last_sector) {
            Some(segment) => Ok(segment),
            None => Err(DecodeError::Segment),
        }
    }
}

/// Up to [`MAX_SEGMENTS`] segments.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    list: [RawSegment; MAX_SEGMENTS],
    len: u8,
}

impl Segments {
    /// None.
    #[inline]
    pub const fn new() -> Self {
        Self { list: [RawSegment { gref: 0, first_sector: 0, last_sector: 0, pad: 0 }; MAX_SEGMENTS], len: 0 }
    }

    /// Adds one. `false` if there are [`MAX_SEGMENTS`] already.
    #[inline]
    #[must_use]
    pub fn push(&mut self, segment: Segment) -> bool {
        let Some(place) = self.list.get_mut(usize::from(self.len)) else { return false };
        *place = segment.encode();
        self.len += 1;
        true
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments.
    pub fn iter(&self) -> impl Iterator<Item = Segment> {
        self.list.iter().take(self.len()).map(|raw| Segment {
            gref: raw.gref,
            first: raw.first_sector,
            last: raw.last_sector,
        })
    }

    /// Sectors of all of them.
    pub fn sectors(&self) -> u32 {
        self.iter().map(|segment| segment.sectors()).sum()
    }
}

impl Default for Segments {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Segments {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Segments {}

impl FromIterator<Segment> for Segments {
    /// Takes the first [`MAX_SEGMENTS`].
    fn from_iter<I: IntoIterator<Item = Segment>>(iter: I) -> Self {
        let mut segments = Self::new();
        for segment in iter {
            if !segments.push(segment) {
                break;
            }
        }
        segments
    }
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk into the pages.
    Read,
    /// From the pages onto the disk.
    Write,
}

impl Direction {
    /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
    pub const fn operation(self) -> u8 {
        match self {
            Self::Read => OP_READ,
            Self::Write => OP_WRITE,
        }
    }
}

/// What a slot asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read or write, segments in the slot; at least one.
    Rw {
        /// Which way.
        direction: Direction,
        /// First sector on the disk.
        sector: u64,
        /// The pages.
        segments: Segments,
    },
    /// Read or write, segments in pages of their own.
    Indirect {
        /// Which way.
        direction: Direction,
        /// First sector on the disk.
        sector: u64,
        /// Segments in the pages, 1 to [`MAX_INDIRECT_SEGMENTS`].
        segment_count: u16,
        /// Grants of the pages; only the first `segment_count / 512`, rounded up, mean anything.
        pages: [GrantRef; MAX_INDIRECT_PAGES],
    },
    /// Write after everything before it and before everything after it is on stable storage. No segment: order only.
    Barrier {
        /// First sector on the disk.
        sector: u64,
        /// The pages.
        segments: Segments,
    },
    /// Put everything that was completed before on stable storage.
    Flush,
    /// The sectors' contents are not needed any more.
    Discard {
        /// First sector on the disk.
        sector: u64,
        /// Sectors.
        sector_count: u64,
        /// Make them unreadable, too.
        secure: bool,
    },
}

impl Command {
    /// `BLKIF_OP_*` that the response names: the slot's, but for an indirect request the one that it stands for (Linux's
    /// blkback answers READ or WRITE, and its blkfront expects that).
    pub const fn answered_as(&self) -> u8 {
        match self {
            Self::Indirect { direction, .. } => direction.operation(),
            _ => self.operation(),
        }
    }

    /// `BLKIF_OP_*` of the slot.
    pub const fn operation(&self) -> u8 {
        match self {
            Self::Rw { direction, .. } => direction.operation(),
            Self::Indirect { .. } => OP_INDIRECT,
            Self::Barrier { .. } => OP_WRITE_BARRIER,
            Self::Flush => OP_FLUSH,
            Self::Discard { .. } => OP_DISCARD,
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Returned in the response.
    pub id: u64,
    /// The frontend's virtual device number.
    pub handle: u16,
    /// What to do.
    pub command: Command,
}

/// Pages that hold `segments` segments of an indirect request.
pub const fn indirect_pages(segments: usize) -> usize {
    segments.div_ceil(SEGMENTS_PER_PAGE)
}

/// What is wrong with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not an operation of the protocol, or not one that may stand there.
    Operation(u8),
    /// No segment, or more than fit.
    SegmentCount(u16),
    /// First sector behind the last, or outside of the page.
    Segment,
    /// The request would end behind the largest sector number.
    Range,
}

impl Request {
    /// The slot's bytes.
    #[inline]
    pub fn encode(&self) -> RawRequest {
        match &self.command {
            Command::Rw { direction, sector, segments } => self.rw(direction.operation(), *sector, segments),
            Command::Barrier { sector, segments } => self.rw(OP_WRITE_BARRIER, *sector, segments),
            Command::Flush => self.rw(OP_FLUSH, 0, &Segments::new()),
            Command::Indirect { direction, sector, segment_count, pages } => transmute!(IndirectLayout {
                operation: OP_INDIRECT,
                indirect_operation: direction.operation(),
                segment_count: *segment_count,
                pad0: 0,
                id: self.id,
                sector: *sector,
                handle: self.handle,
                pad1: 0,
                pages: *pages,
                rest: [0; 13],
            }),
            Command::Discard { sector, sector_count, secure } => transmute!(DiscardLayout {
                operation: OP_DISCARD,
                flag: if *secure { DISCARD_SECURE } else { 0 },
                handle: self.handle,
                pad: 0,
                id: self.id,
                sector: *sector,
                sector_count: *sector_count,
                rest: [0; 10],
            }),
        }
    }

    #[inline]
    fn rw(&self, operation: u8, sector: u64, segments: &Segments) -> RawRequest {
        transmute!(RwLayout {
            operation,
            segment_count: segments.len,
            handle: self.handle,
            pad: 0,
            id: self.id,
            sector,
            segments: segments.list,
        })
    }

    /// Reads and checks a slot that was copied out of the ring.
    ///
    /// # Errors
    /// [`DecodeError`] says which field is wrong. [`RawRequest::id`] and [`RawRequest::operation`] still tell what to
    /// answer.
    pub fn decode(raw: &RawRequest) -> Result<Self, DecodeError> {
        let operation = raw.operation();
        match operation {
            OP_READ | OP_WRITE | OP_WRITE_BARRIER | OP_FLUSH => {
                let slot: RwLayout = transmute!(*raw);
                let count = usize::from(slot.segment_count);
                let wrong_count = DecodeError::SegmentCount(u16::from(slot.segment_count));
                let mut segments = Segments::new();
                for raw in slot.segments.get(..count).ok_or(wrong_count)? {
                    if !segments.push(Segment::decode(*raw)?) {
                        return Err(wrong_count);
                    }
                }
                if slot.sector.checked_add(u64::from(segments.sectors())).is_none() {
                    return Err(DecodeError::Range);
                }
                let sector = slot.sector;
                let command = match operation {
                    OP_FLUSH if count == 0 => Command::Flush,
                    OP_WRITE_BARRIER => Command::Barrier { sector, segments },
                    OP_READ | OP_WRITE if count > 0 => {
                        Command::Rw { direction: direction(operation)?, sector, segments }
                    }
                    _ => return Err(wrong_count),
                };
                Ok(Self { id: slot.id, handle: slot.handle, command })
            }
            OP_DISCARD => {
                let slot: DiscardLayout = transmute!(*raw);
                if slot.sector.checked_add(slot.sector_count).is_none() {
                    return Err(DecodeError::Range);
                }
                let command = Command::Discard {
                    sector: slot.sector,
                    sector_count: slot.sector_count,
                    secure: slot.flag & DISCARD_SECURE != 0,
                };
                Ok(Self { id: slot.id, handle: slot.handle, command })
            }
            OP_INDIRECT => {
                let slot: IndirectLayout = transmute!(*raw);
                let count = usize::from(slot.segment_count);
                if count == 0 || count > MAX_INDIRECT_SEGMENTS {
                    return Err(DecodeError::SegmentCount(slot.segment_count));
                }
                let most = count as u64 * u64::from(SECTORS_PER_PAGE);
                if slot.sector.checked_add(most).is_none() {
                    return Err(DecodeError::Range);
                }
                let command = Command::Indirect {
                    direction: direction(slot.indirect_operation)?,
                    sector: slot.sector,
                    segment_count: slot.segment_count,
                    pages: slot.pages,
                };
                Ok(Self { id: slot.id, handle: slot.handle, command })
            }
            other => Err(DecodeError::Operation(other)),
        }
    }
}

fn direction(operation: u8) -> Result<Direction, DecodeError> {
    match operation {
        OP_READ => Ok(Direction::Read),
        OP_WRITE => Ok(Direction::Write),
        other => Err(DecodeError::Operation(other)),
    }
}

impl RawRequest {
    /// The operation, which stands in the same place whatever the request is.
    pub const fn operation(&self) -> u8 {
        self.words[0] as u8
    }

    /// The id, which stands in the same place whatever the request is.
    pub const fn id(&self) -> u64 {
        self.words[1]
    }

    /// A slot of zeroes.
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

const _: () = {
    assert!(size_of::<RawRequest>() == 112);
    assert!(size_of::<RwLayout>() == 112);
    assert!(size_of::<DiscardLayout>() == 112);
    assert!(size_of::<IndirectLayout>() == 112);
    assert!(size_of::<RawResponse>() == 16);
    assert!(size_of::<RawSegment>() == 8);
    assert!(core::mem::offset_of!(RwLayout, id) == 8);
    assert!(core::mem::offset_of!(RwLayout, segments) == 24);
    assert!(core::mem::offset_of!(DiscardLayout, sector_count) == 24);
    assert!(core::mem::offset_of!(IndirectLayout, handle) == 24);
    assert!(core::mem::offset_of!(IndirectLayout, pages) == 28);
    assert!(core::mem::offset_of!(RawResponse, status) == 10);
    assert!(SEGMENTS_PER_PAGE == 512);
};
