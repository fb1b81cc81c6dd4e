//! The network loads against dom0's peer (`tests/lab/agent/src/bench/peer.rs`): one stream of TCP by the personality's endpoint
//! (smoltcp), or datagrams in frames of 64 bytes by a protocol that counts what comes and sends what it got back again, with
//! everything allocated before.

use crate::{mailbox, network};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use nt::ke;
use nt::ndis::adapter::{Adapter, State, adapters};
use nt::ndis::binding::{Binding, Protocol};
use nt::ndis::flow::Received;
use nt::ndis::oid_abi::{filter, oid};
use nt::ndis::packet::{Nbl, lists};
use nt::ndis::wait::Gate;
use nt::net::checksum;
use nt::net::packet::{Outgoing, Pools};
use nt::net::stack::{NetError, Stack, StackConfig};
use suites::net_guest::host_v4;

/// Ports of the peer.
const SINK: u16 = 5001;
const SOURCE: u16 = 5002;
/// The own port of datagrams.
const PORT: u16 = 5003;
/// Bytes of a TCP socket's buffers, and bytes moved at a time.
const WINDOW: usize = 1 << 20;
const PIECE: usize = 128 << 10;
/// Datagrams in flight, and in a chain.
const FLIGHT: usize = 256;
const CHAIN: usize = 64;
/// Bytes of a datagram: with the headers of UDP, IPv4 and Ethernet and its checksum 64 on the wire.
const DATAGRAM: usize = 18;
const UDP: usize = 8;
const IPV4: usize = 20;
const ETHERNET: usize = 14;
/// Milliseconds of a step that cannot go on.
const PATIENCE_MS: u64 = 10_000;
/// Milliseconds between looks whether the run is over.
const LOOK_MS: u64 = 2;
/// Looks for an adapter, 100 ms apart.
const LOOKS: u32 = 600;

/// The adapter, once it carries traffic.
fn find() -> Result<Arc<Adapter>, String> {
    for _ in 0..LOOKS {
        if let Some(adapter) = adapters().into_iter().find(|adapter| adapter.state() == State::Running) {
            return Ok(adapter);
        }
        ke::wait::sleep(-1_000_000);
    }
    Err("no adapter carries traffic".to_string())
}

/// `net RUN INDEX tcp|udp out|in`: runs it, and what is reported: `done RUN UNITS ERRORS INTERRUPTS`; units are bytes of TCP, or
/// datagrams.
pub fn run(words: &[&str]) -> Result<String, String> {
    let [run, index, protocol, direction] = *words else { return Err("this is no load".to_string()) };
    let number = |word: &str| word.parse::<u32>().map_err(|_| format!("`{word}` is no number"));
    let (run, index) = (number(run)?, number(index)?);
    let adapter = find()?;
    let out = direction == "out";
    let before = super::interrupts();
    mailbox::tell(0);
    let (done, errors) = if protocol == "tcp" {
        let stack = endpoint(&adapter, run, index)?;
        (stream(&stack, run, index, out).map_err(|error| format!("{error:?}"))?, 0)
    } else {
        datagrams(&adapter, run, index, out)?
    };
    Ok(format!("done {run} {done} {errors} {}", super::interrupts() - before))
}

fn endpoint(adapter: &Arc<Adapter>, run: u32, index: u32) -> Result<Stack, String> {
    let v6 = [0xfd77, index as u16, 0, 0, 0, 0, 0, 2];
    let config = StackConfig {
        // Another port for each run.
        seed: u64::from(run),
        offload: true,
        window: WINDOW,
        ..StackConfig::new([10, 77, index as u8, 2], v6, 0)
    };
    Stack::new(adapter, &config).ok_or_else(|| "no endpoint can be made".to_string())
}

/// One stream, until the agent says that the run is over: bytes.
fn stream(stack: &Stack, run: u32, index: u32, out: bool) -> Result<u64, NetError> {
    let connection = stack.connect(host_v4(index), if out { SINK } else { SOURCE }, PATIENCE_MS)?;
    let mut buf = vec![0x5a; PIECE];
    let mut done = 0;
    while !mailbox::is_over(run) {
        let moved = if out { connection.send_some(&buf, LOOK_MS) } else { connection.receive(&mut buf, LOOK_MS) };
        match moved {
            Ok(0) => return Err(NetError::Closed),
            Ok(count) => done += count as u64,
            Err(NetError::TimedOut) => {}
            Err(error) => return Err(error),
        }
        mailbox::tell(done);
    }
    Ok(done)
}

/// The protocol of the datagrams. The port calls it on any processor.
struct Load {
    run: u32,
    pools: Pools,
    /// Adapter and binding, once it is bound.
    bound: IrqOnce,
    /// What comes in is the load, not what goes out.
    inward: bool,
    sent: AtomicU64,
    received: AtomicU64,
    errors: AtomicU64,
    /// Lists that are out, or on their way out again.
    out: AtomicUsize,
    over: AtomicBool,
    back: Gate,
}

/// Where a protocol sends to: set before its first list goes out.
type IrqOnce = nt::sync::IrqLock<Option<(Arc<Adapter>, Arc<Binding>)>>;

impl Load {
    /// Sends a chain of so many lists. IRQL <= DISPATCH_LEVEL.
    fn send(&self, chain: *mut Nbl) {
        let bound = self.bound.lock().clone();
        if let Some((adapter, binding)) = bound {
            // SAFETY: the lists are whole, of this load's pools and out of nobody's hands; they come back to `sent`.
            unsafe { adapter.send(&binding, chain) };
        }
    }
}

impl Protocol for Load {
    fn receive(&self, frames: &[Received]) {
        let own = frames.iter().filter(|frame| frame.with_head(is_own)).count() as u64;
        let done = self.received.fetch_add(own, Ordering::Relaxed) + own;
        if self.inward {
            mailbox::tell(done);
        }
    }

    /// What went out goes out again, but for what failed, and until the run is over. IRQL <= DISPATCH_LEVEL.
    fn sent(&self, chain: *mut Nbl) {
        let (mut count, mut errors) = (0, 0);
        // SAFETY: lists of this load's, back from the miniport.
        for list in unsafe { lists(chain) } {
            count += 1;
            // SAFETY: as above.
            errors += u64::from(unsafe { (*list).status } != 0);
        }
        let done = self.sent.fetch_add(count - errors, Ordering::Relaxed) + count - errors;
        self.errors.fetch_add(errors, Ordering::Relaxed);
        if !self.inward {
            mailbox::tell(done);
        }
        if errors == 0 && !self.inward && !mailbox::is_over(self.run) && !self.over.load(Ordering::Acquire) {
            self.send(chain);
            return;
        }
        // SAFETY: as above; nobody sends them again.
        unsafe { self.pools.take_apart_all(chain) };
        self.out.fetch_sub(count as usize, Ordering::AcqRel);
        self.back.open();
    }

    fn status(&self, _code: u32, _data: &[u8]) {}
    fn pausing(&self) {}
    fn restarted(&self) {}

    fn unbound(&self) {
        self.over.store(true, Ordering::Release);
        self.back.open();
    }
}

/// Whether a frame is a datagram of the load.
fn is_own(head: &[u8]) -> bool {
    head.len() >= ETHERNET + IPV4 + UDP
        && head[12..14] == [8, 0]
        && head[ETHERNET] == 0x45
        && head[ETHERNET + 9] == 17
        && head[ETHERNET + IPV4 + 2..][..2] == PORT.to_be_bytes()
}

/// A datagram to the peer, and what stands out of band: its checksum is left to the adapter.
fn datagram(adapter: &Adapter, index: u32, to: u16) -> Outgoing {
    let mut frame = vec![0; ETHERNET + IPV4 + UDP + DATAGRAM];
    frame[..6].copy_from_slice(&network::host_mac(index));
    frame[6..12].copy_from_slice(&adapter.about.lock().current_address);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[ETHERNET..ETHERNET + IPV4];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((IPV4 + UDP + DATAGRAM) as u16).to_be_bytes());
    (ip[8], ip[9]) = (64, 17);
    ip[12..16].copy_from_slice(&[10, 77, index as u8, 2]);
    ip[16..20].copy_from_slice(&[10, 77, index as u8, 1]);
    let sum = !checksum::sum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = &mut frame[ETHERNET + IPV4..];
    udp[..2].copy_from_slice(&PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&to.to_be_bytes());
    udp[4..6].copy_from_slice(&((UDP + DATAGRAM) as u16).to_be_bytes());
    udp[UDP..].fill(0x5a);
    let checksum = checksum::leave_to_adapter(&mut frame);
    Outgoing { checksum, ..Outgoing::frame(frame) }
}

/// Datagrams, until the agent says that the run is over: how many, and how many failed.
fn datagrams(adapter: &Arc<Adapter>, run: u32, index: u32, out: bool) -> Result<(u64, u64), String> {
    let load = Arc::new(Load {
        run,
        pools: Pools::new().ok_or("there is no memory for the load")?,
        bound: IrqOnce::new(None),
        inward: !out,
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        out: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        back: Gate::new(false),
    });
    let binding = adapter.bind(load.clone()).ok_or("the adapter cannot be bound to")?;
    *load.bound.lock() = Some((adapter.clone(), binding.clone()));
    let bits = filter::DIRECTED | filter::BROADCAST;
    let filtered = adapter.set(oid::GEN_CURRENT_PACKET_FILTER, &bits.to_le_bytes()).ok();
    let outgoing = datagram(adapter, index, if out { SINK } else { SOURCE });
    let flight = if out { FLIGHT } else { 1 };
    loop {
        // Inward, one asks for the load, again where the first is lost.
        if load.out.load(Ordering::Acquire) == 0 && load.received.load(Ordering::Relaxed) == 0 {
            for _ in 0..flight.div_ceil(CHAIN) {
                let built = (0..CHAIN.min(flight)).map_while(|_| Some(load.pools.build(&outgoing)?.0));
                let built: Vec<*mut Nbl> = built.collect();
                let chain = built.iter().rev().fold(ptr::null_mut(), |next, &list| {
                    // SAFETY: just made, nobody else has it.
                    unsafe { (*list).next = next };
                    list
                });
                load.out.fetch_add(built.len(), Ordering::AcqRel);
                if !chain.is_null() {
                    load.send(chain);
                }
            }
        }
        if mailbox::is_over(run) || load.over.load(Ordering::Acquire) || !filtered {
            break;
        }
        load.back.wait_ms(LOOK_MS);
    }
    let mut looks = PATIENCE_MS / LOOK_MS;
    while load.out.load(Ordering::Acquire) != 0 && looks != 0 {
        load.back.wait_ms(LOOK_MS);
        looks -= 1;
    }
    adapter.unbind(&binding);
    // The load holds its binding by this.
    *load.bound.lock() = None;
    let done = if out { &load.sent } else { &load.received };
    if !filtered {
        return Err("the adapter refuses the packet filter".to_string());
    }
    Ok((done.load(Ordering::Relaxed), load.errors.load(Ordering::Relaxed)))
}
