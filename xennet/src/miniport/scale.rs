//! Receive side scaling: Windows' hash, key and indirection table, given to the backend by the control ring. Each queue's
//! events go to one of the processors in the table.
//!
//! A backend without a control ring spreads packets over the queues as it likes; then no hash is reported.

use core::time::Duration;

use wdm::{
    cpu,
    ndis::{
        RssRequest,
        abi::rss::{KEY_SIZE, TABLE_ENTRIES, hash},
        status::NdisStatus,
    },
};
use xen_abi::netif::HashTypes;
use xenbus::{
    client::{Bus, Client, Event},
    interface::LogLevel,
};

use super::{
    adapter::{Adapter, MOST_QUEUES},
    connection::Control,
    rings::{Answer, ControlRing},
};
use crate::front::ctrl::{Hash, Wait};

/// How long a backend has to answer a control request.
const PATIENCE: Duration = Duration::from_secs(2);

/// What Windows asked for.
pub struct Scale {
    on: bool,
    types: HashTypes,
    key: [u8; KEY_SIZE],
    key_len: usize,
    /// Indices of processors.
    table: [u32; TABLE_ENTRIES],
    entries: usize,
}

impl Scale {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            on: false,
            types: HashTypes::empty(),
            key: [0; KEY_SIZE],
            key_len: 0,
            table: [0; TABLE_ENTRIES],
            entries: 0,
        }
    }

    /// Takes a request over.
    fn take(&mut self, wanted: &RssRequest) -> Result<(), NdisStatus> {
        if let Some(info) = wanted.hash {
            let types = hash_types(info);
            if info & hash::FUNCTION_MASK != hash::FUNCTION_TOEPLITZ && info != 0 {
                return Err(NdisStatus::INVALID_PARAMETER);
            }
            self.types = types;
        }
        if !wanted.table().is_empty() {
            let mut table = [0; TABLE_ENTRIES];
            for (to, from) in table.iter_mut().zip(wanted.table()) {
                let known = |index: &u32| {
                    cpu::processor(*index).is_ok_and(|cpu| cpu.group == from.group && cpu.number == from.number)
                };
                *to = (0..cpu::count()).find(known).ok_or(NdisStatus::INVALID_PARAMETER)?;
            }
            self.table = table;
            self.entries = wanted.table().len();
        }
        if !wanted.key().is_empty() {
            for (to, from) in self.key.iter_mut().zip(wanted.key()) {
                *to = *from;
            }
            self.key_len = wanted.key().len();
        }
        self.on = !wanted.disable && !self.types.is_empty() && self.entries > 0;
        Ok(())
    }

    /// The processors of the table, each once: one for each queue, and the queue of each entry.
    fn plan(&self, queues: u32) -> ([Option<u32>; MOST_QUEUES as usize], [u16; TABLE_ENTRIES]) {
        let mut processors = [None; MOST_QUEUES as usize];
        let mut mapping = [0; TABLE_ENTRIES];
        let mut used = 0;
        for (to, processor) in mapping.iter_mut().zip(&self.table).take(self.entries) {
            let known = processors.iter().take(used).position(|known| *known == Some(*processor));
            let queue = match known {
                Some(queue) => queue,
                None if used < queues as usize && used < processors.len() => {
                    processors[used] = Some(*processor);
                    used += 1;
                    used - 1
                }
                // More processors than queues: those share.
                None => *processor as usize % used.max(1),
            };
            *to = queue as u16;
        }
        (processors, mapping)
    }
}

/// NDIS's types of hash as the backend's.
fn hash_types(info: u32) -> HashTypes {
    [
        (hash::IPV4, HashTypes::IPV4),
        (hash::TCP_IPV4, HashTypes::IPV4_TCP),
        (hash::IPV6, HashTypes::IPV6),
        (hash::TCP_IPV6, HashTypes::IPV6_TCP),
    ]
    .into_iter()
    .filter(|(bit, _)| info & bit != 0)
    .fold(HashTypes::empty(), |types, (_, kind)| types | kind)
}

/// Talks to the backend while the control ring waits.
struct Talk<'a> {
    client: &'a Client,
    event: Event,
    answer: &'a Answer,
}

impl Wait for Talk<'_> {
    fn notify(&mut self) {
        self.client.send(self.event);
    }

    fn wait(&mut self) -> bool {
        self.answer.wait(PATIENCE)
    }
}

impl Adapter {
    /// Whether packets can be spread as Windows wants them to be.
    pub fn spreads(&self) -> bool {
        self.queues.len() > 1 && self.control.lock().plan.is_some_and(|plan| plan.control && plan.queues > 1)
    }

    /// Takes a request over and has the backend follow it.
    ///
    /// # Errors
    /// [`NdisStatus::INVALID_PARAMETER`]: another hash function, or a processor that there is not.
    pub fn scale(&self, wanted: &RssRequest) -> Result<(), NdisStatus> {
        let mut control = self.control.lock();
        control.scale.take(wanted)?;
        self.apply_scale(&mut control);
        Ok(())
    }

    /// Tells the backend, and moves the queues' events.
    pub fn apply_scale(&self, control: &mut Control) {
        let client = &self.common.client;
        let Some(queues) = control.plan.map(|plan| plan.queues) else { return };
        let Control { scale, control_ring, .. } = control;
        let (processors, mapping) = scale.plan(queues.into());
        for (number, queue) in self.active_queues().iter().enumerate() {
            // Without a table: one after the other.
            let spread = number as u32 % cpu::count().max(1);
            let processor = if scale.on { processors.get(number).copied().flatten() } else { Some(spread) };
            let (Some(processor), tx, rx) = (processor, queue.tx.hot.lock().event, queue.rx.hot.lock().event) else {
                continue;
            };
            for event in [tx, rx].into_iter().flatten() {
                if let Err(error) = client.bind_event(event, processor) {
                    let line = format_args!("queue {number} stays off processor {processor}: {error}");
                    client.log(LogLevel::Warning, line);
                }
            }
        }
        let Some(ControlRing { ring, event }) = control_ring else { return };
        let mut talk = Talk { client, event: *event, answer: &self.answer };
        let done = if scale.on {
            let hash = Hash {
                types: scale.types,
                key: scale.key.get(..scale.key_len).unwrap_or(&[]),
                mapping: mapping.get(..scale.entries).unwrap_or(&[]),
                queues,
            };
            ring.set_hash(client, &hash, &mut talk).map(drop)
        } else {
            ring.clear_hash(client, &mut talk)
        };
        if let Err(error) = done {
            client.log(LogLevel::Warning, format_args!("receive side scaling: {error}"));
        }
    }
}
