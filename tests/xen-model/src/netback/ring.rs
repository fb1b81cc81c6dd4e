//! The backend's end of a one-page ring (ring.h), as Linux's macros work it.

use std::sync::atomic::{Ordering, fence};

use crate::abi::ring;
use crate::hv::Hypervisor;
use crate::machine::{Mfn, PAGE_SIZE};

/// A ring that is mapped.
#[derive(Debug)]
pub(super) struct BackRing {
    reference: u32,
    frame: Mfn,
    /// Bytes of a slot.
    slot: usize,
    /// Slots.
    pub(super) entries: u32,
    /// The next request.
    pub(super) req_cons: u32,
    /// The next response; those before `published` are visible to the guest.
    pub(super) rsp_prod: u32,
    published: u32,
}

impl BackRing {
    /// The page that it lies in.
    pub(super) fn frame(&self) -> Mfn {
        self.frame
    }

    /// Maps the ring's page. `Err`: why not.
    pub(super) fn connect(hv: &mut Hypervisor, reference: u32, slot: usize) -> Result<Self, String> {
        let frame = hv.map_grant(reference, false).map_err(|error| format!("ring reference {reference}: {error:?}"))?;
        let entries = 1u32 << ((PAGE_SIZE - ring::HEADER) / slot).ilog2();
        // A backend that takes a ring over goes on where its responses ended.
        let start = hv.mem().read_u32(frame, ring::RSP_PROD);
        let requests = hv.mem().read_u32(frame, ring::REQ_PROD);
        if requests.wrapping_sub(start) > entries {
            hv.unmap_grant(reference, false);
            return Err(format!("ring reference {reference}: req_prod {requests:#x}, rsp_prod {start:#x}"));
        }
        Ok(Self { reference, frame, slot, entries, req_cons: start, rsp_prod: start, published: start })
    }

    pub(super) fn disconnect(&self, hv: &mut Hypervisor) {
        hv.unmap_grant(self.reference, false);
    }

    /// Requests that wait. `Err`: `req_prod` is not possible.
    pub(super) fn waiting(&self, hv: &Hypervisor) -> Result<u32, String> {
        let prod = hv.mem().read_u32(self.frame, ring::REQ_PROD);
        let count = prod.wrapping_sub(self.req_cons);
        if prod.wrapping_sub(self.rsp_prod) > self.entries {
            return Err(format!("req_prod {prod:#x} with rsp_prod {:#x} on a ring of {}", self.rsp_prod, self.entries));
        }
        Ok(count)
    }

    fn at(&self, index: u32) -> usize {
        ring::HEADER + (index & (self.entries - 1)) as usize * self.slot
    }

    /// Copies the request at `index`.
    pub(super) fn request<const N: usize>(&self, hv: &Hypervisor, index: u32) -> [u8; N] {
        let mut bytes = [0; N];
        hv.mem().read(self.frame, self.at(index), &mut bytes);
        bytes
    }

    /// Writes a response to the next slot, without publishing it.
    pub(super) fn respond(&mut self, hv: &Hypervisor, bytes: &[u8]) {
        hv.mem().write(self.frame, self.at(self.rsp_prod), bytes);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
    }

    /// Overwrites the last response that was written.
    pub(super) fn rewrite_last(&self, hv: &Hypervisor, bytes: &[u8]) {
        hv.mem().write(self.frame, self.at(self.rsp_prod.wrapping_sub(1)), bytes);
    }

    /// Publishes what was written; whether the guest wants an event for it (`RING_PUSH_RESPONSES_AND_CHECK_NOTIFY`).
    pub(super) fn push(&mut self, hv: &Hypervisor) -> bool {
        if self.published == self.rsp_prod {
            return false;
        }
        let old = std::mem::replace(&mut self.published, self.rsp_prod);
        hv.mem().write_u32(self.frame, ring::RSP_PROD, self.rsp_prod);
        fence(Ordering::SeqCst);
        let event = hv.mem().read_u32(self.frame, ring::RSP_EVENT);
        self.rsp_prod.wrapping_sub(event) < self.rsp_prod.wrapping_sub(old)
    }

    /// Writes a `rsp_prod` that is not true.
    pub(super) fn lie(&self, hv: &Hypervisor, rsp_prod: u32) {
        hv.mem().write_u32(self.frame, ring::RSP_PROD, rsp_prod);
    }

    /// Asks for an event at the request `ahead` after the last one seen; whether `req_prod` has moved on from `seen`.
    pub(super) fn arm(&self, hv: &Hypervisor, at: u32, seen: u32) -> bool {
        hv.mem().write_u32(self.frame, ring::REQ_EVENT, at);
        fence(Ordering::SeqCst);
        hv.mem().read_u32(self.frame, ring::REQ_PROD) != seen
    }
}
