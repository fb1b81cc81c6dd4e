//! Event channels: operations and the two layouts, 2-level and FIFO (`xen/include/public/event_channel.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{DomId, PAGE_SIZE};

/// An event channel's number in its domain (`evtchn_port_t`). 0 is none.
pub type Port = u32;

/// `EVTCHNOP_bind_interdomain`: [`BindInterdomain`].
pub const BIND_INTERDOMAIN: u32 = 0;
/// `EVTCHNOP_bind_virq`: [`BindVirq`].
pub const BIND_VIRQ: u32 = 1;
/// `EVTCHNOP_close`: [`PortArg`].
pub const CLOSE: u32 = 3;
/// `EVTCHNOP_send`: [`PortArg`].
pub const SEND: u32 = 4;
/// `EVTCHNOP_status`: [`Status`].
pub const STATUS: u32 = 5;
/// `EVTCHNOP_alloc_unbound`: [`AllocUnbound`].
pub const ALLOC_UNBOUND: u32 = 6;
/// `EVTCHNOP_bind_ipi`: [`BindIpi`].
pub const BIND_IPI: u32 = 7;
/// `EVTCHNOP_bind_vcpu`: [`BindVcpu`].
pub const BIND_VCPU: u32 = 8;
/// `EVTCHNOP_unmask`: [`PortArg`].
pub const UNMASK: u32 = 9;
/// `EVTCHNOP_reset`: [`Reset`].
pub const RESET: u32 = 10;
/// `EVTCHNOP_init_control`: [`InitControl`].
pub const INIT_CONTROL: u32 = 11;
/// `EVTCHNOP_expand_array`: [`ExpandArray`].
pub const EXPAND_ARRAY: u32 = 12;
/// `EVTCHNOP_set_priority`: [`SetPriority`].
pub const SET_PRIORITY: u32 = 13;

/// `EVTCHNSTAT_closed`.
pub const STATUS_CLOSED: u32 = 0;
/// `EVTCHNSTAT_unbound`.
pub const STATUS_UNBOUND: u32 = 1;
/// `EVTCHNSTAT_interdomain`.
pub const STATUS_INTERDOMAIN: u32 = 2;
/// `EVTCHNSTAT_pirq`.
pub const STATUS_PIRQ: u32 = 3;
/// `EVTCHNSTAT_virq`.
pub const STATUS_VIRQ: u32 = 4;
/// `EVTCHNSTAT_ipi`.
pub const STATUS_IPI: u32 = 5;

/// `VIRQ_TIMER`.
pub const VIRQ_TIMER: u32 = 0;
/// `VIRQ_DEBUG`.
pub const VIRQ_DEBUG: u32 = 1;

/// The argument of operations that take nothing but a port: `struct evtchn_close`, `evtchn_send`, `evtchn_unmask`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortArg {
    /// The port.
    pub port: Port,
}

/// `struct evtchn_alloc_unbound`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllocUnbound {
    /// Whose channel.
    pub dom: DomId,
    /// Who may bind to it.
    pub remote_dom: DomId,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_bind_interdomain`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindInterdomain {
    /// Who has the unbound port.
    pub remote_dom: DomId,
    /// Padding.
    pub pad: u16,
    /// That port.
    pub remote_port: Port,
    /// Out: ours.
    pub local_port: Port,
}

/// `struct evtchn_bind_virq`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVirq {
    /// `VIRQ_*`.
    pub virq: u32,
    /// For which CPU.
    pub vcpu: u32,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_bind_ipi`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIpi {
    /// For which CPU.
    pub vcpu: u32,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_status`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// Whose channel.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// Which port.
    pub port: Port,
    /// Out: `EVTCHNSTAT_*`.
    pub status: u32,
    /// Out: the CPU it notifies.
    pub vcpu: u32,
    /// Out: the other end's domain (lower half), a PIRQ's or a VIRQ's number.
    pub detail: u32,
    /// Out: the other end's port.
    pub remote_port: Port,
}

/// `struct evtchn_bind_vcpu`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVcpu {
    /// The port.
    pub port: Port,
    /// The CPU that it is to notify.
    pub vcpu: u32,
}

/// `struct evtchn_reset`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reset {
    /// Whose channels.
    pub dom: DomId,
}

/// `struct evtchn_init_control`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitControl {
    /// Guest frame with the control block.
    pub control_gfn: u64,
    /// Its offset there, a multiple of 8.
    pub offset: u32,
    /// For which CPU.
    pub vcpu: u32,
    /// Out: bits of the link field.
    pub link_bits: u8,
    /// Padding.
    pub pad: [u8; 7],
}

/// `struct evtchn_expand_array`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExpandArray {
    /// Guest frame with the next page of event words.
    pub array_gfn: u64,
}

/// `struct evtchn_set_priority`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPriority {
    /// The port.
    pub port: Port,
    /// 0 (first) to 15 (last).
    pub priority: u32,
}

/// The 2-level layout: one bit a port in the pending and in the mask words of the shared info page, and one bit a word
/// in the selector of the CPU that the port notifies.
pub mod two_level {
    use super::Port;
    use crate::shared_info::{OFFSET_EVTCHN_MASK, OFFSET_EVTCHN_PENDING};

    /// Ports that exist (`EVTCHN_2L_NR_CHANNELS`).
    pub const PORTS: u32 = 4096;
    /// Words of each array.
    pub const WORDS: u32 = 64;

    /// Offset of the pending word of `port` in the shared info page, and the port's bit in it; `None` if the port is
    /// not below [`PORTS`].
    pub const fn pending(port: Port) -> Option<(usize, u64)> {
        if port < PORTS { Some((OFFSET_EVTCHN_PENDING + (port / 64) as usize * 8, 1 << (port % 64))) } else { None }
    }

    /// As [`pending`], of the mask word.
    pub const fn mask(port: Port) -> Option<(usize, u64)> {
        if port < PORTS { Some((OFFSET_EVTCHN_MASK + (port / 64) as usize * 8, 1 << (port % 64))) } else { None }
    }
}

/// The FIFO layout: one 32-bit word a port in an array of pages, linked into sixteen queues a CPU.
pub mod fifo {
    use super::{PAGE_SIZE, Port};

    /// First to be served.
    pub const PRIORITY_MAX: u32 = 0;
    /// Of a new channel.
    pub const PRIORITY_DEFAULT: u32 = 7;
    /// Last to be served.
    pub const PRIORITY_MIN: u32 = 15;
    /// Queues a CPU.
    pub const QUEUES: usize = 16;
    /// Bit of an event word: pending.
    pub const PENDING: u32 = 1 << 31;
    /// Bit of an event word: masked.
    pub const MASKED: u32 = 1 << 30;
    /// Bit of an event word: on a queue.
    pub const LINKED: u32 = 1 << 29;
    /// Bit of an event word: Xen is changing the link. The guest must not clear MASKED meanwhile.
    pub const BUSY: u32 = 1 << 28;
    /// The next port of the queue, 0: the last one.
    pub const LINK_MASK: u32 = (1 << 17) - 1;
    /// Ports that exist (`EVTCHN_FIFO_NR_CHANNELS`).
    pub const PORTS: u32 = 1 << 17;
    /// Event words of a page.
    pub const WORDS_PER_PAGE: u32 = (PAGE_SIZE / 4) as u32;
    /// Pages that all event words need.
    pub const MAX_PAGES: usize = (PORTS / WORDS_PER_PAGE) as usize;

    /// Offset in the control block: a bit for each queue that has something.
    pub const OFFSET_READY: usize = 0;
    /// Bytes of the control block.
    pub const CONTROL_BLOCK_SIZE: usize = 72;

    /// Offset in the control block: the head of queue `priority`, 0 to 15.
    pub const fn offset_head(priority: u32) -> usize {
        8 + 4 * (priority as usize % QUEUES)
    }

    /// Page and offset in it of the event word of `port`; `None` if the port is not below [`PORTS`].
    pub const fn word(port: Port) -> Option<(usize, usize)> {
        if port < PORTS { Some(((port / WORDS_PER_PAGE) as usize, (port % WORDS_PER_PAGE) as usize * 4)) } else { None }
    }

    /// Pages needed so that `port` has its word.
    pub const fn pages_for(port: Port) -> usize {
        (port / WORDS_PER_PAGE) as usize + 1
    }
}

const _: () = {
    assert!(size_of::<AllocUnbound>() == 8);
    assert!(size_of::<BindInterdomain>() == 12);
    assert!(size_of::<BindVirq>() == 12);
    assert!(size_of::<Status>() == 24);
    assert!(size_of::<InitControl>() == 24);
    assert!(core::mem::offset_of!(InitControl, link_bits) == 16);
    assert!(size_of::<Reset>() == 2);
    assert!(fifo::MAX_PAGES == 128);
    assert!(fifo::offset_head(15) + 4 == fifo::CONTROL_BLOCK_SIZE);
};
