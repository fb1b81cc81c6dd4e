//! Frames on their way down: NET_BUFFER_LISTs over MDL chains that are cut as a test wants them.

use crate::disk::Buffer;
use crate::mm::abi::Mdl;
use crate::mm::mdl::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool, system_address};
use crate::ndis::abi::{Handle, Header, object};
use crate::ndis::packet::{Nb, NbPoolParameters, Nbl, NblPoolParameters, buffers, info, lists};
use crate::ndis::pool::{
    NdisAllocateNetBuffer, NdisAllocateNetBufferList, NdisAllocateNetBufferListPool, NdisAllocateNetBufferPool,
    NdisFreeNetBuffer, NdisFreeNetBufferList, NdisFreeNetBufferListPool, NdisFreeNetBufferPool,
};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// How the bytes of a frame lie in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the MDLs in front of the last, which gets the rest. Pieces past the frame's end are left out.
    pub pieces: Vec<usize>,
    /// Where in its page each MDL begins; the last value goes for all further ones. Empty: 0.
    pub offsets: Vec<usize>,
    /// Bytes in the first MDL in front of the data (DataOffset).
    pub lead: usize,
    /// Bytes in the last MDL behind the data.
    pub tail: usize,
}

/// A frame to send.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    /// Its bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// How they lie.
    pub layout: Layout,
}

/// A NET_BUFFER_LIST to send: its frames and what stands out of band.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// One NET_BUFFER each.
    pub packets: Vec<Packet>,
    /// `NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO`: see [`super::checksum::transmit`].
    pub checksum: u32,
    /// `NDIS_TCP_LARGE_SEND_OFFLOAD_NET_BUFFER_LIST_INFO`: see [`Outgoing::large`].
    pub large_send: u32,
    /// `NDIS_NET_BUFFER_LIST_8021Q_INFO`: see [`Outgoing::tagged`].
    pub vlan: u32,
    /// `NetBufferListCancelId`, 0 for none.
    pub cancel_id: usize,
    /// RSS hash and its information, of the connection it belongs to.
    pub hash: (u32, u32),
}

impl Outgoing {
    /// One frame in one piece.
    pub fn frame(bytes: Vec<u8>) -> Self {
        Self { packets: alloc::vec![Packet { bytes, layout: Layout::default() }], ..Self::default() }
    }

    /// One frame, laid out.
    pub fn laid_out(bytes: Vec<u8>, layout: Layout) -> Self {
        Self { packets: alloc::vec![Packet { bytes, layout }], ..Self::default() }
    }

    /// With a large send of version 2: segments of `mss` bytes; the TCP header begins at `offset`.
    #[must_use]
    pub fn large(mut self, mss: u32, offset: u32, v6: bool) -> Self {
        self.large_send = (mss & 0xf_ffff) | (offset & 0x3ff) << 20 | 1 << 30 | u32::from(v6) << 31;
        self
    }

    /// Writes what stands out of band into a list.
    ///
    /// # Safety
    /// Nobody else has the list.
    unsafe fn label(&self, list: *mut Nbl) {
        // SAFETY: the caller's promise.
        unsafe {
            (*list).info[info::CHECKSUM] = self.checksum as usize;
            (*list).info[info::LARGE_SEND] = self.large_send as usize;
            (*list).info[info::IEEE_8021Q] = self.vlan as usize;
            (*list).info[info::CANCEL_ID] = self.cancel_id;
            (*list).info[info::HASH_VALUE] = self.hash.0 as usize;
            (*list).info[info::HASH_INFO] = self.hash.1 as usize;
        }
    }

    /// With a VLAN id and a priority.
    #[must_use]
    pub fn tagged(mut self, id: u16, priority: u8) -> Self {
        self.vlan = u32::from(priority & 7) | u32::from(id & 0xfff) << 4;
        self
    }
}

/// How a send went.
#[derive(Default)]
pub struct Done {
    status: AtomicI32,
    done: AtomicBool,
}

impl Done {
    pub(super) fn set(&self, status: i32) {
        self.status.store(status, Ordering::Release);
        self.done.store(true, Ordering::Release);
    }

    /// NDIS_STATUS_* of a send that is done.
    pub fn status(&self) -> Option<i32> {
        self.done.load(Ordering::Acquire).then(|| self.status.load(Ordering::Acquire))
    }
}

/// What belongs to a list while it is out.
struct Attached {
    /// What the MDLs describe.
    memory: Vec<Buffer>,
    mdls: Vec<*mut Mdl>,
    done: Arc<Done>,
    /// Its place among [`ROOMS`], of a list that is kept.
    kept: Option<usize>,
}

/// Bytes of the buffers of lists that are kept for the next frame in one piece: an ordinary one, a large send.
const ROOMS: [usize; 2] = [2048, 64 << 10];
/// Lists of each size that are kept at most.
const SPARE: usize = 256;

/// The memory of a list that has one piece.
///
/// # Safety
/// The list is one that is kept, and nobody else has it.
unsafe fn piece<'a>(list: *mut Nbl) -> &'a mut [u8] {
    // SAFETY: the caller's promise: its record is whole, and has the one piece that its one MDL describes.
    let attached = unsafe { &mut *(*list).protocol_reserved[0].cast::<Attached>() };
    attached.memory[0].bytes_mut()
}

/// Where the bytes of a list's frames lie: address and number, piece by piece.
///
/// # Safety
/// The list was made by [`Pools::build`], and nobody else has it.
pub(super) unsafe fn pieces(list: *mut Nbl) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    // SAFETY: the caller's promise: lists, buffers and MDLs are whole, and the MDLs describe resident memory.
    unsafe {
        for buffer in buffers(list) {
            let (mut mdl, mut lead) = ((*buffer).mdl_chain, (*buffer).data_offset);
            let mut left = (*buffer).data_length;
            while left > 0 && !mdl.is_null() {
                let count = (*mdl).byte_count.saturating_sub(lead).min(left);
                found.push((system_address(mdl) as usize + lead as usize, count as usize));
                lead = lead.saturating_sub((*mdl).byte_count);
                left -= count;
                mdl = (*mdl).next;
            }
        }
    }
    found
}

/// A frame that is made where it is sent from. Dropped, its memory is kept for another.
pub struct Room {
    pools: Arc<Pools>,
    list: *mut Nbl,
    done: Arc<Done>,
    length: usize,
}

// SAFETY: a list belongs to no processor.
unsafe impl Send for Room {}

impl Room {
    /// Makes it a list to send, with what `outgoing` has out of band.
    pub(super) fn build(self, outgoing: &Outgoing) -> (*mut Nbl, Arc<Done>) {
        let room = ManuallyDrop::new(self);
        // SAFETY: nobody else has the list; both counts are read once, since `room` is not dropped.
        unsafe {
            drop(ptr::read(&raw const room.pools));
            outgoing.label(room.list);
            (room.list, ptr::read(&raw const room.done))
        }
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the list is this value's.
        unsafe { &piece(self.list)[..self.length] }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the list is this value's.
        unsafe { &mut piece(self.list)[..self.length] }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: the list was made by these pools, and nobody else has it.
        unsafe { self.pools.take_apart(self.list) };
    }
}

/// The pools of a client.
pub struct Pools {
    lists: Handle,
    buffers: Handle,
    /// Lists that are back, each with one buffer in one MDL of that many bytes: see [`ROOMS`].
    spare: [IrqLock<Vec<*mut Nbl>>; 2],
}

// SAFETY: handles belong to no processor.
unsafe impl Send for Pools {}
// SAFETY: as above.
unsafe impl Sync for Pools {}

/// `NDIS_PROTOCOL_ID_DEFAULT`.
const PROTOCOL: u8 = 0;

impl Pools {
    /// New pools. IRQL = PASSIVE_LEVEL.
    pub fn new() -> Option<Self> {
        let tag = u32::from_le_bytes(*b"NetC");
        let lists = NblPoolParameters {
            header: Header::new(object::DEFAULT, 1, size_of::<NblPoolParameters>()),
            protocol: PROTOCOL,
            allocate_nb: 0,
            context_size: 0,
            tag,
            data_size: 0,
        };
        let buffers = NbPoolParameters {
            header: Header::new(object::DEFAULT, 1, size_of::<NbPoolParameters>()),
            tag,
            data_size: 0,
        };
        // SAFETY: the parameters are whole.
        let pools = unsafe {
            Self {
                lists: NdisAllocateNetBufferListPool(ptr::null_mut(), &raw const lists),
                buffers: NdisAllocateNetBufferPool(ptr::null_mut(), &raw const buffers),
                spare: [IrqLock::new(Vec::new()), IrqLock::new(Vec::new())],
            }
        };
        (!pools.lists.is_null() && !pools.buffers.is_null()).then_some(pools)
    }

    /// The MDL chain of a packet; what it is made of is kept in `attached`. `None` without memory.
    fn chain(packet: &Packet, attached: &mut Attached) -> Option<*mut Mdl> {
        let layout = &packet.layout;
        let mut rest = packet.bytes.as_slice();
        let (mut first, mut last): (*mut Mdl, *mut Mdl) = (ptr::null_mut(), ptr::null_mut());
        let mut wanted = layout.pieces.iter().copied().filter(|piece| *piece != 0);
        for at in 0_usize.. {
            let take = wanted.next().map_or(rest.len(), |piece| piece.min(rest.len()));
            let (piece, behind) = rest.split_at(take);
            rest = behind;
            let lead = if at == 0 { layout.lead } else { 0 };
            let tail = if rest.is_empty() { layout.tail } else { 0 };
            let offset = layout.offsets.get(at).or(layout.offsets.last()).copied().unwrap_or(0);
            let mut memory = Buffer::new(lead + piece.len() + tail, offset)?;
            // What is not the frame's must not get out: it is there to be found.
            memory.bytes_mut().fill(0xa5);
            memory.bytes_mut()[lead..lead + piece.len()].copy_from_slice(piece);
            let bytes = memory.bytes().len() as u32;
            // SAFETY: the memory is resident and stays as long as the MDL.
            unsafe {
                let mdl = IoAllocateMdl(memory.address().cast(), bytes, 0, 0, ptr::null_mut());
                if mdl.is_null() {
                    return None;
                }
                MmBuildMdlForNonPagedPool(mdl);
                attached.mdls.push(mdl);
                attached.memory.push(memory);
                if last.is_null() {
                    first = mdl;
                } else {
                    (*last).next = mdl;
                }
                last = mdl;
            }
            if rest.is_empty() {
                break;
            }
        }
        Some(first)
    }

    /// Makes the list. IRQL <= DISPATCH_LEVEL. `None` without memory.
    pub fn build(&self, outgoing: &Outgoing) -> Option<(*mut Nbl, Arc<Done>)> {
        let (list, done) = match &outgoing.packets[..] {
            [packet] if packet.layout == Layout::default() => self.reuse(&packet.bytes)?,
            _ => self.make(outgoing, None)?,
        };
        // SAFETY: just made, or back from its last send: nobody else has it.
        unsafe { outgoing.label(list) };
        Some((list, done))
    }

    /// A list with these bytes in one piece, from those that are kept if one is there.
    fn reuse(&self, bytes: &[u8]) -> Option<(*mut Nbl, Arc<Done>)> {
        let Some(size) = ROOMS.iter().position(|room| bytes.len() <= *room) else {
            return self.make(&Outgoing::frame(bytes.to_vec()), None);
        };
        let (list, done) = self.kept(size, bytes.len())?;
        // SAFETY: nobody else has it yet.
        let room = unsafe { piece(list) };
        room[..bytes.len()].copy_from_slice(bytes);
        Some((list, done))
    }

    /// A list with a frame of so many bytes in one piece, which are still to be written: those that are there, and those
    /// behind them in its MDL, are of what was sent before. From those that are kept if one is there.
    fn kept(&self, size: usize, length: usize) -> Option<(*mut Nbl, Arc<Done>)> {
        let spare = self.spare[size].lock().pop();
        let (list, done) = match spare {
            // SAFETY: nobody has a list that is kept; its record is whole.
            Some(list) => unsafe {
                let attached = &mut *(*list).protocol_reserved[0].cast::<Attached>();
                attached.done = Arc::new(Done::default());
                (list, attached.done.clone())
            },
            None => self.make(&Outgoing::frame(alloc::vec![0xa5; ROOMS[size]]), Some(size))?,
        };
        // SAFETY: as above; it has one buffer.
        unsafe {
            (*list).status = 0;
            (*(*list).first).data_length = length as u32;
        }
        Some((list, done))
    }

    /// Room for a frame of so many bytes. `None`: it is too large, or there is no memory.
    pub fn room(self: &Arc<Self>, length: usize) -> Option<Room> {
        let size = ROOMS.iter().position(|room| length <= *room)?;
        let (list, done) = self.kept(size, length)?;
        Some(Room { pools: self.clone(), list, done, length })
    }

    /// Makes a list anew, without what stands out of band. `None` without memory.
    fn make(&self, outgoing: &Outgoing, kept: Option<usize>) -> Option<(*mut Nbl, Arc<Done>)> {
        let done = Arc::new(Done::default());
        // SAFETY: pools and chain are this client's; the list is given back whole on every way out.
        unsafe {
            let list = NdisAllocateNetBufferList(self.lists, 0, 0);
            if list.is_null() {
                return None;
            }
            let attached =
                Box::into_raw(Box::new(Attached { memory: Vec::new(), mdls: Vec::new(), done: done.clone(), kept }));
            (*list).protocol_reserved[0] = attached.cast();
            let mut last: *mut Nb = ptr::null_mut();
            for packet in &outgoing.packets {
                let buffer = Self::chain(packet, &mut *attached).map_or(ptr::null_mut(), |mdl| {
                    NdisAllocateNetBuffer(self.buffers, mdl, packet.layout.lead as u32, packet.bytes.len())
                });
                if buffer.is_null() {
                    self.take_apart(list);
                    return None;
                }
                if last.is_null() {
                    (*list).first = buffer;
                } else {
                    (*last).next = buffer;
                }
                last = buffer;
            }
            Some((list, done))
        }
    }

    /// Frees a list of `build` that is back; its status is told to who waits for it.
    ///
    /// # Safety
    /// The list was made here and nobody else has it.
    pub unsafe fn take_apart(&self, list: *mut Nbl) -> i32 {
        // SAFETY: the caller's promise.
        unsafe {
            let attached = (*list).protocol_reserved[0].cast::<Attached>();
            let status = (*list).status;
            if let Some(size) = (*attached).kept {
                (*attached).done.set(status);
                let mut spare = self.spare[size].lock();
                if spare.len() < SPARE {
                    (*list).next = ptr::null_mut();
                    spare.push(list);
                    return status;
                }
            }
            Self::free(list);
            status
        }
    }

    /// Frees a list; its status is told to who waits for it.
    ///
    /// # Safety
    /// As [`Pools::take_apart`].
    unsafe fn free(list: *mut Nbl) {
        // SAFETY: the caller's promise.
        unsafe {
            let attached = Box::from_raw((*list).protocol_reserved[0].cast::<Attached>());
            let status = (*list).status;
            let parts: Vec<*mut Nb> = buffers(list).collect();
            for buffer in parts {
                NdisFreeNetBuffer(buffer);
            }
            (*list).first = ptr::null_mut();
            NdisFreeNetBufferList(list);
            for &mdl in &attached.mdls {
                IoFreeMdl(mdl);
            }
            attached.done.set(status);
        }
    }

    /// As [`Pools::take_apart`], of a chain; how many there were and how many failed.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn take_apart_all(&self, chain: *mut Nbl) -> (u64, u64) {
        // SAFETY: the caller's promise; each list is read before it is freed.
        unsafe { lists(chain).fold((0, 0), |(all, bad), list| (all + 1, bad + u64::from(self.take_apart(list) != 0))) }
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        // SAFETY: made in `new`; every list is back, else it is a violation.
        unsafe {
            for spare in &self.spare {
                let lists = core::mem::take(&mut *spare.lock());
                for list in lists {
                    Self::free(list);
                }
            }
            if !self.buffers.is_null() {
                NdisFreeNetBufferPool(self.buffers);
            }
            if !self.lists.is_null() {
                NdisFreeNetBufferListPool(self.lists);
            }
        }
    }
}
