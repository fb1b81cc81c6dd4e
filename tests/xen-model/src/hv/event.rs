//! Event channels: ports of the guest and of dom0, the operations, and delivery to a virtual CPU.

use super::{Hypervisor, Result};
use crate::abi::{errno, event, hvm, shared};
use crate::layout;
use crate::machine::Mfn;
use crate::observe::TraceEvent;

/// What a port is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Not in use.
    Free,
    /// Waits for that domain to bind to it.
    Unbound {
        /// The domain that may bind.
        remote: u16,
    },
    /// Connected to a port of that domain.
    Interdomain {
        /// The other domain.
        remote: u16,
        /// The other end.
        port: u32,
    },
    /// A virtual interrupt.
    Virq(u32),
    /// An inter-processor interrupt.
    Ipi,
    /// Xen's own end of a channel to the device model. The guest may neither use nor close it.
    DeviceModel,
}

/// One port of the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) state: PortState,
    pub(super) vcpu: u32,
    pub(super) priority: u8,
    /// The queue that it was last linked on (FIFO).
    pub(super) last_queue: (u32, u8),
    /// An event came while there was no event word for it (FIFO).
    pub(super) pending: bool,
}

const FREE: Port = Port {
    state: PortState::Free,
    vcpu: 0,
    priority: event::FIFO_PRIORITY_DEFAULT,
    last_queue: (0, event::FIFO_PRIORITY_DEFAULT),
    pending: false,
};

/// One port of dom0.
#[derive(Clone, Copy, Debug, Default)]
struct Dom0Port {
    used: bool,
    /// The guest's port at the other end. `None`: unbound, waiting for the guest.
    guest: Option<u32>,
    pending: bool,
}

/// The ports of both domains. Port 0 is never used.
#[derive(Debug, Default)]
pub(super) struct Ports {
    guest: Vec<Port>,
    dom0: Vec<Dom0Port>,
}

impl Ports {
    fn get(&self, port: u32) -> Result<&Port> {
        self.guest.get(port as usize).filter(|p| p.state != PortState::Free).ok_or(errno::EINVAL)
    }

    pub(super) fn slot(&mut self, port: u32) -> &mut Port {
        &mut self.guest[port as usize]
    }

    pub(super) fn len(&self) -> u32 {
        self.guest.len() as u32
    }

    fn alloc_dom0(&mut self) -> u32 {
        if self.dom0.is_empty() {
            self.dom0.push(Dom0Port { used: true, ..Dom0Port::default() });
        }
        let free = self.dom0.iter().position(|p| !p.used).unwrap_or_else(|| {
            self.dom0.push(Dom0Port::default());
            self.dom0.len() - 1
        });
        self.dom0[free] = Dom0Port { used: true, ..Dom0Port::default() };
        free as u32
    }
}

impl Hypervisor {
    /// Takes the guest's lowest free port.
    fn alloc_port(&mut self, state: PortState, vcpu: u32) -> Result<u32> {
        if self.ports.guest.is_empty() {
            self.ports.guest.push(FREE);
        }
        let limit = if self.fifo.is_some() { event::FIFO_CHANNELS } else { event::CHANNELS_2L };
        let limit = limit.min(self.cfg.max_event_port + 1);
        let used = &mut self.ports.guest;
        let port = match used.iter().skip(1).position(|p| p.state == PortState::Free) {
            Some(i) => i as u32 + 1,
            None if (used.len() as u32) < limit => {
                used.push(FREE);
                used.len() as u32 - 1
            }
            None => return Err(errno::ENOSPC),
        };
        // What is known of the queue on which the event word may still be linked outlives the port's use.
        let last_queue = used[port as usize].last_queue;
        used[port as usize] = Port { state, vcpu, last_queue, ..FREE };
        Ok(port)
    }

    fn check_vcpu(&self, vcpu: u32) -> Result<()> {
        if (vcpu as usize) < self.vcpus.len() { Ok(()) } else { Err(errno::ENOENT) }
    }

    pub(super) fn event_channel_op(&mut self, cmd: u64, arg: u64) -> Result<i64> {
        match cmd {
            event::SEND => {
                let port = self.arg::<4>(arg)?.u32(0);
                self.counters.guest_sends += 1;
                self.guest_send(port)?;
            }
            event::UNMASK => {
                let port = self.arg::<4>(arg)?.u32(0);
                self.ports.get(port)?;
                self.unmask(port);
            }
            event::ALLOC_UNBOUND => {
                let a = self.arg::<8>(arg)?;
                self.check_self(a.u16(0))?;
                let remote = if a.u16(2) == crate::abi::DOMID_SELF { self.domid } else { a.u16(2) };
                let port = self.alloc_port(PortState::Unbound { remote }, 0)?;
                self.put(arg + 4, &port.to_le_bytes())?;
            }
            event::BIND_INTERDOMAIN => {
                let a = self.arg::<12>(arg)?;
                let port = self.bind_interdomain(a.u16(0), a.u32(4))?;
                self.put(arg + 8, &port.to_le_bytes())?;
            }
            event::BIND_VIRQ => {
                let a = self.arg::<12>(arg)?;
                let (virq, vcpu) = (a.u32(0), a.u32(4));
                if virq >= event::NR_VIRQS {
                    return Err(errno::EINVAL);
                }
                // Timer, debug, profiling and performance interrupts are per virtual CPU; the others go to the first.
                if !matches!(virq, 0 | 1 | 7 | 13) && vcpu != 0 {
                    return Err(errno::EINVAL);
                }
                self.check_vcpu(vcpu)?;
                if self.vcpus[vcpu as usize].virqs.contains_key(&virq) {
                    return Err(errno::EEXIST);
                }
                let port = self.alloc_port(PortState::Virq(virq), vcpu)?;
                self.vcpus[vcpu as usize].virqs.insert(virq, port);
                self.put(arg + 8, &port.to_le_bytes())?;
            }
            event::BIND_IPI => {
                let vcpu = self.arg::<8>(arg)?.u32(0);
                self.check_vcpu(vcpu)?;
                let port = self.alloc_port(PortState::Ipi, vcpu)?;
                self.put(arg + 4, &port.to_le_bytes())?;
            }
            event::BIND_PIRQ => return Err(errno::EPERM),
            event::CLOSE => {
                let port = self.arg::<4>(arg)?.u32(0);
                if self.ports.get(port)?.state == PortState::DeviceModel {
                    return Err(errno::EINVAL);
                }
                self.close_port(port);
            }
            event::STATUS => self.status(arg)?,
            event::BIND_VCPU => {
                let a = self.arg::<8>(arg)?;
                let (port, vcpu) = (a.u32(0), a.u32(4));
                self.check_vcpu(vcpu)?;
                match self.ports.get(port)?.state {
                    PortState::Unbound { .. } | PortState::Interdomain { .. } => self.ports.slot(port).vcpu = vcpu,
                    PortState::Free | PortState::Virq(_) | PortState::Ipi | PortState::DeviceModel => {
                        return Err(errno::EINVAL);
                    }
                }
            }
            event::RESET => {
                self.check_self(self.arg::<2>(arg)?.u16(0))?;
                self.reset_ports();
            }
            event::INIT_CONTROL if self.cfg.fifo => self.init_control(arg)?,
            event::EXPAND_ARRAY if self.cfg.fifo => self.expand_array(arg)?,
            event::SET_PRIORITY if self.cfg.fifo => {
                let a = self.arg::<8>(arg)?;
                self.ports.get(a.u32(0))?;
                if self.fifo.is_none() {
                    return Err(errno::ENOSYS);
                }
                if a.u32(4) > event::FIFO_PRIORITY_MIN {
                    return Err(errno::EINVAL);
                }
                self.ports.slot(a.u32(0)).priority = a.u32(4) as u8;
            }
            _ => return Err(errno::ENOSYS),
        }
        Ok(0)
    }

    fn guest_send(&mut self, port: u32) -> Result<()> {
        match self.ports.get(port)?.state {
            PortState::Interdomain { remote, port: other } if remote == self.domid => self.set_pending(other),
            PortState::Interdomain { port: other, .. } => self.ports.dom0[other as usize].pending = true,
            PortState::Ipi => self.set_pending(port),
            PortState::Unbound { .. } => {}
            PortState::Virq(_) | PortState::Free | PortState::DeviceModel => return Err(errno::EINVAL),
        }
        Ok(())
    }

    fn bind_interdomain(&mut self, remote: u16, other: u32) -> Result<u32> {
        if remote == crate::abi::DOMID_SELF || remote == self.domid {
            let PortState::Unbound { remote } = self.ports.get(other)?.state else { return Err(errno::EINVAL) };
            if remote != self.domid {
                return Err(errno::EINVAL);
            }
            let port = self.alloc_port(PortState::Interdomain { remote, port: other }, 0)?;
            self.ports.slot(other).state = PortState::Interdomain { remote, port };
            self.set_pending(port);
            return Ok(port);
        }
        if remote != 0 {
            return Err(errno::ESRCH);
        }
        let free = self.ports.dom0.get(other as usize).is_some_and(|p| other != 0 && p.used && p.guest.is_none());
        if !free {
            return Err(errno::EINVAL);
        }
        let port = self.alloc_port(PortState::Interdomain { remote, port: other }, 0)?;
        self.ports.dom0[other as usize].guest = Some(port);
        // Notifications to the unbound port were dropped: one is assumed.
        self.set_pending(port);
        Ok(port)
    }

    fn status(&mut self, arg: u64) -> Result<()> {
        let a = self.arg::<24>(arg)?;
        self.check_self(a.u16(0))?;
        let port = a.u32(4);
        let Some(slot) = self.ports.guest.get(port as usize).filter(|_| port != 0).copied() else {
            return Err(errno::EINVAL);
        };
        let mut out = [0; 16];
        let (status, u) = match slot.state {
            PortState::Free => (0u32, [0; 8]),
            PortState::Unbound { remote } => (1, u64::from(remote).to_le_bytes()),
            PortState::Interdomain { remote, port } => (2, (u64::from(remote) | u64::from(port) << 32).to_le_bytes()),
            PortState::Virq(virq) => (4, u64::from(virq).to_le_bytes()),
            PortState::Ipi => (5, [0; 8]),
            PortState::DeviceModel => return Err(errno::EACCES),
        };
        out[..4].copy_from_slice(&status.to_le_bytes());
        out[4..8].copy_from_slice(&slot.vcpu.to_le_bytes());
        out[8..].copy_from_slice(&u);
        self.put(arg + 8, &out)
    }

    fn close_port(&mut self, port: u32) {
        let slot = *self.ports.slot(port);
        match slot.state {
            PortState::Interdomain { remote, port: other } if remote == self.domid => {
                self.ports.slot(other).state = PortState::Unbound { remote };
            }
            PortState::Interdomain { port: other, .. } => self.ports.dom0[other as usize].guest = None,
            PortState::Virq(virq) => {
                self.vcpus[slot.vcpu as usize].virqs.remove(&virq);
            }
            PortState::Unbound { .. } | PortState::Ipi | PortState::Free | PortState::DeviceModel => {}
        }
        self.clear_pending(port);
        let last_queue = slot.last_queue;
        *self.ports.slot(port) = Port { last_queue, ..FREE };
    }

    /// `EVTCHNOP_reset`: every port but Xen's own is closed, xenstore's and the console's too, and the 2-level ABI is back.
    fn reset_ports(&mut self) {
        for port in 1..self.ports.len() {
            if !matches!(self.ports.slot(port).state, PortState::Free | PortState::DeviceModel) {
                self.close_port(port);
            }
        }
        self.drop_fifo();
    }

    /// Sets a guest port pending and delivers it as the ABI in use says.
    pub(super) fn set_pending(&mut self, port: u32) {
        if self.fifo.is_some() { self.fifo_set_pending(port) } else { self.two_level_set_pending(port) }
    }

    fn two_level_set_pending(&mut self, port: u32) {
        let shared_info = self.shared_info;
        if self.mem().test_and_set(shared_info, shared::EVTCHN_PENDING, port)
            || self.mem().test(shared_info, shared::EVTCHN_MASK, port)
        {
            return;
        }
        self.two_level_select(port);
    }

    fn two_level_select(&mut self, port: u32) {
        let vcpu = self.ports.slot(port).vcpu;
        if let Some((mfn, info)) = self.vcpu_info(vcpu)
            && !self.mem().test_and_set(mfn, info + shared::PENDING_SEL, port / 64)
        {
            self.mark_pending(vcpu);
        }
    }

    fn unmask(&mut self, port: u32) {
        if self.fifo.is_some() {
            self.fifo_unmask(port);
        } else if self.mem().test_and_clear(self.shared_info, shared::EVTCHN_MASK, port)
            && self.mem().test(self.shared_info, shared::EVTCHN_PENDING, port)
        {
            self.two_level_select(port);
        }
    }

    fn clear_pending(&mut self, port: u32) {
        if self.fifo.is_some() {
            self.fifo_clear_pending(port);
        } else {
            self.mem().test_and_clear(self.shared_info, shared::EVTCHN_PENDING, port);
        }
    }

    /// Whether a pending bit was left in the 2-level page for this port.
    pub(super) fn two_level_pending(&self, port: u32) -> bool {
        port < event::CHANNELS_2L && self.mem().test(self.shared_info, shared::EVTCHN_PENDING, port)
    }

    /// Where a virtual CPU's `vcpu_info` is.
    pub(super) fn vcpu_info(&self, vcpu: u32) -> Option<(Mfn, usize)> {
        self.vcpus[vcpu as usize].info.or_else(|| {
            (vcpu < shared::LEGACY_MAX_VCPUS).then(|| (self.shared_info, vcpu as usize * shared::VCPU_INFO_SIZE))
        })
    }

    /// `vcpu_mark_events_pending`.
    pub(super) fn mark_pending(&mut self, vcpu: u32) {
        let Some((mfn, info)) = self.vcpu_info(vcpu) else { return };
        if self.mem().swap_u8(mfn, info + shared::UPCALL_PENDING, 1) == 0 {
            self.assert_upcall(vcpu);
        }
    }

    /// `hvm_assert_evtchn_irq`.
    pub(super) fn assert_upcall(&mut self, vcpu: u32) {
        let vector = self.vcpus[vcpu as usize].upcall_vector;
        let via = self.params[hvm::PARAM_CALLBACK_IRQ as usize];
        if vector != 0 {
            self.upcall(vcpu, vector);
        } else if via >> 56 == 2 && via as u8 != 0 {
            self.upcall(vcpu, via as u8);
        } else if vcpu == 0 {
            self.sync_line();
        }
    }

    fn upcall(&mut self, vcpu: u32, vector: u8) {
        *self.counters.upcalls.entry((vcpu, vector)).or_default() += 1;
        self.machine().raise_vector(vcpu, vector);
    }

    /// The interrupt line that `HVM_PARAM_CALLBACK_IRQ` names.
    fn callback_line(&self) -> Option<u32> {
        let via = self.params[hvm::PARAM_CALLBACK_IRQ as usize];
        match via >> 56 {
            0 if via != 0 => Some(via as u32),
            1 => Some(layout::pci_intx_gsi((via >> 11 & 31) as u8, (via & 3) as u8)),
            _ => None,
        }
    }

    /// Brings the callback interrupt line to the level that virtual CPU 0's `evtchn_upcall_pending` asks for. Xen does it
    /// at every entry into the guest.
    pub(crate) fn sync_line(&mut self) {
        let wanted = self.callback_line().filter(|_| {
            self.vcpus[0].upcall_vector == 0
                && self
                    .vcpu_info(0)
                    .is_some_and(|(mfn, info)| self.mem().read_u8(mfn, info + shared::UPCALL_PENDING) != 0)
        });
        if wanted == self.line {
            return;
        }
        if let Some(gsi) = self.line {
            self.machine().set_intx(gsi, false);
        }
        if let Some(gsi) = wanted {
            *self.counters.upcalls.entry((0, 0)).or_default() += 1;
            self.machine().set_intx(gsi, true);
        }
        self.line = wanted;
    }

    // What dom0 does.

    /// An unbound port of the guest for dom0, as the toolstack makes for xenstore and the console.
    pub(super) fn alloc_port_for_dom0(&mut self) -> u32 {
        self.alloc_port(PortState::Unbound { remote: 0 }, 0).expect("a fresh domain has free ports")
    }

    /// The ports by which Xen tells the device model of the guest's I/O: one a virtual CPU, and one for buffered writes.
    pub(super) fn alloc_device_model_ports(&mut self) {
        let last = self.vcpus.len() as u32 - 1;
        for vcpu in std::iter::once(0).chain(0..=last) {
            self.alloc_port(PortState::DeviceModel, vcpu).expect("a fresh domain has free ports");
        }
    }

    /// Binds a port of dom0 to an unbound port of the guest. Both ends start pending at dom0's side.
    pub(crate) fn dom0_bind(&mut self, guest_port: u32) -> Result<u32> {
        if self.ports.get(guest_port)?.state != (PortState::Unbound { remote: 0 }) {
            return Err(errno::EINVAL);
        }
        let port = self.ports.alloc_dom0();
        self.ports.dom0[port as usize].guest = Some(guest_port);
        self.ports.dom0[port as usize].pending = true;
        self.ports.slot(guest_port).state = PortState::Interdomain { remote: 0, port };
        Ok(port)
    }

    /// Closes a port of dom0; the guest's end becomes unbound.
    pub(crate) fn dom0_close(&mut self, port: u32) {
        let Some(slot) = self.ports.dom0.get_mut(port as usize) else { return };
        if let Some(guest) = std::mem::take(slot).guest {
            self.ports.slot(guest).state = PortState::Unbound { remote: 0 };
        }
    }

    /// Sends an event from dom0's port to the guest.
    pub(crate) fn dom0_send(&mut self, port: u32) {
        if let Some(guest) = self.ports.dom0.get(port as usize).and_then(|p| p.guest) {
            self.counters.backend_sends += 1;
            self.trace(|| TraceEvent::Event { port: guest });
            self.set_pending(guest);
        }
    }

    /// Takes the pending mark of a port of dom0.
    pub(crate) fn dom0_take_pending(&mut self, port: u32) -> bool {
        self.ports.dom0.get_mut(port as usize).is_some_and(|p| std::mem::take(&mut p.pending))
    }

    /// What a guest port is used for.
    pub(crate) fn port_state(&self, port: u32) -> PortState {
        self.ports.get(port).map_or(PortState::Free, |p| p.state)
    }

    /// Guest ports in use by the guest.
    pub(crate) fn open_ports(&self) -> usize {
        self.ports.guest.iter().filter(|p| !matches!(p.state, PortState::Free | PortState::DeviceModel)).count()
    }

    /// Raises a virtual interrupt on a virtual CPU. `false`: not bound.
    pub(crate) fn raise_virq(&mut self, vcpu: u32, virq: u32) -> bool {
        let port = self.vcpus.get(vcpu as usize).and_then(|v| v.virqs.get(&virq).copied());
        if let Some(port) = port {
            self.set_pending(port);
        }
        port.is_some()
    }
}
