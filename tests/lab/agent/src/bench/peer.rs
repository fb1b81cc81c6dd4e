//! dom0's end of the measured network loads: takes what comes, or sends as fast as it can, and looks at nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context;

/// Takes what comes, by TCP and by UDP.
const SINK: u16 = 5001;
/// TCP: sends to who connects until it closes. UDP: sends to who sent the last datagram until the measurement ends.
const SOURCE: u16 = 5002;
/// Bytes moved at a time by TCP.
const PIECE: usize = 128 << 10;
/// Datagrams moved at a time.
const BATCH: usize = 64;
/// Bytes of a datagram: with the headers of UDP, IPv4 and Ethernet and its checksum 64 on the wire.
const DATAGRAM: usize = 18;
/// Bytes that a datagram gets room for.
const ROOM: usize = 64;

/// Bytes by TCP, or datagrams, since [`begin`].
static RECEIVED: AtomicU64 = AtomicU64::new(0);
/// A measurement runs.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Bytes by TCP, or datagrams, that came since [`begin`].
pub fn received() -> u64 {
    RECEIVED.load(Ordering::Relaxed)
}

/// A measurement begins.
pub fn begin() {
    RECEIVED.store(0, Ordering::Relaxed);
    RUNNING.store(true, Ordering::Relaxed);
}

/// It ended: nothing more is sent by UDP.
pub fn end() {
    RUNNING.store(false, Ordering::Relaxed);
}

/// Starts the threads, for good.
pub fn start() -> anyhow::Result<()> {
    for (port, body) in [(SINK, sink as fn(TcpStream) -> std::io::Result<()>), (SOURCE, source)] {
        let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("TCP port {port}"))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A guest that resets the connection has ended its load.
                std::thread::spawn(move || drop(body(stream)));
            }
        });
    }
    let sink = UdpSocket::bind(("0.0.0.0", SINK)).context("UDP port of the sink")?;
    std::thread::spawn(move || {
        let mut batch = Batch::new();
        loop {
            RECEIVED.fetch_add(batch.receive(&sink), Ordering::Relaxed);
        }
    });
    let source = UdpSocket::bind(("0.0.0.0", SOURCE)).context("UDP port of the source")?;
    std::thread::spawn(move || {
        let mut batch = Batch::new();
        while let Some(mut to) = asked(&source, 0) {
            while RUNNING.load(Ordering::Relaxed) {
                // One who asked in an earlier measurement may have been left over.
                while let Some(newer) = asked(&source, libc::MSG_DONTWAIT) {
                    to = newer;
                }
                batch.send(&source, to);
            }
        }
    });
    Ok(())
}

/// Who sent the next datagram. `None`: nobody, or the socket fails.
fn asked(socket: &UdpSocket, flags: libc::c_int) -> Option<libc::sockaddr_in> {
    let mut buf = [0_u8; ROOM];
    // SAFETY: all zero is valid for an address; buffer, address and length live through the call.
    unsafe {
        let mut from: libc::sockaddr_in = std::mem::zeroed();
        let mut length = size_of::<libc::sockaddr_in>() as u32;
        let (place, bytes) = (buf.as_mut_ptr().cast(), buf.len());
        let got = libc::recvfrom(socket.as_raw_fd(), place, bytes, flags, (&raw mut from).cast(), &raw mut length);
        (got >= 0).then_some(from)
    }
}

fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buf = vec![0; PIECE];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            count => RECEIVED.fetch_add(count as u64, Ordering::Relaxed),
        };
    }
}

fn source(mut stream: TcpStream) -> std::io::Result<()> {
    let buf = vec![0x5a; PIECE];
    loop {
        stream.write_all(&buf)?;
    }
}

/// Datagrams that the kernel gets or gives in one call.
struct Batch {
    memory: Vec<[u8; ROOM]>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    fn new() -> Self {
        let mut memory = vec![[0x5a; ROOM]; BATCH];
        let mut vectors: Vec<libc::iovec> =
            memory.iter_mut().map(|one| libc::iovec { iov_base: one.as_mut_ptr().cast(), iov_len: ROOM }).collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all zero is valid: no address, no control data.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        // The addresses above are those of the vectors' memory, which moving the vectors does not move.
        Self { memory, vectors, headers }
    }

    /// Waits for one at least: how many came.
    fn receive(&mut self, socket: &UdpSocket) -> u64 {
        for (vector, memory) in self.vectors.iter_mut().zip(&self.memory) {
            vector.iov_len = memory.len();
        }
        // SAFETY: headers, vectors and memory are this batch's and live through the call.
        let count = unsafe {
            let flags = libc::MSG_WAITFORONE;
            libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut())
        };
        u64::try_from(count).unwrap_or(0)
    }

    /// Sends all of them; those that the kernel has no room for are lost, as ever.
    fn send(&mut self, socket: &UdpSocket, address: libc::sockaddr_in) {
        for (vector, header) in self.vectors.iter_mut().zip(&mut self.headers) {
            vector.iov_len = DATAGRAM;
            header.msg_hdr.msg_name = (&raw const address).cast_mut().cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        }
        // SAFETY: as above; the address lives through the call.
        unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), BATCH as u32, 0) };
        for header in &mut self.headers {
            header.msg_hdr.msg_name = std::ptr::null_mut();
            header.msg_hdr.msg_namelen = 0;
        }
    }
}
