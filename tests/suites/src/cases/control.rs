//! The device interface for users: xenstore over file handles, as a program sees it.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use nt::io::security::Token;
use nt::io::user::{self, Overlapped, UserFile};
use nt::pnp::{self, State, control};
use rand::RngExt;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::load::{Load, Shape};
use crate::guest::Disk;
use crate::program::{CLASS, GENERIC_READ, GENERIC_WRITE, Program, finish, kind, link, message};
use crate::world::DiskSpec;
use crate::{check, fail};

const SYNCHRONIZE: u32 = 0x0010_0000;
const STATUS_INVALID_PARAMETER: i32 = 0xC000_000D_u32 as i32;
const STATUS_ACCESS_DENIED: i32 = 0xC000_0022_u32 as i32;
const STATUS_DEVICE_NOT_READY: i32 = 0xC000_00A3_u32 as i32;
const STATUS_QUOTA_EXCEEDED: i32 = 0xC000_0044_u32 as i32;
const STATUS_CANCELLED: i32 = 0xC000_0120_u32 as i32;
const STATUS_DEVICE_REMOVED: i32 = 0xC000_02B6_u32 as i32;
/// Messages of `control/fuzz`: as many as run in about twenty seconds.
const FUZZ: u64 = 1_000_000;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "control/requests",
        summary: "A program reads, writes, lists, watches and runs a transaction over the device interface",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: requests,
    },
    Case {
        name: "control/isolation",
        summary: "Two handles with the same ids and tokens see nothing of each other, and nothing of the driver's",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: isolation,
    },
    Case {
        name: "control/close",
        summary: "Handles closed with reads, requests, watches and transactions open: all of it ends, 60 times",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: close,
    },
    Case {
        name: "control/cancel",
        summary: "A read that waits is cancelled; the others and the handle go on",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: cancel,
    },
    Case {
        name: "control/quota",
        summary: "Watches, transactions, replies, handles and message size have limits; the driver's own requests do not suffer",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: quota,
    },
    Case {
        name: "control/access",
        summary: "SYSTEM and administrators may open the device or a name below it, nobody else, whatever for",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: access,
    },
    Case {
        name: "control/remove",
        summary: "The device goes with a handle open: not if asked; by surprise reads end, and the handle is closed later",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: remove,
    },
    Case {
        name: "control/leave",
        summary: "Between the question whether the device may go and its removal nobody opens it; called off, it opens again",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: leave,
    },
    Case {
        name: "control/suspend",
        summary: "10 suspends with watches and transactions open: watches stay, transactions end with EAGAIN",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(2),
        run: suspend,
    },
    Case {
        name: "control/event-storm",
        summary: "A watch fires thousands of times and nobody reads: bounded, and the program learns that something changed",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { stepping: false, ..Setup::one_disk(2) },
        run: event_storm,
    },
    Case {
        name: "control/fuzz",
        summary: "A million random and mutated messages on handles that come and go do no harm",
        quick: false,
        timeout_s: 300,
        setup: |_| Setup { stepping: false, shared_access: crate::case::Often::Never, ..Setup::one_disk(2) },
        run: fuzz,
    },
];

/// What a program does all day, for the cases in which a call of the driver fails: a request that is refused is tried once
/// more, since one failure passes; how many were refused.
///
/// # Errors
/// A request is refused twice, or a read does not end.
pub fn use_for_a_while(ctx: &Ctx<'_>) -> Result<u64, Failure> {
    let mut refused = 0;
    // The interface may be what could not be made.
    let Some(link) = user::interfaces(CLASS).pop() else { return Ok(0) };
    let open = || UserFile::open(&link, GENERIC_READ | GENERIC_WRITE, Token::System);
    let file = open().or_else(|_| {
        refused += 1;
        open()
    });
    let file = file.map_err(|status| format!("the device cannot be opened: {status:#x}"))?;
    for (kind, payload) in [
        (kind::WRITE, &b"data/f\0value"[..]),
        (kind::WATCH, b"data/f\0token\0"),
        (kind::TRANSACTION_START, b"\0"),
        (kind::UNWATCH, b"data/none\0token\0"),
    ] {
        let bytes = message(kind, 1, 0, payload);
        if file.write(&bytes).is_err() {
            refused += 1;
            file.write(&bytes).map_err(|status| format!("request {kind} is refused twice: {status:#x}"))?;
        }
        let read = file.read(4096).or_else(|_| file.read(4096));
        let (status, ..) = finish(ctx, read.map_err(|status| format!("a read is refused twice: {status:#x}"))?)?;
        check!(status == 0, "a read ended with {status:#x}");
    }
    Ok(refused)
}

/// Nothing that a program did has harmed the driver's own business: a disk that comes is found, used, and goes.
fn driver_is_well(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    ctx.world.attach_disk(&DiskSpec::new(1, 2));
    let mut load = Load::new(Disk::find(ctx, 1)?, Shape { largest: 16 << 10, ..Shape::default() });
    load.run(ctx, 10)?;
    load.drain(ctx)?;
    drop(load);
    ctx.world.detach_disk(1);
    let mut waited = 0;
    while !ctx.world.disk_gone(1) || Disk::present(1) {
        check!(waited < 30_000, "{waited} ms after the detach the disk is still there");
        ctx.world.sleep_ms(10);
        waited += 10;
    }
    Ok(())
}

fn requests(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut program = Program::open()?;
    let home = ctx.world.home();
    program.good(ctx, kind::WRITE, 0, b"data/a\0value of a")?;
    check!(ctx.world.store_read(&format!("{home}/data/a")).as_deref() == Some("value of a"), "dom0 does not see it");
    check!(program.good(ctx, kind::READ, 0, b"data/a\0")?.payload == b"value of a", "the value read is another");
    check!(program.good(ctx, kind::DIRECTORY, 0, b"data\0")?.payload == b"a\0", "the directory is another");
    program.bad(ctx, kind::READ, 0, b"data/none\0", "ENOENT")?;
    program.good(ctx, kind::RM, 0, b"data/a\0")?;
    check!(ctx.world.store_read(&format!("{home}/data/a")).is_none(), "it was not removed");
    // A watch fires at once, and at a change of dom0's.
    program.good(ctx, kind::WATCH, 0, b"data/w\0my token\0")?;
    check!(program.event(ctx, "my token")? == "data/w", "the first event names another path");
    ctx.world.store_write(&format!("{home}/data/w/below"), "1");
    check!(program.event(ctx, "my token")? == "data/w/below", "the event names another path");
    program.good(ctx, kind::UNWATCH, 0, b"data/w\0my token\0")?;
    program.bad(ctx, kind::UNWATCH, 0, b"data/w\0my token\0", "ENOENT")?;
    // A transaction is seen by nobody before its end.
    let transaction = program.begin(ctx)?;
    program.good(ctx, kind::WRITE, transaction, b"data/t\0inside")?;
    check!(ctx.world.store_read(&format!("{home}/data/t")).is_none(), "dom0 sees into a transaction");
    program.good(ctx, kind::TRANSACTION_END, transaction, b"T\0")?;
    check!(ctx.world.store_read(&format!("{home}/data/t")).as_deref() == Some("inside"), "nothing was committed");
    program.bad(ctx, kind::TRANSACTION_END, transaction, b"T\0", "ENOENT")?;
    // One that somebody else has got in the way of.
    let transaction = program.begin(ctx)?;
    program.good(ctx, kind::READ, transaction, b"data/t\0")?;
    ctx.world.store_write(&format!("{home}/data/t"), "outside");
    program.good(ctx, kind::WRITE, transaction, b"data/t\0lost")?;
    program.bad(ctx, kind::TRANSACTION_END, transaction, b"T\0", "EAGAIN")?;
    // The reply comes in whatever pieces it is read in.
    let id = program.send(kind::READ, 0, b"data/t\0")?;
    let mut bytes = Vec::new();
    while bytes.len() < 16 + 7 {
        let read = program.file.read(5).map_err(|status| format!("a read is refused: {status:#x}"))?;
        bytes.extend(finish(ctx, read)?.2);
    }
    check!(bytes == message(kind::READ, id, 0, b"outside"), "in pieces the reply is {bytes:?}");
    ctx.count("requests answered", 16);
    ctx.want("requests answered", 16);
    Ok(())
}

fn isolation(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (mut a, mut b) = (Program::open()?, Program::open()?);
    let home = ctx.world.home();
    for round in 0..20 {
        // Both use the same ids for different requests.
        (a.last_id, b.last_id) = (round, round);
        a.send(kind::WRITE, 0, format!("data/a\0{round} of a").as_bytes())?;
        b.send(kind::WRITE, 0, format!("data/b\0{round} of b").as_bytes())?;
        a.send(kind::READ, 0, b"data/a\0")?;
        b.send(kind::READ, 0, b"data/b\0")?;
        for (program, name) in [(&mut b, "b"), (&mut a, "a")] {
            let reply = program.next(ctx)?;
            check!(reply.payload == b"OK\0", "{name}'s write in round {round} gets {:?}", reply.text());
            let reply = program.next(ctx)?;
            check!(reply.text() == format!("{round} of {name}"), "{name} reads {:?}", reply.text());
            ctx.count("replies to the right handle", 2);
        }
    }
    // The same token on the same path is two watches.
    for program in [&mut a, &mut b] {
        program.good(ctx, kind::WATCH, 0, b"data/x\0token\0")?;
        program.event(ctx, "token")?;
    }
    b.good(ctx, kind::UNWATCH, 0, b"data/x\0token\0")?;
    ctx.world.store_write(&format!("{home}/data/x"), "1");
    check!(a.event(ctx, "token")? == "data/x", "the other handle's watch ended this one's");
    b.good(ctx, kind::READ, 0, b"data/x\0")?;
    check!(b.stream.is_empty(), "an ended watch fires");
    // A transaction is its handle's.
    let transaction = a.begin(ctx)?;
    a.good(ctx, kind::WRITE, transaction, b"data/secret\0of a")?;
    b.bad(ctx, kind::READ, transaction, b"data/secret\0", "ENOENT")?;
    b.bad(ctx, kind::TRANSACTION_END, transaction, b"F\0", "ENOENT")?;
    a.good(ctx, kind::TRANSACTION_END, transaction, b"T\0")?;
    // The driver's watches have tokens of eight digits; no program ends one, nor gets its events.
    for (path, token) in [("device", "00000400"), ("control/shutdown", "00000801"), ("device", "00000401")] {
        b.bad(ctx, kind::UNWATCH, 0, format!("{path}\0{token}\0").as_bytes(), "ENOENT")?;
        b.good(ctx, kind::WATCH, 0, format!("{path}\0{token}\0").as_bytes())?;
        b.event(ctx, token)?;
        b.good(ctx, kind::UNWATCH, 0, format!("{path}\0{token}\0").as_bytes())?;
    }
    for kind in [0, kind::RESET_WATCHES, 8, 9, 18, 19, kind::WATCH_EVENT, kind::ERROR, 24, 26, 99] {
        let refused = b.file.write(&message(kind, 1, 0, b"\0"));
        check!(refused == Err(STATUS_INVALID_PARAMETER), "request {kind} is taken: {refused:x?}");
        ctx.count("requests refused", 1);
    }
    driver_is_well(ctx)?;
    ctx.want("replies to the right handle", 80);
    ctx.want("requests refused", 11);
    Ok(())
}

fn close(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    for round in 0..60 {
        let mut program = Program::open()?;
        // More than there will be messages.
        let reads: Result<Vec<_>, _> = (0..15).map(|_| program.file.read(4096)).collect();
        let reads = reads.map_err(|status| format!("a read is refused: {status:#x}"))?;
        // More than xenstored lets a domain have, were they not ended.
        for number in 0..4 {
            program.send(kind::WATCH, 0, format!("data/{number}\0{round}\0").as_bytes())?;
        }
        for _ in 0..3 {
            program.send(kind::TRANSACTION_START, 0, b"\0")?;
        }
        if round % 2 == 0 {
            ctx.world.sleep_ms(5);
        }
        program.send(kind::READ, 0, b"name\0")?;
        drop(program);
        for read in reads {
            let (status, ..) = finish(ctx, read)?;
            check!(status == 0 || status == STATUS_CANCELLED, "a read of a closed handle ended with {status:#x}");
            ctx.count("reads cancelled", u64::from(status == STATUS_CANCELLED));
        }
        if round % 8 == 7 {
            ctx.world.sleep_ms(20);
        }
        ctx.count("handles closed", 1);
    }
    ctx.world.sleep_ms(100);
    let mut program = Program::open()?;
    for number in 0..4 {
        program.begin(ctx).map_err(|failure| format!("transaction {number} after all were closed: {failure}"))?;
    }
    drop(program);
    driver_is_well(ctx)?;
    ctx.want("handles closed", 60);
    ctx.want("reads cancelled", 200);
    Ok(())
}

fn cancel(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut program = Program::open()?;
    for _ in 0..50 {
        let start = || program.file.read(256).map_err(|status| Failure(format!("a read is refused: {status:#x}")));
        let (first, second, third) = (start()?, start()?, start()?);
        second.cancel();
        let (status, moved, _) = finish(ctx, second)?;
        check!(status == STATUS_CANCELLED && moved == 0, "a cancelled read ended with {status:#x} and {moved} bytes");
        check!(!first.is_done() && !third.is_done(), "a read ended that was not cancelled");
        program.last_id += 1;
        let asked = message(kind::READ, program.last_id, 0, b"name\0");
        program.file.write(&asked).map_err(|status| format!("a write is refused: {status:#x}"))?;
        let (status, _, bytes) = finish(ctx, first)?;
        check!(status == 0 && bytes.len() > 16, "the first read ended with {status:#x} and {} bytes", bytes.len());
        // Cancelled at the very moment when it may be served.
        program.last_id += 1;
        let asked = message(kind::READ, program.last_id, 0, b"name\0");
        program.file.write(&asked).map_err(|status| format!("a write is refused: {status:#x}"))?;
        third.cancel();
        let (status, _, bytes) = finish(ctx, third)?;
        if status == STATUS_CANCELLED {
            check!(program.next(ctx)?.id == program.last_id, "the reply was lost with the read");
            ctx.count("replies after a cancelled read", 1);
        } else {
            check!(status == 0 && bytes.len() > 16, "the third read ended with {status:#x}");
        }
        ctx.count("reads cancelled", 1);
    }
    ctx.want("reads cancelled", 50);
    Ok(())
}

fn quota(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut program = Program::open()?;
    let refused = |program: &Program, kind, payload: &[u8]| program.file.write(&message(kind, 1, 0, payload));
    for number in 0..16 {
        program.good(ctx, kind::WATCH, 0, format!("data/{number}\0t\0").as_bytes())?;
    }
    let outcome = refused(&program, kind::WATCH, b"data/more\0t\0");
    check!(outcome == Err(STATUS_QUOTA_EXCEEDED), "watch 17 of a handle: {outcome:x?}");
    for _ in 0..4 {
        program.begin(ctx)?;
    }
    let outcome = refused(&program, kind::TRANSACTION_START, b"\0");
    check!(outcome == Err(STATUS_QUOTA_EXCEEDED), "transaction 5 of a handle: {outcome:x?}");
    // Nobody reads the replies.
    let mut other = Program::open()?;
    for _ in 0..16 {
        other.send(kind::READ, 0, b"name\0")?;
    }
    let outcome = refused(&other, kind::READ, b"name\0");
    check!(outcome == Err(STATUS_QUOTA_EXCEEDED), "reply 17 of a handle: {outcome:x?}");
    ctx.world.sleep_ms(50);
    let outcome = refused(&other, kind::READ, b"name\0");
    check!(outcome == Err(STATUS_QUOTA_EXCEEDED), "replies that nobody reads do not count: {outcome:x?}");
    for _ in 0..16 {
        other.next(ctx)?;
    }
    other.good(ctx, kind::READ, 0, b"name\0")?;
    // Two more transactions for all others together.
    for _ in 0..2 {
        other.begin(ctx)?;
    }
    let outcome = refused(&other, kind::TRANSACTION_START, b"\0");
    check!(outcome == Err(STATUS_QUOTA_EXCEEDED), "transaction 7 of all handles: {outcome:x?}");
    for bytes in [vec![], vec![0; 15], message(kind::READ, 1, 0, &[b'a'; 4097]), {
        let mut longer = message(kind::READ, 1, 0, b"name\0");
        longer.push(0);
        longer
    }] {
        let outcome = other.file.write(&bytes);
        check!(outcome == Err(STATUS_INVALID_PARAMETER), "a write of {} bytes: {outcome:x?}", bytes.len());
        ctx.count("messages refused", 1);
    }
    let mut handles = Vec::new();
    let outcome = loop {
        match UserFile::open(&link()?, GENERIC_READ, Token::System) {
            Ok(file) if handles.len() < 100 => handles.push(file),
            outcome => break outcome.err(),
        }
    };
    check!(outcome == Some(STATUS_QUOTA_EXCEEDED), "after {} handles: {outcome:x?}", handles.len());
    driver_is_well(ctx)?;
    drop(handles);
    ctx.world.sleep_ms(50);
    Program::open()?.good(ctx, kind::READ, 0, b"name\0")?;
    ctx.want("messages refused", 4);
    Ok(())
}

fn access(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let link = link()?;
    let masks = [GENERIC_READ | GENERIC_WRITE, GENERIC_READ, GENERIC_WRITE, SYNCHRONIZE, 0];
    for name in [link.clone(), format!(r"{link}\name"), format!(r"{link}\")] {
        for mask in masks {
            let opened = UserFile::open(&name, mask, Token::User).map(drop);
            check!(opened == Err(STATUS_ACCESS_DENIED), "a user opens {name} for {mask:#x}: {opened:x?}");
            ctx.count("opens denied", 1);
        }
    }
    for token in [Token::System, Token::Administrator] {
        for mask in masks {
            let opened = UserFile::open(&link, mask, token).map(drop);
            check!(opened == Ok(()), "{token:?} does not open the device for {mask:#x}: {opened:x?}");
            ctx.count("opens granted", 1);
        }
        let below = UserFile::open(&format!(r"{link}\name"), GENERIC_READ, token).map(drop);
        check!(below.is_err(), "{token:?} opens a name below the device");
    }
    ctx.want("opens denied", 15);
    ctx.want("opens granted", 10);
    Ok(())
}

/// The node of the platform device.
fn bus() -> Option<pnp::NodeInfo> {
    pnp::tree().into_iter().find(|node| node.instance.starts_with(r"PCI\VEN_5853"))
}

fn remove(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let id = bus().ok_or("there is no platform device")?.id;
    let mut program = Program::open()?;
    program.good(ctx, kind::WATCH, 0, b"data/w\0t\0")?;
    program.begin(ctx)?;
    check!(control::remove(id).is_err(), "the device goes although a program has it open");
    program.good(ctx, kind::READ, 0, b"name\0")?;
    while program.take()?.is_some() {}
    // The watch's first event may still be on its way.
    ctx.world.sleep_ms(50);
    let mut reads = Vec::new();
    for _ in 0..3 {
        reads.push(program.file.read(4096).map_err(|status| format!("a read is refused: {status:#x}"))?);
    }
    control::surprise(id);
    for read in reads {
        let (status, ..) = finish(ctx, read)?;
        check!(status == STATUS_DEVICE_REMOVED || status == 0, "a read ended with {status:#x} at the removal");
        ctx.count("reads ended by the removal", u64::from(status == STATUS_DEVICE_REMOVED));
    }
    check!(user::interfaces(CLASS).is_empty(), "the interface of a device that is gone is offered");
    let outcome = program.file.write(&message(kind::READ, 1, 0, b"name\0"));
    check!(outcome == Err(STATUS_DEVICE_REMOVED), "a write after the removal: {outcome:x?}");
    let read = program.file.read(64).map_err(|status| format!("a read is refused: {status:#x}"))?;
    let (status, ..) = finish(ctx, read)?;
    check!(status == STATUS_DEVICE_REMOVED, "a read after the removal ended with {status:#x}");
    let there = bus().is_some_and(|node| node.state == State::SurpriseRemoved);
    check!(there, "the drivers are taken off a device that a program has open");
    // Closing it lets the removal go on.
    drop(program);
    pnp::settle();
    check!(
        !bus().is_some_and(|node| node.state == State::SurpriseRemoved),
        "the removal does not go on after the close"
    );
    ctx.want("reads ended by the removal", 2);
    Ok(())
}

fn leave(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let id = bus().ok_or("there is no platform device")?.id;
    let path = link()?;
    for round in 0..4 {
        let mut program = Program::open()?;
        program.good(ctx, kind::WATCH, 0, b"data/w\0t\0")?;
        while program.take()?.is_some() {}
        // The watch's first event may still be on its way.
        ctx.world.sleep_ms(50);
        let read = program.file.read(4096).map_err(|status| format!("a read is refused: {status:#x}"))?;
        check!(control::ask(id).is_err(), "round {round}: the device agrees to go although a program has it open");
        check!(bus().is_some_and(|node| node.state == State::Started), "round {round}: a refusal is not called off");
        // A program that is told of the question ends what waits, and closes.
        read.cancel();
        drop(read);
        program.good(ctx, kind::READ, 0, b"name\0")?;
        drop(program);
        control::ask(id).map_err(|status| format!("round {round}: nobody has it open, and it stays: {status:#x}"))?;
        for _ in 0..3 {
            let opened = UserFile::open(&path, GENERIC_READ | GENERIC_WRITE, Token::Administrator).err();
            check!(opened == Some(STATUS_DEVICE_NOT_READY), "round {round}: opened while it leaves: {opened:x?}");
            ctx.count("opens refused", 1);
        }
        if round < 3 {
            control::call_off(id);
            check!(bus().is_some_and(|node| node.state == State::Started), "round {round}: it is not called off");
            driver_is_well(ctx)?;
        }
    }
    control::remove_asked(id);
    check!(user::interfaces(CLASS).is_empty(), "the interface of a device that is gone is offered");
    check!(bus().is_some_and(|node| node.state == State::Removed), "the device that agreed to go is there");
    ctx.want("opens refused", 12);
    Ok(())
}

fn suspend(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut program = Program::open()?;
    program.good(ctx, kind::WATCH, 0, b"data/w\0t\0")?;
    program.event(ctx, "t")?;
    for round in 0..10_u32 {
        let cancelled = round % 3 == 2;
        let transaction = program.begin(ctx)?;
        program.good(ctx, kind::WRITE, transaction, b"data/t\0x")?;
        let before = ctx.world.xen_stats();
        ctx.world.suspend(cancelled);
        // Asked while the store may be frozen.
        program.send(kind::READ, 0, b"name\0")?;
        let mut waited = 0;
        loop {
            let now = ctx.world.xen_stats();
            if now.suspends + now.cancelled_suspends > before.suspends + before.cancelled_suspends {
                break;
            }
            check!(waited < 60_000, "round {round}: {waited} ms after the request the guest has not suspended");
            ctx.world.sleep_ms(10);
            waited += 10;
        }
        loop {
            let reply = program.next(ctx)?;
            if reply.kind != kind::WATCH_EVENT {
                check!(reply.kind == kind::READ, "round {round}: a request around the suspend gave {}", reply.text());
                break;
            }
        }
        if cancelled {
            program.good(ctx, kind::TRANSACTION_END, transaction, b"F\0")?;
        } else {
            program.bad(ctx, kind::READ, transaction, b"data/t\0", "EAGAIN")?;
            program.bad(ctx, kind::TRANSACTION_END, transaction, b"T\0", "EAGAIN")?;
            ctx.count("transactions that are void", 1);
        }
        // The watch is there in the new domain.
        let path = format!("data/w/{round}");
        ctx.world.store_write(&format!("{}/{path}", ctx.world.home()), "1");
        while program.event(ctx, "t")? != path {}
        ctx.count("watches that stayed", 1);
    }
    driver_is_well(ctx)?;
    ctx.want("transactions that are void", 7);
    ctx.want("watches that stayed", 10);
    Ok(())
}

fn event_storm(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut program = Program::open()?;
    let home = ctx.world.home();
    program.good(ctx, kind::WATCH, 0, b"data\0t\0")?;
    for number in 0..3_000 {
        ctx.world.store_write(&format!("{home}/data/{}", number % 300), "1");
        if number % 50 == 49 {
            ctx.world.sleep_ms(1);
        }
        ctx.count("changes", 1);
    }
    ctx.world.sleep_ms(50);
    // What was kept is little; the last of it says that anything below may have changed.
    program.send(kind::READ, 0, b"name\0")?;
    ctx.world.sleep_ms(50);
    let (mut events, mut last) = (0, String::new());
    while let Some(read) = program.file.read(4096).ok().filter(Overlapped::is_done) {
        program.stream.extend(read.wait().2);
        while let Some(reply) = program.take()? {
            if reply.kind == kind::WATCH_EVENT {
                events += 1;
                last = reply.text();
            }
        }
    }
    check!(events <= 8, "{events} events of one watch were kept");
    check!(last == "data\0t\0", "the last event is {last:?}, not one of the watch's own path");
    driver_is_well(ctx)?;
    ctx.want("changes", 3_000);
    Ok(())
}

/// A message that may be good or bad in any part.
fn random_message(ctx: &mut Ctx<'_>) -> Vec<u8> {
    const PATHS: [&str; 12] = [
        "data",
        "data/a",
        "data/a/b",
        "name",
        "",
        "/",
        "//",
        "data/",
        "@releaseDomain",
        "data/\u{e9}",
        "../x",
        "data/a\0b",
    ];
    let rng = &mut ctx.rng;
    let mut kind = [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 22][rng.random_range(0..13_usize)];
    let path = PATHS[rng.random_range(0..PATHS.len())];
    let mut payload = match kind {
        kind::WATCH | kind::UNWATCH => format!("{path}\0{}\0", rng.random_range(0..4_u32)).into_bytes(),
        kind::TRANSACTION_START => b"\0".to_vec(),
        kind::TRANSACTION_END => [b"T\0", b"F\0"][rng.random_range(0..2_usize)].to_vec(),
        kind::WRITE => {
            let value = vec![b'v'; rng.random_range(0..200_usize)];
            [path.as_bytes(), b"\0", &value].concat()
        }
        14 => format!("{path}\0n1\0r0\0").into_bytes(),
        22 => format!("{path}\0{}\0", rng.random_range(0..100_u32)).into_bytes(),
        10 => b"0\0".to_vec(),
        _ => format!("{path}\0").into_bytes(),
    };
    let mut transaction = if rng.random_range(0..4_u32) == 0 { rng.random_range(0..40_u32) } else { 0 };
    match rng.random_range(0..16_u32) {
        0 => kind = rng.random_range(0..40_u32),
        1 => kind = rng.random(),
        2 => transaction = rng.random(),
        3 => payload.truncate(rng.random_range(0..=payload.len())),
        4 if !payload.is_empty() => {
            let at = rng.random_range(0..payload.len());
            payload[at] = rng.random();
        }
        5 => payload = (0..rng.random_range(0..64_usize)).map(|_| rng.random()).collect(),
        6 => payload.resize(rng.random_range(0..5_000_usize), b'x'),
        _ => {}
    }
    let mut bytes = message(kind, rng.random(), transaction, &payload);
    match rng.random_range(0..24_u32) {
        0 => bytes.truncate(rng.random_range(0..=bytes.len())),
        1 => bytes[12 + rng.random_range(0..4_usize)] = rng.random(),
        2 => bytes.extend_from_slice(&[0; 7]),
        _ => {}
    }
    bytes
}

fn fuzz(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let link = link()?;
    let mut files: Vec<Option<UserFile>> = (0..4).map(|_| None).collect();
    let mut number = 0;
    while number < FUZZ {
        let place = ctx.rng.random_range(0..files.len());
        let Some(file) = &files[place] else {
            let opened = UserFile::open(&link, GENERIC_READ | GENERIC_WRITE, Token::System);
            files[place] = Some(opened.map_err(|status| format!("message {number}: no handle: {status:#x}"))?);
            ctx.count("handles", 1);
            continue;
        };
        let bytes = random_message(ctx);
        number += 1;
        ctx.count("messages", 1);
        match file.write(&bytes) {
            Ok(_) => ctx.count("messages taken", 1),
            Err(STATUS_INVALID_PARAMETER) => ctx.count("messages refused", 1),
            Err(STATUS_QUOTA_EXCEEDED) => {
                ctx.count("messages beyond the quota", 1);
                // What is there is read, and what is not is waited for.
                if let Ok(read) = file.read(16 << 10) {
                    if !read.is_done() {
                        ctx.world.sleep_ms(1);
                    }
                    drop(read);
                }
            }
            Err(status) => fail!("message {number} is answered with {status:#x}: {bytes:?}"),
        }
        if number % 1024 == 0 {
            files[place] = None;
        }
    }
    drop(files);
    ctx.world.sleep_ms(100);
    // Whatever they had open is ended: there is room for all that one handle may have.
    let mut program = Program::open()?;
    for _ in 0..4 {
        program.begin(ctx)?;
    }
    for number in 0..16 {
        program.good(ctx, kind::WATCH, 0, format!("data/{number}\0t\0").as_bytes())?;
    }
    drop(program);
    driver_is_well(ctx)?;
    ctx.want("messages", FUZZ);
    ctx.want("messages taken", FUZZ / 10);
    ctx.want("messages refused", FUZZ / 20);
    ctx.want("handles", FUZZ / 2_000);
    Ok(())
}
