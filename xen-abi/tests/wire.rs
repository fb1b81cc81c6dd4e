//! xenstore's wire codec, the unplug protocol, and arithmetic.

#[path = "../fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

use std::cell::RefCell;

use bodies::Memory;
use xen_abi::event::{fifo, two_level};
use xen_abi::hvm;
use xen_abi::shared_info::VcpuTimeInfo;
use xen_abi::unplug::{self, MAGIC, PortIo, Refused, Unplug};
use xen_abi::xenstore::decode::Decoder;
use xen_abi::xenstore::payload::{self, Decimal, Malformed, decimal};
use xen_abi::xenstore::ring::{BadIndex, GuestEnd, OFFSET_RSP_PROD, ServerEnd, ServerFeatures};
use xen_abi::xenstore::{Header, MessageType, PathError, TooLong, check_path, error_from_name};
use xen_abi::{errno::Errno, shared::SharedMemory};

#[test]
fn a_message_crosses_the_page_in_pieces() {
    let memory = Memory::new(4096);
    let mut guest = GuestEnd::attach(&memory);
    let mut server = ServerEnd::attach(&memory);
    let value: Vec<u8> = (0..4000_u32).map(|n| n as u8).collect();
    let header = Header::new(MessageType::Write, 7, 3, &[b"name\0", &value]).unwrap();
    let wire = [&header.to_bytes()[..], b"name\0", &value].concat();
    let mut decoder = Decoder::new(vec![0; 4096]);
    for _ in 0..50 {
        let mut sent = 0;
        let mut chunk = [0; 333];
        while decoder.message().is_none() {
            sent += guest.write(&wire[sent..]).unwrap();
            let count = server.read(&mut chunk).unwrap();
            assert_eq!(decoder.feed(&chunk[..count]).unwrap(), count);
        }
        let message = decoder.message().unwrap();
        assert_eq!((message.header, message.payload), (header, &wire[16..]));
        assert!(guest.requests_taken());
        decoder.next();
    }
}

#[test]
fn impossible_lengths_and_indices_end_the_connection() {
    assert_eq!(Header::new(MessageType::Write, 0, 0, &[&[0; 4096], &[0]]), Err(TooLong));
    let mut decoder = Decoder::new(vec![0; 4096]);
    let header = Header { kind: 2, req_id: 0, tx_id: 0, len: 4097 };
    assert!(decoder.feed(&header.to_bytes()).is_err());
    assert!(decoder.feed(b"x").is_err());
    let memory = Memory::new(4096);
    let mut guest = GuestEnd::attach(&memory);
    memory.store_u32(OFFSET_RSP_PROD, 1025);
    assert_eq!(guest.read(&mut [0; 8]), Err(BadIndex));
    guest.discard_replies();
    assert_eq!(guest.read(&mut [0; 8]), Ok(0));
}

#[test]
fn the_connection_can_be_made_anew() {
    let memory = Memory::new(4096);
    let mut guest = GuestEnd::attach(&memory);
    let mut server = ServerEnd::attach(&memory);
    assert!(!guest.request_reconnect());
    server.set_features(ServerFeatures::all());
    guest.write(b"half a mess").unwrap();
    assert!(guest.request_reconnect() && server.reconnect_requested() && !guest.reconnected());
    server.reconnect();
    assert!(guest.reconnected() && guest.requests_taken());
    assert_eq!(guest.server_error(), 0);
}

#[test]
fn payloads_are_read_strictly() {
    assert_eq!(payload::string(b"a\0"), Ok(&b"a"[..]));
    assert_eq!((payload::string(b"a"), payload::string(b"a\0b\0")), (Err(Malformed), Err(Malformed)));
    assert_eq!(
        (payload::number(b"18446744073709551615"), payload::number(b"18446744073709551616")),
        (Ok(u64::MAX), Err(Malformed))
    );
    assert!(payload::number(b"-1").is_err() && payload::number(b" 1").is_err() && payload::number(b"").is_err());
    assert_eq!((payload::transaction_id(b"5\0"), payload::transaction_id(b"0\0")), (Ok(5), Err(Malformed)));
    assert_eq!(payload::error(b"EAGAIN\0"), Ok(Errno::EAGAIN));
    assert_eq!((error_from_name(b"EWHATEVER"), error_from_name(b"EXDEV")), (Errno::EIO, Errno::EIO));
    assert_eq!(payload::watch_event(b"p\0t\0"), Ok((&b"p"[..], &b"t"[..])));
    assert!(payload::watch_event(b"p\0t").is_err() && payload::watch_event(b"p\0t\0x\0").is_err());
    assert_eq!(payload::directory(b"").unwrap().count(), 0);
    assert_eq!(payload::directory(b"a\0bc\0").unwrap().collect::<Vec<_>>(), [&b"a"[..], b"bc"]);
    assert!([&b"a"[..], b"\0", b"a\0\0b\0"].iter().all(|bytes| payload::directory(bytes).is_err()));
    let part = payload::directory_part(b"12\0a\0b\0").unwrap();
    assert_eq!((part.generation, part.last, part.names.count()), (12, false, 2));
    let part = payload::directory_part(b"12\0a\0b\0\0").unwrap();
    assert_eq!((part.last, part.names.as_bytes()), (true, &b"a\0b\0"[..]));
    let part = payload::directory_part(b"0\0\0").unwrap();
    assert_eq!((part.last, part.names.count()), (true, 0));
    assert!(payload::directory_part(b"1\0").is_err() && payload::directory_part(b"x\0a\0").is_err());
    assert_eq!(payload::permission(b"b17").unwrap().domid, 17);
    assert!(payload::permission(b"x1").is_err() && payload::permission(b"r").is_err());
    let mut room = Decimal::default();
    assert_eq!(decimal(u32::MAX, &mut room), b"4294967295");
    assert_eq!(decimal(0, &mut room), b"0");
}

#[test]
fn paths_follow_xenstoreds_rules() {
    for good in [&b"/"[..], b"device/vbd/51712", b"/local/domain/0", b"@releaseDomain", b"a-b_c"] {
        assert_eq!(check_path(good), Ok(()));
    }
    assert_eq!(check_path(b""), Err(PathError::Empty));
    assert_eq!(check_path(b"a b"), Err(PathError::Byte(b' ')));
    assert_eq!(check_path(b"a/"), Err(PathError::Slash));
    assert_eq!(check_path(b"a//b"), Err(PathError::Slash));
    assert_eq!(check_path(&[b'a'; 2049]), Err(PathError::TooLong));
}

/// QEMU's side of the unplug protocol.
struct Qemu {
    version: u8,
    blacklist: bool,
    log: RefCell<Vec<(u16, u32)>>,
}

impl PortIo for Qemu {
    fn read_u8(&self, _port: u16) -> u8 {
        self.version
    }
    fn read_u16(&self, _port: u16) -> u16 {
        if self.blacklist && !self.log.borrow().is_empty() { 0xFFFF } else { MAGIC }
    }
    fn write_u16(&self, port: u16, value: u16) {
        self.log.borrow_mut().push((port, u32::from(value)));
    }
    fn write_u32(&self, port: u16, value: u32) {
        self.log.borrow_mut().push((port, value));
    }
}

#[test]
fn unplugging_asks_first() {
    let try_on = |version, blacklist, what| {
        let qemu = Qemu { version, blacklist, log: RefCell::default() };
        let result = unplug::unplug(&qemu, unplug::PRODUCT_EXPERIMENTAL, 100, what);
        (result, qemu.log.into_inner())
    };
    let both = Unplug::IDE_DISKS | Unplug::NICS;
    assert_eq!(try_on(1, false, both), (Ok(()), vec![(0x12, 0xFFFF), (0x10, 100), (0x10, 3)]));
    assert_eq!(try_on(0, false, both), (Ok(()), vec![(0x10, 3)]));
    assert_eq!(try_on(1, true, both).0, Err(Refused::Blacklisted));
    assert_eq!(try_on(1, true, both).1.len(), 2);
    assert_eq!(try_on(7, false, both), (Err(Refused::UnknownVersion(7)), vec![]));
    assert_eq!(try_on(1, false, Unplug::empty()), (Ok(()), vec![]));
}

#[test]
fn arithmetic() {
    assert_eq!(two_level::pending(65), Some((2048 + 8, 2)));
    assert_eq!(two_level::mask(4095), Some((2560 + 63 * 8, 1 << 63)));
    assert_eq!(two_level::mask(4096), None);
    assert_eq!((fifo::word(1025), fifo::word(1 << 17)), (Some((1, 4)), None));
    assert_eq!((fifo::pages_for(0), fifo::pages_for(1024)), (1, 2));
    assert_eq!(hvm::callback_pci_intx(0, 0, 3, 0, 1), 1 << 56 | 3 << 11 | 1);
    assert_eq!(hvm::callback_vector(0xF3), 2 << 56 | 0xF3);
    let mut time = VcpuTimeInfo { tsc_timestamp: 1000, system_time: 5, ..Default::default() };
    time.tsc_to_system_mul = 1 << 31;
    assert_eq!(time.nanoseconds(1100), 5 + 50);
    time.tsc_shift = 1;
    assert_eq!(time.nanoseconds(1100), 5 + 100);
    time.tsc_shift = -1;
    assert_eq!(time.nanoseconds(1100), 5 + 25);
    time.tsc_shift = i8::MIN;
    assert_eq!(time.nanoseconds(u64::MAX), 5);
}
