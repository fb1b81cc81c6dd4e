//! xenstored over the ring: permissions, watches, transactions, quotas, large directories, reconnection.

mod guest;

use guest::*;
use xen_abi::shared::SharedMemory;
use xen_abi::xenstore::MessageType;
use xen_model::{Config, GuestErrorKind, Perm, Quotas, layout};

fn new() -> Guest {
    Guest::new(Config::default())
}

#[test]
fn reads_and_writes_in_pieces() {
    for seed in 0..50 {
        let mut guest = Guest::new(Config { seed, ..Config::default() });
        assert_eq!(guest.read("domid").as_deref(), Ok("1"));
        assert_eq!(guest.read("/local/domain/1/domid").as_deref(), Ok("1"));
        let long = "x".repeat(2000);
        guest.write_store(0, "data/a/b", &long).expect("the guest's own");
        assert_eq!(guest.read("data/a/b"), Ok(long));
        assert_eq!(guest.read("data/a").as_deref(), Ok(""));
        assert!(guest.xen.guest_errors().is_empty());
    }
}

#[test]
fn errors_have_their_names() {
    let mut guest = new();
    assert_eq!(guest.read("nothing").unwrap_err(), "ENOENT");
    assert_eq!(guest.read("/local/domain/0/domid").unwrap_err(), "EACCES");
    assert_eq!(guest.read("/local/domain/0/nothing").unwrap_err(), "EACCES", "not even that it does not exist");
    assert_eq!(guest.read("bad//path").unwrap_err(), "EINVAL");
    assert_eq!(guest.read("data/").unwrap_err(), "EINVAL");
    assert_eq!(guest.write_store(0, "name", "mine").unwrap_err(), "EACCES");
    assert_eq!(guest.store_call(MessageType::Rm, 0, &["data/none"]), Ok(b"OK\0".to_vec()));
    assert_eq!(guest.store_call(MessageType::Rm, 0, &["none/none"]).unwrap_err(), "EACCES");
    assert_eq!(guest.store_call(MessageType::Introduce, 0, &["1"]).unwrap_err(), "EACCES");
    assert_eq!(guest.store_call(MessageType::Read, 77, &["name"]).unwrap_err(), "ENOENT", "no such transaction");
    let reply = guest.store_request(99, 0, b"\0");
    assert_eq!(reply.payload, b"ENOSYS\0");
}

#[test]
fn owners_decide_who_reads() {
    let mut guest = new();
    guest.write_store(0, "data/mine", "1").expect("written");
    assert_eq!(guest.store_call(MessageType::GetPerms, 0, &["data/mine"]), Ok(b"n1\0".to_vec()));
    guest.store_call(MessageType::SetPerms, 0, &["data/mine", "n1", "r7"]).expect("the owner may");
    assert_eq!(guest.store_call(MessageType::GetPerms, 0, &["data/mine"]), Ok(b"n1\0r7\0".to_vec()));
    assert_eq!(guest.store_call(MessageType::SetPerms, 0, &["data/mine", "n0"]).unwrap_err(), "EPERM");
    assert_eq!(guest.store_call(MessageType::SetPerms, 0, &["name", "n1"]).unwrap_err(), "EACCES");
}

#[test]
fn watches_fire_for_what_may_be_seen() {
    let mut guest = new();
    guest.store_call(MessageType::Watch, 0, &["data", "t1"]).expect("watched");
    guest.store_call(MessageType::Watch, 0, &["/local/domain/1/data/x", "t2"]).expect("watched");
    guest.store_call(MessageType::Watch, 0, &["/local/domain/0", "t3"]).expect("watched");
    assert_eq!(guest.store_call(MessageType::Watch, 0, &["data", "t1"]).unwrap_err(), "EEXIST");
    let first = guest.watch_events();
    assert_eq!(first.len(), 3, "each fires once: {first:?}");
    guest.xen.store().write("/local/domain/1/data/x/y", "1");
    let relative = ("data/x/y".to_owned(), "t1".to_owned());
    let absolute = ("/local/domain/1/data/x/y".to_owned(), "t2".to_owned());
    assert_eq!(guest.watch_events(), [relative, absolute]);
    guest.xen.store().write("/local/domain/0/secret", "1");
    assert!(guest.watch_events().is_empty());
    // Removing something above tells the watch on what was below.
    guest.xen.store().remove("/local/domain/1/data/x");
    let events = guest.watch_events();
    assert!(events.contains(&("/local/domain/1/data/x".to_owned(), "t2".to_owned())), "{events:?}");
    guest.store_call(MessageType::Unwatch, 0, &["data", "t1"]).expect("it was set");
    assert_eq!(guest.store_call(MessageType::Unwatch, 0, &["data", "t1"]).unwrap_err(), "ENOENT");
    guest.store_call(MessageType::ResetWatches, 0, &[""]).expect("done");
    guest.xen.store().write("/local/domain/1/data/x", "2");
    assert!(guest.watch_events().is_empty());
}

#[test]
fn transactions_conflict_and_isolate() {
    let mut guest = new();
    let tx = guest.begin().expect("started");
    guest.write_store(tx, "data/k", "inside").expect("written");
    assert_eq!(guest.read("data/k").unwrap_err(), "ENOENT", "not yet for others");
    guest.end(tx, true).expect("nothing else happened");
    assert_eq!(guest.read("data/k").as_deref(), Ok("inside"));

    let tx = guest.begin().expect("started");
    guest.store_call(MessageType::Read, tx, &["data/k"]).expect("read");
    guest.xen.store().write("/local/domain/1/data/k", "outside");
    guest.write_store(tx, "data/other", "1").expect("written");
    assert_eq!(guest.end(tx, true).unwrap_err(), "EAGAIN");
    assert_eq!(guest.read("data/other").unwrap_err(), "ENOENT");
    assert_eq!(guest.xen.counters().store_conflicts, 1);

    // What the transaction did not look at does not disturb it.
    let tx = guest.begin().expect("started");
    guest.write_store(tx, "data/k", "again").expect("written");
    guest.xen.store().write("/local/domain/1/name", "renamed");
    guest.end(tx, true).expect("no conflict");

    let tx = guest.begin().expect("started");
    guest.write_store(tx, "data/k", "dropped").expect("written");
    guest.end(tx, false).expect("dropped");
    assert_eq!(guest.read("data/k").as_deref(), Ok("again"));
    assert_eq!(guest.end(tx, true).unwrap_err(), "ENOENT");
}

#[test]
fn watches_fire_when_a_transaction_commits() {
    let mut guest = new();
    guest.store_call(MessageType::Watch, 0, &["data", "t"]).expect("watched");
    guest.watch_events();
    let tx = guest.begin().expect("started");
    guest.write_store(tx, "data/k", "1").expect("written");
    assert!(guest.watch_events().is_empty());
    guest.end(tx, true).expect("no conflict");
    assert_eq!(guest.watch_events(), [("data/k".to_owned(), "t".to_owned())]);
}

#[test]
fn quotas() {
    let quotas = Quotas { nodes: 40, watches: 3, transactions: 2, ..Quotas::default() };
    let mut guest = Guest::new(Config { quotas, ..Config::default() });
    let refused = (0..60).find_map(|i| guest.write_store(0, &format!("data/n{i}"), "").err());
    assert_eq!(refused.as_deref(), Some("ENOSPC"));
    let refused = (0..6).find_map(|i| guest.store_call(MessageType::Watch, 0, &["data", &format!("t{i}")]).err());
    assert_eq!(refused.as_deref(), Some("E2BIG"));
    guest.begin().expect("one");
    guest.begin().expect("two");
    assert_eq!(guest.begin().unwrap_err(), "ENOSPC");
    assert_eq!(guest.write_store(0, "data", &"x".repeat(2049)).unwrap_err(), "ENOSPC");
}

#[test]
fn large_directories_come_in_parts() {
    let mut guest = new();
    for i in 0..600 {
        guest.xen.store().write(&format!("/local/domain/1/data/node-{i:05}"), "");
    }
    assert_eq!(guest.store_call(MessageType::Directory, 0, &["data"]).unwrap_err(), "E2BIG");
    let mut list = Vec::new();
    let mut generation = None;
    loop {
        let offset = list.len().to_string();
        let part = guest.store_call(MessageType::DirectoryPart, 0, &["data", &offset]).expect("a part");
        assert!(part.len() <= 4096);
        let at = part.iter().position(|b| *b == 0).expect("a generation") + 1;
        assert_eq!(generation.get_or_insert(part[..at].to_vec()), &part[..at]);
        list.extend_from_slice(&part[at..]);
        if list.ends_with(b"\0\0") {
            break;
        }
    }
    let names: Vec<_> = list.split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    assert_eq!(names.len(), 600);
    assert_eq!(names[599], b"node-00599");
}

#[test]
fn a_broken_client_is_cut_off_until_it_reconnects() {
    let mut guest = new();
    guest.store_call(MessageType::Watch, 0, &["data", "t"]).expect("watched");
    let page = guest.view(layout::STORE_GFN, 1);
    let cons = page.load_u32(2048);
    page.store_u32(2052, cons.wrapping_add(5000));
    let port = guest.hvm_param(2) as u32;
    guest.send(port);
    guest.xen.step(0);
    assert_eq!(page.load_u32(2072), 2, "bad index");
    assert_eq!(guest.xen.guest_errors()[0].kind, GuestErrorKind::StoreProtocol);
    page.store_u32(2068, 1);
    guest.send(port);
    guest.xen.step(0);
    assert_eq!((page.load_u32(2068), page.load_u32(2052), page.load_u32(2072)), (0, 0, 0));
    guest.start();
    assert_eq!(guest.read("domid").as_deref(), Ok("1"));
    assert!(guest.xen.store().guest_watches().is_empty());
}

#[test]
fn the_toolstack_can_grant_a_node_to_the_guest() {
    let mut guest = new();
    guest.xen.store().set_perms("/tool/shared", &[Perm::none(0), Perm { domid: 1, read: true, write: true }]);
    guest.write_store(0, "/tool/shared/x", "1").expect("allowed");
    assert_eq!(guest.xen.store().read_str("/tool/shared/x").as_deref(), Some("1"));
    assert!(guest.xen.store().dump().contains("/tool/shared/x = \"1\""));
}

#[test]
fn a_busy_toolstack_wins_some_commits() {
    let mut guest = Guest::new(Config { store_conflicts_permille: 500, ..Config::default() });
    let mut lost = 0;
    for i in 0..40 {
        let tx = guest.begin().expect("started");
        guest.write_store(tx, "data/k", &i.to_string()).expect("written");
        match guest.end(tx, true) {
            Ok(()) => assert_eq!(guest.read("data/k"), Ok(i.to_string())),
            Err(error) => {
                assert_eq!(error, "EAGAIN");
                lost += 1;
            }
        }
    }
    assert!((5..35).contains(&lost));
    assert_eq!(guest.xen.counters().store_conflicts, lost);
}

#[test]
fn no_bytes_take_xenstored_down() {
    for seed in 1..200u64 {
        let mut guest = Guest::new(Config { seed, ..Config::default() });
        let page = guest.view(layout::STORE_GFN, 1);
        let port = guest.hvm_param(2) as u32;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut prod = 0u32;
        for _ in 0..50 {
            let payload: Vec<u8> = (0..random() % 40).map(|_| b"data/k\0T@-1n\xff"[(random() % 13) as usize]).collect();
            let kind = (random() % 26) as u32;
            let mut bytes: Vec<u8> = [kind, 1, (random() % 4) as u32, payload.len() as u32]
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .chain(payload)
                .collect();
            if random() % 64 == 0 {
                bytes[12..16].copy_from_slice(&(random() as u32).to_le_bytes());
            }
            for byte in bytes {
                page.write((prod % 1024) as usize, &[byte]);
                prod = prod.wrapping_add(1);
            }
            page.store_u32(2052, prod);
            guest.send(port);
            guest.settle();
            // Whatever was answered counts as read.
            page.store_u32(2056, page.load_u32(2060));
            guest.send(port);
            guest.settle();
        }
        assert_eq!(guest.xen.store().read_str("/local/domain/1/domid").as_deref(), Some("1"));
    }
}
