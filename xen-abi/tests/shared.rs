//! Shared memory itself, and the ring between two threads that sleep unless they are notified.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use xen_abi::PAGE_SIZE;
use xen_abi::blkif::{Blkif, Command, OP_FLUSH, RSP_OKAY, RawResponse, Request};
use xen_abi::ring::{BackRing, FrontRing};
use xen_abi::shared::{FrameTable, SharedMemory, SharedRegion};

/// Pages of zeroes that stay for as long as the test process.
fn pages(count: usize) -> SharedRegion {
    let memory: &'static mut [u64] = Box::leak(vec![0_u64; count * PAGE_SIZE / 8].into_boxed_slice());
    let base = NonNull::from(memory).cast();
    // SAFETY: eight-byte aligned, never freed, and the only reference to it is gone.
    unsafe { SharedRegion::new(base, count * PAGE_SIZE) }
}

#[test]
fn bytes_go_in_and_out_at_any_offset_and_length() {
    let region = pages(1);
    let data: Vec<u8> = (1..=100).collect();
    for offset in 0..20 {
        for length in 0..40 {
            region.clear();
            region.write(offset, &data[..length]);
            let mut out = vec![0; length + 2];
            region.read(offset, &mut out);
            assert_eq!((&out[..length], &out[length..]), (&data[..length], &[0, 0][..]));
        }
    }
    region.store_u32(8, 0x1122_3344);
    assert_eq!(region.load_u32(8), 0x1122_3344);
    assert_eq!(region.atomic_u8(8).load(Ordering::Relaxed), 0x44);
    assert_eq!(region.atomic_u16(10).load(Ordering::Relaxed), 0x1122);
}

#[test]
fn parts_stay_inside() {
    let region = pages(1);
    let part = region.slice(64, 128).unwrap();
    part.atomic_u64(0).store(9, Ordering::Relaxed);
    assert_eq!((region.atomic_u64(64).load(Ordering::Relaxed), part.len(), part.is_empty()), (9, 128, false));
    assert!(region.slice(4096, 0).is_some());
    assert!(region.slice(4, 8).is_none() && region.slice(4096, 1).is_none() && region.slice(8, usize::MAX).is_none());
}

#[test]
fn a_frame_table_takes_each_page_once() {
    let table = FrameTable::<2>::new();
    let page = pages(1);
    assert!(table.get(0).is_none() && table.get(2).is_none());
    assert!(table.set(0, page) && !table.set(0, page) && !table.set(2, page));
    assert!(!table.set(1, page.slice(0, 64).unwrap()), "not a whole page");
    assert_eq!(table.get(0).map(|region| region.base()), Some(page.base()));
    assert_eq!((table.get(0).unwrap().len(), table.capacity()), (PAGE_SIZE, 2));
}

/// Sleeps until notified. A lost notification is a failure, not a hang.
fn sleep(events: &Receiver<()>) {
    events.recv_timeout(Duration::from_secs(20)).expect("a notification was lost");
}

fn backend(region: SharedRegion, requests: u64, events: &Receiver<()>, notify: &Sender<()>) {
    let mut ring: BackRing<Blkif, _> = BackRing::attach(region).unwrap();
    let mut served = 0;
    while served < requests {
        while let Some(raw) = ring.take().unwrap() {
            assert_eq!(raw.id(), served);
            served += 1;
            ring.push(&RawResponse::new(raw.id(), raw.operation(), RSP_OKAY)).unwrap();
            if ring.publish() {
                notify.send(()).unwrap();
            }
        }
        if served < requests && !ring.final_check().unwrap() {
            sleep(events);
        }
    }
}

#[test]
fn no_notification_is_lost_between_two_threads() {
    const REQUESTS: u64 = 100_000;
    for (page_count, batch) in [(1, 1), (1, 32), (4, 5)] {
        let region = pages(page_count);
        let mut ring: FrontRing<Blkif, _> = FrontRing::new(region).unwrap();
        let (to_back, back_events) = channel();
        let (to_front, front_events) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || backend(region, REQUESTS, &back_events, &to_front));
            let (mut sent, mut answered) = (0, 0);
            while answered < REQUESTS {
                for _ in 0..batch {
                    let request = Request { id: sent, handle: 0, command: Command::Flush };
                    if sent < REQUESTS && ring.push(&request.encode()).is_ok() {
                        sent += 1;
                    }
                }
                // The last requests must not stay unsent, nor may the backend's end be an error here.
                if ring.publish() && to_back.send(()).is_err() {
                    assert_eq!(sent, REQUESTS);
                }
                while let Some(response) = ring.take().unwrap() {
                    assert_eq!((response.id, response.operation, response.status), (answered, OP_FLUSH, RSP_OKAY));
                    answered += 1;
                }
                let waits_for = ring.outstanding().div_ceil(2);
                if waits_for > 0 && !ring.final_check_after(waits_for).unwrap() {
                    sleep(&front_events);
                }
            }
            assert_eq!(ring.free(), ring.slots());
        });
    }
}
