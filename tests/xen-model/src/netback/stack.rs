//! The in-process peer: a host on the other end of the wire, over smoltcp. It answers pings and neighbours, and serves
//! TCP and UDP on fixed ports with protocols of a few bytes, so that what came through can be judged by hashes.
//!
//! | Port | TCP | UDP |
//! |---|---|---|
//! | 7 | sends back what it gets | sends back each datagram |
//! | 9 | takes all until the client closes, then sends the length (8 bytes, LE) and the SHA-256 | counts datagrams |
//! | 19 | takes length and seed (8 bytes each, LE), sends so many bytes and their SHA-256, closes | takes count and size (4 bytes each, LE), sends so many datagrams |
//! | 11 | | sends the counts of port 9 since the last time it was asked: see [`UdpReport`] |
//!
//! A counted datagram is its number (4 bytes, LE), filler, and the FNV-1a hash of all that (8 bytes, LE).

use std::collections::{BTreeSet, VecDeque};

use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr,
    Ipv4Address, Ipv6Address,
};

use super::frame::verify_checksum;
use super::peer::Peer;
use super::syn;
use crate::blkback::hash;

const ECHO: u16 = 7;
const SINK: u16 = 9;
const REPORT: u16 = 11;
const SOURCE: u16 = 19;
/// Bytes that a TCP socket holds in each direction.
const TCP_BUFFER: usize = 128 << 10;
/// Bytes and datagrams that a UDP socket holds in each direction.
const UDP_BUFFER: usize = 1 << 20;
const UDP_DATAGRAMS: usize = 1024;
/// A client that does not answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// The identifier of the pings of this host.
const PING_IDENT: u16 = 0x5850;

/// Who the host is.
#[derive(Clone, Copy, Debug)]
pub struct StackOptions {
    /// Its MAC.
    pub mac: [u8; 6],
    /// Its IPv4 address, with a prefix of 24 bits.
    pub v4: [u8; 4],
    /// Its IPv6 address, with a prefix of 64 bits.
    pub v6: [u16; 8],
    /// The guest's IPv4 address, for what the host begins itself.
    pub guest_v4: [u8; 4],
    /// The guest's IPv6 address.
    pub guest_v6: [u16; 8],
    /// Bytes of the largest IP packet.
    pub mtu: usize,
    /// The VLAN that it is on: it takes frames with that tag alone and sends no others.
    pub vlan: Option<u16>,
    /// Decides sequence numbers and the like.
    pub seed: u64,
}

impl StackOptions {
    /// The host for vif `index`: 10.77.index.1 and fd77:index::1; the guest is `.2` and `::2`.
    pub fn new(index: u32, mtu: usize, seed: u64) -> Self {
        let n = index as u8;
        Self {
            mac: [0x02, 0x77, 0, 0, 0, n],
            v4: [10, 77, n, 1],
            v6: [0xfd77, n.into(), 0, 0, 0, 0, 0, 1],
            guest_v4: [10, 77, n, 2],
            guest_v6: [0xfd77, n.into(), 0, 0, 0, 0, 0, 2],
            mtu,
            vlan: None,
            seed,
        }
    }
}

/// What the host counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackStats {
    /// Frames that arrived.
    pub frames_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Frames that arrived with a checksum that is wrong.
    pub bad_checksums: u64,
    /// TCP connections that were opened.
    pub connections: u64,
    /// The most that were open at once.
    pub most_connections: u64,
    /// Bytes of payload that came by TCP.
    pub tcp_in: u64,
    /// Bytes of payload sent by TCP.
    pub tcp_out: u64,
}

/// What came to UDP port 9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpReport {
    /// Datagrams whose hash is right.
    pub good: u64,
    /// Datagrams whose hash is wrong.
    pub bad: u64,
    /// Good ones whose number had come before.
    pub duplicates: u64,
    /// Good ones whose number is lower than one before.
    pub reordered: u64,
    /// Bytes of the good ones.
    pub bytes: u64,
}

/// What came of a series of pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u64,
    /// Replies with the bytes that were sent.
    pub good: u64,
    /// Replies with others.
    pub bad: u64,
    /// All requests are sent, and answered or given up.
    pub done: bool,
}

#[derive(Debug)]
struct Pinging {
    v6: bool,
    size: usize,
    left: u32,
    interval_ns: u64,
    next_at: u64,
    end_at: u64,
    report: PingReport,
}

/// What a TCP connection is for.
enum Job {
    Echo,
    Sink { sha: Box<Sha256>, count: u64, answered: bool },
    Source { request: Vec<u8>, sent: u64, length: u64, seed: u64, sha: Box<Sha256>, tail: Vec<u8>, done: bool },
}

struct Session {
    handle: SocketHandle,
    port: u16,
    job: Job,
    /// Nobody has connected yet.
    waiting: bool,
}

/// The wire's end as smoltcp wants it.
struct Wire {
    mtu: usize,
    inbox: VecDeque<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.inbox.pop_front()?), Leaving(&mut self.outbox)))
    }
    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.outbox))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

/// The host.
pub struct Stack {
    options: StackOptions,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    sessions: Vec<Session>,
    udp_echo: SocketHandle,
    udp_sink: SocketHandle,
    udp_report: SocketHandle,
    udp_source: SocketHandle,
    ping: SocketHandle,
    pinging: Option<Pinging>,
    /// Datagrams that port 19 still has to send: to whom, next number, count, size.
    sending: VecDeque<(udp::UdpMetadata, u32, u32, usize)>,
    seen: BTreeSet<u32>,
    highest: u32,
    udp: UdpReport,
    stats: StackStats,
    arrived: VecDeque<Vec<u8>>,
    now_ns: u64,
    deadline: Option<u64>,
}

/// Fills `buf` with bytes `offset..` of the stream that belongs to `seed`. `offset` and the length of all pieces but the
/// last are multiples of 8.
pub fn stream_bytes(seed: u64, offset: u64, buf: &mut [u8]) {
    for (n, word) in buf.chunks_mut(8).enumerate() {
        let mut x = seed ^ (offset / 8 + n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 32;
        x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
        x ^= x >> 29;
        word.copy_from_slice(&x.to_le_bytes()[..word.len()]);
    }
}

/// A counted datagram of `size` bytes, at least 12.
fn datagram(number: u32, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size.max(12)];
    let body = bytes.len() - 8;
    stream_bytes(number.into(), 0, &mut bytes[4..body]);
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    let check = hash(&bytes[..body]);
    bytes[body..].copy_from_slice(&check.to_le_bytes());
    bytes
}

fn udp_socket(sockets: &mut SocketSet<'static>, port: u16) -> SocketHandle {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; UDP_DATAGRAMS], vec![0; UDP_BUFFER]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).expect("a port that is not 0");
    sockets.add(socket)
}

fn ping_socket(sockets: &mut SocketSet<'static>) -> SocketHandle {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 256 << 10]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(PING_IDENT)).expect("a fresh socket binds");
    sockets.add(socket)
}

impl Stack {
    /// A host that is up.
    pub fn new(options: StackOptions) -> Self {
        let mut wire = Wire { mtu: options.mtu, inbox: VecDeque::new(), outbox: VecDeque::new() };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(options.mac)));
        config.random_seed = options.seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let v6 = options.v6;
        interface.update_ip_addrs(|list| {
            let v4 = IpCidr::new(IpAddress::Ipv4(Ipv4Address::from(options.v4)), 24);
            let v6 = IpCidr::new(IpAddress::Ipv6(Ipv6Address::from(v6)), 64);
            // The list has room for two.
            list.push(v4).expect("room for two addresses");
            list.push(v6).expect("room for two addresses");
        });
        let mut sockets = SocketSet::new(Vec::new());
        let mut stack = Self {
            udp_echo: udp_socket(&mut sockets, ECHO),
            udp_sink: udp_socket(&mut sockets, SINK),
            udp_report: udp_socket(&mut sockets, REPORT),
            udp_source: udp_socket(&mut sockets, SOURCE),
            ping: ping_socket(&mut sockets),
            options,
            interface,
            sockets,
            wire,
            sessions: Vec::new(),
            pinging: None,
            sending: VecDeque::new(),
            seen: BTreeSet::new(),
            highest: 0,
            udp: UdpReport::default(),
            stats: StackStats::default(),
            arrived: VecDeque::new(),
            now_ns: 0,
            deadline: None,
        };
        for port in [ECHO, SINK, SOURCE] {
            stack.listen(port);
        }
        stack
    }

    /// What it counted.
    pub fn stats(&self) -> StackStats {
        self.stats
    }

    /// Who it is.
    pub fn options(&self) -> &StackOptions {
        &self.options
    }

    /// TCP connections that are open.
    pub fn connections(&self) -> usize {
        self.sessions.iter().filter(|s| !s.waiting).count()
    }

    /// Begins a series of pings to the guest: `count` with `size` bytes each, one every `interval_ns`.
    pub fn ping(&mut self, v6: bool, size: usize, count: u32, interval_ns: u64) {
        let report = PingReport::default();
        let next_at = self.now_ns;
        self.pinging = Some(Pinging { v6, size, left: count, interval_ns, next_at, end_at: u64::MAX, report });
        self.deadline = Some(self.now_ns);
    }

    /// What came of it so far.
    pub fn ping_report(&self) -> PingReport {
        self.pinging.as_ref().map(|p| p.report).unwrap_or_default()
    }

    fn listen(&mut self, port: u16) {
        let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_timeout(Some(PATIENCE));
        socket.listen(port).expect("a port that is not 0");
        let job = match port {
            SINK => Job::Sink { sha: Box::default(), count: 0, answered: false },
            SOURCE => Job::Source {
                request: Vec::new(),
                sent: 0,
                length: 0,
                seed: 0,
                sha: Box::default(),
                tail: Vec::new(),
                done: false,
            },
            _ => Job::Echo,
        };
        self.sessions.push(Session { handle: self.sockets.add(socket), port, job, waiting: true });
    }

    fn instant(&self) -> Instant {
        Instant::from_micros((self.now_ns / 1000) as i64)
    }

    /// Lets sockets and sessions work until nothing more comes of it.
    fn run(&mut self) {
        loop {
            let now = self.instant();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            if !(self.serve_tcp() | self.serve_udp() | self.serve_pings()) {
                break;
            }
        }
    }

    fn serve_tcp(&mut self) -> bool {
        let mut moved = false;
        let mut opened = Vec::new();
        for session in &mut self.sessions {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(session.handle);
            if session.waiting && !socket.is_listening() {
                session.waiting = false;
                opened.push(session.port);
            }
            moved |= serve(socket, &mut session.job, &mut self.stats);
        }
        self.stats.connections += opened.len() as u64;
        for port in opened {
            self.listen(port);
            moved = true;
        }
        self.stats.most_connections = self.stats.most_connections.max(self.connections() as u64);
        let sockets = &mut self.sockets;
        self.sessions.retain(|session| {
            let over = !session.waiting && !sockets.get::<tcp::Socket<'_>>(session.handle).is_open();
            if over {
                sockets.remove(session.handle);
            }
            !over
        });
        moved
    }

    fn serve_udp(&mut self) -> bool {
        let mut moved = false;
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.udp_echo);
        while socket.can_send() {
            let Ok((data, from)) = socket.recv() else { break };
            let data = data.to_vec();
            moved |= socket.send_slice(&data, answer_to(from)).is_ok();
        }
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.udp_sink);
        while let Ok((data, _)) = socket.recv() {
            moved = true;
            count(data, &mut self.udp, &mut self.seen, &mut self.highest);
        }
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.udp_report);
        while let Ok((_, from)) = socket.recv() {
            moved = true;
            let UdpReport { good, bad, duplicates, reordered, bytes } = std::mem::take(&mut self.udp);
            self.seen.clear();
            self.highest = 0;
            let text: Vec<u8> =
                [good, bad, duplicates, reordered, bytes].iter().flat_map(|n| n.to_le_bytes()).collect();
            // An answer that finds no room is asked for again.
            let _lost = socket.send_slice(&text, answer_to(from));
        }
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.udp_source);
        while let Ok((data, from)) = socket.recv() {
            moved = true;
            if let Some((&[a, b, c, d], &[e, f, g, h])) = data
                .split_first_chunk()
                .zip(data.get(4..8))
                .and_then(|((first, _), second)| Some((first, <&[u8; 4]>::try_from(second).ok()?)))
            {
                let (count, size) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
                self.sending.push_back((answer_to(from), 0, count, (size as usize).min(8000)));
            }
        }
        while let Some((to, number, count, size)) = self.sending.front_mut() {
            if number == count {
                self.sending.pop_front();
                continue;
            }
            if socket.send_slice(&datagram(*number, *size), *to).is_err() {
                break;
            }
            *number += 1;
            moved = true;
        }
        moved
    }

    fn serve_pings(&mut self) -> bool {
        let Some(pinging) = &mut self.pinging else { return false };
        let mut moved = false;
        let v6 = Ipv6Address::from(self.options.v6);
        let (guest_v4, guest_v6) = (Ipv4Address::from(self.options.guest_v4), Ipv6Address::from(self.options.guest_v6));
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.ping);
        while let Ok((bytes, _)) = socket.recv() {
            moved = true;
            let header = 8;
            let good = bytes.len() == header + pinging.size && {
                let number = u16::from_be_bytes([bytes[6], bytes[7]]);
                let mut wanted = vec![0; pinging.size];
                stream_bytes(number.into(), 0, &mut wanted);
                bytes[header..] == wanted[..]
            };
            if good {
                pinging.report.good += 1;
            } else {
                pinging.report.bad += 1;
            }
        }
        while pinging.left > 0 && pinging.next_at <= self.now_ns && socket.can_send() {
            let number = pinging.report.sent as u16;
            let mut data = vec![0; pinging.size];
            stream_bytes(number.into(), 0, &mut data);
            let checksums = smoltcp::phy::ChecksumCapabilities::default();
            let sent = if pinging.v6 {
                let request = Icmpv6Repr::EchoRequest { ident: PING_IDENT, seq_no: number, data: &data };
                socket.send(request.buffer_len(), guest_v6.into()).map(|room| {
                    request.emit(&v6, &guest_v6, &mut Icmpv6Packet::new_unchecked(room), &checksums);
                })
            } else {
                let request = Icmpv4Repr::EchoRequest { ident: PING_IDENT, seq_no: number, data: &data };
                socket.send(request.buffer_len(), guest_v4.into()).map(|room| {
                    request.emit(&mut Icmpv4Packet::new_unchecked(room), &checksums);
                })
            };
            if sent.is_err() {
                break;
            }
            moved = true;
            pinging.left -= 1;
            pinging.report.sent += 1;
            pinging.next_at = self.now_ns + pinging.interval_ns;
            pinging.end_at = self.now_ns + 3_000_000_000;
        }
        let answered = pinging.report.good + pinging.report.bad >= pinging.report.sent;
        pinging.report.done = pinging.left == 0 && (answered || self.now_ns >= pinging.end_at);
        moved
    }

    /// When sockets or pings have something to do.
    fn next(&mut self) -> Option<u64> {
        let now = self.instant();
        let sockets = self.interface.poll_at(now, &self.sockets).map(|at| (at.total_micros().max(0) as u64) * 1000);
        let pings = self.pinging.as_ref().filter(|p| !p.report.done);
        let pings = pings.map(|p| if p.left > 0 { p.next_at } else { p.end_at });
        // Rounded up to what the next look can see as past.
        sockets.into_iter().chain(pings).min().map(|at| at.max(self.now_ns + 1000))
    }

    /// Takes a frame off the wire: the VLAN's tag goes, frames of others are not for it.
    fn untag(&self, mut frame: Vec<u8>) -> Option<Vec<u8>> {
        let Some(vlan) = self.options.vlan else { return Some(frame) };
        if frame.len() < 18 || frame[12..14] != [0x81, 0] || u16::from_be_bytes([frame[14], frame[15]]) & 0xfff != vlan
        {
            return None;
        }
        frame.drain(12..16);
        Some(frame)
    }
}

impl Peer for Stack {
    fn receive(&mut self, frame: Vec<u8>) {
        self.stats.frames_in += 1;
        self.stats.bad_checksums += u64::from(verify_checksum(&frame) == Some(false));
        if let Some(frame) = self.untag(frame) {
            self.arrived.push_back(frame);
        }
    }

    fn poll(&mut self, now_ns: u64) -> bool {
        self.now_ns = self.now_ns.max(now_ns);
        let due = self.deadline.is_some_and(|at| at <= self.now_ns);
        if self.arrived.is_empty() && !due {
            return false;
        }
        // One by one: a connection that a frame opens needs a fresh listener before the next.
        while let Some(frame) = self.arrived.pop_front() {
            if !syn::repeats(&frame, &self.sockets) {
                self.wire.inbox.push_back(frame);
                self.run();
            }
        }
        if due {
            self.run();
        }
        self.deadline = self.next();
        true
    }

    fn transmit(&mut self) -> Option<Vec<u8>> {
        let mut frame = self.wire.outbox.pop_front()?;
        if let Some(vlan) = self.options.vlan {
            let tag = vlan.to_be_bytes();
            frame.splice(12..12, [0x81, 0, tag[0], tag[1]]);
        }
        self.stats.frames_out += 1;
        Some(frame)
    }

    fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    fn stack(&mut self) -> Option<&mut Stack> {
        Some(self)
    }
}

/// The same ends the other way round.
fn answer_to(from: udp::UdpMetadata) -> udp::UdpMetadata {
    udp::UdpMetadata {
        endpoint: from.endpoint,
        local_address: from.local_address,
        ..udp::UdpMetadata::from(from.endpoint)
    }
}

fn count(data: &[u8], report: &mut UdpReport, seen: &mut BTreeSet<u32>, highest: &mut u32) {
    let Some((body, check)) = data.split_last_chunk::<8>().filter(|(body, _)| body.len() >= 4) else {
        report.bad += 1;
        return;
    };
    if hash(body) != u64::from_le_bytes(*check) {
        report.bad += 1;
        return;
    }
    let number = u32::from_le_bytes([body[0], body[1], body[2], body[3]]);
    report.good += 1;
    report.bytes += data.len() as u64;
    report.duplicates += u64::from(!seen.insert(number));
    report.reordered += u64::from(number < *highest);
    *highest = number.max(*highest);
}

/// Does what a connection is for; whether bytes moved.
fn serve(socket: &mut tcp::Socket<'_>, job: &mut Job, stats: &mut StackStats) -> bool {
    let mut moved = false;
    match job {
        Job::Echo => {
            while socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let Ok(data) = socket.recv(|data| {
                    let n = data.len().min(room);
                    (n, data[..n].to_vec())
                }) else {
                    break;
                };
                stats.tcp_in += data.len() as u64;
                stats.tcp_out += socket.send_slice(&data).unwrap_or(0) as u64;
                moved = true;
            }
            if socket.state() == tcp::State::CloseWait && socket.recv_queue() == 0 {
                socket.close();
                moved = true;
            }
        }
        Job::Sink { sha, count, answered } => {
            while socket.can_recv() {
                let taken = socket.recv(|data| {
                    sha.update(&*data);
                    (data.len(), data.len())
                });
                let Ok(taken) = taken else { break };
                *count += taken as u64;
                stats.tcp_in += taken as u64;
                moved = true;
            }
            if socket.state() == tcp::State::CloseWait && socket.recv_queue() == 0 && !*answered {
                let text = [&count.to_le_bytes()[..], &sha.clone().finalize()[..]].concat();
                stats.tcp_out += socket.send_slice(&text).unwrap_or(0) as u64;
                socket.close();
                *answered = true;
                moved = true;
            }
        }
        Job::Source { request, sent, length, seed, sha, tail, done } => {
            while request.len() < 16 && socket.can_recv() {
                let mut more = [0; 16];
                let room = 16 - request.len();
                let Ok(n) = socket.recv_slice(&mut more[..room]) else { break };
                request.extend_from_slice(&more[..n]);
                stats.tcp_in += n as u64;
                moved = true;
                if let Some((a, b)) = request.split_first_chunk::<8>().filter(|_| request.len() == 16) {
                    *length = u64::from_le_bytes(*a);
                    *seed = u64::from_le_bytes(b.try_into().unwrap_or_default());
                }
            }
            if request.len() < 16 {
                if socket.state() == tcp::State::CloseWait {
                    socket.close();
                }
                return moved;
            }
            while *sent < *length && socket.can_send() {
                // Whole words, so that the next piece begins at one.
                let room = (socket.send_capacity() - socket.send_queue()) as u64;
                let n = if *length - *sent <= room { *length - *sent } else { room & !7 };
                if n == 0 {
                    break;
                }
                let mut piece = vec![0; n as usize];
                stream_bytes(*seed, *sent, &mut piece);
                let Ok(taken) = socket.send_slice(&piece) else { break };
                debug_assert_eq!(taken, piece.len());
                sha.update(&piece);
                *sent += n;
                stats.tcp_out += n;
                moved = true;
            }
            if *sent == *length && !*done && socket.can_send() {
                if tail.is_empty() {
                    *tail = sha.clone().finalize().to_vec();
                }
                let taken = socket.send_slice(tail).unwrap_or(0);
                tail.drain(..taken);
                moved = true;
                if tail.is_empty() {
                    socket.close();
                    *done = true;
                }
            }
        }
    }
    moved
}
