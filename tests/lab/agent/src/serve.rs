//! The host's services at the other end of the guest's network, as `tests/suites/src/network.rs` describes them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use sha2::{Digest, Sha256};

const ECHO: u16 = 7;
const SINK: u16 = 9;
const REPORT: u16 = 11;
const SOURCE: u16 = 19;
/// Bytes moved at a time.
const PIECE: usize = 64 << 10;
/// Bytes of the largest datagram.
const DATAGRAM: usize = 65_536;
/// Bytes that a UDP socket keeps: more than any case sends at once.
const ROOM: libc::c_int = 8 << 20;
/// For a guest to close its side of a connection that has been served.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// TCP connections that there are, and the most that there were.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
static MOST: AtomicU64 = AtomicU64::new(0);

/// The most TCP connections at once since [`forget`].
pub fn most_connections() -> u64 {
    MOST.load(Ordering::Relaxed)
}

/// Begins to count anew.
pub fn forget() {
    MOST.store(0, Ordering::Relaxed);
}

/// Starts the services, for good.
pub fn start() -> anyhow::Result<()> {
    for (port, body) in [(ECHO, echo as fn(TcpStream) -> std::io::Result<()>), (SINK, sink), (SOURCE, source)] {
        let listener = TcpListener::bind(("::", port)).with_context(|| format!("TCP port {port}"))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    MOST.fetch_max(CONNECTIONS.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                    // A guest that resets or vanishes is none of dom0's troubles: its own side has the verdict.
                    let _ = body(stream);
                    CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    }
    datagrams(ECHO, |socket, bytes, from| drop(socket.send_to(bytes, from)))?;
    // What came waits in the socket, so that a report has all that came before it was asked for.
    let sink = bind(SINK)?;
    sink.set_nonblocking(true)?;
    datagrams(REPORT, move |socket, _, from| {
        let (mut counted, mut buf) = (Counted::default(), vec![0; DATAGRAM]);
        while let Ok(count) = sink.recv(&mut buf) {
            counted.take(&buf[..count]);
        }
        // A report that is lost is asked for again.
        let _ = socket.send_to(&counted.figures.map(u64::to_le_bytes).concat(), from);
    })?;
    datagrams(SOURCE, |socket, bytes, from| {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if let (Some(count), Some(size)) = (word(0), word(4)) {
            for number in 0..count {
                // What is lost here is missed by the guest.
                let _ = socket.send_to(&datagram(number, (size as usize).min(DATAGRAM)), from);
            }
        }
    })
}

/// A UDP socket with room enough.
fn bind(port: u16) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(("::", port)).with_context(|| format!("UDP port {port}"))?;
    let room = ROOM;
    // SAFETY: the socket is open, and the option's value is an int that outlives the call.
    let set = unsafe {
        let room = (&raw const room).cast();
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            room,
            size_of::<libc::c_int>() as u32,
        )
    };
    if set != 0 {
        return Err(std::io::Error::last_os_error()).context("the room of a UDP socket");
    }
    Ok(socket)
}

/// A UDP port, each datagram of which `body` gets.
fn datagrams(port: u16, body: impl Fn(&UdpSocket, &[u8], SocketAddr) + Send + 'static) -> anyhow::Result<()> {
    let socket = bind(port)?;
    std::thread::spawn(move || {
        let mut buf = vec![0; DATAGRAM];
        while let Ok((count, from)) = socket.recv_from(&mut buf) {
            body(&socket, &buf[..count], from);
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buf = vec![0; PIECE];
    loop {
        let count = stream.read(&mut buf)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buf[..count])?;
    }
}

fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut buf, mut sha, mut len) = (vec![0; PIECE], Sha256::new(), 0_u64);
    loop {
        let count = stream.read(&mut buf)?;
        if count == 0 {
            break;
        }
        sha.update(&buf[..count]);
        len += count as u64;
    }
    stream.write_all(&[&len.to_le_bytes()[..], &sha.finalize()].concat())
}

fn source(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [[0; 8]; 2];
    stream.read_exact(request.as_flattened_mut())?;
    let [mut left, seed] = request.map(u64::from_le_bytes);
    let (mut buf, mut sha, mut state) = (vec![0; PIECE], Sha256::new(), seed | 1);
    while left > 0 {
        // xorshift64: no two pieces are alike.
        for word in buf.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let piece = &buf[..PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
        stream.write_all(piece)?;
        sha.update(piece);
        left -= piece.len() as u64;
    }
    stream.write_all(&sha.finalize())?;
    // The connection stands until the guest has read all of it and closes its side, or is gone.
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(LAST_WAIT))?;
    while stream.read(&mut buf)? != 0 {}
    Ok(())
}

/// FNV-1a over 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// Number, filler, hash: as the suites make it.
fn datagram(number: u32, size: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((4..size.max(12) - 8).map(|n| (n as u32).wrapping_mul(number | 1) as u8));
    let check = hash(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

/// Datagrams since the last report.
#[derive(Default)]
struct Counted {
    /// Good, bad, duplicates, reordered, bytes.
    figures: [u64; 5],
    seen: BTreeSet<u32>,
}

impl Counted {
    fn take(&mut self, bytes: &[u8]) {
        let [good, bad, duplicates, reordered, all] = &mut self.figures;
        *all += bytes.len() as u64;
        let body = bytes.split_last_chunk::<8>().filter(|(body, check)| hash(body) == u64::from_le_bytes(**check));
        let Some(number) = body.and_then(|(body, _)| body.first_chunk::<4>()) else {
            *bad += 1;
            return;
        };
        let number = u32::from_le_bytes(*number);
        *reordered += u64::from(self.seen.last().is_some_and(|last| *last > number));
        *(if self.seen.insert(number) { good } else { duplicates }) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_for_datagrams() {
        let mut counted = Counted::default();
        for number in [0, 2, 1, 1] {
            counted.take(&datagram(number, 100));
        }
        let mut broken = datagram(3, 20);
        broken[9] ^= 1;
        counted.take(&broken);
        assert_eq!(counted.figures, [3, 1, 1, 2, 420]);
    }
}
