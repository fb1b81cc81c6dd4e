//! The control ring: hash algorithm, types, key and queue mapping, as Linux's netback takes them.

use super::frame::{Frame, Headers, PacketHash, TCP};
use super::ring::BackRing;
use super::{Context, toeplitz};
use crate::abi::netif;
use crate::hv::Hypervisor;
use crate::machine::{Mfn, PAGE_SIZE};
use hostile::NetHostile;

/// `XEN_NETBK_MAX_HASH_KEY_SIZE`.
const KEY_MOST: usize = 40;
/// `XEN_NETBK_MAX_HASH_MAPPING_SIZE`.
const MAPPING_MOST: usize = 128;
/// The hash types that Linux offers.
const TYPES: u32 =
    1 << netif::HASH_IPV4 | 1 << netif::HASH_IPV4_TCP | 1 << netif::HASH_IPV6 | 1 << netif::HASH_IPV6_TCP;

/// How packets are spread over queues.
#[derive(Clone, Debug, Default)]
pub(super) struct Hashing {
    algorithm: u32,
    types: u32,
    key: Vec<u8>,
    mapping: Vec<u32>,
}

impl Hashing {
    /// `xenvif_select_queue` and `xenvif_set_skb_hash`: the queue for a frame and the hash that goes with it.
    pub(super) fn choose(&self, frame: &Frame, queues: usize) -> (usize, Option<PacketHash>) {
        if self.algorithm != netif::HASH_TOEPLITZ {
            return ((flow(frame) as usize) % queues, None);
        }
        let hash = self.hash(frame);
        let value = hash.map_or(0, |h| h.value) as usize;
        let queue = match self.mapping.len() {
            0 => value % queues,
            size => self.mapping[value % size] as usize,
        };
        (queue % queues, hash)
    }

    fn hash(&self, frame: &Frame) -> Option<PacketHash> {
        let headers = Headers::parse(&frame.bytes)?;
        let (plain, tcp) = if headers.v6 {
            (netif::HASH_IPV6, netif::HASH_IPV6_TCP)
        } else {
            (netif::HASH_IPV4, netif::HASH_IPV4_TCP)
        };
        let wants = |kind: u8| self.types & (1 << kind) != 0;
        let with_ports = headers.protocol == TCP && !headers.fragment && headers.transport + 4 <= headers.end;
        let kind = if with_ports && wants(tcp) {
            tcp
        } else if wants(plain) {
            plain
        } else {
            return None;
        };
        let value = toeplitz::hash(&self.key, &headers.hash_input(&frame.bytes, kind == tcp));
        Some(PacketHash { kind, value })
    }
}

/// The sender's own choice of a queue, where the guest asked for none: a number that a flow keeps.
fn flow(frame: &Frame) -> u32 {
    let Some(headers) = Headers::parse(&frame.bytes) else { return 0 };
    let ports = headers.protocol == TCP && !headers.fragment && headers.transport + 4 <= headers.end;
    crate::blkback::hash(&headers.hash_input(&frame.bytes, ports)) as u32 >> 7
}

/// The control ring.
#[derive(Debug)]
pub(super) struct Control {
    ring: BackRing,
    /// The event channel: dom0's end.
    pub(super) port: u32,
}

impl Control {
    /// The ring's page.
    pub(super) fn ring_frame(&self) -> Mfn {
        self.ring.frame()
    }

    pub(super) fn new(ring: BackRing, port: u32) -> Self {
        Self { ring, port }
    }

    pub(super) fn disconnect(&self, hv: &mut Hypervisor) {
        self.ring.disconnect(hv);
        hv.dom0_close(self.port);
    }

    /// Answers what was asked; whether anything was done.
    pub(super) fn step(&mut self, ctx: &mut Context<'_>) -> bool {
        let mut moved = false;
        loop {
            let waiting = match self.ring.waiting(ctx.hv) {
                Ok(waiting) => waiting,
                Err(why) => {
                    let kind = crate::observe::GuestErrorKind::BadRing;
                    ctx.hv.guest_error(kind, format!("vif {}, control ring: {why}", ctx.options.index));
                    return moved;
                }
            };
            if waiting == 0 {
                let cons = self.ring.req_cons;
                if !self.ring.arm(ctx.hv, cons.wrapping_add(1), cons) {
                    break;
                }
                continue;
            }
            let b: [u8; netif::CTRL_ENTRY] = self.ring.request(ctx.hv, self.ring.req_cons);
            self.ring.req_cons = self.ring.req_cons.wrapping_add(1);
            let half = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
            let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
            let (status, data) = carry_out(ctx, half(2), [word(4), word(8), word(12)]);
            moved = true;
            if ctx.plans.due(NetHostile::CtrlNoResponse) {
                continue;
            }
            let id = if ctx.plans.due(NetHostile::CtrlWrongId) { half(0) ^ 0x4000 } else { half(0) };
            let mut out = [0; netif::CTRL_RESPONSE];
            out[..2].copy_from_slice(&id.to_le_bytes());
            out[2..4].copy_from_slice(&b[2..4]);
            out[4..8].copy_from_slice(&status.to_le_bytes());
            out[8..].copy_from_slice(&data.to_le_bytes());
            self.ring.respond(ctx.hv, &out);
            ctx.stats.control_requests += 1;
            ctx.stats.control_refused += u64::from(status != netif::CTRL_SUCCESS);
        }
        if self.ring.push(ctx.hv) {
            ctx.hv.dom0_send(self.port);
            ctx.stats.notifications_sent += 1;
        }
        moved
    }
}

/// One request: status and data of the answer.
fn carry_out(ctx: &mut Context<'_>, kind: u16, data: [u32; 3]) -> (u32, u32) {
    const INVALID: (u32, u32) = (netif::CTRL_INVALID_PARAMETER, 0);
    const DONE: (u32, u32) = (netif::CTRL_SUCCESS, 0);
    let queues = ctx.shared.queues;
    let hashing = &mut ctx.shared.hashing;
    match kind {
        netif::CTRL_SET_HASH_ALGORITHM => {
            if data[0] > netif::HASH_TOEPLITZ {
                return INVALID;
            }
            hashing.algorithm = data[0];
            DONE
        }
        netif::CTRL_GET_HASH_FLAGS if hashing.algorithm == 0 => (netif::CTRL_NOT_SUPPORTED, 0),
        netif::CTRL_GET_HASH_FLAGS => (netif::CTRL_SUCCESS, TYPES),
        netif::CTRL_SET_HASH_FLAGS => {
            if data[0] & !TYPES != 0 || hashing.algorithm == 0 {
                return INVALID;
            }
            hashing.types = data[0];
            DONE
        }
        netif::CTRL_SET_HASH_KEY => {
            let len = data[1] as usize;
            if len > KEY_MOST {
                return INVALID;
            }
            let mut key = vec![0; len];
            if len > 0 && ctx.hv.copy_from_grant(data[0], 0, &mut key).is_err() {
                return INVALID;
            }
            ctx.shared.hashing.key = key;
            DONE
        }
        netif::CTRL_GET_HASH_MAPPING_SIZE => (netif::CTRL_SUCCESS, MAPPING_MOST as u32),
        netif::CTRL_SET_HASH_MAPPING_SIZE => {
            if data[0] as usize > MAPPING_MOST {
                return INVALID;
            }
            hashing.mapping = vec![0; data[0] as usize];
            DONE
        }
        netif::CTRL_SET_HASH_MAPPING => {
            let (count, first) = (data[1] as usize, data[2] as usize);
            let end = first.checked_add(count).filter(|end| *end <= hashing.mapping.len());
            if end.is_none() || count * 4 > PAGE_SIZE {
                return INVALID;
            }
            let mut bytes = vec![0; count * 4];
            if count > 0 && ctx.hv.copy_from_grant(data[0], 0, &mut bytes).is_err() {
                return INVALID;
            }
            let entries: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
            if entries.iter().any(|queue| *queue as usize >= queues) {
                return INVALID;
            }
            ctx.shared.hashing.mapping[first..first + count].copy_from_slice(&entries);
            DONE
        }
        // Static grants: Linux's netback has none.
        _ => (netif::CTRL_NOT_SUPPORTED, 0),
    }
}
