//! Requests that take too long, and the resets that follow: of the unit, of the target, of the bus.

use super::abi::*;
use super::adapter::{Adapter, Place};
use super::request::Origin;
use super::srb::Srb;
use crate::ke::abi::DISPATCH_LEVEL;
use crate::ke::irql::*;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::Ordering;

impl Adapter {
    /// A second passed: pauses end, requests time out. IRQL = DISPATCH_LEVEL.
    pub(super) fn second(&self) {
        let mut late = Vec::new();
        {
            let mut state = self.state.lock();
            state.gate.tick();
            for slot in &mut state.slots {
                slot.queue.gate.tick();
            }
            let frozen = state.gate.is_paused();
            for request in state.outstanding.values() {
                // SAFETY: outstanding requests are alive, and changed under this lock alone.
                let r = unsafe { &mut **request };
                if r.seconds == 0 || frozen {
                    continue;
                }
                r.seconds -= 1;
                if r.seconds == 0 {
                    // Given its time again: if the reset does not bring it back, the next stage follows.
                    r.seconds = r.srb.time_out().clamp(1, 10);
                    let place = r.srb.place();
                    if !late.contains(&place) {
                        late.push(place);
                    }
                }
            }
        }
        late.sort_unstable();
        for place in late {
            self.counters.timeouts.fetch_add(1, Ordering::Relaxed);
            super::TIMED_OUT.fetch_add(1, Ordering::Relaxed);
            self.escalate(place);
        }
        self.pump();
    }

    /// The next stage of the hierarchy of resets: unit, target, bus. IRQL = DISPATCH_LEVEL.
    /// <https://learn.microsoft.com/windows-hardware/drivers/storage/handling-resets-in-storport>
    pub fn escalate(&self, place: Place) {
        let stage = {
            let mut state = self.state.lock();
            let Some(slot) = state.slots.iter_mut().find(|s| s.unit.place == place) else { return };
            slot.stage = (slot.stage + 1).min(3);
            slot.stage
        };
        if stage == 3 {
            self.reset_bus(place.0);
            return;
        }
        if stage == 2 && self.config().reset_target_supported == 0 {
            self.escalate(place);
            return;
        }
        let function = if stage == 1 { SRB_FUNCTION_RESET_LOGICAL_UNIT } else { SRB_FUNCTION_RESET_DEVICE };
        self.counters.resets.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the SRB is freed when its request is told.
        unsafe {
            let mut srb = Box::new(core::mem::zeroed::<ScsiRequestBlock>());
            srb.length = size_of::<ScsiRequestBlock>() as u16;
            srb.function = function;
            (srb.path_id, srb.target_id, srb.lun) = place;
            let view = Srb::new(Box::into_raw(srb).cast());
            match self.request(None, view, Origin::Reset(place), ptr::null_mut()) {
                Some(request) => self.start_now(request),
                None => drop(Box::from_raw(view.pointer().cast::<ScsiRequestBlock>())),
            }
        }
    }

    /// HwStorResetBus. IRQL <= DISPATCH_LEVEL.
    pub fn reset_bus(&self, path: u8) -> bool {
        let Some(reset) = self.hw.hw_reset_bus else { return false };
        self.counters.resets.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the miniport's routine, with the lock that it is documented to have.
        unsafe {
            let irql = KfRaiseIrql(DISPATCH_LEVEL);
            let done = self.synchronized(|| reset(self.extension(), u32::from(path)));
            KeLowerIrql(irql);
            done != 0
        }
    }
}
