//! First segments of TCP connections. smoltcp gives one to the first socket that takes it, and a listener takes any: one
//! that comes a second time would open a second connection between the same ends, and the answers of both would mix.

use smoltcp::iface::SocketSet;
use smoltcp::socket::Socket;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpEndpoint, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

/// Who connects with this frame, and to which port. `None`: it is no first segment.
fn connects(frame: &[u8]) -> Option<(IpEndpoint, u16)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let (source, tcp) = match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
            (packet.next_header() == IpProtocol::Tcp).then(|| (packet.src_addr().into(), packet.payload()))?
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
            (packet.next_header() == IpProtocol::Tcp).then(|| (packet.src_addr().into(), packet.payload()))?
        }
        _ => return None,
    };
    let tcp = TcpPacket::new_checked(tcp).ok()?;
    (tcp.syn() && !tcp.ack()).then(|| (IpEndpoint::new(source, tcp.src_port()), tcp.dst_port()))
}

/// Whether a frame is the first segment of a connection that there is: its socket says again what it said, by its timer.
pub fn repeats(frame: &[u8], sockets: &SocketSet<'_>) -> bool {
    connects(frame).is_some_and(|(from, to)| {
        sockets.iter().any(|(_, socket)| match socket {
            Socket::Tcp(socket) => {
                socket.remote_endpoint() == Some(from) && socket.local_endpoint().is_some_and(|own| own.port == to)
            }
            _ => false,
        })
    })
}
