//! A connection's rings and event channels: made and published, started, taken down. PASSIVE_LEVEL, under
//! [`Adapter::control`].

use alloc::vec::Vec;
use core::{sync::atomic::Ordering, time::Duration};

use wdm::{
    event::{Event as Signal, EventKind},
    memory::{try_push, try_vec},
    ndis::{abi::filter, status::NdisStatus},
    time::monotonic,
};
use xenbus::{
    client::{Bus, Client, Error, Event, EventHandler, Result},
    interface::{EventOutcome, LogLevel},
    pages::{give_references, take_references},
};

use super::{
    adapter::{Adapter, Queue},
    connection::{self, ANNOUNCEMENTS, Control},
    filter::Filter,
    raw::{self, SharedPages},
};
use crate::front::{
    config::{self, ConfigError, ControlKeys, Plan, Ports, QueueKeys, Wishes},
    ctrl,
    tx::POOL_PAGES,
};

/// The control ring of a connection.
pub struct ControlRing {
    /// The ring.
    pub ring: ctrl::Ring<SharedPages>,
    /// Its event channel.
    pub event: Event,
}

/// An error of the store, whatever else is wrong with a key being the backend's.
fn store_error(client: &Client, error: &ConfigError) -> Error {
    client.log(LogLevel::Error, format_args!("{error}"));
    match error.problem {
        config::Problem::Store(error) => error,
        _ => Error::Protocol,
    }
}

/// Pages that a peer shares.
fn pages(count: usize) -> Result<SharedPages> {
    SharedPages::new(count).map_err(|_| Error::NoResources)
}

impl Adapter {
    /// Sets rings and event channels up and writes them into the store.
    pub fn publish(&self, control: &mut Control) -> Result {
        let client = &self.common.client;
        let backend = control.backend.ok_or(Error::Protocol)?;
        let offloads = *self.offloads.lock();
        let wishes = Wishes {
            queues: self.queues.len() as u16,
            // What Windows does not want blank is filled in here.
            checksum_v4: true,
            checksum_v6: true,
            gso_v4: offloads.rsc4,
            gso_v6: offloads.rsc6,
            multicast: true,
            control: self.settings.rss,
        };
        let plan = config::negotiate(client, &backend, control.device.trusted, &wishes)
            .map_err(|error| store_error(client, &error))?;
        let filtered = plan.dynamic_multicast && !passes_groups(&self.filter.lock());
        let plan = Plan { multicast: plan.multicast && filtered, ..plan };
        let mut keys = try_vec(usize::from(plan.queues)).map_err(|_| Error::NoResources)?;
        for queue in self.queues.iter().take(usize::from(plan.queues)) {
            let key = self.publish_queue(queue, plan.split)?;
            try_push(&mut keys, key).map_err(|_| Error::NoResources)?;
        }
        let control_keys = if plan.control { self.publish_control(control)? } else { None };
        config::publish(client, &plan, &keys, control_keys)?;
        self.share(plan.queues);
        control.plan = Some(plan);
        Ok(())
    }

    /// What is sent is shared among so many queues from now on. One that this backend has not cannot keep its packets.
    fn share(&self, count: u16) {
        let (used, retired) = self.queues.split_at(self.queues.len().min(count.into()));
        // In this order, so that what a queue sends back finds one that takes it.
        for queue in used {
            queue.tx.set_retired(false);
        }
        self.active.store(count.into(), Ordering::Release);
        for queue in retired {
            queue.tx.set_retired(true);
        }
    }

    fn references(&self, wanted: usize) -> Result<Vec<u32>> {
        let mut references = try_vec(wanted).map_err(|_| Error::NoResources)?;
        references.resize(wanted, 0);
        // Not under a lock, since the bus can grow its table at PASSIVE_LEVEL only.
        let taken = take_references(&self.common.client, &mut references);
        references.truncate(taken);
        Ok(references)
    }

    fn publish_queue(&self, queue: &Queue, split: bool) -> Result<QueueKeys> {
        let client = &self.common.client;
        let ports = if split {
            let (tx_event, tx) = raw::open_event(client, &queue.tx)?;
            queue.tx.hot.lock().event = Some(tx_event);
            let (rx_event, rx) = raw::open_event(client, &queue.rx)?;
            queue.rx.hot.lock().event = Some(rx_event);
            Ports::Split { tx, rx }
        } else {
            let (event, port) = raw::open_event(client, queue)?;
            queue.tx.hot.lock().event = Some(event);
            queue.rx.hot.lock().event = Some(event);
            Ports::One(port)
        };
        let wanted = queue.tx.hot.lock().ring.references_wanted();
        let references = self.references(wanted)?;
        let (ring, pool) = (pages(1), pages(POOL_PAGES));
        let (Ok(ring), Ok(pool)) = (ring, pool) else {
            give_references(client, &references);
            return Err(Error::NoResources);
        };
        let tx_ref = {
            let mut hot = queue.tx.hot.lock();
            hot.ring.attach(client, ring, pool, &references).map_err(|_| Error::NoResources)?;
            hot.ring.ring_ref().ok_or(Error::NoResources)?
        };
        let wanted = queue.rx.hot.lock().ring.references_wanted();
        let references = self.references(wanted)?;
        let Ok(ring) = pages(1) else {
            give_references(client, &references);
            return Err(Error::NoResources);
        };
        let mut hot = queue.rx.hot.lock();
        hot.ring.attach(client, ring, &references).map_err(|_| Error::NoResources)?;
        let rx_ref = hot.ring.ring_ref().ok_or(Error::NoResources)?;
        Ok(QueueKeys { tx_ref, rx_ref, ports })
    }

    /// The control ring. None: there are no resources for it; the backend spreads as it likes.
    fn publish_control(&self, control: &mut Control) -> Result<Option<ControlKeys>> {
        let client = &self.common.client;
        let (event, port) = raw::open_event(client, &self.answer)?;
        let mut references = [0; ctrl::REFERENCES];
        let made = client.grant_alloc(&mut references).and_then(|()| {
            let (Ok(ring), Ok(page)) = (pages(1), pages(1)) else {
                give_references(client, &references);
                return Err(Error::NoResources);
            };
            ctrl::Ring::new(client, ring, page, references).map_err(|_| Error::NoResources)
        });
        let ring = match made {
            Ok(ring) => ring,
            Err(error) => {
                client.log(LogLevel::Warning, format_args!("no control ring: {error}"));
                client.close_event(event);
                return Ok(None);
            }
        };
        let ring_ref = ring.ring_ref().ok_or(Error::NoResources)?;
        control.control_ring = Some(ControlRing { ring, event });
        Ok(Some(ControlKeys { ring_ref, port }))
    }

    /// The backend is connected: starts the queues.
    pub fn attach(&self, control: &mut Control) -> Result {
        let client = &self.common.client;
        let plan = control.plan.ok_or(Error::Protocol)?;
        let backend = control.backend.ok_or(Error::Protocol)?;
        let link = connection::link(client, &backend).map_err(|error| store_error(client, &error))?;
        let abilities = plan.abilities;
        client.log(
            LogLevel::Info,
            format_args!(
                "connected: {} queues, {} event channels each, control ring {}, scatter {}, checksums {}/{}, \
                 segmentation {}/{}, multicast filter {}, link {}",
                plan.queues,
                if plan.split { 2 } else { 1 },
                plan.control,
                abilities.scatter,
                abilities.checksum_v4,
                abilities.checksum_v6,
                abilities.gso_v4,
                abilities.gso_v6,
                plan.multicast,
                if link.up { "up" } else { "down" },
            ),
        );
        self.tell_multicast_list(&plan, &self.filter.lock());
        self.common.set_serving(true);
        for queue in self.active_queues() {
            queue.tx.step(|ring| ring.start(client, abilities));
            queue.rx.step(|ring| ring.start(client));
        }
        self.apply_scale(control);
        if control.moving.take().is_some() {
            control.announcing = Some((ANNOUNCEMENTS, monotonic()));
        }
        self.set_link(link);
        client.report_working();
        Ok(())
    }

    /// Frees rings and event channels. Answers that have arrived are taken first; packets wait.
    pub fn detach(&self, control: &mut Control) {
        let client = &self.common.client;
        for queue in &self.queues {
            queue.tx.drain(u32::MAX);
            let events = {
                let mut tx = queue.tx.hot.lock();
                tx.ring.freeze();
                let tx_event = tx.event.take();
                drop(tx);
                let mut rx = queue.rx.hot.lock();
                rx.ring.freeze();
                let rx_event = rx.event.take();
                [tx_event, rx_event.filter(|event| tx_event != Some(*event))]
            };
            for event in events.into_iter().flatten() {
                client.close_event(event);
            }
            queue.tx.hot.lock().ring.detach(client);
            queue.rx.hot.lock().ring.detach(client);
            // What only waited for a page to come back may be finished now.
            queue.tx.catch_up();
        }
        if let Some(ControlRing { mut ring, event }) = control.control_ring.take() {
            client.close_event(event);
            ring.close(client);
        }
        control.plan = None;
        self.drop_link(control);
        if !self.common.is_running() {
            self.stop_serving(NdisStatus::PAUSED);
        }
    }

    /// Has the backend filter multicast packets as Windows does.
    pub fn tell_multicast(&self, filter: &Filter) {
        let mut control = self.control.lock();
        let Some(mut plan) = control.plan else { return };
        let wanted = !passes_groups(filter);
        if plan.dynamic_multicast && plan.multicast != wanted && control.frontend.is_connected() {
            match config::request_multicast_filter(&self.common.client, wanted) {
                Ok(()) => plan.multicast = wanted,
                Err(error) => {
                    self.common.client.log(LogLevel::Warning, format_args!("the multicast filter: {error}"));
                }
            }
            control.plan = Some(plan);
        }
        self.tell_multicast_list(&plan, filter);
        if let Some(queue) = self.queues.first() {
            queue.tx.step(|ring| ring.flush(&self.common.client));
        }
    }

    /// A backend that refused a change of its multicast filter is asked to pass everything.
    pub fn look_for_refusal(&self, control: &mut Control) {
        let client = &self.common.client;
        let Some(queue) = self.queues.first() else { return };
        {
            let mut hot = queue.tx.hot.lock();
            if !hot.ring.multicast_refused() {
                return;
            }
            // An empty list always has room.
            let _ = hot.ring.set_multicast(&[]);
        }
        client.log(LogLevel::Warning, format_args!("the backend refused a multicast address: it is to pass them all"));
        if let Some(plan) = &mut control.plan
            && plan.multicast
        {
            match config::request_multicast_filter(client, false) {
                Ok(()) => plan.multicast = false,
                Err(error) => client.log(LogLevel::Warning, format_args!("the multicast filter: {error}")),
            }
        }
        queue.tx.step(|ring| ring.flush(client));
    }

    fn tell_multicast_list(&self, plan: &Plan, filter: &Filter) {
        if let Some(queue) = self.queues.first() {
            let list = if plan.multicast { filter.list() } else { &[] };
            // It is never longer than a backend's.
            let _ = queue.tx.hot.lock().ring.set_multicast(list);
        }
    }
}

/// Whether Windows wants more groups than its list names.
fn passes_groups(wanted: &Filter) -> bool {
    wanted.bits & (filter::PROMISCUOUS | filter::ALL_MULTICAST) != 0
}

impl EventHandler for Queue {
    fn event(&self) -> EventOutcome {
        match (self.tx.event(), self.rx.event()) {
            (EventOutcome::Spurious, EventOutcome::Spurious) => EventOutcome::Spurious,
            (EventOutcome::More, _) | (_, EventOutcome::More) => EventOutcome::More,
            _ => EventOutcome::Done,
        }
    }
}

/// What the control ring's event channel calls.
pub struct Answer(Signal);

impl Answer {
    /// No answer yet.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> core::result::Result<Self, NdisStatus> {
        Ok(Self(Signal::new(EventKind::Synchronization, false)?))
    }

    /// Waits for one; false: it did not come in time.
    pub fn wait(&self, time: Duration) -> bool {
        self.0.wait_for(time)
    }
}

impl EventHandler for Answer {
    fn event(&self) -> EventOutcome {
        self.0.set();
        EventOutcome::Done
    }
}
