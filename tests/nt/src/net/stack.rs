//! A TCP/IP endpoint over an adapter: smoltcp, driven by a system thread.

use super::checksum;
use super::client::{Client, Made};
use super::closing::Heard;
use super::large::{Bytes, Frame, LARGEST, Large};
use super::packet::Pools;
use crate::io::kernel::spawn;
use crate::ndis::abi::{Header, object};
use crate::ndis::adapter::Adapter;
use crate::ndis::oid_abi::{ENCAPSULATION_802_3, OFFLOAD_SET_ON, OffloadEncapsulation, filter, oid};
use crate::ndis::wait::{Gate, Turns};
use crate::platform::platform;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr,
    IpEndpoint, Ipv4Address, Ipv6Address,
};

/// How an endpoint is set up.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Its addresses, at most eight.
    pub addresses: Vec<IpCidr>,
    /// For initial sequence numbers and ports.
    pub seed: u64,
    /// TCP and UDP checksums of what it sends are left to the adapter, and segmentation of IPv4 where it offers that.
    pub offload: bool,
    /// Bytes of a TCP socket's buffers.
    pub window: usize,
}

impl StackConfig {
    /// One IPv4 address of a /24 and one IPv6 address of a /64.
    pub fn new(v4: [u8; 4], v6: [u16; 8], seed: u64) -> Self {
        let v4 = IpAddress::Ipv4(Ipv4Address::from(v4));
        let v6 = IpAddress::Ipv6(Ipv6Address::from(v6));
        Self { addresses: vec![IpCidr::new(v4, 24), IpCidr::new(v6, 64)], seed, offload: false, window: 65536 }
    }
}

/// Figures of an endpoint; all only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames it was given.
    pub received: AtomicU64,
    /// Frames dropped because their checksum is wrong, by the adapter's word or by computing it.
    pub bad_checksums: AtomicU64,
    /// Frames whose checksum the adapter vouched for.
    pub vouched: AtomicU64,
    /// Frames of coalesced segments.
    pub coalesced: AtomicU64,
    /// Frames it sent.
    pub sent: AtomicU64,
    /// Frames it could not send for want of memory.
    pub unsent: AtomicU64,
}

/// Lists in one chain at most.
const CHAIN: usize = 64;
/// Lists that may be out before the endpoint waits.
const OUT: usize = 512;
/// Milliseconds between looks where nothing is due.
const IDLE_MS: u64 = 1000;

/// The adapter as smoltcp sees it.
struct Wire {
    received: VecDeque<Vec<u8>>,
    ready: Ready,
    mtu: usize,
    offload: bool,
    room: usize,
    pools: Arc<Pools>,
}

/// Frames that are to go, and how many they come to.
#[derive(Default)]
struct Ready {
    frames: Vec<Frame>,
    count: usize,
}

struct Arrived(Vec<u8>);
struct Leaving<'a> {
    ready: &'a mut Ready,
    pools: &'a Arc<Pools>,
    mss: Option<usize>,
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, body: F) -> R {
        body(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, body: F) -> R {
        // A packet that the adapter is to cut is made where it is sent from.
        let room = if self.mss.is_some() { self.pools.room(length) } else { None };
        let mut bytes = room.map_or_else(|| Bytes::Own(vec![0; length]), Bytes::Room);
        let result = body(&mut bytes);
        let frame = Frame { bytes, mss: self.mss };
        self.ready.count += frame.count();
        self.ready.frames.push(frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.mss = meta.segmentation_offload_size.map(|mss| usize::from(mss.get()));
    }
}

impl Wire {
    fn leaving(&mut self) -> Option<Leaving<'_>> {
        (self.ready.count < self.room).then_some(Leaving { ready: &mut self.ready, pools: &self.pools, mss: None })
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        if self.ready.count >= self.room {
            return None;
        }
        let frame = self.received.pop_front()?;
        Some((Arrived(frame), self.leaving()?))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        self.leaving()
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // What comes in is checked by `accept`, as the adapter may vouch for it; what goes out is summed, and cut, by `flush`
        // where the adapter does not.
        let mut checksum = ChecksumCapabilities::default();
        // A datagram in fragments is summed before it is cut, so not by an adapter.
        (checksum.tcp, checksum.udp) = (Checksum::None, if self.offload { Checksum::None } else { Checksum::Tx });
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities.checksum = checksum;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(LARGEST);
        capabilities
    }
}

/// What the thread and the callers share.
struct Core {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    heard: Heard,
    next_port: u16,
}

struct Shared {
    client: Client,
    turns: Turns,
    core: UnsafeCell<Core>,
    progress: Gate,
    ended: Gate,
    stop: AtomicBool,
    window: usize,
    counters: Counters,
}

// SAFETY: the core is used by who has the turn alone; the rest is for every processor.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// Milliseconds since the start.
fn now() -> Instant {
    Instant::from_micros((platform().interrupt_time() / 10) as i64)
}

impl Shared {
    /// Runs `body` with the turn. IRQL = PASSIVE_LEVEL.
    fn with<R>(&self, body: impl FnOnce(&mut Core) -> R) -> R {
        let _turn = self.turns.take();
        // SAFETY: the turn is taken.
        body(unsafe { &mut *self.core.get() })
    }

    /// Frames that came, checked.
    fn accept(&self, core: &mut Core) {
        let _batch = self.client.adapter().batch_returns();
        while let Some(frame) = self.client.next() {
            self.counters.received.fetch_add(1, Ordering::Relaxed);
            let metadata = frame.metadata;
            let bytes = frame.bytes();
            drop(frame);
            if metadata.segments() != 0 {
                self.counters.coalesced.fetch_add(1, Ordering::Relaxed);
            }
            let vouched = metadata.tcp_good() || metadata.udp_good();
            if vouched {
                self.counters.vouched.fetch_add(1, Ordering::Relaxed);
            }
            if metadata.bad() || !vouched && !checksum::verify(&bytes) {
                self.counters.bad_checksums.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if !core.heard.repeats(&bytes, &core.sockets) {
                core.wire.received.push_back(bytes);
            }
        }
    }

    /// Frames that are to go.
    fn flush(&self, core: &mut Core) {
        let ready = core::mem::take(&mut core.wire.ready);
        let offload = core.wire.offload.then(|| {
            let offered = self.client.adapter().about.lock().offload.unwrap_or_default().lso_v2;
            Large::new(&offered)
        });
        let mut lists: Vec<Made> = Vec::with_capacity(ready.frames.len());
        for frame in ready.frames {
            frame.send(offload, &mut lists);
        }
        while !lists.is_empty() {
            let rest = lists.split_off(lists.len().min(CHAIN));
            let count = lists.len() as u64;
            let chain = core::mem::replace(&mut lists, rest);
            let sent = self.client.send_made(chain).is_some();
            let counter = if sent { &self.counters.sent } else { &self.counters.unsent };
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn run(&self) {
        while !self.stop.load(Ordering::Acquire) && !self.client.is_gone() {
            let (delay, more) = self.with(|core| {
                self.accept(core);
                let out = self.client.counters().out.load(Ordering::Acquire);
                core.wire.room = if self.client.is_paused() { 0 } else { OUT.saturating_sub(out) };
                core.interface.poll(now(), &mut core.wire, &mut core.sockets);
                self.flush(core);
                let delay =
                    core.interface.poll_delay(now(), &core.sockets).map_or(IDLE_MS, |delay| delay.total_millis());
                (delay, core.wire.room != 0 && !core.wire.received.is_empty())
            });
            self.progress.open();
            if !more {
                self.client.wait_ms(delay.clamp(1, IDLE_MS));
            }
        }
        self.ended.open();
    }
}

/// An endpoint. Dropping it closes all and unbinds it. IRQL = PASSIVE_LEVEL for all that it does.
pub struct Stack(Arc<Shared>);

/// A TCP connection.
pub struct Tcp {
    shared: Arc<Shared>,
    handle: SocketHandle,
}

/// A UDP socket.
pub struct Udp {
    shared: Arc<Shared>,
    handle: SocketHandle,
}

/// Why something on the network did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetError {
    /// It took too long.
    TimedOut,
    /// The other side closed or reset the connection, or the adapter is gone.
    Closed,
    /// An address or a port that cannot be used.
    Invalid,
}

impl Stack {
    /// Puts an endpoint on an adapter. `None`: the adapter is going, it refuses the packet filter, or there is no memory.
    pub fn new(adapter: &Arc<Adapter>, config: &StackConfig) -> Option<Self> {
        let client = Client::bind(adapter)?;
        client.hold(true);
        let about = adapter.about.lock().clone();
        let groups: Vec<[u8; 6]> =
            config.addresses.iter().filter_map(solicited).chain([[0x33, 0x33, 0, 0, 0, 1]]).collect();
        if client.set_multicast(&groups) != 0 {
            return None;
        }
        if client.set_filter(filter::DIRECTED | filter::BROADCAST | filter::MULTICAST) != 0 {
            return None;
        }
        // As TCPIP does before it leaves anything to an adapter.
        if about.oids.contains(&oid::OFFLOAD_ENCAPSULATION) {
            let encapsulation = OffloadEncapsulation {
                header: Header::new(object::OFFLOAD_ENCAPSULATION, 1, size_of::<OffloadEncapsulation>()),
                v4_enabled: OFFLOAD_SET_ON,
                v4_type: ENCAPSULATION_802_3,
                v4_header_size: 14,
                v6_enabled: OFFLOAD_SET_ON,
                v6_type: ENCAPSULATION_802_3,
                v6_header_size: 14,
            };
            if !adapter.set(oid::OFFLOAD_ENCAPSULATION, &encapsulation.bytes()).ok() {
                return None;
            }
        }
        let mut wire = Wire {
            received: VecDeque::new(),
            ready: Ready::default(),
            mtu: about.mtu as usize,
            offload: config.offload,
            room: OUT,
            pools: client.pools().clone(),
        };
        let mut setup = Config::new(HardwareAddress::Ethernet(EthernetAddress(about.current_address)));
        setup.random_seed = config.seed;
        let mut interface = Interface::new(setup, &mut wire, now());
        interface.update_ip_addrs(|list| {
            for address in &config.addresses {
                // More addresses than it has room for are left out.
                let _ = list.push(*address);
            }
        });
        let core = Core {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            heard: Heard::default(),
            next_port: 49152 + (config.seed % 8192) as u16,
        };
        let shared = Arc::new(Shared {
            client,
            turns: Turns::default(),
            core: UnsafeCell::new(core),
            progress: Gate::new(false),
            ended: Gate::new(false),
            stop: AtomicBool::new(false),
            window: config.window,
            counters: Counters::default(),
        });
        let thread = shared.clone();
        spawn(Box::new(move || thread.run()));
        Some(Self(shared))
    }

    /// Figures.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// The client below.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Changes whether checksums are left to the adapter.
    pub fn set_offload(&self, offload: bool) {
        self.0.with(|core| core.wire.offload = offload);
    }

    /// Connects to a port. The time limit is in milliseconds.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn connect(&self, to: IpAddress, port: u16, ms: u64) -> Result<Tcp, NetError> {
        let window = self.0.window;
        let connection = self.0.with(|core| {
            let mut socket =
                tcp::Socket::new(tcp::SocketBuffer::new(vec![0; window]), tcp::SocketBuffer::new(vec![0; window]));
            socket.set_ack_delay(Some(Duration::from_millis(10)));
            let local = core.next_port;
            core.next_port = if local == u16::MAX { 49152 } else { local + 1 };
            socket
                .connect(core.interface.context(), IpEndpoint::new(to, port), local)
                .map_err(|_| NetError::Invalid)?;
            Ok(Tcp { shared: self.0.clone(), handle: core.sockets.add(socket) })
        })?;
        self.0.client.wake();
        connection.established(ms)?;
        Ok(connection)
    }

    /// Listens on a port with one socket; several calls make room for several connections.
    ///
    /// # Errors
    /// Port 0.
    pub fn listen(&self, port: u16) -> Result<Tcp, NetError> {
        let window = self.0.window;
        self.0.with(|core| {
            let mut socket =
                tcp::Socket::new(tcp::SocketBuffer::new(vec![0; window]), tcp::SocketBuffer::new(vec![0; window]));
            socket.listen(port).map_err(|_| NetError::Invalid)?;
            Ok(Tcp { shared: self.0.clone(), handle: core.sockets.add(socket) })
        })
    }

    /// A UDP socket on a port.
    ///
    /// # Errors
    /// Port 0.
    pub fn udp(&self, port: u16) -> Result<Udp, NetError> {
        self.0.with(|core| {
            let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 256 * 1024]);
            let mut socket = udp::Socket::new(buffer(), buffer());
            socket.bind(port).map_err(|_| NetError::Invalid)?;
            Ok(Udp { shared: self.0.clone(), handle: core.sockets.add(socket) })
        })
    }

    /// Sends an echo request with that payload and waits for the reply, which must bring it back. Milliseconds that it took.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn ping(&self, to: IpAddress, payload: &[u8], ms: u64) -> Result<u64, NetError> {
        /// Which echo requests are this endpoint's.
        const IDENT: u16 = 0x5042;
        let seq = payload.len() as u16;
        let room = payload.len() + 64;
        let handle = self.0.with(|core| {
            let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 8 * room]);
            let mut socket = icmp::Socket::new(buffer(), buffer());
            socket.bind(icmp::Endpoint::Ident(IDENT)).map_err(|_| NetError::Invalid)?;
            let source = core.interface.get_source_address(&to).ok_or(NetError::Invalid)?;
            let caps = core.wire.capabilities().checksum;
            match (to, source) {
                (IpAddress::Ipv4(_), _) => {
                    let request = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: seq, data: payload };
                    let bytes = socket.send(request.buffer_len(), to).map_err(|_| NetError::Invalid)?;
                    request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &caps);
                }
                (IpAddress::Ipv6(to6), IpAddress::Ipv6(from6)) => {
                    let request = Icmpv6Repr::EchoRequest { ident: IDENT, seq_no: seq, data: payload };
                    let bytes = socket.send(request.buffer_len(), to).map_err(|_| NetError::Invalid)?;
                    request.emit(&from6, &to6, &mut Icmpv6Packet::new_unchecked(bytes), &caps);
                }
                (IpAddress::Ipv6(_), IpAddress::Ipv4(_)) => return Err(NetError::Invalid),
            }
            Ok(core.sockets.add(socket))
        })?;
        let started = now();
        let result = self.0.until(ms, |core| {
            let Ok((bytes, _)) = core.sockets.get_mut::<icmp::Socket<'_>>(handle).recv() else { return Ok(None) };
            // Type, code, checksum, identifier, sequence number, data: the same for both versions.
            let matches = bytes.len() == payload.len() + 8
                && matches!(bytes[0], 0 | 129)
                && bytes[6..8] == seq.to_be_bytes()
                && &bytes[8..] == payload;
            Ok(matches.then_some(()))
        });
        self.0.with(|core| core.sockets.remove(handle));
        result.map(|()| (now() - started).total_millis())
    }
}

/// The multicast address that a station listens on for an IPv6 address.
fn solicited(address: &IpCidr) -> Option<[u8; 6]> {
    let IpAddress::Ipv6(address) = address.address() else { return None };
    let bytes: [u8; 16] = Ipv6Address::octets(&address);
    Some([0x33, 0x33, 0xff, bytes[13], bytes[14], bytes[15]])
}

impl Shared {
    /// Tries until there is an answer.
    fn until<R>(&self, ms: u64, mut body: impl FnMut(&mut Core) -> Result<Option<R>, NetError>) -> Result<R, NetError> {
        let end = now() + Duration::from_millis(ms);
        self.client.wake();
        loop {
            if let Some(answer) = self.with(&mut body)? {
                self.client.wake();
                return Ok(answer);
            }
            if self.client.is_gone() {
                return Err(NetError::Closed);
            }
            if now() >= end {
                return Err(NetError::TimedOut);
            }
            self.progress.wait_ms(2);
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.client.wake();
        self.0.ended.wait();
    }
}

impl Tcp {
    fn with<R>(&self, body: impl FnOnce(&mut tcp::Socket<'static>) -> R) -> R {
        self.shared.with(|core| body(core.sockets.get_mut::<tcp::Socket<'static>>(self.handle)))
    }

    /// Waits until the connection stands.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn established(&self, ms: u64) -> Result<(), NetError> {
        self.shared.until(ms, |core| {
            let socket = core.sockets.get_mut::<tcp::Socket<'static>>(self.handle);
            match socket.state() {
                tcp::State::Closed => Err(NetError::Closed),
                tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived => Ok(None),
                _ => Ok(Some(())),
            }
        })
    }

    /// Sends all of the data.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn send(&self, data: &[u8], ms: u64) -> Result<(), NetError> {
        let mut done = 0;
        while done < data.len() {
            done += self.send_some(&data[done..], ms)?;
        }
        Ok(())
    }

    /// Sends as much of the data as there is room for, at least a byte: how much.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn send_some(&self, data: &[u8], ms: u64) -> Result<usize, NetError> {
        self.shared.until(ms, |core| {
            let socket = core.sockets.get_mut::<tcp::Socket<'static>>(self.handle);
            if !socket.may_send() {
                return Err(NetError::Closed);
            }
            let count = socket.send_slice(data).map_err(|_| NetError::Closed)?;
            Ok((count != 0).then_some(count))
        })
    }

    /// Receives some data; 0 bytes: the other side has closed.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn receive(&self, data: &mut [u8], ms: u64) -> Result<usize, NetError> {
        self.shared.until(ms, |core| {
            let socket = core.sockets.get_mut::<tcp::Socket<'static>>(self.handle);
            if socket.can_recv() {
                return socket.recv_slice(data).map(Some).map_err(|_| NetError::Closed);
            }
            match socket.state() {
                tcp::State::Closed | tcp::State::TimeWait => Err(NetError::Closed),
                _ if socket.may_recv() => Ok(None),
                _ => Ok(Some(0)),
            }
        })
    }

    /// Receives until the buffer is full.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn receive_exact(&self, data: &mut [u8], ms: u64) -> Result<(), NetError> {
        let mut done = 0;
        while done < data.len() {
            match self.receive(&mut data[done..], ms)? {
                0 => return Err(NetError::Closed),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Closes this side; what was sent still arrives.
    pub fn close(&self) {
        self.with(tcp::Socket::close);
        self.shared.client.wake();
    }

    /// Waits until all that was sent is acknowledged.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn drained(&self, ms: u64) -> Result<(), NetError> {
        self.shared.until(ms, |core| {
            Ok((core.sockets.get_mut::<tcp::Socket<'static>>(self.handle).send_queue() == 0).then_some(()))
        })
    }

    /// Whether both sides may still send.
    pub fn is_open(&self) -> bool {
        self.with(|socket| socket.may_send() && socket.may_recv())
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.shared.with(|core| {
            core.sockets.get_mut::<tcp::Socket<'static>>(self.handle).abort();
            // The reset goes out before the socket does.
            self.shared.accept(core);
            core.interface.poll(now(), &mut core.wire, &mut core.sockets);
            self.shared.flush(core);
            core.heard.forget(self.handle);
            core.sockets.remove(self.handle);
        });
    }
}

impl Udp {
    /// Sends a datagram.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn send_to(&self, to: IpAddress, port: u16, data: &[u8], ms: u64) -> Result<(), NetError> {
        self.shared.until(ms, |core| {
            let socket = core.sockets.get_mut::<udp::Socket<'static>>(self.handle);
            match socket.send_slice(data, IpEndpoint::new(to, port)) {
                Ok(()) => Ok(Some(())),
                Err(udp::SendError::BufferFull) => Ok(None),
                Err(udp::SendError::Unaddressable) => Err(NetError::Invalid),
            }
        })
    }

    /// The next datagram and who sent it.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn receive_from(&self, ms: u64) -> Result<(Vec<u8>, IpEndpoint), NetError> {
        self.shared.until(ms, |core| {
            let socket = core.sockets.get_mut::<udp::Socket<'static>>(self.handle);
            Ok(socket.recv().ok().map(|(data, from)| (data.to_vec(), from.endpoint)))
        })
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        self.shared.with(|core| core.sockets.remove(self.handle));
    }
}
