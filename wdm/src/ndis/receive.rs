//! Received packets: net buffer lists made beforehand, one for each page that a packet may begin in.

use alloc::vec::Vec;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    abi::{
        self, DEFAULT_PORT, Handle, ObjectHeader, object,
        packet::{FLAG_DISPATCH_LEVEL, INFO_COUNT, NetBufferList, PoolParameters, RECEIVE_FLAG_RESOURCES, info},
    },
    adapter::Adapter,
    mdl::PageMdl,
    status::NdisStatus,
};
use crate::memory::{try_push, try_vec};

/// Pool tag of what NDIS allocates for the lists.
const TAG: u32 = u32::from_le_bytes(*b"XenN");

/// A piece of a received packet in a page of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Which page.
    pub page: u32,
    /// Where the data begins in it.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// What is told of a packet besides its bytes. Zero is "nothing".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// [`super::abi::packet::checksum`], receiving.
    pub checksum: u32,
    /// The 802.1Q tag: [`super::abi::packet::ieee_8021q`].
    pub tag: u32,
    /// The hash.
    pub hash: u32,
    /// Function and type of the hash, `NDIS_HASH_`.
    pub hash_info: u32,
    /// Segments that were coalesced, if they were.
    pub segments: u16,
    /// The EtherType.
    pub frame_type: u16,
}

/// No page.
const NONE: u32 = u32::MAX;

struct Buffer {
    list: NonNull<NetBufferList>,
    mdl: PageMdl,
    /// The page behind this one in the packet that both are in.
    next: AtomicU32,
}

/// A list and an MDL for each of a number of pages.
///
/// A page has one user at a time: whoever uses the pool takes a packet's pages from the backend, indicates them, and
/// has them back by the list.
pub struct ReceivePool {
    pool: Handle,
    tag: u32,
    buffers: Vec<Buffer>,
}

// SAFETY: lists and MDLs are owned by the pool; each is touched by the one user of its page.
unsafe impl Send for ReceivePool {}
// SAFETY: see above.
unsafe impl Sync for ReceivePool {}

impl ReceivePool {
    /// Makes them. `tag` is what [`ReceiveChain::take_run`] says of their packets. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// [`NdisStatus::RESOURCES`].
    ///
    /// # Safety
    /// `pages` yields `count` addresses of nonpaged pages that outlive the pool.
    pub unsafe fn new(
        adapter: Adapter,
        tag: u32,
        count: usize,
        pages: impl Iterator<Item = NonNull<u8>>,
    ) -> Result<Self, NdisStatus> {
        let parameters = PoolParameters {
            header: ObjectHeader::new(object::DEFAULT, 1, size_of::<PoolParameters>()),
            protocol_id: 0,
            allocate_net_buffer: 1,
            context_size: 0,
            pool_tag: TAG,
            data_size: 0,
        };
        let buffers = try_vec(count)?;
        // SAFETY: the adapter is NDIS's; the parameters are a local.
        let pool = unsafe { abi::NdisAllocateNetBufferListPool(adapter.as_raw(), &raw const parameters) };
        if pool.is_null() {
            return Err(NdisStatus::RESOURCES);
        }
        // From here on dropping it frees what there is.
        let mut made = Self { pool, tag, buffers };
        for page in pages.take(count) {
            // SAFETY: as the caller says.
            let mdl = unsafe { PageMdl::new(page) }?;
            // SAFETY: the pool is there; the MDL outlives the list, which is freed before it.
            let list = unsafe { abi::NdisAllocateNetBufferAndNetBufferList(pool, 0, 0, mdl.as_ptr().cast(), 0, 0) };
            let list = NonNull::new(list).ok_or(NdisStatus::RESOURCES)?;
            // SAFETY: the list is ours.
            unsafe { (*list.as_ptr()).source_handle = adapter.as_raw() };
            try_push(&mut made.buffers, Buffer { list, mdl, next: AtomicU32::new(NONE) })?;
        }
        Ok(made)
    }

    /// Makes a packet of pages that the caller took, and puts it at the end of `batch`. False: it has none, or one that
    /// names no page; the pages are still the caller's. IRQL <= DISPATCH_LEVEL.
    #[inline]
    pub fn push(
        &self,
        batch: &mut ReceiveBatch,
        fragments: impl DoubleEndedIterator<Item = Fragment>,
        packet: &Packet,
    ) -> bool {
        let (mut next, mut next_page, mut total) = (core::ptr::null_mut(), NONE, 0);
        let mut head = None;
        // From the last to the first, so that each knows the one behind it.
        for fragment in fragments.rev() {
            let Some(buffer) = self.buffers.get(fragment.page as usize) else { return false };
            // SAFETY: the caller has the page, so nobody uses its MDL.
            unsafe { buffer.mdl.describe(fragment.offset, fragment.len, next) };
            buffer.next.store(next_page, Ordering::Relaxed);
            (next, next_page) = (buffer.mdl.as_ptr(), fragment.page);
            total += fragment.len;
            head = Some(buffer);
        }
        let Some(head) = head else { return false };
        // SAFETY: the caller has the page, so nobody uses its list; NDIS made one net buffer for it.
        let (list, buffer) = unsafe {
            let list = &mut *head.list.as_ptr();
            (list, &mut *(*head.list.as_ptr()).first_net_buffer)
        };
        buffer.mdl_chain = next.cast();
        buffer.current_mdl = next.cast();
        buffer.current_mdl_offset = 0;
        buffer.data_offset = 0;
        buffer.data_length = total;
        list.next = core::ptr::null_mut();
        list.status = NdisStatus::SUCCESS.0;
        list.nbl_flags = 0;
        list.miniport_reserved = [next_page as usize as *mut _, self.tag as usize as *mut _];
        list.info = [core::ptr::null_mut(); INFO_COUNT];
        for (place, value) in [
            (info::CHECKSUM, packet.checksum),
            (info::IEEE_8021Q, packet.tag),
            (info::HASH_VALUE, packet.hash),
            (info::HASH_INFO, packet.hash_info),
            (info::RSC, u32::from(packet.segments)),
            (info::FRAME_TYPE, u32::from(packet.frame_type.to_be())),
        ] {
            list.info[place] = value as usize as *mut _;
        }
        batch.push(head.list);
        true
    }

    /// The pages of a packet that is the caller's again, to have them one by one. IRQL <= DISPATCH_LEVEL.
    #[expect(clippy::needless_pass_by_value, reason = "its pages are taken once")]
    pub fn pages(&self, packet: Returned) -> impl Iterator<Item = u32> + '_ {
        let mut page = packet.page;
        core::iter::from_fn(move || {
            let here = page;
            let link = &self.buffers.get(here as usize)?.next;
            // The pool wrote the links itself, and one user at a time has the page.
            page = link.load(Ordering::Relaxed);
            link.store(NONE, Ordering::Relaxed);
            Some(here)
        })
    }
}

impl Drop for ReceivePool {
    fn drop(&mut self) {
        for buffer in &self.buffers {
            // SAFETY: the list came from the pool, and nobody has it: NDIS gave all back before the adapter was halted.
            unsafe { abi::NdisFreeNetBufferList(buffer.list.as_ptr()) };
        }
        // SAFETY: the pool is there and empty.
        unsafe { abi::NdisFreeNetBufferListPool(self.pool) };
    }
}

/// Packets to indicate.
pub struct ReceiveBatch {
    first: *mut NetBufferList,
    last: *mut NetBufferList,
    count: u32,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveBatch {
    /// None yet.
    pub const fn new() -> Self {
        Self { first: core::ptr::null_mut(), last: core::ptr::null_mut(), count: 0 }
    }

    /// How many there are.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn push(&mut self, list: NonNull<NetBufferList>) {
        if self.last.is_null() {
            self.first = list.as_ptr();
        } else {
            // SAFETY: the lists of a batch are ours.
            unsafe { (*self.last).next = list.as_ptr() };
        }
        self.last = list.as_ptr();
        self.count += 1;
    }
}

/// A packet that NDIS gave back.
pub struct Returned {
    page: u32,
}

/// Lists that NDIS gave back.
pub struct ReceiveChain {
    first: *mut NetBufferList,
}

impl ReceiveChain {
    /// Takes over what NDIS gave to MiniportReturnNetBufferLists.
    ///
    /// # Safety
    /// `lists` is that argument, or what was indicated with `NDIS_RECEIVE_FLAGS_RESOURCES`.
    pub(super) const unsafe fn from_raw(lists: *mut NetBufferList) -> Self {
        Self { first: lists }
    }

    /// Takes the lists off the beginning whose packets have the same tag: that tag and those lists. None: the chain is
    /// empty. Any IRQL.
    pub fn take_run(&mut self) -> Option<(u32, Self)> {
        let first = NonNull::new(self.first)?;
        // SAFETY: the chain is well-formed, its lists are those of receive pools, and this value owns them.
        let tag = |list: NonNull<NetBufferList>| unsafe { list.as_ref() }.miniport_reserved[1] as usize as u32;
        let mut last = first;
        // SAFETY: as above.
        while let Some(next) = NonNull::new(unsafe { last.as_ref() }.next)
            && tag(next) == tag(first)
        {
            last = next;
        }
        // SAFETY: as above.
        self.first = core::mem::replace(unsafe { &mut last.as_mut().next }, core::ptr::null_mut());
        Some((tag(first), Self { first: first.as_ptr() }))
    }

    /// Takes the first one out. Any IRQL.
    #[inline]
    pub fn pop(&mut self) -> Option<Returned> {
        let list = NonNull::new(self.first)?;
        // SAFETY: the chain is well-formed, and its lists are those of a receive pool.
        let list = unsafe { list.as_ref() };
        self.first = list.next;
        Some(Returned { page: list.miniport_reserved[0] as usize as u32 })
    }
}

impl Adapter {
    /// Indicates packets at DISPATCH_LEVEL. With `lend`, NDIS has them only until this returns, and they come back as
    /// the result.
    #[expect(clippy::needless_pass_by_value, reason = "the packets are NDIS's from here on")]
    pub fn indicate_receives(self, batch: ReceiveBatch, lend: bool) -> Option<ReceiveChain> {
        if batch.is_empty() {
            return None;
        }
        let flags = FLAG_DISPATCH_LEVEL | if lend { RECEIVE_FLAG_RESOURCES } else { 0 };
        // SAFETY: the lists are ours, made by a pool, and handed over; NDIS gives them back.
        unsafe {
            abi::NdisMIndicateReceiveNetBufferLists(self.as_raw(), batch.first, DEFAULT_PORT, batch.count, flags);
        }
        // SAFETY: lent lists are ours again, chained as they were.
        lend.then(|| unsafe { ReceiveChain::from_raw(batch.first) })
    }
}
