//! Which frames come in, and where: receive side scaling, packet filter, multicast list.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use nt::ndis::oid_abi::oid;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::net_load::{judge, network};
use crate::check;
use crate::net_guest::{Nic, Received, filter};
use crate::network::{Checksum, Frame, VifSpec};
use crate::packet::{Form, TOEPLITZ_KEY, Transport, flag, payload, toeplitz};

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "net/rss",
        summary: "Flows are spread as Windows' indirection table says, each with Microsoft's Toeplitz hash",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup {
            vcpus: 4,
            vifs: vec![VifSpec { queues: Some(4), ..VifSpec::new(0) }],
            stepping: false,
            ..Setup::default()
        },
        run: |ctx| rss(ctx, true),
    },
    Case {
        name: "net/rss-without-control-ring",
        summary: "A backend without a control ring: all frames come, and no hash is told that is not right",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup {
            vcpus: 4,
            vifs: vec![VifSpec { queues: Some(4), control_ring: false, ..VifSpec::new(0) }],
            stepping: false,
            ..Setup::default()
        },
        run: |ctx| rss(ctx, false),
    },
    Case {
        name: "net/filter",
        summary: "The packet filter and the multicast list let in what they name and nothing else",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: filters,
    },
    Case {
        name: "net/filter-without-backend",
        summary: "The same with a backend that filters nothing",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup {
            vifs: vec![VifSpec { multicast_control: false, ..VifSpec::new(0) }],
            stepping: false,
            ..Setup::default()
        },
        run: filters,
    },
];

/// NDIS_HASH_IPV4, _TCP_IPV4, _IPV6, _TCP_IPV6.
const HASH_TYPES: u32 = 0x100 | 0x200 | 0x400 | 0x1000;
/// NdisHashFunctionToeplitz.
const TOEPLITZ: u32 = 1;
/// Entries of the indirection table.
const ENTRIES: usize = 128;

/// `NDIS_RECEIVE_SCALE_PARAMETERS`, revision 2, with its table of processors and its key behind it.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddndis/ns-ntddndis-_ndis_receive_scale_parameters>
fn scale_parameters(key: &[u8; 40], table: &[u8]) -> Vec<u8> {
    const FIXED: u32 = 40;
    // NDIS_OBJECT_TYPE_RSS_PARAMETERS, revision 2.
    let mut bytes = vec![0x89, 2, FIXED as u8, 0];
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(HASH_TYPES | TOEPLITZ).to_le_bytes());
    // The table's size and offset.
    bytes.extend_from_slice(&(table.len() as u16 * 4).to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&FIXED.to_le_bytes());
    // The key's.
    bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&(FIXED + table.len() as u32 * 4).to_le_bytes());
    // No processor masks.
    bytes.extend_from_slice(&[0; 12]);
    for processor in table {
        // PROCESSOR_NUMBER: group, number, reserved.
        bytes.extend_from_slice(&[0, 0, *processor, 0]);
    }
    bytes.extend_from_slice(key);
    bytes
}

fn is_from(frame: &Received, mac: [u8; 6]) -> bool {
    frame.bytes()[6..12] == mac
}

fn rss(ctx: &mut Ctx<'_>, offered: bool) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    for (turn, key) in [TOEPLITZ_KEY, core::array::from_fn(|n| (n as u8).wrapping_mul(29) ^ 0x5a)].iter().enumerate() {
        let table: Vec<u8> = (0..ENTRIES).map(|n| ((n * 3 + turn) % 4) as u8).collect();
        let answer = nic.adapter().set(oid::GEN_RECEIVE_SCALE_PARAMETERS, &scale_parameters(key, &table));
        check!(answer.ok(), "the RSS parameters are refused with {:#x}", answer.status);
        let mut processors = BTreeSet::new();
        for v6 in [false, true] {
            for flow in 0..64u16 {
                let form = Form {
                    v6,
                    from_guest: false,
                    transport: if flow % 8 == 7 { Transport::Udp } else { Transport::Tcp { options: 0 } },
                    ports: (20_000 + flow * 7, 40_000 + flow * 13),
                    ..Form::tcp(nic.mac())
                };
                let bytes = form.build(1, flag::ACK, &payload(flow.into(), 60));
                network(ctx)?.send_frame(0, Frame { bytes: bytes.clone(), checksum: Checksum::Unknown, mss: None });
                let mut waited = 0;
                let frame = loop {
                    let came =
                        client.take().into_iter().find(|frame| is_from(frame, form.host_mac) && frame.bytes() == bytes);
                    if let Some(frame) = came {
                        break frame;
                    }
                    check!(waited < 10_000, "a frame of flow {flow} does not come");
                    ctx.world.sleep_ms(1);
                    waited += 1;
                };
                let metadata = frame.metadata;
                let hashed = metadata.hash_info != 0;
                if hashed {
                    // UDP has no type of its own here: its hash goes over the addresses alone.
                    let ports = form.transport != Transport::Udp;
                    let due = toeplitz(key, &form.hash_input(ports));
                    check!(metadata.hash == due, "hash {:#x} is told, {due:#x} is right; {form:?}", metadata.hash);
                    let kind = match (v6, ports) {
                        (false, false) => 0x100,
                        (false, true) => 0x200,
                        (true, false) => 0x400,
                        (true, true) => 0x1000,
                    };
                    check!(
                        metadata.hash_info == kind | TOEPLITZ,
                        "hash information {:#x}, {:#x} is right; {form:?}",
                        metadata.hash_info,
                        kind | TOEPLITZ
                    );
                    ctx.count("hashes compared", 1);
                    let processor = table[due as usize & (ENTRIES - 1)];
                    if offered {
                        check!(
                            metadata.processor == u32::from(processor),
                            "hash {due:#x} belongs on processor {processor}, it came on {}",
                            metadata.processor
                        );
                    }
                }
                check!(hashed || !offered, "a frame came without its hash; {form:?}");
                processors.insert(metadata.processor);
                ctx.count("frames received", 1);
            }
        }
        ctx.set("processors used", processors.len() as u64);
    }
    let stats = judge(ctx, 0)?;
    ctx.set("queues used", stats.to_guest_by_queue.iter().filter(|frames| **frames > 0).count() as u64);
    ctx.want("frames received", 256);
    if offered {
        ctx.want("hashes compared", 256);
        ctx.want("processors used", 4);
        ctx.want("queues used", 4);
    }
    Ok(())
}

fn filters(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    const LISTED: [u8; 6] = [0x01, 0, 0x5e, 1, 2, 3];
    const OTHER: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x55];
    const STRANGER: [u8; 6] = [0x02, 9, 9, 9, 9, 9];
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw()?;
    let host = [0x02, 0x77, 0, 0, 0, 0];
    let own = nic.mac();
    for (bits, list, wanted) in [
        (0, &[][..], &[][..]),
        (filter::DIRECTED, &[], &[own]),
        (filter::DIRECTED | filter::BROADCAST, &[], &[own, [0xff; 6]]),
        (filter::DIRECTED | filter::MULTICAST, &[LISTED], &[own, LISTED]),
        (filter::DIRECTED | filter::MULTICAST, &[LISTED, OTHER], &[own, LISTED, OTHER]),
        (filter::DIRECTED | filter::MULTICAST, &[], &[own]),
        (filter::ALL_MULTICAST, &[], &[LISTED, OTHER]),
        (filter::PROMISCUOUS, &[], &[own, [0xff; 6], LISTED, OTHER, STRANGER]),
        (filter::DIRECTED | filter::BROADCAST | filter::MULTICAST, &[OTHER], &[own, [0xff; 6], OTHER]),
    ] {
        let status = client.set_multicast(list);
        check!(status == 0, "the multicast list {list:x?} is refused with {status:#x}");
        let status = client.set_filter(bits);
        check!(status == 0, "the filter {bits:#x} is refused with {status:#x}");
        // What the guest tells the backend goes by the ring and by the store.
        ctx.world.sleep_ms(200);
        client.take();
        for to in [own, [0xff; 6], LISTED, OTHER, STRANGER] {
            let bytes = [&to[..], &host, &[0x88, 0xb5], &payload(3, 60)].concat();
            network(ctx)?.send_frame(0, Frame { bytes, checksum: Checksum::Unknown, mss: None });
        }
        ctx.world.sleep_ms(50);
        let came: Vec<Vec<u8>> = client.take().iter().map(Received::bytes).collect();
        let came: BTreeSet<[u8; 6]> = came
            .iter()
            .filter(|bytes| bytes[6..12] == host && bytes[12..14] == [0x88, 0xb5])
            .filter_map(|bytes| bytes.first_chunk::<6>().copied())
            .collect();
        check!(
            came == wanted.iter().copied().collect(),
            "filter {bits:#x}, list {list:x?}: frames to {came:x?} came, {wanted:x?} are due"
        );
        ctx.count("filters tried", 1);
    }
    let stats = judge(ctx, 0)?;
    ctx.set("kept away by the backend", stats.filtered_to_guest);
    ctx.want("filters tried", 9);
    Ok(())
}
