//! OID requests: one at a time to an adapter, completed at once or later; and status indications.
//! <https://learn.microsoft.com/windows-hardware/drivers/network/miniport-adapter-oid-requests>

use super::abi::*;
use super::adapter::{self, Adapter, Pending, State};
use super::oid_abi::*;
use super::violation;
use crate::io::kernel::{pool_alloc, pool_free};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::Ordering;

/// Milliseconds that a miniport gets for a request.
const REQUEST_MS: u64 = 120_000;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// NDIS_STATUS_*.
    pub status: NdisStatus,
    /// Query and method: what came.
    pub data: Vec<u8>,
    /// Set and method: bytes that the miniport read.
    pub read: u32,
    /// Where the buffer was too short: the bytes that it must have.
    pub needed: u32,
}

impl Answer {
    fn refused(status: NdisStatus) -> Self {
        Self { status, data: Vec::new(), read: 0, needed: 0 }
    }

    /// Whether it succeeded.
    pub fn ok(&self) -> bool {
        self.status == NDIS_STATUS_SUCCESS
    }
}

impl Adapter {
    /// Queries an OID with a buffer of so many bytes. IRQL = PASSIVE_LEVEL.
    pub fn query(self: &Arc<Self>, oid: u32, length: usize) -> Answer {
        self.request(request::QUERY, oid, &[], length)
    }

    /// Sets an OID. IRQL = PASSIVE_LEVEL.
    pub fn set(self: &Arc<Self>, oid: u32, data: &[u8]) -> Answer {
        let answer = self.request(request::SET, oid, data, 0);
        if answer.ok()
            && oid == oid::GEN_CURRENT_PACKET_FILTER
            && let Some(bits) = data.first_chunk::<4>()
        {
            self.filter.store(u32::from_le_bytes(*bits), Ordering::Release);
        }
        if answer.ok() && oid == oid::ETH_MULTICAST_LIST {
            *self.multicast.lock() = data.to_vec();
        }
        answer
    }

    /// A method request: bytes in, room for bytes out. IRQL = PASSIVE_LEVEL.
    pub fn method(self: &Arc<Self>, oid: u32, input: &[u8], output: usize) -> Answer {
        self.request(request::METHOD, oid, input, output)
    }

    /// Any request, as it stands. IRQL = PASSIVE_LEVEL.
    pub fn request(self: &Arc<Self>, kind: i32, oid: u32, input: &[u8], output: usize) -> Answer {
        let Some(call) = self.driver.calls.oid_request else { return Answer::refused(NDIS_STATUS_NOT_SUPPORTED) };
        let _turn = self.oids.take();
        if matches!(self.state(), State::Halted | State::Initializing) {
            return Answer::refused(NDIS_STATUS_REQUEST_ABORTED);
        }
        let room = input.len().max(output);
        // A block of the size to the byte: what is written behind it is seen.
        let buffer = if room == 0 { ptr::null_mut() } else { pool_alloc(room, adapter::TAG) };
        // SAFETY: the buffer has room for both; the request stays until the miniport is done with it.
        let mut request = unsafe {
            if !buffer.is_null() {
                ptr::write_bytes(buffer, 0, room);
                ptr::copy_nonoverlapping(input.as_ptr(), buffer, input.len());
            }
            let mut request: OidRequest = core::mem::zeroed();
            request.header = Header::new(object::OID_REQUEST, 1, OID_REQUEST_1);
            request.kind = kind;
            request.oid = oid;
            request.buffer = buffer.cast();
            request.length = if kind == request::METHOD || kind == request::SET { input.len() } else { output } as u32;
            if kind == request::METHOD {
                request.done_or_output = output as u32;
            }
            request
        };
        let at = &raw mut request;
        self.oid.store(at, Ordering::Release);
        // SAFETY: the miniport's function, called as documented at PASSIVE_LEVEL.
        let mut status = unsafe { call(self.context(), at) };
        if status == NDIS_STATUS_PENDING {
            if !self.oid_gate.wait_ms(REQUEST_MS) {
                violation("OID", format_args!("{oid:#010x} was not completed in {REQUEST_MS} ms"));
            }
            status = self.oid_status.load(Ordering::Acquire);
        } else if self.oid.swap(ptr::null_mut(), Ordering::AcqRel).is_null() {
            violation("OID", format_args!("{oid:#010x} was completed, and then returned {status:#x}"));
        }
        // SAFETY: the miniport wrote to it in another thread at most before it completed it.
        let request = unsafe { ptr::read_volatile(at) };
        self.counters.oids.fetch_add(1, Ordering::Relaxed);
        let answer = Self::answer(&request, status, output, input.len());
        if !buffer.is_null() {
            pool_free(buffer, adapter::TAG);
        }
        answer
    }

    fn answer(request: &OidRequest, status: NdisStatus, output: usize, input: usize) -> Answer {
        let (written, read, needed) = match request.kind {
            request::METHOD => (request.method_written, request.method_read, request.method_needed),
            request::SET => (0, request.done_or_output, request.needed_or_method),
            _ => (request.done_or_output, 0, request.needed_or_method),
        };
        let oid = request.oid;
        if written as usize > output || read as usize > input {
            violation("OID", format_args!("{oid:#010x}: {written} bytes written of {output}, {read} read of {input}"));
        }
        let short = matches!(status, NDIS_STATUS_BUFFER_TOO_SHORT | NDIS_STATUS_INVALID_LENGTH);
        let had = if request.kind == request::SET { input } else { output };
        if status == NDIS_STATUS_BUFFER_TOO_SHORT && needed as usize <= had {
            violation("OID", format_args!("{oid:#010x}: too short, but BytesNeeded is {needed} and there were {had}"));
        }
        let data = if status == NDIS_STATUS_SUCCESS && written != 0 {
            // SAFETY: the buffer has room for what was written, as checked.
            unsafe { core::slice::from_raw_parts(request.buffer.cast::<u8>(), written as usize).to_vec() }
        } else {
            Vec::new()
        };
        Answer { status, data, read, needed: if short { needed } else { 0 } }
    }
}

/// `NdisMOidRequestComplete`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMOidRequestComplete(handle: Handle, request: *mut OidRequest, status: NdisStatus) {
    const CALL: &str = "NdisMOidRequestComplete";
    let adapter = adapter::of(handle, CALL);
    if status == NDIS_STATUS_PENDING {
        violation(CALL, format_args!("a request is completed with NDIS_STATUS_PENDING"));
    }
    adapter.oid_status.store(status, Ordering::Release);
    let none = ptr::null_mut();
    if request.is_null() || adapter.oid.compare_exchange(request, none, Ordering::AcqRel, Ordering::Acquire).is_err() {
        violation(CALL, format_args!("{request:p} is not the request that is pending"));
    }
    adapter.oid_gate.open();
}

/// `NdisMPauseComplete`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMPauseComplete(handle: Handle) {
    adapter::of(handle, "NdisMPauseComplete").complete(Pending::Pause, NDIS_STATUS_SUCCESS, "NdisMPauseComplete");
}

/// `NdisMRestartComplete`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMRestartComplete(handle: Handle, status: NdisStatus) {
    adapter::of(handle, "NdisMRestartComplete").complete(Pending::Restart, status, "NdisMRestartComplete");
}

/// `NdisMResetComplete`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMResetComplete(handle: Handle, status: NdisStatus, addressing_reset: u8) {
    let adapter = adapter::of(handle, "NdisMResetComplete");
    adapter.addressing_reset.store(addressing_reset != 0, Ordering::Release);
    adapter.complete(Pending::Reset, status, "NdisMResetComplete");
}

/// `NdisMIndicateStatusEx`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMIndicateStatusEx(handle: Handle, indication: *const StatusIndication) {
    const CALL: &str = "NdisMIndicateStatusEx";
    let adapter = adapter::of(handle, CALL);
    // SAFETY: the miniport gives an indication with a buffer of the length it says.
    unsafe {
        let it = &*indication;
        if it.header.kind != object::STATUS_INDICATION || usize::from(it.header.size) < size_of::<StatusIndication>() {
            violation(CALL, format_args!("its header is {:x?}", it.header));
        }
        if it.source != handle {
            violation(CALL, format_args!("SourceHandle is {:p}, the adapter's handle {handle:p}", it.source));
        }
        if adapter.state() == State::Halted {
            violation(CALL, format_args!("the adapter is halted"));
        }
        let data = if it.length == 0 {
            &[][..]
        } else {
            core::slice::from_raw_parts(it.buffer.cast::<u8>(), it.length as usize)
        };
        match it.code {
            NDIS_STATUS_LINK_STATE => {
                if data.len() < size_of::<LinkState>() {
                    violation(CALL, format_args!("NDIS_STATUS_LINK_STATE with {} bytes", data.len()));
                }
                *adapter.link.lock() = data.as_ptr().cast::<LinkState>().read_unaligned();
            }
            NDIS_STATUS_TASK_OFFLOAD_CURRENT_CONFIG => {
                adapter.about.lock().offload = Some(super::attributes::offload(data));
            }
            _ => {}
        }
        for binding in adapter.bound() {
            binding.protocol.status(it.code, data);
        }
    }
}
