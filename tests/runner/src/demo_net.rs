//! The demo's network: xennet.sys talks to Linux itself through a TAP interface in a network namespace, or where the host
//! cannot do that, to the in-process host.

use std::sync::mpsc::TryRecvError;

use anyhow::{Context, anyhow, bail, ensure};
use nt::net::Stack as Endpoint;
use serde::Serialize;
use sha2::{Digest, Sha256};
use suites::net_guest::{IpAddress, Nic};
use suites::network::port;
use xen_model::netback::{Stack, StackOptions, VifOptions};

use crate::demo::sha256;
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

impl NetFacts {
    /// Whether every ping was answered and every transfer has the same hash on both sides.
    pub fn good(&self) -> bool {
        self.pings.iter().all(|p| p.why.is_some() || p.sent == p.answered)
            && self.transfers.iter().all(|t| t.guest_sha256 == t.host_sha256)
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
    drop(endpoint);
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
    println!(
        "xennet.sys   {} frames sent ({} large), {} received ({} large)",
        facts.frames_sent, facts.large_sent, facts.frames_received, facts.large_received
    );
}
