//! Traffic: sends down, completions up, frames up, frames back.
//! <https://learn.microsoft.com/windows-hardware/drivers/network/send-and-receive-operations>

use super::abi::*;
use super::adapter::{self, Adapter, State};
use super::binding::Binding;
use super::buffer::copy_out;
use super::packet::*;
use super::pool::{Owner, hand_over};
use super::violation;
use crate::ke::KeGetCurrentIrql;
use crate::ke::abi::DISPATCH_LEVEL;
use crate::mm::abi::Mdl;
use crate::mm::mdl::system_address;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::Ordering;

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;
/// Bytes of a VLAN tag.
const VLAN: u32 = 4;

/// What stands out of band with a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO`, its `Receive` bits.
    pub checksum: u32,
    /// `NDIS_NET_BUFFER_LIST_8021Q_INFO`: priority in bits 0 to 2, VLAN id in bits 4 to 15.
    pub vlan: u32,
    /// RSS: the hash.
    pub hash: u32,
    /// RSS: function in bits 0 to 7, type above.
    pub hash_info: u32,
    /// `NDIS_RSC_NBL_INFO`: segments in the low 16 bits, duplicate ACKs above; 0: not coalesced.
    pub coalesced: u32,
    /// The EtherType in network order, if the miniport tells it.
    pub frame_type: u16,
    /// `NblFlags`.
    pub nbl_flags: u32,
    /// The processor on which it was indicated.
    pub processor: u32,
}

impl Metadata {
    /// The TCP checksum was found right.
    pub fn tcp_good(&self) -> bool {
        self.checksum & 8 != 0
    }
    /// The UDP checksum was found right.
    pub fn udp_good(&self) -> bool {
        self.checksum & 16 != 0
    }
    /// The IPv4 header's checksum was found right.
    pub fn ip_good(&self) -> bool {
        self.checksum & 32 != 0
    }
    /// A checksum was found wrong.
    pub fn bad(&self) -> bool {
        self.checksum & 7 != 0
    }
    /// Segments that were put together, 0 if none were.
    pub fn segments(&self) -> u16 {
        self.coalesced as u16
    }
    /// The VLAN id, 0 for none.
    pub fn vlan_id(&self) -> u16 {
        (self.vlan >> 4 & 0xfff) as u16
    }
    /// The 802.1p priority.
    pub fn priority(&self) -> u8 {
        (self.vlan & 7) as u8
    }
}

/// A list of the miniport's that protocols hold.
struct Held {
    adapter: Arc<Adapter>,
    list: *mut Nbl,
}

// SAFETY: a list belongs to no processor, and nobody writes to it while protocols hold it.
unsafe impl Send for Held {}
// SAFETY: as above.
unsafe impl Sync for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.adapter.give_back(self.list);
    }
}

/// Where a frame's bytes are.
enum Data {
    /// In the miniport's memory.
    Held(Held),
    /// In a copy: the miniport wanted its memory back at once.
    Copied(Vec<u8>),
}

/// A received frame. The miniport gets its memory back when the last clone is dropped; on which processor does not
/// matter. IRQL <= DISPATCH_LEVEL.
#[derive(Clone)]
pub struct Received {
    data: Arc<Data>,
    /// What stood out of band.
    pub metadata: Metadata,
}

impl Received {
    /// A copy of the frame's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match &*self.data {
            Data::Copied(bytes) => bytes.clone(),
            // SAFETY: the list stays until it is given back; `check` found its data whole.
            Data::Held(held) => unsafe { copy_out((*held.list).first).unwrap_or_default() },
        }
    }

    /// Shows the frame's first bytes as far as they lie in one piece: the Ethernet header at least. Any IRQL.
    pub fn with_head<R>(&self, body: impl FnOnce(&[u8]) -> R) -> R {
        match &*self.data {
            Data::Copied(bytes) => body(bytes),
            // SAFETY: the list stays until it is given back; `check` found its first piece whole, `copy_head` mapped it.
            Data::Held(held) => unsafe {
                let buffer = (*held.list).first;
                let (mdl, offset) = ((*buffer).current_mdl, (*buffer).current_mdl_offset);
                let count = ((*mdl).byte_count - offset).min((*buffer).data_length);
                let first = system_address(mdl).cast::<u8>().add(offset as usize);
                body(core::slice::from_raw_parts(first, count as usize))
            },
        }
    }

    /// The same frame in memory of its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        if self.is_held() {
            Self { data: Arc::new(Data::Copied(self.bytes())), metadata: self.metadata }
        } else {
            self.clone()
        }
    }

    /// Whether it lies in memory of the miniport's.
    pub fn is_held(&self) -> bool {
        matches!(*self.data, Data::Held(_))
    }
}

/// While it stands, frames that are dropped are collected, and go back in one chain at its end.
pub struct ReturnBatch(Arc<Adapter>);

impl Drop for ReturnBatch {
    fn drop(&mut self) {
        if self.0.batching.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.flush_returns();
        }
    }
}

/// Flags of a call at this IRQL.
fn dispatch_flag() -> u32 {
    // SAFETY: any IRQL.
    if unsafe { KeGetCurrentIrql() } == DISPATCH_LEVEL { FLAGS_DISPATCH_LEVEL } else { 0 }
}

/// A flag that says DISPATCH_LEVEL must be true.
fn check_flag(call: &'static str, flags: u32) {
    if flags & FLAGS_DISPATCH_LEVEL != 0 && dispatch_flag() == 0 {
        violation(call, format_args!("the flags say DISPATCH_LEVEL at another IRQL"));
    }
}

/// Links lists to a chain.
///
/// # Safety
/// The lists are valid.
unsafe fn link(lists: &[*mut Nbl]) -> *mut Nbl {
    for (at, &list) in lists.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { (*list).next = lists.get(at + 1).copied().unwrap_or(ptr::null_mut()) };
    }
    lists.first().copied().unwrap_or(ptr::null_mut())
}

impl Adapter {
    /// Frames that are dropped meanwhile go back together. IRQL <= DISPATCH_LEVEL.
    pub fn batch_returns(self: &Arc<Self>) -> ReturnBatch {
        self.batching.fetch_add(1, Ordering::AcqRel);
        ReturnBatch(self.clone())
    }

    fn give_back(&self, list: *mut Nbl) {
        self.returns.lock().lists.push(list as usize);
        if self.batching.load(Ordering::Acquire) == 0 {
            self.flush_returns();
        }
    }

    fn flush_returns(&self) {
        let lists: Vec<*mut Nbl> =
            core::mem::take(&mut self.returns.lock().lists).into_iter().map(|list| list as *mut Nbl).collect();
        let Some(call) = self.driver.calls.return_lists.filter(|_| !lists.is_empty()) else { return };
        let this = ptr::from_ref(self) as usize;
        // SAFETY: lists of this miniport's that it has not had back; its function is called as documented.
        unsafe {
            for &list in &lists {
                hand_over("MiniportReturnNetBufferLists", list, Owner::Indicated(this), Owner::Allocator);
            }
            self.receives_out.fetch_sub(lists.len(), Ordering::AcqRel);
            self.counters.return_calls.fetch_add(1, Ordering::Relaxed);
            call(self.context(), link(&lists), dispatch_flag());
        }
    }

    /// Sends a chain of a binding's lists. Those that cannot be sent come back with a status. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The lists are of a pool and the caller's, whole, and their memory stays until they are back.
    pub unsafe fn send(self: &Arc<Self>, binding: &Arc<Binding>, chain: *mut Nbl) {
        let Some(call) = self.driver.calls.send else { return };
        let this = Arc::as_ptr(self) as usize;
        self.calls.fetch_add(1, Ordering::AcqRel);
        // SAFETY: the caller's promise.
        unsafe {
            let count = lists(chain).inspect(|&list| (*list).source = binding.id as Handle).count();
            if self.state() != State::Running {
                for list in lists(chain) {
                    (*list).status = if self.low_power.load(Ordering::Acquire) {
                        NDIS_STATUS_LOW_POWER_STATE
                    } else {
                        NDIS_STATUS_PAUSED
                    };
                }
                self.counters.refused.fetch_add(count as u64, Ordering::Relaxed);
                self.calls.fetch_sub(1, Ordering::AcqRel);
                binding.protocol.sent(chain);
                return;
            }
            for list in lists(chain) {
                hand_over("NdisSendNetBufferLists", list, Owner::Allocator, Owner::Sent(this));
            }
            self.sends_out.fetch_add(count, Ordering::AcqRel);
            self.counters.sent.fetch_add(count as u64, Ordering::Relaxed);
            self.counters.send_calls.fetch_add(1, Ordering::Relaxed);
            call(self.context(), chain, 0, dispatch_flag());
        }
        self.calls.fetch_sub(1, Ordering::AcqRel);
    }

    /// Asks the miniport to give up what was sent with a cancel id. IRQL <= DISPATCH_LEVEL.
    pub fn cancel_sends(&self, id: usize) {
        if let (Some(cancel), State::Running | State::Pausing) = (self.driver.calls.cancel_send, self.state()) {
            // SAFETY: the miniport's function, called as documented.
            unsafe { cancel(self.context(), id as Handle) };
        }
    }
}

/// `NdisMSendNetBufferListsComplete`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMSendNetBufferListsComplete(handle: Handle, chain: *mut Nbl, flags: u32) {
    const CALL: &str = "NdisMSendNetBufferListsComplete";
    let adapter = adapter::of(handle, CALL);
    check_flag(CALL, flags);
    let this = Arc::as_ptr(&adapter) as usize;
    // SAFETY: every list is checked to be one that was sent before it is looked at.
    unsafe {
        let source = if chain.is_null() { ptr::null_mut() } else { (*chain).source };
        let (mut count, mut alike) = (0, true);
        for list in lists_checked(CALL, chain, Owner::Sent(this)) {
            if (*list).status == NDIS_STATUS_PENDING {
                violation(CALL, format_args!("NET_BUFFER_LIST {list:p} is completed with NDIS_STATUS_PENDING"));
            }
            count += 1;
            alike &= (*list).source == source;
        }
        adapter.sends_out.fetch_sub(count, Ordering::AcqRel);
        adapter.counters.completed.fetch_add(count as u64, Ordering::Relaxed);
        adapter.counters.complete_calls.fetch_add(1, Ordering::Relaxed);
        let bound = adapter.bound();
        // Most often all are of one protocol: the chain goes to it as it is.
        if let Some(binding) = bound.iter().find(|binding| alike && binding.id == source as usize) {
            binding.protocol.sent(chain);
            return;
        }
        let mut done: Vec<*mut Nbl> = lists(chain).collect();
        for binding in bound {
            let (own, others) = done.into_iter().partition(|&list| (*list).source as usize == binding.id);
            done = others;
            let own: Vec<*mut Nbl> = own;
            if !own.is_empty() {
                binding.protocol.sent(link(&own));
            }
        }
        if let Some(&list) = done.first() {
            violation(CALL, format_args!("NET_BUFFER_LIST {list:p} has another SourceHandle than it was sent with"));
        }
    }
}

/// The lists of a chain from a driver, each handed back to its allocator before the next is read: a list that comes twice,
/// or that is not the driver's to give, ends the run.
unsafe fn lists_checked(call: &'static str, first: *mut Nbl, from: Owner) -> impl Iterator<Item = *mut Nbl> {
    let mut at = first;
    core::iter::from_fn(move || {
        let list = at;
        // SAFETY: `hand_over` checks that it is tracked.
        (!list.is_null()).then(|| unsafe {
            hand_over(call, list, from, Owner::Allocator);
            at = (*list).next;
            list
        })
    })
}

/// What a received list must be.
unsafe fn check(adapter: &Arc<Adapter>, list: *mut Nbl) -> Metadata {
    const CALL: &str = "NdisMIndicateReceiveNetBufferLists";
    let mtu = adapter.about.lock().mtu;
    // SAFETY: the list is tracked, so it is whole.
    unsafe {
        let fault = |what: &str, value: usize| -> ! {
            violation(CALL, format_args!("NET_BUFFER_LIST {list:p}: {what}: {value:#x}"))
        };
        if (*list).source != adapter.handle() {
            fault("SourceHandle is not the adapter's handle", (*list).source as usize);
        }
        if (*list).status != NDIS_STATUS_SUCCESS {
            fault("Status is not NDIS_STATUS_SUCCESS", (*list).status as u32 as usize);
        }
        let buffer = (*list).first;
        if buffer.is_null() || !(*buffer).next.is_null() {
            fault("it has not exactly one NET_BUFFER", buffer as usize);
        }
        let (offset, length) = ((*buffer).data_offset, (*buffer).data_length);
        let room: u64 = mdls((*buffer).mdl_chain).map(|mdl: *mut Mdl| u64::from((*mdl).byte_count)).sum();
        if u64::from(offset) + u64::from(length) > room {
            fault("its data run past its MDLs, length", length as usize);
        }
        if length < ETHERNET {
            fault("its data are shorter than an Ethernet header", length as usize);
        }
        let current = (*buffer).current_mdl;
        let before: u64 =
            mdls((*buffer).mdl_chain).take_while(|&mdl| mdl != current).map(|mdl| u64::from((*mdl).byte_count)).sum();
        if current.is_null() || before + u64::from((*buffer).current_mdl_offset) != u64::from(offset) {
            fault("CurrentMdl and CurrentMdlOffset do not agree with DataOffset", offset as usize);
        }
        if (*buffer).current_mdl_offset + ETHERNET > (*current).byte_count {
            fault(
                "its Ethernet header is in pieces, first piece",
                ((*current).byte_count - (*buffer).current_mdl_offset) as usize,
            );
        }
        let info = &(*list).info;
        let coalesced = info[info::RSC] as u32;
        if coalesced as u16 == 0 && length > mtu + ETHERNET + VLAN {
            fault("it is longer than the MTU and not coalesced, length", length as usize);
        }
        if coalesced as u16 == 0 && coalesced != 0 {
            fault("it has duplicate ACKs and is not coalesced", coalesced as usize);
        }
        Metadata {
            checksum: info[info::CHECKSUM] as u32,
            vlan: info[info::IEEE_8021Q] as u32,
            hash: info[info::HASH_VALUE] as u32,
            hash_info: info[info::HASH_INFO] as u32,
            coalesced,
            frame_type: info[info::FRAME_TYPE] as u16,
            nbl_flags: (*list).nbl_flags,
            processor: crate::platform::platform().current_processor(),
        }
    }
}

/// `NdisMIndicateReceiveNetBufferLists`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMIndicateReceiveNetBufferLists(
    handle: Handle,
    chain: *mut Nbl,
    port: u32,
    count: u32,
    flags: u32,
) {
    const CALL: &str = "NdisMIndicateReceiveNetBufferLists";
    let adapter = adapter::of(handle, CALL);
    check_flag(CALL, flags);
    if port != 0 {
        violation(CALL, format_args!("there is no port {port}"));
    }
    if !matches!(adapter.state(), State::Running | State::Pausing | State::Restarting) {
        violation(CALL, format_args!("the adapter is {:?}", adapter.state()));
    }
    let this = Arc::as_ptr(&adapter) as usize;
    let lent = flags & RECEIVE_FLAGS_RESOURCES != 0;
    let owner = if lent { Owner::Lent(this) } else { Owner::Indicated(this) };
    let mut chained: Vec<*mut Nbl> = Vec::new();
    let mut frames = Vec::new();
    // SAFETY: every list is checked to be tracked before it is looked at.
    unsafe {
        let mut at = chain;
        while !at.is_null() {
            hand_over(CALL, at, Owner::Allocator, owner);
            chained.push(at);
            at = (*at).next;
        }
        if chained.len() != count as usize {
            violation(CALL, format_args!("the chain has {} lists, NumberOfNetBufferLists is {count}", chained.len()));
        }
        adapter.counters.indicated.fetch_add(u64::from(count), Ordering::Relaxed);
        adapter.counters.indicate_calls.fetch_add(1, Ordering::Relaxed);
        if lent {
            adapter.counters.low_resources.fetch_add(u64::from(count), Ordering::Relaxed);
        } else {
            adapter.receives_out.fetch_add(chained.len(), Ordering::AcqRel);
        }
        let batch = adapter.batch_returns();
        for &list in &chained {
            let metadata = check(&adapter, list);
            let Some(bytes) = copy_head((*list).first) else {
                violation(CALL, format_args!("NET_BUFFER_LIST {list:p}: its memory cannot be mapped"));
            };
            if !adapter.wants(&bytes) {
                adapter.counters.unfiltered.fetch_add(1, Ordering::Relaxed);
            }
            let data = if lent {
                Data::Copied(copy_out((*list).first).unwrap_or_default())
            } else {
                (*list).next = ptr::null_mut();
                Data::Held(Held { adapter: adapter.clone(), list })
            };
            frames.push(Received { data: Arc::new(data), metadata });
        }
        for binding in adapter.bound() {
            binding.protocol.receive(&frames);
        }
        drop(frames);
        drop(batch);
        if lent {
            for &list in &chained {
                hand_over(CALL, list, owner, Owner::Allocator);
            }
            link(&chained);
        }
    }
}

/// The destination address of a frame. `None`: its memory cannot be mapped.
unsafe fn copy_head(buffer: *mut Nb) -> Option<[u8; 6]> {
    // SAFETY: the caller gives a checked buffer: the Ethernet header is in the current MDL.
    unsafe {
        let base = system_address((*buffer).current_mdl).cast::<u8>();
        let first = base.add((*buffer).current_mdl_offset as usize);
        (!base.is_null()).then(|| first.cast::<[u8; 6]>().read())
    }
}
