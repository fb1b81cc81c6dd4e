//! An adapter: what NDIS asks of it.

use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use wdm::{
    event::{Event, EventKind, Mutex},
    memory::{Shared, try_box, try_push, try_vec},
    ndis::{
        self, CancelId, Description, Halt, Initializing, LinkState, Miniport, OidRequest, PauseOutcome, PnpEvent,
        ReceiveChain, RssRequest, SendChain, SendList,
        abi::{
            ObjectHeader, mac_option, object,
            rss::{CAPABILITIES_SIZE, ReceiveScaleCapabilities, TABLE_ENTRIES, caps, hash},
        },
        status::NdisStatus,
    },
    spinlock::SpinLock,
    thread::Thread,
};
use xenbus::{
    client::{Bus, Client},
    interface::LogLevel,
};

use super::{
    connection::{Control, DOWN},
    counters::Traffic,
    filter::{Filter, MULTICAST_MAX, SUPPORTED},
    offload::{self, CAPABLE},
    raw,
    receive::Receive,
    requests,
    rings::Answer,
    settings::{Offloads, Settings},
    transmit::{Transmit, flow_of},
};
use crate::front::config::MAX_SPEED;

/// Most queues.
pub const MOST_QUEUES: u32 = 8;
/// Slots of a ring.
const SLOTS: u32 = 256;

/// What every part of an adapter knows.
pub struct Common {
    /// The bus.
    pub client: Client,
    /// NDIS's side.
    pub ndis: ndis::Adapter,
    /// Wakes the keeper.
    pub work: Event,
    /// NDIS let it run.
    running: AtomicBool,
    /// There is a backend, or there will be one again in a moment: packets may wait for it.
    serving: AtomicBool,
    /// NDIS waits for the end of a pause.
    pausing: AtomicBool,
    /// Between freeze and resume: shared pages are not touched.
    frozen: AtomicBool,
    /// The device is gone.
    gone: AtomicBool,
    priority: bool,
    vlan: bool,
    vlan_id: AtomicU32,
}

impl Common {
    /// Whether packets are taken to be sent. Any IRQL, as the others.
    pub fn is_sending(&self) -> bool {
        self.running.load(Ordering::Acquire) && self.serving.load(Ordering::Acquire)
    }

    /// What to complete a list with that is not taken.
    pub fn why_not_sending(&self) -> NdisStatus {
        if self.is_gone() {
            NdisStatus::ADAPTER_REMOVED
        } else if self.is_running() {
            NdisStatus::MEDIA_DISCONNECTED
        } else {
            NdisStatus::PAUSED
        }
    }

    /// Whether received packets are indicated.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Whether shared pages must not be touched.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Freezes and thaws.
    pub fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Release);
    }

    /// Whether the device is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The device is gone for good.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether packets may wait for a backend.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    /// Something ended: a pause may be complete.
    pub fn look_whether_paused(&self) {
        if self.pausing.load(Ordering::Acquire) {
            self.work.set();
        }
    }

    /// The adapter's VLAN; 0: none.
    pub fn vlan_id(&self) -> u32 {
        self.vlan_id.load(Ordering::Relaxed)
    }

    /// The tag to put into a frame for which Windows gave these parts; None: no tag.
    pub fn tag_to_insert(&self, priority: u16, cfi: bool, vlan: u16) -> Option<u16> {
        let priority = if self.priority { priority << 13 } else { 0 };
        let vlan = match (self.vlan, vlan) {
            (false, _) => 0,
            (true, 0) => self.vlan_id() as u16,
            (true, vlan) => vlan,
        };
        let tag = priority | vlan;
        (tag != 0).then_some(tag | u16::from(cfi) << 12)
    }

    /// Whether a frame with this tag (or none) is for the adapter's VLAN, and what of the tag Windows is to see.
    pub fn tag_to_show(&self, tag: Option<u16>) -> Option<u16> {
        let own = self.vlan_id() as u16;
        let tag = tag.unwrap_or(0);
        let vlan = tag & 0xfff;
        if self.vlan && own != 0 && vlan != own && vlan != 0 {
            return None;
        }
        let priority = if self.priority { tag & 0xf000 } else { 0 };
        // The adapter's own VLAN is none to Windows.
        let vlan = if self.vlan && own == 0 { vlan } else { 0 };
        Some(priority | vlan)
    }
}

/// One queue: its sides have a lock each.
pub struct Queue {
    /// To the backend.
    pub tx: Transmit,
    /// From the backend.
    pub rx: Receive,
}

impl Queue {
    /// Not inlined, to keep what is made off the caller's frame.
    #[inline(never)]
    fn new(
        common: &Shared<Common>,
        mtu: u32,
        index: u32,
        filter: &Filter,
        offloads: Offloads,
    ) -> Result<Self, NdisStatus> {
        Ok(Self {
            tx: Transmit::new(common.clone(), filter.own())?,
            rx: Receive::new(common.clone(), mtu, index, filter, offloads)?,
        })
    }
}

/// Not inlined, as [`Queue::new`].
#[inline(never)]
fn make_common(ndis: ndis::Adapter, client: Client, settings: &Settings) -> Result<Shared<Common>, NdisStatus> {
    Ok(Shared::new(Common {
        client,
        ndis,
        work: Event::new(EventKind::Synchronization, false)?,
        running: AtomicBool::new(false),
        serving: AtomicBool::new(false),
        pausing: AtomicBool::new(false),
        frozen: AtomicBool::new(false),
        gone: AtomicBool::new(false),
        priority: settings.priority,
        vlan: settings.vlan,
        vlan_id: AtomicU32::new(settings.vlan_id),
    })?)
}

/// Not inlined, as [`Queue::new`].
#[inline(never)]
#[expect(clippy::vec_box, reason = "a queue is large, and never moves")]
fn make_queues(
    common: &Shared<Common>,
    mtu: u32,
    count: u32,
    filter: &Filter,
    offloads: Offloads,
) -> Result<Vec<Box<Queue>>, NdisStatus> {
    let mut queues = try_vec(count as usize)?;
    for index in 0..count {
        try_push(&mut queues, try_box(Queue::new(common, mtu, index, filter, offloads)?)?)?;
    }
    Ok(queues)
}

/// The link as NDIS was told of it.
pub struct Link {
    /// How it is.
    pub state: LinkState,
    /// NDIS knows the adapter, so it wants to hear of changes.
    pub told: bool,
}

/// One VIF.
pub struct Adapter {
    /// What its queues share.
    pub common: Shared<Common>,
    /// The keywords.
    pub settings: Settings,
    /// Bytes of payload in the largest frame: what the keyword or the toolstack allows, whichever is more.
    pub mtu: u32,
    /// The address that the toolstack gave.
    pub permanent_address: [u8; 6],
    /// The address in use.
    pub address: [u8; 6],
    /// As many as the device may come to use.
    #[expect(clippy::vec_box, reason = "a queue is large, and never moves")]
    pub queues: Vec<Box<Queue>>,
    /// Those of them that are connected.
    pub active: AtomicU32,
    /// The filter that the queues have a copy of.
    pub filter: SpinLock<Filter>,
    /// The offloads that the queues have a copy of.
    pub offloads: SpinLock<Offloads>,
    /// The link.
    pub link: SpinLock<Link>,
    /// What the connection is about. Never taken while a spin lock is held.
    pub control: Mutex<Box<Control>>,
    /// Signalled whenever the connection made a step.
    pub progress: Event,
    /// What the control ring's event sets.
    pub answer: Answer,
    /// The thread that does what nobody else asks for: see [`Adapter::keep`].
    pub keeper: Mutex<Option<Thread>>,
    /// The keeper is to end.
    pub stopping: AtomicBool,
}

impl Adapter {
    /// Every queue that is connected.
    pub fn active_queues(&self) -> &[Box<Queue>] {
        let count = self.active.load(Ordering::Acquire) as usize;
        self.queues.get(..count).unwrap_or(&self.queues)
    }

    /// Which queue a list goes through: the same for all packets of a flow.
    fn queue_of(&self, list: &SendList) -> usize {
        match self.active.load(Ordering::Acquire) {
            0 | 1 => 0,
            count => (flow_of(list) % count) as usize,
        }
    }

    /// Changes the filter, of every queue.
    pub fn set_filter(&self, change: impl FnOnce(&mut Filter)) {
        let filter = {
            let mut filter = self.filter.lock();
            change(&mut filter);
            *filter
        };
        for queue in &self.queues {
            queue.rx.hot.lock().filter = filter;
        }
        self.tell_multicast(&filter);
    }

    /// Changes the offloads, of every queue.
    pub fn set_offloads(&self, offloads: Offloads) {
        *self.offloads.lock() = offloads;
        for queue in &self.queues {
            queue.rx.hot.lock().offloads = offloads;
        }
        self.common.ndis.indicate_offload(&offload::describe(&offloads));
        self.reconnect_for_offloads();
    }

    /// Changes the adapter's VLAN.
    pub fn set_vlan_id(&self, id: u32) {
        self.common.vlan_id.store(id, Ordering::Relaxed);
    }

    /// What was sent.
    pub fn sent(&self) -> Traffic {
        let mut sum = Traffic::default();
        for queue in &self.queues {
            sum += queue.tx.hot.lock().traffic;
        }
        sum
    }

    /// What was received.
    pub fn received(&self) -> Traffic {
        let mut sum = Traffic::default();
        for queue in &self.queues {
            let hot = queue.rx.hot.lock();
            let dropped = hot.ring.counters();
            sum += hot.traffic;
            sum.errors += dropped.errors + dropped.malformed;
        }
        sum
    }

    /// Lists that are not sent yet.
    pub fn sends(&self) -> u32 {
        self.queues.iter().map(|queue| queue.tx.lists()).sum()
    }

    /// Slots of all rings of one direction.
    pub fn slots(&self) -> u32 {
        SLOTS * self.queues.len() as u32
    }

    /// Ends a pause that is complete. Whether NDIS waits for one that is not.
    pub fn end_pause(&self) -> bool {
        if !self.common.pausing.load(Ordering::Acquire) {
            return false;
        }
        if self.is_busy() {
            return true;
        }
        if self.common.pausing.swap(false, Ordering::AcqRel) {
            self.common.ndis.pause_complete();
        }
        false
    }

    fn is_busy(&self) -> bool {
        self.queues.iter().any(|queue| queue.tx.lists() > 0 || queue.rx.lent() > 0)
    }

    /// The link changed, or may have.
    pub fn set_link(&self, state: LinkState) {
        let mut link = self.link.lock();
        let changed = link.state != state;
        link.state = state;
        let tell = changed && link.told;
        drop(link);
        if tell {
            self.common.ndis.indicate_link(state);
        }
    }
}

impl Miniport for Adapter {
    fn new(adapter: ndis::Adapter) -> Result<Self, NdisStatus> {
        let physical = adapter.physical_device().ok_or(NdisStatus::FAILURE)?;
        let client = raw::connect(physical)?;
        let settings = Settings::read(adapter)?;
        let control = Control::read(&client)?;
        let permanent_address = control.device.mac;
        let address = settings.address.unwrap_or(permanent_address);
        let mtu = settings.mtu.max(control.device.mtu.into());
        let wanted = if settings.rss { settings.queues } else { 1 };
        let count = wanted.min(u32::from(client.info().cpus)).clamp(1, MOST_QUEUES);
        let common = make_common(adapter, client, &settings)?;
        let filter = Filter::new(address);
        let queues = make_queues(&common, mtu, count, &filter, settings.offloads)?;
        Ok(Self {
            common,
            settings,
            mtu,
            permanent_address,
            address,
            queues,
            active: AtomicU32::new(1),
            filter: SpinLock::new(filter),
            offloads: SpinLock::new(settings.offloads),
            link: SpinLock::new(Link { state: DOWN, told: false }),
            control: Mutex::new(control)?,
            progress: Event::new(EventKind::Synchronization, false)?,
            answer: Answer::new()?,
            keeper: Mutex::new(None)?,
            stopping: AtomicBool::new(false),
        })
    }

    fn start(&self, adapter: &Initializing) -> Result<(), NdisStatus> {
        *self.keeper.lock() = Some(raw::keep(self)?);
        self.begin();
        self.await_connection();
        let state = {
            let mut link = self.link.lock();
            link.told = true;
            link.state
        };
        let tag = if self.settings.priority { mac_option::PRIORITY_8021P } else { 0 }
            | if self.settings.vlan { mac_option::VLAN_8021Q } else { 0 };
        let scale = ReceiveScaleCapabilities {
            header: ObjectHeader::new(object::RSS_CAPABILITIES, 2, CAPABILITIES_SIZE),
            flags: caps::MESSAGE_SIGNALED_INTERRUPTS
                | caps::CLASSIFICATION_AT_DPC
                | caps::HASH_TYPE_TCP_IPV4
                | caps::HASH_TYPE_TCP_IPV6
                | hash::FUNCTION_TOEPLITZ,
            number_of_interrupt_messages: self.queues.len() as u32,
            number_of_receive_queues: self.queues.len() as u32,
            number_of_indirection_table_entries: TABLE_ENTRIES as u16,
        };
        let described = adapter.describe(&Description {
            permanent_address: self.permanent_address,
            current_address: self.address,
            mtu: self.mtu,
            link: state,
            max_speed: MAX_SPEED,
            mac_options: mac_option::COPY_LOOKAHEAD_DATA
                | mac_option::NO_LOOPBACK
                | mac_option::SUPPORTS_MAC_ADDRESS_OVERWRITE
                | tag,
            packet_filters: SUPPORTED,
            multicast_list: MULTICAST_MAX as u32,
            oids: requests::SUPPORTED,
            receive_scale: (self.settings.rss && self.spreads()).then_some(&scale),
            offload_default: &offload::describe(&self.settings.offloads),
            offload_capabilities: &offload::describe(&CAPABLE),
        });
        if described.is_err() {
            self.close();
        }
        described
    }

    fn halt(&self, why: Halt) {
        if why == Halt::SurpriseRemoved {
            self.abandon();
        }
        self.close();
    }

    fn pause(&self) -> PauseOutcome {
        self.common.pausing.store(true, Ordering::Release);
        self.common.running.store(false, Ordering::Release);
        for queue in &self.queues {
            queue.tx.abort(NdisStatus::PAUSED, None);
        }
        if !self.is_busy() && self.common.pausing.swap(false, Ordering::AcqRel) {
            return PauseOutcome::Paused;
        }
        self.common.work.set();
        PauseOutcome::Pending
    }

    fn restart(&self) -> Result<(), NdisStatus> {
        self.common.running.store(true, Ordering::Release);
        Ok(())
    }

    fn oid_request(&self, request: &mut OidRequest<'_>) -> NdisStatus {
        self.answer(request)
    }

    fn send(&self, mut lists: SendChain, dispatch: bool) {
        // Neighbours mostly go the same way: each run of them is one batch.
        while let Some((queue, batch)) = lists.take_run(|list| self.queue_of(list)) {
            if let Some(queue) = self.queues.get(queue)
                && let Some(mut again) = queue.tx.send(batch, dispatch)
            {
                // There are fewer queues since: they keep their place in front of the others.
                again.append(lists);
                lists = again;
            }
        }
    }

    fn receives_returned(&self, mut lists: ReceiveChain) {
        while let Some((queue, batch)) = lists.take_run() {
            if let Some(queue) = self.queues.get(queue as usize) {
                queue.rx.take_back(batch);
            }
        }
    }

    fn cancel_send(&self, id: CancelId) {
        for queue in &self.queues {
            queue.tx.abort(NdisStatus::SEND_ABORTED, Some(id));
        }
    }

    fn reset(&self) -> NdisStatus {
        self.common.client.log(LogLevel::Warning, format_args!("reset asked for"));
        self.poke();
        NdisStatus::SUCCESS
    }

    fn pnp_event(&self, event: PnpEvent) {
        if event == PnpEvent::SurpriseRemoved {
            self.abandon();
        }
    }

    fn shutdown(&self) {
        // The toolstack ends the connection with the domain. Nothing that was sent waits here: it is with the backend.
        self.common.running.store(false, Ordering::Release);
    }
}

impl Adapter {
    /// Looks at every queue, in case an event was lost. IRQL <= DISPATCH_LEVEL.
    fn poke(&self) {
        if self.common.is_frozen() {
            return;
        }
        for queue in self.active_queues() {
            for event in [queue.tx.hot.lock().event, queue.rx.hot.lock().event].into_iter().flatten() {
                self.common.client.trigger(event);
                self.common.client.send(event);
            }
        }
    }

    /// Asks for receive side scaling.
    ///
    /// # Errors
    /// [`NdisStatus::NOT_SUPPORTED`] where it is off.
    pub fn set_receive_scale(&self, wanted: &RssRequest) -> Result<(), NdisStatus> {
        if !self.settings.rss {
            return Err(NdisStatus::NOT_SUPPORTED);
        }
        self.scale(wanted)
    }
}
