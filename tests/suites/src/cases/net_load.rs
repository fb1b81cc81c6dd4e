//! Verified traffic between the guest's endpoint and the host at the other end: what the network cases are made of.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use nt::net::Stack;
use sha2::{Digest, Sha256};

use crate::case::{Ctx, Failure};
use crate::check;
use crate::net_guest::{IpAddress, NetError, Nic, Tcp};
use crate::network::{Network, VifStats, datagram, datagram_number, port};
use crate::packet::payload;

/// Milliseconds of simulated time that a step of a transfer gets: several times what smoltcp's retransmission timer grows
/// to (60 seconds) where one outage after another eats what was sent.
pub const STEP_MS: u64 = 200_000;
/// Bytes written at a time.
const PIECE: usize = 64 << 10;

/// The other end of the network.
///
/// # Errors
/// The platform has none.
pub fn network<'w>(ctx: &Ctx<'w>) -> Result<&'w dyn Network, Failure> {
    ctx.world.network().ok_or_else(|| Failure("this platform has no network interfaces".into()))
}

/// Says what was being done.
pub fn failed(what: &str) -> impl Fn(NetError) -> Failure + '_ {
    move |error| Failure(format!("{what}: {error:?}"))
}

/// An endpoint of an interface with its adapter, the link up.
///
/// # Errors
/// There is none in time.
pub fn endpoint(ctx: &Ctx<'_>, index: u32) -> Result<(Nic, Stack), Failure> {
    let nic = Nic::find(ctx, index)?;
    nic.wait_link(ctx, true, 30_000)?;
    let stack = nic.stack(&nic.config(ctx.seed))?;
    Ok((nic, stack))
}

/// Sends `len` bytes to the host, which answers with what came.
///
/// # Errors
/// The connection fails, or what came is not what was sent.
pub fn upload(ctx: &mut Ctx<'_>, stack: &Stack, host: IpAddress, len: usize) -> Result<(), Failure> {
    let tcp = stack.connect(host, port::SINK, STEP_MS).map_err(failed("connecting to the sink"))?;
    let mut sha = Sha256::new();
    let mut left = len;
    while left > 0 {
        let piece = payload(left as u32, left.min(PIECE));
        sha.update(&piece);
        tcp.send(&piece, STEP_MS).map_err(failed("sending to the sink"))?;
        left -= piece.len();
    }
    finish_upload(ctx, &tcp, len as u64, &sha.finalize())
}

/// Closes a connection to the sink and judges its answer.
///
/// # Errors
/// As [`upload`].
pub fn finish_upload(ctx: &mut Ctx<'_>, tcp: &Tcp, len: u64, sha: &[u8]) -> Result<(), Failure> {
    tcp.close();
    let mut answer = [0; 40];
    tcp.receive_exact(&mut answer, STEP_MS).map_err(failed("the sink's answer"))?;
    let count = u64::from_le_bytes(answer[..8].try_into().unwrap_or_default());
    check!(count == len, "the host got {count} bytes of {len}");
    check!(&answer[8..] == sha, "the host got other bytes than were sent");
    ctx.count("bytes sent by TCP", len);
    Ok(())
}

/// Gets `len` bytes from the host, and their hash.
///
/// # Errors
/// The connection fails, or the bytes are not the host's.
pub fn download(ctx: &mut Ctx<'_>, stack: &Stack, host: IpAddress, len: u64) -> Result<(), Failure> {
    let tcp = stack.connect(host, port::SOURCE, STEP_MS).map_err(failed("connecting to the source"))?;
    ask_download(&tcp, len, ctx.seed)?;
    let mut sha = Sha256::new();
    let mut left = len;
    let mut buf = vec![0; PIECE];
    while left > 0 {
        let room = buf.len().min(left as usize);
        let n = tcp.receive(&mut buf[..room], STEP_MS).map_err(failed("receiving from the source"))?;
        check!(n > 0, "the host closed with {left} bytes of {len} missing");
        sha.update(&buf[..n]);
        left -= n as u64;
    }
    let mut theirs = [0; 32];
    tcp.receive_exact(&mut theirs, STEP_MS).map_err(failed("the source's hash"))?;
    check!(sha.finalize()[..] == theirs, "the guest got other bytes than the host sent");
    ctx.count("bytes received by TCP", len);
    Ok(())
}

/// Asks the source for bytes.
///
/// # Errors
/// The connection fails.
pub fn ask_download(tcp: &Tcp, len: u64, seed: u64) -> Result<(), Failure> {
    let request = [len.to_le_bytes(), seed.to_le_bytes()].concat();
    tcp.send(&request, STEP_MS).map_err(failed("asking the source"))
}

/// Sends `count` datagrams to the host and asks what came: good, bad, duplicates, reordered.
///
/// # Errors
/// The host does not answer.
pub fn datagrams_out(stack: &Stack, host: IpAddress, count: u32, size: usize) -> Result<[u64; 4], Failure> {
    let socket = stack.udp(3000).map_err(failed("a UDP socket"))?;
    for number in 0..count {
        socket.send_to(host, port::SINK, &datagram(number, size), STEP_MS).map_err(failed("a datagram"))?;
    }
    let mut reported = None;
    for _ in 0..5 {
        socket.send_to(host, port::REPORT, b"?", STEP_MS).map_err(failed("asking for the report"))?;
        let Ok((answer, _)) = socket.receive_from(2000) else { continue };
        let mut numbers = answer.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().unwrap_or_default()));
        let sums = reported.unwrap_or([0; 4]).map(|sum: u64| sum + numbers.next().unwrap_or(0));
        reported = Some(sums);
        if sums[0] + sums[1] >= u64::from(count) {
            break;
        }
        // The question is another flow: it may have gone by another queue, past datagrams that are still on their way.
        // The next report begins where this one ends. Nothing comes here meanwhile.
        let _nothing = socket.receive_from(50);
    }
    reported.ok_or_else(|| Failure("the host does not report what datagrams came".into()))
}

/// Lets the host send `count` datagrams: how many came whole, and how many of those not in order.
///
/// # Errors
/// The request cannot be sent.
pub fn datagrams_in(stack: &Stack, host: IpAddress, count: u32, size: u32) -> Result<(u64, u64), Failure> {
    let socket = stack.udp(3001).map_err(failed("a UDP socket"))?;
    let request = [count.to_le_bytes(), size.to_le_bytes()].concat();
    socket.send_to(host, port::SOURCE, &request, STEP_MS).map_err(failed("asking for datagrams"))?;
    let (mut good, mut reordered, mut highest) = (0, 0, 0);
    while good < u64::from(count) {
        let Ok((bytes, _)) = socket.receive_from(3000) else { break };
        let Some(number) = datagram_number(&bytes) else {
            return Err(Failure("a datagram came with other bytes than were sent".into()));
        };
        good += 1;
        reordered += u64::from(number < highest);
        highest = highest.max(number);
    }
    Ok((good, reordered))
}

/// Several transfers at once, a piece of each in turn, both ways.
pub struct Streams {
    up: Vec<(Tcp, Sha256, u64)>,
    down: Vec<(Tcp, Sha256, u64, u64)>,
}

impl Streams {
    /// Opens `count` connections to the sink and as many to the source, each of which shall carry `len` bytes.
    ///
    /// # Errors
    /// A connection fails.
    pub fn open(ctx: &Ctx<'_>, stack: &Stack, host: IpAddress, count: usize, len: u64) -> Result<Self, Failure> {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for n in 0..count {
            let tcp = stack.connect(host, port::SINK, STEP_MS).map_err(failed("connecting to the sink"))?;
            up.push((tcp, Sha256::new(), 0));
            let tcp = stack.connect(host, port::SOURCE, STEP_MS).map_err(failed("connecting to the source"))?;
            ask_download(&tcp, len, ctx.seed + n as u64)?;
            down.push((tcp, Sha256::new(), 0, len));
        }
        Ok(Self { up, down })
    }

    /// Moves a piece on each connection.
    ///
    /// # Errors
    /// A connection fails.
    pub fn step(&mut self, ctx: &mut Ctx<'_>, bytes: usize) -> Result<(), Failure> {
        for (n, (tcp, sha, sent)) in self.up.iter_mut().enumerate() {
            let piece = payload(*sent as u32 ^ (n as u32) << 24, bytes);
            sha.update(&piece);
            tcp.send(&piece, STEP_MS).map_err(failed("sending to the sink"))?;
            *sent += bytes as u64;
        }
        let mut buf = vec![0; bytes];
        for (tcp, sha, got, len) in &mut self.down {
            let room = (*len - *got).min(bytes as u64) as usize;
            let mut done = 0;
            while done < room {
                let n = tcp.receive(&mut buf[done..room], STEP_MS).map_err(failed("receiving from the source"))?;
                check!(n > 0, "the host closed a stream after {} bytes", *got + done as u64);
                done += n;
            }
            sha.update(&buf[..room]);
            *got += room as u64;
            ctx.count("bytes received by TCP", room as u64);
        }
        Ok(())
    }

    /// Ends the streams and judges what came through.
    ///
    /// # Errors
    /// A hash differs.
    pub fn finish(mut self, ctx: &mut Ctx<'_>) -> Result<(), Failure> {
        let mut buf = vec![0; PIECE];
        for (tcp, sha, got, len) in &mut self.down {
            while *got < *len {
                let room = (*len - *got).min(PIECE as u64) as usize;
                let n = tcp.receive(&mut buf[..room], STEP_MS).map_err(failed("receiving from the source"))?;
                check!(n > 0, "the host closed a stream after {got} bytes");
                sha.update(&buf[..n]);
                *got += n as u64;
                ctx.count("bytes received by TCP", n as u64);
            }
            let mut theirs = [0; 32];
            tcp.receive_exact(&mut theirs, STEP_MS).map_err(failed("the source's hash"))?;
            check!(sha.clone().finalize()[..] == theirs, "the guest got other bytes than the host sent");
        }
        for (tcp, sha, sent) in &self.up {
            finish_upload(ctx, tcp, *sent, &sha.clone().finalize())?;
        }
        ctx.count("streams verified", (self.up.len() + self.down.len()) as u64);
        Ok(())
    }
}

/// What must hold of the backend's figures after any case in which the backend behaved.
///
/// # Errors
/// The first thing that does not hold.
pub fn judge(ctx: &Ctx<'_>, index: u32) -> Result<VifStats, Failure> {
    let stats = network(ctx)?.vif_stats(index);
    check!(stats.refused == 0, "the backend refused {} frames", stats.refused);
    check!(stats.bad_checksums == 0, "{} frames reached the host with a wrong checksum", stats.bad_checksums);
    check!(
        stats.split_headers == 0,
        "{} offloaded packets without their headers in the first slot",
        stats.split_headers
    );
    check!(stats.oversized == 0, "{} frames larger than the MTU", stats.oversized);
    Ok(stats)
}
