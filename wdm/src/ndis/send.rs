//! Net buffer lists to send: chains that are owned until they are completed, their packets, and the pages of a packet.
//!
//! While the miniport owns a list, the list's `MiniportReserved` counts its packets that are not done, and `Scratch` is
//! the packet that is next in turn.

use core::{ffi::c_void, ptr::NonNull};

use super::{
    abi::packet::{NetBuffer, NetBufferList, info, large_send},
    mdl::{self, Cursor, Slice},
    status::NdisStatus,
};

/// What NdisCancelSendNetBufferLists names sends by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelId(usize);

impl CancelId {
    pub(super) fn new(id: *mut c_void) -> Self {
        Self(id as usize)
    }
}

/// A chain of lists, owned.
pub struct SendChain {
    first: *mut NetBufferList,
    last: *mut NetBufferList,
    count: u32,
}

// SAFETY: the lists belong to whoever holds the value.
unsafe impl Send for SendChain {}

impl Default for SendChain {
    fn default() -> Self {
        Self::new()
    }
}

impl SendChain {
    /// An empty chain.
    pub const fn new() -> Self {
        Self { first: core::ptr::null_mut(), last: core::ptr::null_mut(), count: 0 }
    }

    /// Takes over what NDIS gave to MiniportSendNetBufferLists.
    ///
    /// # Safety
    /// `lists` is that argument and owned by nobody else.
    pub(super) unsafe fn from_raw(lists: *mut NetBufferList) -> Self {
        let mut chain = Self::new();
        let mut list = lists;
        while let Some(here) = NonNull::new(list) {
            // SAFETY: NDIS's chain is well-formed and ours.
            list = unsafe { (*here.as_ptr()).next };
            chain.push(SendList::new(here));
        }
        chain
    }

    /// Gives the chain away as NDIS has them.
    pub(super) fn into_raw(self) -> Option<NonNull<NetBufferList>> {
        NonNull::new(self.first)
    }

    /// Lists in it.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Appends a list. Any IRQL.
    #[expect(clippy::needless_pass_by_value, reason = "the list is the chain's from here on")]
    pub fn push(&mut self, list: SendList) {
        let raw = list.0.as_ptr();
        // SAFETY: the list is owned, as is the last one of the chain.
        unsafe {
            (*raw).next = core::ptr::null_mut();
            if self.last.is_null() {
                self.first = raw;
            } else {
                (*self.last).next = raw;
            }
        }
        self.last = raw;
        self.count += 1;
    }

    /// Appends all of another chain. Any IRQL.
    #[expect(clippy::needless_pass_by_value, reason = "its lists are this chain's from here on")]
    pub fn append(&mut self, other: Self) {
        if other.is_empty() {
            return;
        }
        if self.last.is_null() {
            self.first = other.first;
        } else {
            // SAFETY: the last list of the chain is owned.
            unsafe { (*self.last).next = other.first };
        }
        self.last = other.last;
        self.count += other.count;
    }

    /// Takes the first list out. Any IRQL.
    pub fn pop(&mut self) -> Option<SendList> {
        let first = NonNull::new(self.first)?;
        // SAFETY: the list is owned.
        self.first = unsafe { (*first.as_ptr()).next };
        if self.first.is_null() {
            self.last = core::ptr::null_mut();
        }
        self.count -= 1;
        Some(SendList(first))
    }

    /// Takes the lists off the beginning for which `key` is the same: that key and those lists. None: the chain is
    /// empty. Any IRQL.
    pub fn take_run(&mut self, key: impl Fn(&SendList) -> usize) -> Option<(usize, Self)> {
        let first = NonNull::new(self.first)?;
        let run = key(&SendList(first));
        let (mut last, mut count) = (first, 1);
        // SAFETY: every list of the chain is owned.
        while let Some(next) = NonNull::new(unsafe { last.as_ref() }.next)
            && key(&SendList(next)) == run
        {
            last = next;
            count += 1;
        }
        // SAFETY: as above.
        self.first = core::mem::replace(unsafe { &mut last.as_mut().next }, core::ptr::null_mut());
        if self.first.is_null() {
            self.last = core::ptr::null_mut();
        }
        self.count -= count;
        Some((run, Self { first: first.as_ptr(), last: last.as_ptr(), count }))
    }

    /// The first list. Any IRQL.
    pub fn front(&mut self) -> Option<&mut SendList> {
        // SAFETY: a SendList is a pointer to a list and no more; the chain owns the one that `first` points to, and is
        // borrowed as long as the reference lives.
        unsafe { (&raw mut self.first).cast::<Option<SendList>>().as_mut()?.as_mut() }
    }
}

/// One list, owned: it has to be completed.
#[repr(transparent)]
pub struct SendList(NonNull<NetBufferList>);

// SAFETY: a list belongs to whoever holds the value.
unsafe impl Send for SendList {}

impl SendList {
    /// Takes over a list that has just come, and counts its packets.
    fn new(raw: NonNull<NetBufferList>) -> Self {
        // SAFETY: the list is owned; its chain of packets is NDIS's.
        unsafe {
            let list = &mut *raw.as_ptr();
            let mut count = 0_usize;
            let mut buffer = list.first_net_buffer;
            while let Some(here) = buffer.as_ref() {
                count += 1;
                buffer = here.next;
            }
            list.miniport_reserved = [count as *mut c_void, core::ptr::null_mut()];
            list.scratch = list.first_net_buffer.cast();
            list.status = NdisStatus::SUCCESS.0;
        }
        Self(raw)
    }

    fn raw(&self) -> &NetBufferList {
        // SAFETY: the list is owned.
        unsafe { self.0.as_ref() }
    }

    fn info(&self, place: usize) -> u32 {
        self.raw().info.get(place).map_or(0, |&value| value as usize as u32)
    }

    /// What is asked about checksums: [`super::abi::packet::checksum`]. Any IRQL.
    pub fn checksum(&self) -> u32 {
        self.info(info::CHECKSUM)
    }

    /// What is asked about segmentation: [`large_send`]. Any IRQL.
    pub fn large_send(&self) -> u32 {
        self.info(info::LARGE_SEND)
    }

    /// The 802.1Q tag: [`super::abi::packet::ieee_8021q`]. Any IRQL.
    pub fn tag(&self) -> u32 {
        self.info(info::IEEE_8021Q)
    }

    /// The hash of the flow, where Windows knows it: the same for all packets of a connection. Any IRQL.
    pub fn hash(&self) -> u32 {
        self.info(info::HASH_VALUE)
    }

    /// Whether a cancellation with that id means this list. Any IRQL.
    pub fn is_cancelled_by(&self, id: CancelId) -> bool {
        self.raw().info.get(info::CANCEL_ID).is_some_and(|&own| own as usize == id.0)
    }

    /// Whether no packet of it was taken by [`SendList::advance`] yet. Any IRQL.
    pub fn is_untouched(&self) -> bool {
        core::ptr::eq(self.raw().scratch.cast(), self.raw().first_net_buffer)
    }

    /// The packet that is next in turn; None: all were taken. Any IRQL.
    #[inline]
    pub fn packet(&self) -> Option<SendPacket> {
        let buffer = NonNull::new(self.raw().scratch.cast::<NetBuffer>())?;
        // SAFETY: the packet is one of an owned list.
        let cursor = Cursor::new(unsafe { buffer.as_ref() }.current_mdl.cast());
        Some(SendPacket { buffer, list: self.0, cursor })
    }

    /// Goes on to the next packet: the one that [`SendList::packet`] showed is now somebody's. Any IRQL.
    #[inline]
    pub fn advance(&mut self) {
        // SAFETY: list and packet are owned; `scratch` is null or one of its packets.
        unsafe {
            let list = self.0.as_mut();
            if let Some(buffer) = list.scratch.cast::<NetBuffer>().as_ref() {
                list.scratch = buffer.next.cast();
            }
        }
    }

    /// Whether it has no packet at all. Any IRQL.
    pub fn is_empty(&self) -> bool {
        self.raw().first_net_buffer.is_null()
    }

    /// Lets go of a list all of whose packets were taken: the last that is finished brings it back. Any IRQL.
    pub const fn leave(self) {}

    /// Gives up all packets that were not taken yet. The list, if nothing of it is with anybody any more. Any IRQL.
    pub fn abort(mut self, status: NdisStatus) -> Option<Self> {
        let mut left = 0;
        while self.packet().is_some() {
            self.advance();
            left += 1;
        }
        // SAFETY: the list is owned.
        let list = unsafe { self.0.as_mut() };
        list.status = status.0;
        settle(list, left).then_some(self)
    }
}

/// Takes `count` packets off those that are not done. Whether none is left.
fn settle(list: &mut NetBufferList, count: usize) -> bool {
    let pending = (list.miniport_reserved[0] as usize).saturating_sub(count);
    list.miniport_reserved[0] = pending as *mut c_void;
    if pending > 0 {
        return false;
    }
    let asked = list.info[info::LARGE_SEND] as usize as u32;
    if asked & large_send::MSS_MASK != 0 {
        // LsoV2TransmitComplete: reserved but for the type.
        list.info[info::LARGE_SEND] = (large_send::TYPE_V2 as usize) as *mut c_void;
    }
    true
}

/// One packet of an owned list, from [`SendList::advance`] until [`SendPacket::finish`].
///
/// The packets of a list are finished by one holder at a time: they all go through the same queue, under its lock.
pub struct SendPacket {
    buffer: NonNull<NetBuffer>,
    list: NonNull<NetBufferList>,
    cursor: Cursor,
}

// SAFETY: a packet belongs to whoever holds the value; its list's counter is touched under the queue's lock only.
unsafe impl Send for SendPacket {}

impl SendPacket {
    fn raw(&self) -> &NetBuffer {
        // SAFETY: the packet's list is owned until its last packet is finished.
        unsafe { self.buffer.as_ref() }
    }

    /// Bytes of the frame. Any IRQL.
    pub fn len(&self) -> u32 {
        self.raw().data_length
    }

    /// Whether the frame has no bytes. Any IRQL.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The piece of the frame that begins at byte `offset`: it ends with its page, its MDL or the frame. None: the frame
    /// or its MDLs are not that long. Any IRQL.
    #[inline]
    pub fn slice(&mut self, offset: u32) -> Option<Slice> {
        let (len, lead) = (self.raw().data_length, self.raw().current_mdl_offset);
        let left = len.checked_sub(offset).filter(|&left| left > 0)?;
        // SAFETY: NDIS's MDLs are of locked or nonpaged pages, and stay until the list is completed.
        let slice = unsafe { self.cursor.slice(lead.checked_add(offset)?) }?;
        Some(Slice { len: slice.len.min(left), ..slice })
    }

    /// A copy of the first `N` bytes of the frame, where they lie in one mapped piece. Any IRQL.
    #[inline]
    pub fn first<const N: usize>(&self) -> Option<[u8; N]> {
        let raw = self.raw();
        if (raw.data_length as usize) < N {
            return None;
        }
        // SAFETY: as in `slice`.
        unsafe { mdl::first(raw.current_mdl.cast(), raw.current_mdl_offset) }
    }

    /// Copies bytes of the frame from `offset` on. How many: fewer where the frame ends or cannot be mapped.
    /// IRQL <= DISPATCH_LEVEL.
    #[inline]
    pub fn copy(&self, offset: u32, out: &mut [u8]) -> usize {
        let raw = self.raw();
        let len = (raw.data_length.saturating_sub(offset) as usize).min(out.len());
        let out = out.get_mut(..len).unwrap_or(&mut []);
        // SAFETY: as in `slice`.
        unsafe { mdl::copy_out(raw.current_mdl.cast(), raw.current_mdl_offset.saturating_add(offset), out) }
    }

    /// Whether a cancellation with that id means this packet. Any IRQL.
    pub fn is_cancelled_by(&self, id: CancelId) -> bool {
        // SAFETY: the list is owned until its last packet is finished.
        unsafe { self.list.as_ref() }.info.get(info::CANCEL_ID).is_some_and(|&own| own as usize == id.0)
    }

    /// The packet is done. The list, when it was the last of it. Any IRQL.
    #[inline]
    pub fn finish(self, status: NdisStatus) -> Option<SendList> {
        let mut list = self.list;
        // SAFETY: the list is owned until its last packet is finished, which no more than one holder at a time does.
        let raw = unsafe { list.as_mut() };
        if !status.is_success() {
            raw.status = status.0;
        }
        settle(raw, 1).then_some(SendList(list))
    }
}
