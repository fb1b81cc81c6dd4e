//! Checksums of TCP and UDP over IPv4 and IPv6: checking them, and leaving them to the adapter.

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// `NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO`, `Transmit` bits.
pub mod transmit {
    /// IsIPv4
    pub const IPV4: u32 = 1;
    /// IsIPv6
    pub const IPV6: u32 = 2;
    /// TcpChecksum
    pub const TCP: u32 = 4;
    /// UdpChecksum
    pub const UDP: u32 = 8;
    /// IpHeaderChecksum
    pub const IP_HEADER: u32 = 16;
    /// Where TcpHeaderOffset begins.
    pub const OFFSET_SHIFT: u32 = 16;
}

/// Where the transport header of a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// TCP, else UDP.
    pub tcp: bool,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// First byte of it in the frame.
    pub offset: usize,
    /// Bytes of header and payload.
    pub length: usize,
}

/// Finds the TCP or UDP header of a frame without VLAN tag, extension headers or fragmentation.
pub fn transport(frame: &[u8]) -> Option<Transport> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let (protocol, v6, header, total) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            if ip.more_frags() || ip.frag_offset() != 0 {
                return None;
            }
            (ip.next_header(), false, usize::from(ip.header_len()), usize::from(ip.total_len()))
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            (ip.next_header(), true, 40, ip.total_len())
        }
        _ => return None,
    };
    let tcp = match protocol {
        IpProtocol::Tcp => true,
        IpProtocol::Udp => false,
        _ => return None,
    };
    Some(Transport { tcp, v6, offset: ETHERNET + header, length: total.checked_sub(header)? })
}

/// Whether the transport checksum of a frame is right. True where there is none to check.
pub fn verify(frame: &[u8]) -> bool {
    let Some(it) = transport(frame) else { return true };
    let Some(segment) = frame.get(it.offset..it.offset + it.length) else { return false };
    let (source, destination) = if it.v6 {
        let Ok(ip) = Ipv6Packet::new_checked(&frame[ETHERNET..]) else { return false };
        (ip.src_addr().into(), ip.dst_addr().into())
    } else {
        let Ok(ip) = Ipv4Packet::new_checked(&frame[ETHERNET..]) else { return false };
        (ip.src_addr().into(), ip.dst_addr().into())
    };
    if it.tcp {
        TcpPacket::new_checked(segment).is_ok_and(|tcp| tcp.verify_checksum(&source, &destination))
    } else {
        UdpPacket::new_checked(segment).is_ok_and(|udp| udp.verify_checksum(&source, &destination))
    }
}

/// The one's complement sum of 16-bit words.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Puts the transport checksum into a frame that has such a thing.
pub fn fill(frame: &mut [u8]) {
    let Some(it) = transport(frame) else { return };
    if leave_to_adapter(frame) == 0 {
        return;
    }
    let place = it.offset + if it.tcp { 16 } else { 6 };
    let Some(segment) = frame.get(it.offset..it.offset + it.length) else { return };
    // With the sum of the pseudo header in its place. UDP's 0 says that there is none.
    let sum = match !sum(segment) {
        0 if !it.tcp => 0xffff,
        sum => sum,
    };
    frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Leaves the transport checksum of a frame to the adapter: puts the sum of the pseudo header where the checksum goes, as
/// Windows does. What stands out of band then; 0 if the frame has no such checksum.
pub fn leave_to_adapter(frame: &mut [u8]) -> u32 {
    let Some(it) = transport(frame) else { return 0 };
    let addresses = if it.v6 { ETHERNET + 8..ETHERNET + 40 } else { ETHERNET + 12..ETHERNET + 20 };
    let protocol = if it.tcp { 6_u8 } else { 17 };
    let mut pseudo = alloc::vec::Vec::from(&frame[addresses]);
    pseudo.extend([0, protocol]);
    pseudo.extend((it.length as u16).to_be_bytes());
    let place = it.offset + if it.tcp { 16 } else { 6 };
    let Some(field) = frame.get_mut(place..place + 2) else { return 0 };
    field.copy_from_slice(&sum(&pseudo).to_be_bytes());
    let family = if it.v6 { transmit::IPV6 } else { transmit::IPV4 };
    family | if it.tcp { transmit::TCP } else { transmit::UDP } | (it.offset as u32) << transmit::OFFSET_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 UDP frame with four bytes of payload and a right checksum.
    fn udp() -> alloc::vec::Vec<u8> {
        let mut frame = alloc::vec![0_u8; 14 + 20 + 8 + 4];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&32_u16.to_be_bytes());
        (frame[22], frame[23]) = (64, 17);
        frame[26..30].copy_from_slice(&[10, 0, 0, 1]);
        frame[30..34].copy_from_slice(&[10, 0, 0, 2]);
        let header = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame[34..38].copy_from_slice(&[0x12, 0x34, 0, 53]);
        frame[38..40].copy_from_slice(&12_u16.to_be_bytes());
        frame[42..46].copy_from_slice(&[1, 2, 3, 4]);
        frame
    }

    #[test]
    fn what_the_adapter_fills_in_is_right() {
        let mut frame = udp();
        let info = leave_to_adapter(&mut frame);
        assert_eq!(info, transmit::IPV4 | transmit::UDP | 34 << 16);
        assert!(!verify(&frame));
        // What an adapter does: the sum from the transport header on, with what stands in the field.
        let filled = !sum(&frame[34..46]);
        frame[40..42].copy_from_slice(&filled.to_be_bytes());
        assert!(verify(&frame));
        frame[45] ^= 1;
        assert!(!verify(&frame));
    }

    #[test]
    fn other_frames_have_nothing_to_check() {
        let mut arp = udp();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(transport(&arp), None);
        assert!(verify(&arp));
        assert_eq!(leave_to_adapter(&mut arp), 0);
    }
}
