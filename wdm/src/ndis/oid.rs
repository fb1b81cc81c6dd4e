//! An OID request with its buffer checked: what is too short, of the wrong type or of an unknown revision is refused
//! with the status that NDIS documents, and with BytesNeeded where that helps.

use core::marker::PhantomData;

use super::{
    abi::{
        ObjectHeader, object,
        offload::{OFFLOAD_PARAMETERS_SIZES, OffloadEncapsulation, OffloadParameters},
        oid::{self, InterruptModeration, Statistics, request},
        rss::{KEY_SIZE, ReceiveScaleParameters, TABLE_ENTRIES, param_flag},
    },
    status::NdisStatus,
};

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tell a value (NdisRequestQueryInformation and NdisRequestQueryStatistics).
    Query,
    /// Take a value.
    Set,
    /// Another kind.
    Other(i32),
}

/// A structure without pointers, of which every pattern of bits is a value.
///
/// # Safety
/// Just that.
pub unsafe trait Plain: Copy {}

// SAFETY: integers only.
unsafe impl Plain for u32 {}
// SAFETY: integers only.
unsafe impl Plain for Statistics {}
// SAFETY: integers only.
unsafe impl Plain for InterruptModeration {}
// SAFETY: integers only.
unsafe impl Plain for ObjectHeader {}
// SAFETY: integers only; its padding is never read.
unsafe impl Plain for OffloadParameters {}
// SAFETY: integers only.
unsafe impl Plain for OffloadEncapsulation {}
// SAFETY: integers only.
unsafe impl Plain for ReceiveScaleParameters {}

/// An OID request while its handler runs.
pub struct OidRequest<'a> {
    raw: &'a mut oid::OidRequest,
    _not_send: PhantomData<*mut ()>,
}

impl OidRequest<'_> {
    /// Wraps the argument of MiniportOidRequest.
    ///
    /// # Safety
    /// `raw` is that argument, and the value does not outlive the handler.
    pub(super) unsafe fn from_raw(raw: *mut oid::OidRequest) -> Option<Self> {
        // SAFETY: by contract.
        Some(Self { raw: unsafe { raw.as_mut() }?, _not_send: PhantomData })
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self.raw.request_type {
            request::QUERY | request::STATISTICS => Kind::Query,
            request::SET => Kind::Set,
            other => Kind::Other(other),
        }
    }

    /// The OID.
    pub fn oid(&self) -> u32 {
        self.raw.data.oid
    }

    /// Bytes of the buffer: 0 where there is none.
    fn room(&self) -> usize {
        if self.raw.data.buffer.is_null() { 0 } else { self.raw.data.buffer_length as usize }
    }

    /// Answers a query with all of `bytes`, or not at all.
    pub fn answer(&mut self, bytes: &[u8]) -> NdisStatus {
        if self.room() < bytes.len() {
            self.raw.data.bytes = 0;
            self.raw.data.bytes_needed = bytes.len() as u32;
            return NdisStatus::BUFFER_TOO_SHORT;
        }
        // SAFETY: the buffer has that much room, and is the request's, so nothing of ours overlaps it.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.raw.data.buffer.cast(), bytes.len()) };
        self.raw.data.bytes = bytes.len() as u32;
        NdisStatus::SUCCESS
    }

    /// Answers a query with a structure.
    pub fn answer_value<T: Plain>(&mut self, value: &T) -> NdisStatus {
        // SAFETY: a plain structure is bytes; all of those given out here are without padding, or were zeroed.
        self.answer(unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) })
    }

    /// Answers a query with OIDs.
    pub fn answer_list(&mut self, list: &[u32]) -> NdisStatus {
        // SAFETY: integers are bytes.
        self.answer(unsafe { core::slice::from_raw_parts(list.as_ptr().cast(), size_of_val(list)) })
    }

    /// Answers a query with a counter: in 64 bits, or in 32 where there is no room for more.
    pub fn answer_counter(&mut self, value: u64) -> NdisStatus {
        if self.room() >= size_of::<u64>() {
            return self.answer(&value.to_ne_bytes());
        }
        let status = self.answer(&(value as u32).to_ne_bytes());
        self.raw.data.bytes_needed = size_of::<u64>() as u32;
        status
    }

    /// The bytes of a set.
    pub fn bytes(&self) -> &[u8] {
        if self.room() == 0 {
            return &[];
        }
        // SAFETY: the buffer has that many bytes, which are ours to read while the handler runs.
        unsafe { core::slice::from_raw_parts(self.raw.data.buffer.cast(), self.room()) }
    }

    /// Says that the first `count` bytes of a set were used.
    pub fn used(&mut self, count: usize) {
        self.raw.data.bytes = count as u32;
    }

    fn too_short(&mut self, needed: usize) -> NdisStatus {
        self.raw.data.bytes = 0;
        self.raw.data.bytes_needed = needed as u32;
        NdisStatus::INVALID_LENGTH
    }

    /// The argument of a set.
    ///
    /// # Errors
    /// [`NdisStatus::INVALID_LENGTH`]; BytesNeeded is set.
    pub fn argument<T: Plain>(&mut self) -> Result<T, NdisStatus> {
        if self.room() < size_of::<T>() {
            return Err(self.too_short(size_of::<T>()));
        }
        self.used(size_of::<T>());
        // SAFETY: the buffer is that long, and every pattern of bits is a value.
        Ok(unsafe { self.raw.data.buffer.cast::<T>().read_unaligned() })
    }

    /// The argument of a set that begins with a header: as much of it as its revision has; the rest is zero. `sizes`
    /// are those of the revisions from `first` on. A later revision is read as the last that is known.
    fn object<T: Plain + Default>(&mut self, kind: u8, first: u8, sizes: &[usize]) -> Result<T, NdisStatus> {
        let header = self.argument::<ObjectHeader>()?;
        let index = header.revision.checked_sub(first).map(|index| usize::from(index).min(sizes.len() - 1));
        let size = index.and_then(|index| sizes.get(index)).copied();
        let Some(size) = size.filter(|_| header.kind == kind) else {
            return Err(NdisStatus::INVALID_PARAMETER);
        };
        if usize::from(header.size) < size {
            return Err(NdisStatus::INVALID_LENGTH);
        }
        if self.room() < size {
            return Err(self.too_short(size));
        }
        let mut value = T::default();
        let length = size.min(size_of::<T>());
        // SAFETY: the buffer has `size` bytes, the value as many as the type; neither overlaps the other.
        unsafe {
            core::ptr::copy_nonoverlapping(self.raw.data.buffer.cast::<u8>(), (&raw mut value).cast::<u8>(), length);
        }
        self.used(size);
        Ok(value)
    }

    /// The argument of OID_TCP_OFFLOAD_PARAMETERS. Members that its revision does not have are "no change".
    ///
    /// # Errors
    /// [`NdisStatus::INVALID_LENGTH`], [`NdisStatus::INVALID_PARAMETER`].
    pub fn offload_parameters(&mut self) -> Result<OffloadParameters, NdisStatus> {
        self.object(object::DEFAULT, 1, &OFFLOAD_PARAMETERS_SIZES)
    }

    /// The argument of OID_OFFLOAD_ENCAPSULATION.
    ///
    /// # Errors
    /// [`NdisStatus::INVALID_LENGTH`], [`NdisStatus::INVALID_PARAMETER`].
    pub fn offload_encapsulation(&mut self) -> Result<OffloadEncapsulation, NdisStatus> {
        self.object(object::OFFLOAD_ENCAPSULATION, 1, &[size_of::<OffloadEncapsulation>()])
    }

    /// The argument of OID_GEN_RECEIVE_SCALE_PARAMETERS, its table and key copied and bounded.
    ///
    /// # Errors
    /// [`NdisStatus::INVALID_LENGTH`], [`NdisStatus::INVALID_PARAMETER`] (also for revision 1, which an NDIS 6.30
    /// miniport is not sent).
    pub fn receive_scale(&mut self) -> Result<RssRequest, NdisStatus> {
        let size = size_of::<ReceiveScaleParameters>();
        let parameters: ReceiveScaleParameters = self.object(object::RSS_PARAMETERS, 2, &[size])?;
        let mut request = RssRequest {
            disable: parameters.flags & param_flag::DISABLE_RSS != 0,
            hash: None,
            table: [Processor::default(); TABLE_ENTRIES],
            entries: 0,
            key: [0; KEY_SIZE],
            key_len: 0,
        };
        if parameters.flags & param_flag::HASH_INFO_UNCHANGED == 0 {
            request.hash = Some(parameters.hash_information);
        }
        let room = self.room();
        let part = |offset: u32, len: u16| {
            let (offset, len) = (offset as usize, usize::from(len));
            offset.checked_add(len).filter(|&end| end <= room).map(|end| offset..end)
        };
        if parameters.flags & param_flag::ITABLE_UNCHANGED == 0 && parameters.indirection_table_size != 0 {
            let len = parameters.indirection_table_size;
            let range = part(parameters.indirection_table_offset, len).ok_or(NdisStatus::INVALID_LENGTH)?;
            let count = usize::from(len) / size_of::<Processor>();
            if count > TABLE_ENTRIES
                || !count.is_power_of_two()
                || !usize::from(len).is_multiple_of(size_of::<Processor>())
            {
                return Err(NdisStatus::INVALID_PARAMETER);
            }
            let bytes = self.bytes().get(range).unwrap_or(&[]);
            for (to, from) in request.table.iter_mut().zip(bytes.as_chunks::<4>().0) {
                let [group0, group1, number, _] = *from;
                *to = Processor { group: u16::from_le_bytes([group0, group1]), number };
            }
            request.entries = count;
        }
        if parameters.flags & param_flag::HASH_KEY_UNCHANGED == 0 && parameters.hash_secret_key_size != 0 {
            let len = usize::from(parameters.hash_secret_key_size);
            let range = part(parameters.hash_secret_key_offset, parameters.hash_secret_key_size)
                .ok_or(NdisStatus::INVALID_LENGTH)?;
            if len > KEY_SIZE {
                return Err(NdisStatus::INVALID_PARAMETER);
            }
            for (to, from) in request.key.iter_mut().zip(self.bytes().get(range).unwrap_or(&[])) {
                *to = *from;
            }
            request.key_len = len;
        }
        self.used(room);
        Ok(request)
    }
}

/// A processor in an indirection table: PROCESSOR_NUMBER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Processor {
    /// The group.
    pub group: u16,
    /// The number within the group.
    pub number: u8,
}

/// What OID_GEN_RECEIVE_SCALE_PARAMETERS asks for. What is to stay as it was is left out.
#[derive(Clone, Copy)]
pub struct RssRequest {
    /// No scaling any more.
    pub disable: bool,
    /// Hash function and types, `NDIS_HASH_`.
    pub hash: Option<u32>,
    table: [Processor; TABLE_ENTRIES],
    entries: usize,
    key: [u8; KEY_SIZE],
    key_len: usize,
}

impl RssRequest {
    /// The new indirection table; empty: it stays.
    pub fn table(&self) -> &[Processor] {
        self.table.get(..self.entries).unwrap_or(&[])
    }

    /// The new secret key; empty: it stays.
    pub fn key(&self) -> &[u8] {
        self.key.get(..self.key_len).unwrap_or(&[])
    }
}
