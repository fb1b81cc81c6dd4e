//! The demo's network: xennet.sys talks to Linux itself through a TAP interface in a network namespace, or where the host
//! cannot do that, to the in-process host.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, TryRecvError};

use anyhow::{Context, anyhow, bail, ensure};
use nt::net::Stack as Endpoint;
use nt::net::stack::{NetError, Tcp};
use serde::Serialize;
use sha2::{Digest, Sha256};
use suites::net_guest::{IpAddress, Nic};
use suites::network::port;
use xen_model::netback::{Stack, StackOptions, VifOptions};

use crate::demo::sha256;
use crate::iperf::{self, Reported};
use crate::tap::{self, Namespace};
use crate::world::ModelWorld;

/// Bytes of each transfer.
const BYTES: usize = 4 << 20;
/// Pings each way and IP version.
const PINGS: u32 = 5;
/// Simulated milliseconds that a step gets.
const STEP_MS: u64 = 60_000;
/// Bytes handed over at a time.
const PIECE: usize = 64 << 10;

/// Bytes that iperf3 moves each way: a multiple of its blocks, so that it moves no more.
const IPERF_BYTES: u64 = 8 << 20;

/// Who is at the other end.
pub struct Peer {
    namespace: Option<Namespace>,
    what: String,
}

/// What the network did, for people and machines.
#[derive(Serialize)]
pub struct NetFacts {
    peer: String,
    mac: String,
    mtu: usize,
    queues: usize,
    pings: Vec<Pings>,
    transfers: Vec<Transfer>,
    iperf3: Vec<Iperf>,
    /// Pings and runs of iperf3 that were left out, for the reason that stands with each.
    left_out: usize,
    frames_sent: u64,
    frames_received: u64,
    large_sent: u64,
    large_received: u64,
    bytes_copied_by_backend: u64,
}

#[derive(Serialize)]
struct Pings {
    who: String,
    sent: u32,
    answered: u32,
    /// Why there are none.
    why: Option<String>,
}

#[derive(Serialize)]
struct Transfer {
    what: &'static str,
    bytes: usize,
    guest_sha256: String,
    host_sha256: String,
}

/// A run of Linux's iperf3 against the guest.
#[derive(Serialize)]
struct Iperf {
    what: &'static str,
    /// Bytes that the sender sent and the receiver received, by iperf3's report.
    sent: u64,
    received: u64,
    /// Bytes that the guest counted.
    guest: u64,
    /// Segments that the sender sent again; the guest's TCP does not count them.
    retransmits: Option<u64>,
    /// On this bench: it says nothing about Windows.
    mbit_per_second: f64,
    /// Why there was none.
    why: Option<String>,
}

impl Iperf {
    fn left_out(reverse: bool, why: &str) -> Self {
        Self {
            what: direction(reverse),
            sent: 0,
            received: 0,
            guest: 0,
            retransmits: None,
            mbit_per_second: 0.0,
            why: Some(why.to_owned()),
        }
    }

    /// Whether all that was asked for came over, by everybody's count.
    fn good(&self) -> bool {
        self.why.is_some() || [self.sent, self.received, self.guest] == [IPERF_BYTES; 3]
    }
}

fn direction(reverse: bool) -> &'static str {
    if reverse { "guest to host" } else { "host to guest" }
}

impl NetFacts {
    /// Whether every ping was answered, every transfer has the same hash on both sides and iperf3 moved all bytes.
    pub fn good(&self) -> bool {
        self.pings.iter().all(|p| p.why.is_some() || p.sent == p.answered)
            && self.transfers.iter().all(|t| t.guest_sha256 == t.host_sha256)
            && self.iperf3.iter().all(Iperf::good)
    }
}

/// Attaches the interface, before the boot.
pub fn attach(ctx: &process::Ctx) -> Peer {
    let mut options = VifOptions::new(0);
    let host = StackOptions::new(0, 1500, 1);
    match tap::open(host.mac) {
        Ok((tap, namespace)) => {
            // What Linux sends has whole checksums already.
            options.blank_to_guest = false;
            ctx.xen(|xen| xen.attach_vif(options, Box::new(tap)));
            Peer { namespace: Some(namespace), what: "Linux, by a TAP interface in a network namespace".to_owned() }
        }
        Err(why) => {
            ctx.xen(|xen| xen.attach_vif(options, Box::new(Stack::new(host))));
            Peer { namespace: None, what: format!("the in-process host, as there is no TAP interface: {why:#}") }
        }
    }
}

/// Uses the network. `None`: the drivers' folder has no driver for it.
///
/// # Errors
/// The adapter does not come up, or a transfer breaks off.
pub fn run(ctx: &process::Ctx, peer: &Peer) -> anyhow::Result<Option<NetFacts>> {
    if !ctx.config().drivers.join("xennet").is_dir() {
        return Ok(None);
    }
    let world = ModelWorld::new(ctx, None);
    let suite = suites::Ctx::new(&world, 1);
    let said = |failure: suites::Failure| anyhow!("{failure}");
    let nic = Nic::find(&suite, 0).map_err(said)?;
    nic.wait_link(&suite, true, 30_000).map_err(said)?;
    let mut setup = nic.config(1);
    setup.offload = true;
    let endpoint = nic.stack(&setup).map_err(said)?;
    let mut pings = Vec::new();
    for (version, host) in [("IPv4", nic.host_v4()), ("IPv6", nic.host_v6())] {
        let answered =
            (0..PINGS).filter(|n| endpoint.ping(host, &[0x55; 56][..56 - *n as usize], 3000).is_ok()).count();
        pings.push(Pings { who: format!("guest, {version}"), sent: PINGS, answered: answered as u32, why: None });
        pings.push(host_pings(ctx, peer, version)?);
    }
    let host = nic.host_v4();
    let transfers =
        vec![upload(&endpoint, host)?, download(&endpoint, nic.host_v6()).or_else(|_| download(&endpoint, host))?];
    let iperf3 = [false, true].into_iter().map(|reverse| iperf3(ctx, peer, &endpoint, reverse));
    let iperf3: Vec<Iperf> = iperf3.collect::<Result<_, _>>()?;
    drop(endpoint);
    let left_out =
        pings.iter().filter(|p| p.why.is_some()).count() + iperf3.iter().filter(|run| run.why.is_some()).count();
    let mac = nic.mac().map(|byte| format!("{byte:02x}")).join(":");
    let (stats, copied) =
        ctx.xen(|xen| (xen.vif(0).map(|vif| vif.stats().clone()).unwrap_or_default(), xen.counters().bytes_moved));
    Ok(Some(NetFacts {
        peer: peer.what.clone(),
        mac,
        mtu: nic.mtu(),
        queues: stats.queues,
        pings,
        transfers,
        iperf3,
        left_out,
        frames_sent: stats.frames_from_guest,
        frames_received: stats.frames_to_guest,
        large_sent: stats.gso_from_guest,
        large_received: stats.gso_to_guest,
        bytes_copied_by_backend: copied,
    }))
}

/// Pings from the other end.
fn host_pings(ctx: &process::Ctx, peer: &Peer, version: &str) -> anyhow::Result<Pings> {
    let v6 = version == "IPv6";
    let who = format!("host, {version}");
    if let Some(namespace) = &peer.namespace {
        let answer = namespace.ping(v6, PINGS);
        for _ in 0..STEP_MS {
            match answer.try_recv() {
                Ok(Ok(p)) => return Ok(Pings { who, sent: p.sent, answered: p.good, why: None }),
                Ok(Err(why)) => return Ok(Pings { who, sent: 0, answered: 0, why: Some(format!("{why:#}")) }),
                Err(TryRecvError::Empty) => ctx.sleep_ms(1),
                Err(TryRecvError::Disconnected) => bail!("the namespace's thread is gone"),
            }
        }
        bail!("Linux's ping does not end");
    }
    let stack = |look: &mut dyn FnMut(&mut Stack)| {
        ctx.xen(|xen| {
            if let Some(stack) = xen.vif_mut(0).and_then(|vif| vif.stack()) {
                look(stack);
            }
        });
    };
    stack(&mut |s| s.ping(v6, 56, PINGS, 1_000_000));
    let mut report = xen_model::netback::PingReport::default();
    for _ in 0..STEP_MS {
        stack(&mut |s| report = s.ping_report());
        if report.done {
            break;
        }
        ctx.sleep_ms(1);
    }
    Ok(Pings { who, sent: report.sent as u32, answered: report.good as u32, why: None })
}

/// The guest's end of a run of iperf3.
struct GuestPort<'a> {
    endpoint: &'a Endpoint,
    client: Receiver<anyhow::Result<Option<Reported>>>,
    /// The client's answer, where it came while a connection was waited for.
    ended: RefCell<Option<anyhow::Result<Option<Reported>>>>,
}

/// A connection of the guest's.
struct Connection(Tcp);

impl iperf::Port for GuestPort<'_> {
    type Waiting = Tcp;
    type Stream = Connection;

    fn listen(&self) -> anyhow::Result<Tcp> {
        self.endpoint.listen(iperf::PORT).map_err(|error| anyhow!("port {}: {error:?}", iperf::PORT))
    }

    fn accept(&self, waiting: Tcp) -> anyhow::Result<Connection> {
        /// Simulated milliseconds between two looks at the client.
        const LOOK_MS: u64 = 20;
        for _ in 0..STEP_MS / LOOK_MS {
            match waiting.established(LOOK_MS) {
                Ok(()) => return Ok(Connection(waiting)),
                Err(NetError::TimedOut) => {}
                Err(error) => bail!("iperf3's connection: {error:?}"),
            }
            match self.client.try_recv() {
                Ok(answer) => {
                    *self.ended.borrow_mut() = Some(answer);
                    bail!("iperf3 ended before it connected");
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => bail!("the namespace's thread is gone"),
            }
        }
        bail!("iperf3 does not connect");
    }
}

fn broken(error: NetError) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

impl Read for Connection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.receive(into, STEP_MS).map_err(broken)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_some(bytes, STEP_MS).map_err(broken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.drained(STEP_MS).map_err(broken)
    }
}

/// Lets Linux's iperf3 send to the guest or receive from it.
fn iperf3(ctx: &process::Ctx, peer: &Peer, endpoint: &Endpoint, reverse: bool) -> anyhow::Result<Iperf> {
    let Some(namespace) = &peer.namespace else {
        return Ok(Iperf::left_out(reverse, "there is no Linux at the other end"));
    };
    let port = GuestPort { endpoint, client: namespace.iperf(reverse, IPERF_BYTES), ended: RefCell::new(None) };
    let served = iperf::serve(&port);
    let mut ended = port.ended.take();
    for _ in 0..STEP_MS {
        if ended.is_some() {
            break;
        }
        ended = port.client.try_recv().ok();
        ctx.sleep_ms(1);
    }
    match (served, ended.context("Linux's iperf3 does not end")?) {
        (_, Ok(None)) => Ok(Iperf::left_out(reverse, "no `iperf3` on this host")),
        (Ok(guest), Ok(Some(host))) => Ok(Iperf {
            what: direction(reverse),
            sent: host.sent,
            received: host.received,
            guest: guest.bytes,
            retransmits: host.retransmits,
            mbit_per_second: host.bits_per_second / 1e6,
            why: None,
        }),
        (served, host) => {
            let said = |result: Option<anyhow::Error>| result.map_or("done".to_owned(), |error| format!("{error:#}"));
            bail!("iperf3 {}: guest: {}; host: {}", direction(reverse), said(served.err()), said(host.err()))
        }
    }
}

fn upload(endpoint: &Endpoint, host: IpAddress) -> anyhow::Result<Transfer> {
    let failed = |error| anyhow!("sending by TCP: {error:?}");
    let mut bytes = vec![0; BYTES];
    xen_model::netback::stream_bytes(1, 0, &mut bytes);
    let tcp = endpoint.connect(host, port::SINK, STEP_MS).map_err(failed)?;
    for piece in bytes.chunks(PIECE) {
        tcp.send(piece, STEP_MS).map_err(failed)?;
    }
    tcp.close();
    let mut answer = [0; 40];
    tcp.receive_exact(&mut answer, STEP_MS).map_err(failed)?;
    let count = answer.first_chunk::<8>().map_or(0, |count| u64::from_le_bytes(*count));
    ensure!(count == BYTES as u64, "the host got {count} bytes of {BYTES}");
    let theirs = crate::demo::hex(&answer[8..]);
    Ok(Transfer { what: "guest to host", bytes: BYTES, guest_sha256: sha256(&bytes), host_sha256: theirs })
}

fn download(endpoint: &Endpoint, host: IpAddress) -> anyhow::Result<Transfer> {
    let failed = |error| anyhow!("receiving by TCP: {error:?}");
    let tcp = endpoint.connect(host, port::SOURCE, STEP_MS).map_err(failed)?;
    let request = [(BYTES as u64).to_le_bytes(), 7u64.to_le_bytes()].concat();
    tcp.send(&request, STEP_MS).map_err(failed)?;
    let mut sha = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut left = BYTES;
    while left > 0 {
        let room = left.min(PIECE);
        let count = tcp.receive(&mut piece[..room], STEP_MS).map_err(failed)?;
        ensure!(count > 0, "the host closed with {left} bytes of {BYTES} missing");
        sha.update(&piece[..count]);
        left -= count;
    }
    let mut theirs = [0; 32];
    tcp.receive_exact(&mut theirs, STEP_MS).map_err(failed).context("the host's hash")?;
    Ok(Transfer {
        what: "host to guest",
        bytes: BYTES,
        guest_sha256: crate::demo::hex(&sha.finalize()),
        host_sha256: crate::demo::hex(&theirs),
    })
}

/// Prints the network's part.
pub fn print(facts: Option<&NetFacts>) {
    let Some(facts) = facts else {
        println!("network      no xennet package in the drivers' folder");
        return;
    };
    println!("network      {}, MTU {}, {} queues, to {}", facts.mac, facts.mtu, facts.queues, facts.peer);
    for ping in &facts.pings {
        match &ping.why {
            None => println!("  ping       from {}: {} of {} answered", ping.who, ping.answered, ping.sent),
            Some(why) => println!("  ping       from {}: none, {why}", ping.who),
        }
    }
    for transfer in &facts.transfers {
        println!("  TCP        {}, {} bytes", transfer.what, transfer.bytes);
        println!("  SHA-256    {}", crate::demo::verdict(&transfer.guest_sha256, &transfer.host_sha256));
    }
    for run in &facts.iperf3 {
        match &run.why {
            Some(why) => println!("  iperf3     {}: none, {why}", run.what),
            None => println!(
                "  iperf3     {}: {} bytes sent, {} received, {} by the guest's count; sent again: {}; {:.0} Mbit/s on this bench",
                run.what,
                run.sent,
                run.received,
                run.guest,
                run.retransmits.map_or("not counted".to_owned(), |n| n.to_string()),
                run.mbit_per_second
            ),
        }
    }
    if facts.left_out > 0 {
        println!(
            "  left out   {} of {} pings and runs of iperf3",
            facts.left_out,
            facts.pings.len() + facts.iperf3.len()
        );
    }
    println!(
        "xennet.sys   {} frames sent ({} large), {} received ({} large)",
        facts.frames_sent, facts.large_sent, facts.frames_received, facts.large_received
    );
}
