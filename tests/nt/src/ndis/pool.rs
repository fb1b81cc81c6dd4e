//! NET_BUFFER_LIST and NET_BUFFER pools, and who owns each list: what is sent, indicated, completed or freed by the wrong
//! side, or twice, ends the run.
//! <https://learn.microsoft.com/windows-hardware/drivers/network/net-buffer-list-pools>

use super::abi::{Handle, object};
use super::owned::{self, Kind};
use super::packet::*;
use super::violation;
use crate::io::kernel::{pool_alloc, pool_free};
use crate::mm::abi::Mdl;
use crate::mm::mdl::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

const TAG: u32 = u32::from_le_bytes(*b"NDnb");

/// A pool of lists or of buffers.
struct Pool {
    owner: Handle,
    context_size: u16,
    with_buffer: bool,
    data_size: u32,
    live: AtomicUsize,
}

/// Who has a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Who allocated it.
    Allocator,
    /// The miniport of that adapter, to send it.
    Sent(usize),
    /// The protocols bound to that adapter, as received.
    Indicated(usize),
    /// The protocols, for the time of an indication with NDIS_RECEIVE_FLAGS_RESOURCES.
    Lent(usize),
}

struct Track {
    owner: Owner,
    /// Of a sent list: what must be as it was when it comes back.
    shape: u64,
}

static LISTS: IrqLock<BTreeMap<usize, Track>> = IrqLock::new(BTreeMap::new());

/// A hash of what a miniport must leave as it found it: the buffers, where their data are, and the MDLs.
///
/// # Safety
/// The list is valid.
unsafe fn shape(list: *mut Nbl) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |value: usize| hash = (hash ^ value as u64).wrapping_mul(0x100_0000_01b3);
    // SAFETY: the caller's promise.
    unsafe {
        for buffer in buffers(list) {
            add(buffer as usize);
            add((*buffer).data_offset as usize);
            add((*buffer).data_length as usize);
            for mdl in mdls((*buffer).mdl_chain) {
                add(mdl as usize);
                add((*mdl).virtual_address());
                add((*mdl).byte_count as usize);
            }
        }
    }
    hash
}

/// Gives a list to another owner. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// If the list is tracked it is valid.
pub unsafe fn hand_over(call: &'static str, list: *mut Nbl, from: Owner, to: Owner) {
    let (owner, changed) = {
        let mut lists = LISTS.lock();
        match lists.get_mut(&(list as usize)) {
            Some(track) if track.owner == from => {
                let sent = matches!(from, Owner::Sent(_)) || matches!(to, Owner::Sent(_));
                // SAFETY: it is tracked, so it was not freed.
                let now = if sent { unsafe { shape(list) } } else { 0 };
                let changed = matches!(from, Owner::Sent(_)) && now != track.shape;
                *track = Track { owner: to, shape: now };
                (Some(from), changed)
            }
            other => (other.map(|track| track.owner), false),
        }
    };
    match owner {
        None => violation(call, format_args!("{list:p} is no NET_BUFFER_LIST of a pool")),
        Some(owner) if owner != from => {
            violation(call, format_args!("NET_BUFFER_LIST {list:p} belongs to {owner:x?}, not to {from:x?}"));
        }
        Some(_) if changed => violation(
            call,
            format_args!("NET_BUFFER_LIST {list:p} comes back with other buffers or MDLs than it was sent with"),
        ),
        Some(_) => {}
    }
}

/// Puts the current MDL where the data begin.
///
/// # Safety
/// The buffer is valid.
pub unsafe fn position(buffer: *mut Nb) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut offset = (*buffer).data_offset;
        let mut at = (*buffer).mdl_chain;
        while !at.is_null() && offset >= (*at).byte_count && !(*at).next.is_null() {
            offset -= (*at).byte_count;
            at = (*at).next;
        }
        (*buffer).current_mdl = at;
        (*buffer).current_mdl_offset = offset;
    }
}

/// Fills a buffer.
///
/// # Safety
/// The memory is the buffer's, the chain valid or null.
unsafe fn init_buffer(buffer: *mut Nb, pool: Handle, mdl: *mut Mdl, offset: u32, length: usize) {
    // SAFETY: the caller's promise; all zero is valid.
    unsafe {
        ptr::write_bytes(buffer, 0, 1);
        (*buffer).pool = pool;
        (*buffer).mdl_chain = mdl;
        (*buffer).data_offset = offset;
        (*buffer).data_length = length as u32;
        position(buffer);
    }
}

/// The pool behind a handle.
unsafe fn pool_of<'a>(handle: Handle, kind: Kind, call: &'static str) -> &'a Pool {
    owned::check(kind, handle as usize, call);
    // SAFETY: it is in use, so it was not freed.
    unsafe { &*handle.cast::<Pool>() }
}

fn make_pool(kind: Kind, pool: Pool) -> Handle {
    let owner = pool.owner;
    let handle = Box::into_raw(Box::new(pool));
    owned::add(kind, handle as usize, owner);
    handle.cast()
}

unsafe fn free_pool(kind: Kind, handle: Handle, call: &'static str) {
    // SAFETY: checked to be one in use.
    unsafe {
        let live = pool_of(handle, kind, call).live.load(Ordering::Acquire);
        if live != 0 {
            violation(call, format_args!("the pool {handle:p} is freed with {live} of its structures in use"));
        }
        owned::remove(kind, handle as usize, call);
        drop(Box::from_raw(handle.cast::<Pool>()));
    }
}

/// `NdisAllocateNetBufferListPool`. Null for parameters that are not right. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisAllocateNetBufferListPool(
    owner: Handle,
    parameters: *const NblPoolParameters,
) -> Handle {
    // SAFETY: the caller gives parameters.
    let p = unsafe { &*parameters };
    let good = p.header.kind == object::DEFAULT
        && p.header.revision >= 1
        && usize::from(p.header.size) >= size_of::<NblPoolParameters>()
        && usize::from(p.context_size).is_multiple_of(16)
        && (p.data_size == 0 || p.allocate_nb != 0);
    if !good {
        return ptr::null_mut();
    }
    make_pool(
        Kind::ListPool,
        Pool {
            owner,
            context_size: p.context_size,
            with_buffer: p.allocate_nb != 0,
            data_size: p.data_size,
            live: AtomicUsize::new(0),
        },
    )
}

/// `NdisFreeNetBufferListPool`: all its lists were freed. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisFreeNetBufferListPool(pool: Handle) {
    // SAFETY: checked there.
    unsafe { free_pool(Kind::ListPool, pool, "NdisFreeNetBufferListPool") };
}

/// `NdisAllocateNetBufferPool`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisAllocateNetBufferPool(owner: Handle, parameters: *const NbPoolParameters) -> Handle {
    // SAFETY: the caller gives parameters.
    let p = unsafe { &*parameters };
    if p.header.kind != object::DEFAULT || usize::from(p.header.size) < size_of::<NbPoolParameters>() {
        return ptr::null_mut();
    }
    let live = AtomicUsize::new(0);
    make_pool(Kind::BufferPool, Pool { owner, context_size: 0, with_buffer: true, data_size: p.data_size, live })
}

/// `NdisFreeNetBufferPool`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisFreeNetBufferPool(pool: Handle) {
    // SAFETY: checked there.
    unsafe { free_pool(Kind::BufferPool, pool, "NdisFreeNetBufferPool") };
}

/// Makes a list, with a buffer behind it if `buffer`.
unsafe fn allocate(
    handle: Handle,
    context: (u16, u16),
    buffer: Option<(*mut Mdl, u32, usize)>,
    call: &'static str,
) -> *mut Nbl {
    // SAFETY: the pool is checked; the memory is laid out by the sizes that were asked for.
    unsafe {
        let pool = pool_of(handle, Kind::ListPool, call);
        if buffer.is_some() != pool.with_buffer {
            violation(call, format_args!("the pool {handle:p} has fAllocateNetBuffer = {}", pool.with_buffer));
        }
        let context_bytes = usize::from(pool.context_size.max(context.0 + context.1));
        let bytes = size_of::<Nbl>() + size_of::<Nb>() + size_of::<NblContext>() + context_bytes;
        let list = pool_alloc(bytes, TAG).cast::<Nbl>();
        if list.is_null() {
            return list;
        }
        ptr::write_bytes(list.cast::<u8>(), 0, bytes);
        (*list).pool = handle;
        if context_bytes != 0 {
            let place = list.cast::<u8>().add(size_of::<Nbl>() + size_of::<Nb>()).cast::<NblContext>();
            let offset = if context.0 + context.1 == 0 { context_bytes as u16 } else { context.1 };
            place.write(NblContext { next: ptr::null_mut(), size: context_bytes as u16, offset });
            (*list).context = place;
        }
        if let Some((mdl, offset, length)) = buffer {
            let nb = list.cast::<u8>().add(size_of::<Nbl>()).cast::<Nb>();
            let (mdl, offset) = if mdl.is_null() && pool.data_size != 0 {
                let own = make_data(pool.data_size);
                if own.is_null() {
                    pool_free(list.cast(), TAG);
                    return ptr::null_mut();
                }
                (own, 0)
            } else {
                (mdl, offset)
            };
            init_buffer(nb, handle, mdl, offset, length);
            (*list).first = nb;
        }
        pool.live.fetch_add(1, Ordering::AcqRel);
        LISTS.lock().insert(list as usize, Track { owner: Owner::Allocator, shape: 0 });
        list
    }
}

/// Memory and the MDL for it, of a pool with a data size.
unsafe fn make_data(bytes: u32) -> *mut Mdl {
    // SAFETY: the MDL is built for memory of that size.
    unsafe {
        let data = pool_alloc(bytes as usize, TAG);
        if data.is_null() {
            return ptr::null_mut();
        }
        let mdl = IoAllocateMdl(data.cast(), bytes, 0, 0, ptr::null_mut());
        if mdl.is_null() {
            pool_free(data, TAG);
        } else {
            MmBuildMdlForNonPagedPool(mdl);
        }
        mdl
    }
}

unsafe fn free_data(mdl: *mut Mdl) {
    // SAFETY: made by `make_data`.
    unsafe {
        let data = (*mdl).virtual_address() as *mut u8;
        IoFreeMdl(mdl);
        pool_free(data, TAG);
    }
}

/// `NdisAllocateNetBufferList`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateNetBufferList(pool: Handle, context: u16, back_fill: u16) -> *mut Nbl {
    // SAFETY: checked there.
    unsafe { allocate(pool, (context, back_fill), None, "NdisAllocateNetBufferList") }
}

/// `NdisAllocateNetBufferAndNetBufferList`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateNetBufferAndNetBufferList(
    pool: Handle,
    context: u16,
    back_fill: u16,
    mdl: *mut Mdl,
    offset: u32,
    length: usize,
) -> *mut Nbl {
    // SAFETY: checked there.
    unsafe {
        allocate(pool, (context, back_fill), Some((mdl, offset, length)), "NdisAllocateNetBufferAndNetBufferList")
    }
}

/// `NdisFreeNetBufferList`: with the buffer that came with it; others are the caller's. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisFreeNetBufferList(list: *mut Nbl) {
    const CALL: &str = "NdisFreeNetBufferList";
    // SAFETY: it is tracked, so it was not freed.
    unsafe {
        hand_over(CALL, list, Owner::Allocator, Owner::Allocator);
        let pool = pool_of((*list).pool, Kind::ListPool, CALL);
        if pool.with_buffer {
            let own = list.cast::<u8>().add(size_of::<Nbl>()).cast::<Nb>();
            if (*list).first != own || !(*own).next.is_null() {
                violation(CALL, format_args!("NET_BUFFER_LIST {list:p} lacks the NET_BUFFER it came with"));
            }
            if pool.data_size != 0 && !(*own).mdl_chain.is_null() {
                free_data((*own).mdl_chain);
            }
        }
        LISTS.lock().remove(&(list as usize));
        pool.live.fetch_sub(1, Ordering::AcqRel);
        pool_free(list.cast(), TAG);
    }
}

/// `NdisAllocateNetBuffer`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateNetBuffer(
    handle: Handle,
    mdl: *mut Mdl,
    offset: u32,
    length: usize,
) -> *mut Nb {
    // SAFETY: the pool is checked; the memory has the size of a buffer.
    unsafe {
        let pool = pool_of(handle, Kind::BufferPool, "NdisAllocateNetBuffer");
        let buffer = pool_alloc(size_of::<Nb>(), TAG).cast::<Nb>();
        if !buffer.is_null() {
            init_buffer(buffer, handle, mdl, offset, length);
            pool.live.fetch_add(1, Ordering::AcqRel);
        }
        buffer
    }
}

/// `NdisAllocateNetBufferMdlAndData`: the data of the pool's size. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateNetBufferMdlAndData(handle: Handle) -> *mut Nb {
    // SAFETY: the pool is checked.
    unsafe {
        let pool = pool_of(handle, Kind::BufferPool, "NdisAllocateNetBufferMdlAndData");
        let mdl = make_data(pool.data_size.max(1));
        if mdl.is_null() {
            return ptr::null_mut();
        }
        let buffer = NdisAllocateNetBuffer(handle, mdl, pool.data_size, 0);
        if buffer.is_null() {
            free_data(mdl);
        }
        buffer
    }
}

/// `NdisFreeNetBuffer`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisFreeNetBuffer(buffer: *mut Nb) {
    // SAFETY: the caller gives a buffer, whose pool is checked.
    unsafe {
        let pool = pool_of((*buffer).pool, Kind::BufferPool, "NdisFreeNetBuffer");
        if pool.data_size != 0 && !(*buffer).mdl_chain.is_null() {
            free_data((*buffer).mdl_chain);
        }
        pool.live.fetch_sub(1, Ordering::AcqRel);
        pool_free(buffer.cast(), TAG);
    }
}

/// `NdisAllocateMdl`: for resident memory. Null without memory. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateMdl(owner: Handle, address: *mut c_void, length: u32) -> *mut Mdl {
    // SAFETY: the caller gives resident memory of that size.
    unsafe {
        let mdl = IoAllocateMdl(address, length, 0, 0, ptr::null_mut());
        if !mdl.is_null() {
            MmBuildMdlForNonPagedPool(mdl);
            owned::add(Kind::Mdl, mdl as usize, owner);
        }
        mdl
    }
}

/// `NdisFreeMdl`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisFreeMdl(mdl: *mut Mdl) {
    owned::remove(Kind::Mdl, mdl as usize, "NdisFreeMdl");
    // SAFETY: made by NdisAllocateMdl.
    unsafe { IoFreeMdl(mdl) };
}
