//! What the fuzz targets run, one function a decoder. `cargo fuzz` calls them with what it invents; the test
//! `tests/fuzz_bodies.rs` calls them with seeded random input, so that they run everywhere.

use std::cell::Cell;

use xen_abi::blkif::{Blkif, RawRequest, RawResponse, Request};
use xen_abi::netif::{CtrlStatus, Extra, RawExtra, RxResponse, RxSlot, TxRequest, TxSlot, TxStatus, toeplitz};
use xen_abi::ring::{BackRing, FrontRing, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use xen_abi::shared::SharedMemory;
use xen_abi::xenbus::XenbusState;
use xen_abi::xenstore::decode::Decoder;
use xen_abi::xenstore::ring::{GuestEnd, OFFSET_REQ_CONS, OFFSET_RSP_PROD, RING_SIZE, ServerEnd};
use xen_abi::xenstore::{HEADER_SIZE, Header, MessageType, check_path, payload};
use zerocopy::{FromBytes, IntoBytes};

/// Memory that both ends share, within one thread.
pub struct Memory(pub Vec<Cell<u8>>);

impl Memory {
    /// `size` bytes of zero.
    pub fn new(size: usize) -> Self {
        Self(vec![Cell::new(0); size])
    }
}

impl SharedMemory for Memory {
    fn size(&self) -> usize {
        self.0.len()
    }
    fn load_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        for (byte, cell) in out.iter_mut().zip(&self.0[offset..]) {
            *byte = cell.get();
        }
    }
    fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.0.len());
        for (cell, byte) in self.0[offset..].iter().zip(data) {
            cell.set(*byte);
        }
    }
}

/// Takes the next bytes off the input, zeroes when there are none.
fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let count = data.len().min(N);
    out[..count].copy_from_slice(&data[..count]);
    *data = &data[count..];
    out
}

/// A slot of any bytes: what decodes, encodes to something that decodes to the same.
pub fn blkif_request(mut data: &[u8]) {
    let Ok(raw) = RawRequest::read_from_bytes(&take::<112>(&mut data)) else { return };
    if let Ok(request) = Request::decode(&raw) {
        let again = request.encode();
        assert_eq!(Request::decode(&again), Ok(request));
        assert_eq!((again.id(), again.operation()), (raw.id(), raw.operation()));
    }
}

/// Slots of the packet rings of any bytes: what decodes, encodes to the same and keeps to its bounds.
pub fn netif_slots(mut data: &[u8]) {
    let Ok(slot) = TxSlot::read_from_bytes(&take::<12>(&mut data)) else { return };
    assert_eq!(TxSlot::from(TxRequest::from(slot)), slot);
    let raw = RawExtra::from(slot);
    if let Ok(extra) = raw.decode() {
        let again = extra.encode(raw.more());
        assert_eq!((again.decode(), again.more()), (Ok(extra), raw.more()));
        assert!(!matches!(extra, Extra::Gso { size: 0, .. }));
    }
    let Ok(slot) = RxSlot::read_from_bytes(&take::<8>(&mut data)) else { return };
    let response: RxResponse = slot.response();
    assert_eq!(RxSlot::from(response), slot);
    if let Ok(fragment) = response.decode() {
        assert!(fragment.len.is_none_or(|len| usize::from(fragment.offset) + usize::from(len) <= 4096));
    }
    let [low, high] = take(&mut data);
    assert_eq!(
        TxStatus::decode(i16::from_le_bytes([low, high])).is_ok(),
        (-2..=1).contains(&i16::from_le_bytes([low, high]))
    );
    assert_eq!(CtrlStatus::decode(u32::from(low)).is_ok(), low < 4);
    // The hash of data with bits in different places is the sum of theirs.
    let (key, data) = data.split_at(data.len().min(40));
    let split = usize::from(low).min(data.len());
    let (mut left, mut right) = (data.to_vec(), data.to_vec());
    left[split..].fill(0);
    right[..split].fill(0);
    assert_eq!(toeplitz(key, data), toeplitz(key, &left) ^ toeplitz(key, &right));
}

/// A stream of any bytes, in any pieces: the same messages come out however it is cut.
pub fn xenstore_stream(mut data: &[u8]) {
    let [cut, room] = take(&mut data);
    let run = |step: usize| {
        let mut messages = Vec::new();
        let mut decoder = Decoder::new(vec![0; 64 + usize::from(room) * 16]);
        for piece in data.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() {
                match decoder.feed(rest) {
                    Ok(taken) => rest = &rest[taken..],
                    Err(error) => {
                        // The header is known by then; what follows it does not matter.
                        return (messages, Some(error));
                    }
                }
                if let Some(message) = decoder.message() {
                    assert_eq!(message.payload.len(), message.header.len as usize);
                    messages.push((message.header, message.payload.to_vec()));
                    decoder.next();
                } else {
                    assert!(decoder.missing() > 0);
                }
            }
        }
        (messages, None)
    };
    assert_eq!(run(usize::from(cut) + 1), run(data.len().max(1)));
}

/// Every payload parser, on any bytes.
pub fn xenstore_payload(data: &[u8]) {
    if let Ok(text) = payload::string(data) {
        assert_eq!(text.len() + 1, data.len());
        assert!(!text.contains(&0));
    }
    if let Ok(names) = payload::directory(data) {
        let joined: Vec<u8> = names.flat_map(|name| [name, b"\0"].concat()).collect();
        assert_eq!(joined, data);
    }
    if let Ok(part) = payload::directory_part(data) {
        assert!(part.names.clone().all(|name| !name.is_empty()));
        assert!(part.last || part.names.count() > 0);
    }
    if let Ok((path, token)) = payload::watch_event(data) {
        assert_eq!(path.len() + token.len() + 2, data.len());
    }
    if let Ok(value) = payload::number(data) {
        assert_eq!(value.to_string().trim_start_matches('0'), {
            let text = String::from_utf8(data.to_vec()).unwrap();
            text.trim_start_matches('0').to_owned()
        });
    }
    if let Ok(id) = payload::transaction_id(data) {
        assert_ne!(id, 0);
    }
    let _ = payload::error(data);
    let _ = payload::ok(data);
    let _ = payload::permission(data);
    let _ = XenbusState::parse(data).map(|state| assert_eq!(state.as_str().as_bytes(), data));
    if check_path(data).is_ok() {
        assert!(data.is_ascii() && !data.contains(&0));
    }
    if let Ok(header) = Header::read_from_bytes(&data[..data.len().min(HEADER_SIZE)]) {
        assert_eq!(header.as_bytes(), &data[..HEADER_SIZE]);
        assert!(header.message_type().is_none_or(|kind| MessageType::from_number(kind.number()) == Some(kind)));
    }
}

/// A frontend against a backend that writes what it likes.
pub fn front_ring(mut data: &[u8]) {
    let memory = Memory::new(4096);
    let mut ring: FrontRing<Blkif, &Memory> = FrontRing::new(&memory).unwrap();
    let mut taken = 0_u64;
    let mut published = 0_u64;
    while !data.is_empty() {
        let [what, value] = take(&mut data);
        match what % 8 {
            0 | 1 => {
                if ring.push(&RawRequest::zeroed()).is_ok() {
                    assert!(ring.outstanding() <= ring.slots());
                }
            }
            2 => {
                published += u64::from(ring.unpublished());
                let _ = ring.publish();
            }
            3 => {
                // An honest step of the backend's.
                let at = memory.load_u32(RSP_PROD);
                memory.store_u32(RSP_PROD, at.wrapping_add(u32::from(value % 3)));
            }
            4 => memory.store_u32(RSP_PROD, u32::from_le_bytes(take(&mut data))),
            5 => memory.store_u32(REQ_EVENT, u32::from_le_bytes(take(&mut data))),
            6 => drop(ring.final_check_after(u32::from(value))),
            _ => match ring.take() {
                Ok(Some(_)) => taken += 1,
                Ok(None) => {}
                Err(_) => assert!(ring.is_broken() && ring.take().is_err() && ring.final_check().is_err()),
            },
        }
        assert!(taken <= published, "more responses than requests");
    }
}

/// A backend against a frontend that writes what it likes.
pub fn back_ring(mut data: &[u8]) {
    let memory = Memory::new(4096);
    memory.store_u32(REQ_PROD, u32::from_le_bytes(take(&mut data)));
    memory.store_u32(RSP_PROD, u32::from_le_bytes(take(&mut data)));
    let Ok(mut ring) = BackRing::<Blkif, &Memory>::attach(&memory) else { return };
    while !data.is_empty() {
        let [what, value] = take(&mut data);
        match what % 6 {
            0 => {
                let at = memory.load_u32(REQ_PROD);
                memory.store_u32(REQ_PROD, at.wrapping_add(u32::from(value % 3)));
            }
            1 => memory.store_u32(REQ_PROD, u32::from_le_bytes(take(&mut data))),
            2 => memory.store_u32(RSP_EVENT, u32::from_le_bytes(take(&mut data))),
            3 => {
                let unanswered = ring.unanswered();
                assert_eq!(ring.push(&RawResponse::new(1, 0, 0)).is_ok(), unanswered > 0);
                let _ = ring.publish();
            }
            4 => drop(ring.final_check()),
            _ => {
                if ring.take().is_err() {
                    assert!(ring.is_broken());
                }
            }
        }
        assert!(ring.unanswered() <= ring.slots());
    }
}

/// Both ends of the store page, each with a peer that writes what it likes.
pub fn store_ring(mut data: &[u8]) {
    let memory = Memory::new(4096);
    let mut guest = GuestEnd::attach(&memory);
    let mut server = ServerEnd::attach(&memory);
    let mut out = [0_u8; 300];
    while !data.is_empty() {
        let [what, count] = take(&mut data);
        let count = usize::from(count);
        let moved = match what % 8 {
            0 => guest.write(&out[..count]),
            1 => guest.read(&mut out[..count]),
            2 => server.write(&out[..count]),
            3 => server.read(&mut out[..count]),
            4 => {
                memory.store_u32(OFFSET_REQ_CONS, u32::from_le_bytes(take(&mut data)));
                continue;
            }
            5 => {
                memory.store_u32(OFFSET_RSP_PROD, u32::from_le_bytes(take(&mut data)));
                continue;
            }
            6 => {
                guest.discard_replies();
                continue;
            }
            _ => {
                server.reconnect();
                assert!(guest.reconnected());
                continue;
            }
        };
        assert!(moved.is_err() || moved.is_ok_and(|moved| moved <= count && moved <= RING_SIZE as usize));
    }
}

/// A target's name and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: [Target; 7] = [
    ("blkif_request", blkif_request),
    ("netif_slots", netif_slots),
    ("xenstore_stream", xenstore_stream),
    ("xenstore_payload", xenstore_payload),
    ("front_ring", front_ring),
    ("back_ring", back_ring),
    ("store_ring", store_ring),
];
