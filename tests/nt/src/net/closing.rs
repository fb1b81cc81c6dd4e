//! Acknowledgements that smoltcp had better not see: those that say again what was said, of a connection that is being closed.
//!
//! At the third duplicate acknowledgement smoltcp 0.14.0 stops its retransmission timer (`Socket::dispatch` of `socket/tcp.rs`)
//! and leaves the rest to a fast retransmission, which sends nothing where all data is acknowledged and only the FIN is not
//! (`Socket::seq_to_transmit`). A FIN that got lost is then never sent again. Such acknowledgements come in numbers when segments
//! arrive a second time, as after an outage. Without them the timer goes on, and brings the FIN.

use super::checksum;
use alloc::vec::Vec;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{Socket, tcp};
use smoltcp::wire::{IpAddress, Ipv4Address, Ipv6Address};

/// Flags of TCP: all but those for congestion, and the one that is set in every segment but the first.
const FLAGS: u8 = 0x3f;
const ACK: u8 = 0x10;

/// What a segment says to the one who sends data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    acknowledged: u32,
    window: u16,
}

/// What the other sides of connections said last.
#[derive(Default)]
pub struct Heard(Vec<(SocketHandle, Said)>);

/// The parts of a segment that count here.
struct Segment {
    source: IpAddress,
    ports: [u16; 2],
    said: Said,
    /// It has neither data nor another flag.
    bare: bool,
}

impl Segment {
    fn of(frame: &[u8]) -> Option<Self> {
        let at = checksum::transport(frame).filter(|at| at.tcp)?;
        let header = frame.get(at.offset..)?.first_chunk::<16>()?;
        let short = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let source = if at.v6 {
            IpAddress::Ipv6(Ipv6Address::from(*frame.get(22..)?.first_chunk::<16>()?))
        } else {
            IpAddress::Ipv4(Ipv4Address::from(*frame.get(26..)?.first_chunk::<4>()?))
        };
        let acknowledged = u32::from(short(8)) << 16 | u32::from(short(10));
        let bare = header[13] & FLAGS == ACK && at.length == usize::from(header[12] >> 4) * 4;
        Some(Self { source, ports: [short(0), short(2)], said: Said { acknowledged, window: short(14) }, bare })
    }

    fn is_of(&self, socket: &tcp::Socket<'_>) -> bool {
        socket.remote_endpoint().is_some_and(|end| (end.addr, end.port) == (self.source, self.ports[0]))
            && socket.local_endpoint().is_some_and(|end| end.port == self.ports[1])
    }
}

impl Heard {
    /// Whether a frame that came is to be left out: nothing but a repetition, of a connection that is being closed.
    pub fn repeats(&mut self, frame: &[u8], sockets: &SocketSet<'_>) -> bool {
        let Some(segment) = Segment::of(frame) else { return false };
        let state = sockets.iter().find_map(|(handle, socket)| match socket {
            Socket::Tcp(socket) if segment.is_of(socket) => Some((handle, socket.state())),
            _ => None,
        });
        let Some((handle, state)) = state else { return false };
        let closing = matches!(state, tcp::State::FinWait1 | tcp::State::Closing | tcp::State::LastAck);
        let Some((_, last)) = self.0.iter_mut().find(|(other, _)| *other == handle) else {
            self.0.push((handle, segment.said));
            return false;
        };
        let again = core::mem::replace(last, segment.said) == segment.said;
        closing && segment.bare && again
    }

    /// The socket is no more.
    pub fn forget(&mut self, handle: SocketHandle) {
        self.0.retain(|(other, _)| *other != handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec;
    use smoltcp::iface::{Config, Interface};
    use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
    use smoltcp::time::{Duration, Instant};
    use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

    /// A host's end of the wire.
    #[derive(Default)]
    struct Wire {
        inbox: VecDeque<Vec<u8>>,
        outbox: VecDeque<Vec<u8>>,
    }

    struct Arrived(Vec<u8>);
    struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

    impl RxToken for Arrived {
        fn consume<R, F: FnOnce(&[u8]) -> R>(self, body: F) -> R {
            body(&self.0)
        }
    }

    impl TxToken for Leaving<'_> {
        fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, body: F) -> R {
            let mut bytes = vec![0; length];
            let result = body(&mut bytes);
            self.0.push_back(bytes);
            result
        }
    }

    impl Device for Wire {
        type RxToken<'a> = Arrived;
        type TxToken<'a> = Leaving<'a>;

        fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
            Some((Arrived(self.inbox.pop_front()?), Leaving(&mut self.outbox)))
        }

        fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
            Some(Leaving(&mut self.outbox))
        }

        fn capabilities(&self) -> DeviceCapabilities {
            let mut capabilities = DeviceCapabilities::default();
            capabilities.medium = Medium::Ethernet;
            capabilities.max_transmission_unit = 1514;
            capabilities
        }
    }

    struct Host {
        wire: Wire,
        interface: Interface,
        sockets: SocketSet<'static>,
        tcp: SocketHandle,
        heard: Heard,
    }

    impl Host {
        fn new(number: u8) -> Self {
            let mut wire = Wire::default();
            let mac = EthernetAddress([2, 0, 0, 0, 0, number]);
            let mut interface = Interface::new(Config::new(HardwareAddress::Ethernet(mac)), &mut wire, Instant::ZERO);
            interface.update_ip_addrs(|list| list.push(IpCidr::new(IpAddress::v4(10, 0, 0, number), 24)).unwrap());
            let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
            let mut sockets = SocketSet::new(Vec::new());
            let tcp = sockets.add(tcp::Socket::new(buffer(), buffer()));
            Self { wire, interface, sockets, tcp, heard: Heard::default() }
        }

        fn tcp(&mut self) -> &mut tcp::Socket<'static> {
            self.sockets.get_mut(self.tcp)
        }

        fn poll(&mut self, now: Instant, filtered: bool) {
            if filtered {
                let (heard, sockets) = (&mut self.heard, &self.sockets);
                self.wire.inbox.retain(|frame| !heard.repeats(frame, sockets));
            }
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
        }
    }

    fn is_fin(frame: &[u8]) -> bool {
        checksum::transport(frame).is_some_and(|at| at.tcp && frame[at.offset + 13] & 1 != 0)
    }

    /// A connection whose first FIN is lost, and the last acknowledgement before that comes `again` times more. Whether the
    /// other side hears of the end within a minute.
    fn ends(again: usize, filtered: bool) -> bool {
        let (mut here, mut there) = (Host::new(1), Host::new(2));
        there.tcp().listen(7).unwrap();
        let Host { interface, sockets, tcp, .. } = &mut here;
        let to = (IpAddress::v4(10, 0, 0, 2), 7);
        sockets.get_mut::<tcp::Socket<'_>>(*tcp).connect(interface.context(), to, 5000).unwrap();
        let (mut lost, mut last) = (false, Vec::new());
        for step in 0..600 {
            let now = Instant::ZERO + Duration::from_millis(100 * step);
            if step == 20 {
                here.tcp().send_slice(b"data").unwrap();
            }
            if step == 40 {
                here.tcp().close();
            }
            here.poll(now, filtered);
            for frame in here.wire.outbox.drain(..) {
                if is_fin(&frame) && !lost {
                    lost = true;
                    here.wire.inbox.extend(core::iter::repeat_n(last.clone(), again));
                } else {
                    there.wire.inbox.push_back(frame);
                }
            }
            there.poll(now, false);
            for frame in there.wire.outbox.drain(..) {
                last.clone_from(&frame);
                here.wire.inbox.push_back(frame);
            }
        }
        assert!(lost, "a FIN was sent");
        there.tcp().state() == tcp::State::CloseWait
    }

    #[test]
    fn a_lost_fin_comes_again() {
        for again in [0, 2, 3, 10] {
            assert!(ends(again, true), "{again} repeated acknowledgements");
        }
        assert!(ends(2, false));
        assert!(!ends(3, false), "smoltcp sends the FIN again by itself: this module has no use any more");
    }

    #[test]
    fn what_says_something_is_let_through() {
        let (mut here, mut there) = (Host::new(1), Host::new(2));
        there.tcp().listen(7).unwrap();
        let Host { interface, sockets, tcp, .. } = &mut here;
        let to = (IpAddress::v4(10, 0, 0, 2), 7);
        sockets.get_mut::<tcp::Socket<'_>>(*tcp).connect(interface.context(), to, 5000).unwrap();
        let mut last = Vec::new();
        for step in 0..10 {
            if step == 5 {
                here.tcp().send_slice(b"data").unwrap();
            }
            here.poll(Instant::from_secs(step), true);
            there.wire.inbox.append(&mut here.wire.outbox);
            there.poll(Instant::from_secs(step), true);
            last = there.wire.outbox.back().cloned().unwrap_or(last);
            here.wire.inbox.append(&mut there.wire.outbox);
        }
        let at = checksum::transport(&last).unwrap().offset;
        // Of an open connection everything.
        assert!(!here.heard.repeats(&last, &here.sockets));
        here.tcp().close();
        assert!(here.heard.repeats(&last, &here.sockets));
        let changed = |at: usize, by: u8| {
            let mut frame = last.clone();
            frame[at] ^= by;
            frame
        };
        let others = [
            ("another number", changed(at + 11, 1)),
            ("another window", changed(at + 15, 1)),
            ("an end", changed(at + 13, 1)),
            ("a reset", changed(at + 13, 4)),
            ("another connection", changed(at + 1, 1)),
        ];
        for (what, frame) in others {
            assert!(!here.heard.repeats(&frame, &here.sockets), "{what}");
        }
    }
}
