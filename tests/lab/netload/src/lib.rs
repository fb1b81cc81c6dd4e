//! What the two ends of the lab's measured network loads have in common: dom0's peer (`tests/lab/agent`) and the Linux guest
//! (`tests/lab/linux`). Ports, sizes, and many datagrams in one call of the kernel.

use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;

/// Port of the peer that takes what comes, by TCP and by UDP.
pub const SINK: u16 = 5001;
/// Port of the peer that sends. TCP: to who connects, until it closes. UDP: to who sent the last datagram, until the
/// measurement ends.
pub const SOURCE: u16 = 5002;
/// Bytes moved at a time by TCP.
pub const PIECE: usize = 128 << 10;
/// What everything that is sent is made of.
pub const FILLING: u8 = 0x5a;
/// Datagrams moved at a time.
const BATCH: usize = 64;
/// Bytes of a datagram: with the headers of UDP, IPv4 and Ethernet and its checksum 64 on the wire.
const DATAGRAM: usize = 18;

/// Whether a call only found nothing to do before its time was over.
#[must_use]
pub fn is_idle(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Datagrams that the kernel gets or gives in one call: `recvmmsg(2)` and `sendmmsg(2)`.
pub struct Batch {
    /// Each with its datagram's address and length, in memory that moving the batch does not move.
    headers: Vec<libc::mmsghdr>,
    _vectors: Vec<libc::iovec>,
    _memory: Vec<[u8; DATAGRAM]>,
}

impl Batch {
    /// Room for 64.
    #[must_use]
    #[allow(clippy::new_without_default)] // a default would say nothing
    pub fn new() -> Self {
        let mut memory = vec![[FILLING; DATAGRAM]; BATCH];
        let mut vectors: Vec<libc::iovec> =
            memory.iter_mut().map(|one| libc::iovec { iov_base: one.as_mut_ptr().cast(), iov_len: DATAGRAM }).collect();
        let header = |vector| {
            // SAFETY: all zero is valid: no address, no control data.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        };
        let headers = vectors.iter_mut().map(|vector| header(vector)).collect();
        Self { headers, _vectors: vectors, _memory: memory }
    }

    /// Waits for one at least, as long as the socket's timeout: how many came. A longer datagram loses its end.
    ///
    /// # Errors
    /// The kernel's, but those of [`is_idle`].
    pub fn receive(&mut self, socket: &UdpSocket) -> Result<u64> {
        let (fd, count, flags) = (socket.as_raw_fd(), BATCH as u32, libc::MSG_WAITFORONE);
        // SAFETY: headers, vectors and memory are this batch's and live through the call.
        counted(unsafe { libc::recvmmsg(fd, self.headers.as_mut_ptr(), count, flags, std::ptr::null_mut()) })
    }

    /// Sends all of them, to an address or to the one that the socket is connected to: how many the kernel took.
    ///
    /// # Errors
    /// As of [`Self::receive`].
    pub fn send(&mut self, socket: &UdpSocket, to: Option<SocketAddrV4>) -> Result<u64> {
        let mut address = to.map(|to| libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
            sin_zero: [0; 8],
        });
        let (name, length) = match &mut address {
            Some(address) => (std::ptr::from_mut(address), size_of::<libc::sockaddr_in>() as u32),
            None => (std::ptr::null_mut(), 0),
        };
        self.address(name, length);
        // SAFETY: as above; the address lives through the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), BATCH as u32, 0) };
        let sent = counted(sent);
        self.address(std::ptr::null_mut(), 0);
        sent
    }

    fn address(&mut self, name: *mut libc::sockaddr_in, length: u32) {
        for header in &mut self.headers {
            header.msg_hdr.msg_name = name.cast();
            header.msg_hdr.msg_namelen = length;
        }
    }
}

/// What a call returned.
fn counted(count: libc::c_int) -> Result<u64> {
    let Ok(count) = u64::try_from(count) else {
        let error = Error::last_os_error();
        return if is_idle(&error) { Ok(0) } else { Err(error) };
    };
    Ok(count)
}

/// Who sent the next datagram, which is taken. `None`: none is there, and the caller does not `wait`, or the socket fails.
#[must_use]
pub fn sender(socket: &UdpSocket, wait: bool) -> Option<SocketAddrV4> {
    let mut buf = [0_u8; DATAGRAM];
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    let mut length = size_of::<libc::sockaddr_in>() as u32;
    let (place, bytes) = (buf.as_mut_ptr().cast(), buf.len());
    // SAFETY: all zero is valid for an address.
    let mut from: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    // SAFETY: buffer, address and length live through the call.
    let got =
        unsafe { libc::recvfrom(socket.as_raw_fd(), place, bytes, flags, (&raw mut from).cast(), &raw mut length) };
    let address = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
    (got >= 0).then(|| SocketAddrV4::new(address, u16::from_be(from.sin_port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::time::Duration;

    /// Two sockets of this machine.
    fn pair() -> [UdpSocket; 2] {
        [0; 2].map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            socket
        })
    }

    fn address(socket: &UdpSocket) -> SocketAddrV4 {
        let Ok(SocketAddr::V4(address)) = socket.local_addr() else { panic!("an IPv4 address") };
        address
    }

    /// Takes what is there, until nothing comes.
    fn drain(socket: &UdpSocket) -> u64 {
        let mut batch = Batch::new();
        let mut sum = 0;
        loop {
            match batch.receive(socket).expect("no error") {
                0 => return sum,
                count => sum += count,
            }
        }
    }

    #[test]
    fn all_of_a_batch_arrive_by_address_and_by_connection() {
        let [one, other] = pair();
        let mut batch = Batch::new();
        let sent = batch.send(&one, Some(address(&other))).expect("sent");
        assert_eq!((sent, drain(&other)), (64, 64));
        // The address of the call before is not kept.
        one.connect(address(&one)).expect("connected");
        let sent = batch.send(&one, None).expect("sent");
        assert_eq!((sent, drain(&one), drain(&other)), (64, 64, 0));
    }

    #[test]
    fn a_datagram_is_whole_and_its_sender_known() {
        let [one, other] = pair();
        assert_eq!(sender(&other, false), None);
        assert_eq!(Batch::new().send(&one, Some(address(&other))).expect("sent"), 64);
        assert_eq!(sender(&other, true), Some(address(&one)));
        let mut buf = [0; 64];
        let (bytes, from) = other.recv_from(&mut buf).expect("a datagram");
        assert_eq!((&buf[..bytes], from), (&[FILLING; DATAGRAM][..], SocketAddr::V4(address(&one))));
    }

    #[test]
    fn an_error_is_told_and_silence_is_none() {
        let [one, _] = pair();
        assert_eq!(Batch::new().receive(&one).expect("nothing came"), 0);
        // Without an address and without a connection.
        assert!(Batch::new().send(&one, None).is_err());
    }
}
