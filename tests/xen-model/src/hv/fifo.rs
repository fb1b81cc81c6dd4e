//! The FIFO event channel ABI: event array, control blocks, queues by priority.

use super::{Hypervisor, Result};
use crate::abi::{errno, event};
use crate::machine::{Gfn, Mfn};
use crate::observe::GuestErrorKind;

/// A virtual CPU's control block: frame and offset.
type ControlBlock = Option<(Mfn, usize)>;

/// The guest's FIFO state in Xen.
#[derive(Debug)]
pub(super) struct Fifo {
    array: Vec<Mfn>,
    control: Vec<ControlBlock>,
    /// Tail port by virtual CPU and priority; 0: empty.
    tails: Vec<[u32; event::FIFO_QUEUES]>,
}

impl Fifo {
    /// Frame and offset of a port's event word.
    fn word(&self, port: u32) -> Option<(Mfn, usize)> {
        let mfn = *self.array.get((port / event::FIFO_WORDS_PER_PAGE) as usize)?;
        Some((mfn, (port % event::FIFO_WORDS_PER_PAGE) as usize * 4))
    }
}

impl Hypervisor {
    /// `EVTCHNOP_init_control`. The first one switches the domain to the FIFO ABI.
    pub(super) fn init_control(&mut self, arg: u64) -> Result<()> {
        let a = self.arg::<24>(arg)?;
        let (gfn, offset, vcpu) = (a.u64(0), a.u32(8), a.u32(12));
        if vcpu as usize >= self.vcpus.len() {
            return Err(errno::ENOENT);
        }
        if offset > 4096 - event::FIFO_CONTROL_BLOCK || !offset.is_multiple_of(8) {
            return Err(errno::EINVAL);
        }
        if self.fifo.as_ref().is_some_and(|f| f.control[vcpu as usize].is_some()) {
            return Err(errno::EINVAL);
        }
        let mfn = self.guest_page(gfn)?;
        self.pin(mfn);
        let vcpus = self.vcpus.len();
        if self.fifo.is_none() {
            // Events that were pending under the 2-level ABI are kept until their words exist.
            for port in 1..self.ports.len() {
                if self.two_level_pending(port) {
                    self.ports.slot(port).pending = true;
                }
            }
            self.fifo = Some(Fifo {
                array: Vec::new(),
                control: vec![None; vcpus],
                tails: vec![[0; event::FIFO_QUEUES]; vcpus],
            });
        }
        if let Some(fifo) = &mut self.fifo {
            fifo.control[vcpu as usize] = Some((mfn, offset as usize));
        }
        self.put(arg + 16, &[event::FIFO_LINK_BITS as u8])
    }

    /// `EVTCHNOP_expand_array`.
    pub(super) fn expand_array(&mut self, arg: u64) -> Result<()> {
        let gfn = self.arg::<8>(arg)?.u64(0);
        let Some(fifo) = &self.fifo else { return Err(errno::EOPNOTSUPP) };
        let first = fifo.array.len() as u32 * event::FIFO_WORDS_PER_PAGE;
        if first >= event::FIFO_CHANNELS {
            return Err(errno::ENOSPC);
        }
        let mfn = self.guest_page(gfn)?;
        self.pin(mfn);
        if let Some(fifo) = &mut self.fifo {
            fifo.array.push(mfn);
        }
        for port in first.max(1)..self.ports.len().min(first + event::FIFO_WORDS_PER_PAGE) {
            if std::mem::take(&mut self.ports.slot(port).pending) {
                self.fifo_set_pending(port);
            }
        }
        Ok(())
    }

    fn guest_page(&mut self, gfn: Gfn) -> Result<Mfn> {
        self.machine().mfn_of(gfn).ok_or(errno::EINVAL)
    }

    /// The frames of event array and control blocks.
    pub(super) fn fifo_frames(&self) -> impl Iterator<Item = Mfn> {
        let control = |fifo: &'_ Fifo| fifo.control.iter().flatten().map(|(mfn, _)| *mfn).collect::<Vec<_>>();
        self.fifo.iter().flat_map(move |fifo| fifo.array.iter().copied().chain(control(fifo)))
    }

    /// Back to the 2-level ABI.
    pub(super) fn drop_fifo(&mut self) {
        let Some(fifo) = self.fifo.take() else { return };
        for mfn in fifo.array.into_iter().chain(fifo.control.into_iter().flatten().map(|(mfn, _)| mfn)) {
            self.unpin(mfn);
        }
    }

    pub(super) fn fifo_set_pending(&mut self, port: u32) {
        let Some(fifo) = &self.fifo else { return };
        let Some((mfn, at)) = fifo.word(port) else {
            self.ports.slot(port).pending = true;
            return;
        };
        self.mem().or_u32(mfn, at, event::FIFO_PENDING);
        if self.mem().read_u32(mfn, at) & (event::FIFO_MASKED | event::FIFO_LINKED) != 0 {
            return;
        }
        let (vcpu, priority, old) = {
            let slot = self.ports.slot(port);
            (slot.vcpu, slot.priority, slot.last_queue)
        };
        let Some((control, offset)) = self.fifo.as_ref().and_then(|f| f.control[vcpu as usize]) else {
            self.guest_error(
                GuestErrorKind::FifoNotReady,
                format!("port {port} is bound to virtual CPU {vcpu}, which has no control block"),
            );
            return;
        };
        if self.mem().or_u32(mfn, at, event::FIFO_LINKED) & event::FIFO_LINKED != 0 {
            return;
        }
        self.ports.slot(port).last_queue = (vcpu, priority);
        let Some(fifo) = &mut self.fifo else { return };
        // If the event was a tail, that queue is empty now.
        let old_tail = &mut fifo.tails[old.0 as usize][usize::from(old.1)];
        if *old_tail == port {
            *old_tail = 0;
        }
        let queue = usize::from(priority);
        let tail = std::mem::replace(&mut fifo.tails[vcpu as usize][queue], port);
        let linked = tail != 0 && self.fifo_link(tail, port);
        if !linked {
            self.mem().write_u32(control, offset + 8 + 4 * queue, port);
            if self.mem().or_u32(control, offset, 1 << queue) & (1 << queue) == 0 {
                self.mark_pending(vcpu);
            }
        }
    }

    /// Links `port` behind `tail` if `tail` is still on its queue.
    fn fifo_link(&self, tail: u32, port: u32) -> bool {
        let Some((mfn, at)) = self.fifo.as_ref().and_then(|f| f.word(tail)) else { return false };
        loop {
            let word = self.mem().read_u32(mfn, at);
            if word & event::FIFO_LINKED == 0 {
                return false;
            }
            let new = word & !(event::FIFO_BUSY | event::FIFO_LINK_MASK) | port;
            if self.mem().cas_u32(mfn, at, word, new).is_ok() {
                return true;
            }
        }
    }

    pub(super) fn fifo_unmask(&mut self, port: u32) {
        let Some((mfn, at)) = self.fifo.as_ref().and_then(|f| f.word(port)) else { return };
        if self.mem().clear_u32(mfn, at, event::FIFO_MASKED) & event::FIFO_PENDING != 0 {
            self.fifo_set_pending(port);
        }
    }

    pub(super) fn fifo_clear_pending(&mut self, port: u32) {
        match self.fifo.as_ref().and_then(|f| f.word(port)) {
            Some((mfn, at)) => {
                self.mem().clear_u32(mfn, at, event::FIFO_PENDING);
            }
            None => self.ports.slot(port).pending = false,
        }
    }
}
