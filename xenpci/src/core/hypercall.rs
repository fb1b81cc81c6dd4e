//! Typed hypercalls over [`Hypercall`], the one function that the Windows half supplies.
//!
//! Structures are passed by address: a hypercall's pointers are guest virtual addresses, and everything passed here
//! lies on the caller's (never paged out) kernel stack. All of these may be called at any IRQL unless they say so.
//!
//! Several of them change what memory means to the machine. They are safe functions, because they touch no Rust
//! object, but each says what its caller must own.

use core::ptr::from_mut;

use xen_abi::errno::Errno;
use xen_abi::event::{self, Port};
use xen_abi::hypercall as number;
use xen_abi::memory::{self, AddToPhysmap, RemoveFromPhysmap, Reservation};
use xen_abi::{DOMID_SELF, DomId, grant, hvm, sched, vcpu};

/// The instruction. Implemented once for `vmcall` and once for `vmmcall`, and by tests.
pub trait Hypercall {
    /// Makes hypercall `op`. The memory that the arguments point at may be read and written meanwhile. Any IRQL.
    fn call(&self, op: u32, args: [u64; 5]) -> i64;
}

impl<H: Hypercall + ?Sized> Hypercall for &H {
    fn call(&self, op: u32, args: [u64; 5]) -> i64 {
        (**self).call(op, args)
    }
}

/// Times that [`insist`] asks.
const TRIES: u32 = 8;

/// Makes a hypercall again, a few times at once, where Xen says that it is short of something at the moment. For calls that
/// may be repeated after an error and that nothing can be done without: a lost event, or a half-made resume.
///
/// # Errors
/// Any other error of the call, or that of the last time.
pub fn insist<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 1..TRIES {
        match call() {
            Err(Errno::ENOMEM | Errno::EAGAIN | Errno::EBUSY) => core::hint::spin_loop(),
            outcome => return outcome,
        }
    }
    call()
}

/// A hypercall with a command and a structure.
fn command<H: Hypercall + ?Sized, T>(xen: &H, op: u32, command: u32, arg: &mut T) -> Result<u64, Errno> {
    let address = from_mut(arg).expose_provenance() as u64;
    Errno::check(xen.call(op, [u64::from(command), address, 0, 0, 0]))
}

/// Value of an HVM parameter (`xen_abi::hvm::PARAM_*`).
///
/// # Errors
/// Xen's error.
pub fn get_param<H: Hypercall + ?Sized>(xen: &H, index: u32) -> Result<u64, Errno> {
    let mut param = hvm::Param { domid: DOMID_SELF, pad: 0, index, value: 0 };
    command(xen, number::HVM_OP, hvm::GET_PARAM, &mut param)?;
    Ok(param.value)
}

/// Sets an HVM parameter.
///
/// # Errors
/// Xen's error.
pub fn set_param<H: Hypercall + ?Sized>(xen: &H, index: u32, value: u64) -> Result<(), Errno> {
    let mut param = hvm::Param { domid: DOMID_SELF, pad: 0, index, value };
    command(xen, number::HVM_OP, hvm::SET_PARAM, &mut param).map(drop)
}

/// Has the upcalls of virtual CPU `vcpu` come as that vector. 0 goes back to `HVM_PARAM_CALLBACK_IRQ`.
///
/// # Errors
/// Xen's error; `ENOSYS` or `EINVAL` where Xen has no such vectors.
pub fn set_upcall_vector<H: Hypercall + ?Sized>(xen: &H, vcpu: u32, vector: u8) -> Result<(), Errno> {
    let mut arg = hvm::UpcallVector { vcpu, vector, pad: [0; 3] };
    command(xen, number::HVM_OP, hvm::SET_EVTCHN_UPCALL_VECTOR, &mut arg).map(drop)
}

/// Maps frame `idx` of a space (`xen_abi::memory::SPACE_*`) at guest frame `gfn`.
///
/// The caller owns `gfn`; nothing that Windows uses may be there.
///
/// # Errors
/// Xen's error.
pub fn add_to_physmap<H: Hypercall + ?Sized>(xen: &H, space: u32, idx: u64, gfn: u64) -> Result<(), Errno> {
    let mut arg = AddToPhysmap { domid: DOMID_SELF, size: 0, space, idx, gpfn: gfn };
    command(xen, number::MEMORY_OP, memory::ADD_TO_PHYSMAP, &mut arg).map(drop)
}

/// Takes whatever is at guest frame `gfn` away from there.
///
/// The caller owns `gfn` and touches it no more until something else is there.
///
/// # Errors
/// Xen's error.
pub fn remove_from_physmap<H: Hypercall + ?Sized>(xen: &H, gfn: u64) -> Result<(), Errno> {
    let mut arg = RemoveFromPhysmap { domid: DOMID_SELF, pad: [0; 3], gpfn: gfn };
    command(xen, number::MEMORY_OP, memory::REMOVE_FROM_PHYSMAP, &mut arg).map(drop)
}

fn reservation<H: Hypercall + ?Sized>(xen: &H, what: u32, gfns: &mut [u64]) -> Result<usize, Errno> {
    let mut arg = Reservation {
        extent_start: gfns.as_mut_ptr().expose_provenance() as u64,
        extent_count: gfns.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: DOMID_SELF,
        pad: [0; 3],
    };
    // Xen says how many it did; never more than it was asked for.
    Ok(command(xen, number::MEMORY_OP, what, &mut arg)?.min(gfns.len() as u64) as usize)
}

/// Gives the memory behind guest frames back to Xen; how many of them, counted from the first.
///
/// The caller owns the frames and touches them no more.
///
/// # Errors
/// Xen's error: none was given back.
pub fn decrease_reservation<H: Hypercall + ?Sized>(xen: &H, gfns: &mut [u64]) -> Result<usize, Errno> {
    reservation(xen, memory::DECREASE_RESERVATION, gfns)
}

/// Gets memory from Xen for guest frames that have none; for how many of them, counted from the first.
///
/// The caller owns the frames.
///
/// # Errors
/// Xen's error: none was populated.
pub fn populate_physmap<H: Hypercall + ?Sized>(xen: &H, gfns: &mut [u64]) -> Result<usize, Errno> {
    reservation(xen, memory::POPULATE_PHYSMAP, gfns)
}

/// Has Xen find the `vcpu_info` of `vcpu` at `offset` of guest frame `gfn`, for as long as the domain lives.
///
/// # Errors
/// Xen's error; `EINVAL` if it has one registered already.
pub fn register_vcpu_info<H: Hypercall + ?Sized>(xen: &H, vcpu: u32, gfn: u64, offset: u32) -> Result<(), Errno> {
    let mut arg = vcpu::RegisterVcpuInfo { gfn, offset, reserved: 0 };
    let address = from_mut(&mut arg).expose_provenance() as u64;
    let args = [u64::from(vcpu::REGISTER_VCPU_INFO), u64::from(vcpu), address, 0, 0];
    Errno::check(xen.call(number::VCPU_OP, args)).map(drop)
}

/// Frames that the grant table has now, and the most that it may have.
///
/// # Errors
/// Xen's error; a status of the table is [`Errno::EINVAL`].
pub fn grant_query_size<H: Hypercall + ?Sized>(xen: &H) -> Result<(u32, u32), Errno> {
    let mut arg = grant::QuerySize { dom: DOMID_SELF, ..Default::default() };
    let address = from_mut(&mut arg).expose_provenance() as u64;
    let args = [u64::from(grant::QUERY_SIZE), address, 1, 0, 0];
    Errno::check(xen.call(number::GRANT_TABLE_OP, args))?;
    if arg.status == grant::STATUS_OKAY { Ok((arg.nr_frames, arg.max_nr_frames)) } else { Err(Errno::EINVAL) }
}

/// Makes the grant table speak version 1. Only possible while no entry is in use.
///
/// # Errors
/// Xen's error; `ENOSYS` where Xen knows no other version, which is as good.
pub fn grant_set_version_1<H: Hypercall + ?Sized>(xen: &H) -> Result<(), Errno> {
    let mut arg = grant::SetVersion { version: 1 };
    let address = from_mut(&mut arg).expose_provenance() as u64;
    let args = [u64::from(grant::SET_VERSION), address, 1, 0, 0];
    Errno::check(xen.call(number::GRANT_TABLE_OP, args)).map(drop)
}

/// Makes an event channel that domain `remote` may bind to.
///
/// # Errors
/// Xen's error; `ENOSPC` if none is left.
pub fn event_alloc_unbound<H: Hypercall + ?Sized>(xen: &H, remote: DomId) -> Result<Port, Errno> {
    let mut arg = event::AllocUnbound { dom: DOMID_SELF, remote_dom: remote, port: 0 };
    command(xen, number::EVENT_CHANNEL_OP, event::ALLOC_UNBOUND, &mut arg)?;
    Ok(arg.port)
}

/// Closes an event channel.
///
/// # Errors
/// Xen's error.
pub fn event_close<H: Hypercall + ?Sized>(xen: &H, port: Port) -> Result<(), Errno> {
    command(xen, number::EVENT_CHANNEL_OP, event::CLOSE, &mut event::PortArg { port }).map(drop)
}

/// Sends an event over a channel; insists on it, since a peer that misses one waits for ever.
///
/// # Errors
/// Xen's error.
pub fn event_send<H: Hypercall + ?Sized>(xen: &H, port: Port) -> Result<(), Errno> {
    insist(|| command(xen, number::EVENT_CHANNEL_OP, event::SEND, &mut event::PortArg { port })).map(drop)
}

/// Unmasks a channel and has an upcall come if it is pending; insists on it, since nothing else would unmask it.
///
/// # Errors
/// Xen's error.
pub fn event_unmask<H: Hypercall + ?Sized>(xen: &H, port: Port) -> Result<(), Errno> {
    insist(|| command(xen, number::EVENT_CHANNEL_OP, event::UNMASK, &mut event::PortArg { port })).map(drop)
}

/// State of a channel of this domain.
///
/// # Errors
/// Xen's error; `EINVAL` for a port that cannot exist.
pub fn event_status<H: Hypercall + ?Sized>(xen: &H, port: Port) -> Result<event::Status, Errno> {
    let mut arg = event::Status { dom: DOMID_SELF, port, ..Default::default() };
    command(xen, number::EVENT_CHANNEL_OP, event::STATUS, &mut arg)?;
    Ok(arg)
}

/// Moves a channel's notifications to `vcpu`.
///
/// # Errors
/// Xen's error.
pub fn event_bind_vcpu<H: Hypercall + ?Sized>(xen: &H, port: Port, vcpu: u32) -> Result<(), Errno> {
    command(xen, number::EVENT_CHANNEL_OP, event::BIND_VCPU, &mut event::BindVcpu { port, vcpu }).map(drop)
}

/// Binds to a channel that domain `remote` made for this one; the port of our end.
///
/// # Errors
/// Xen's error.
pub fn event_bind_interdomain<H: Hypercall + ?Sized>(xen: &H, remote: DomId, port: Port) -> Result<Port, Errno> {
    let mut arg = event::BindInterdomain { remote_dom: remote, pad: 0, remote_port: port, local_port: 0 };
    command(xen, number::EVENT_CHANNEL_OP, event::BIND_INTERDOMAIN, &mut arg)?;
    Ok(arg.local_port)
}

/// Closes every event channel of this domain and goes back to the 2-level layout: the way to begin where an earlier
/// driver has left channels and control blocks behind.
///
/// The toolstack's two channels, xenstore's and the console's, are closed too. Their other ends are looked up before
/// and bound again after, and the parameters that name our ports are set anew. IRQL = PASSIVE_LEVEL, before any channel
/// is open.
///
/// # Errors
/// Xen's error. After an error of the reset itself nothing has changed; otherwise the channel in question is lost.
pub fn event_reset<H: Hypercall + ?Sized>(xen: &H) -> Result<(), Errno> {
    // Xen is short of something, and for good: then nothing is reset, since what is closed could not be bound again.
    let short = |error: &Errno| matches!(*error, Errno::ENOMEM | Errno::EAGAIN | Errno::EBUSY);
    let mut peers = [None; 2];
    let params = [hvm::PARAM_STORE_EVTCHN, hvm::PARAM_CONSOLE_EVTCHN];
    for (param, peer) in params.into_iter().zip(&mut peers) {
        let port = match insist(|| get_param(xen, param)) {
            Err(error) if short(&error) => return Err(error),
            port => port.ok().and_then(|port| Port::try_from(port).ok()).filter(|port| *port != 0),
        };
        let Some(port) = port else { continue };
        match insist(|| event_status(xen, port)) {
            Err(error) if short(&error) => return Err(error),
            Ok(status) if status.status == event::STATUS_INTERDOMAIN => {
                *peer = Some((status.detail as DomId, status.remote_port));
            }
            _ => {}
        }
    }
    insist(|| command(xen, number::EVENT_CHANNEL_OP, event::RESET, &mut event::Reset { dom: DOMID_SELF }))?;
    for (param, peer) in params.into_iter().zip(peers) {
        if let Some((domid, port)) = peer {
            let local = insist(|| event_bind_interdomain(xen, domid, port))?;
            insist(|| set_param(xen, param, u64::from(local)))?;
        }
    }
    Ok(())
}

/// Gives `vcpu` a FIFO control block at offset 0 of guest frame `gfn`. The first call changes the layout.
///
/// # Errors
/// Xen's error; `ENOSYS` where there is no FIFO layout, `EINVAL` if the CPU has a control block already.
pub fn event_init_control<H: Hypercall + ?Sized>(xen: &H, gfn: u64, vcpu: u32) -> Result<(), Errno> {
    let mut arg = event::InitControl { control_gfn: gfn, offset: 0, vcpu, link_bits: 0, pad: [0; 7] };
    command(xen, number::EVENT_CHANNEL_OP, event::INIT_CONTROL, &mut arg).map(drop)
}

/// Adds guest frame `gfn` as the next page of FIFO event words.
///
/// # Errors
/// Xen's error.
pub fn event_expand_array<H: Hypercall + ?Sized>(xen: &H, gfn: u64) -> Result<(), Errno> {
    let mut arg = event::ExpandArray { array_gfn: gfn };
    command(xen, number::EVENT_CHANNEL_OP, event::EXPAND_ARRAY, &mut arg).map(drop)
}

/// How a suspend came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// In a new domain: shared info, event channels and grants are void.
    NewDomain,
    /// It was cancelled: nothing happened, the backends still stand.
    Cancelled,
}

/// Suspends the domain. Every CPU but this one is captured, interrupts are off. IRQL = HIGH_LEVEL.
///
/// # Errors
/// Xen's error: nothing happened.
pub fn suspend<H: Hypercall + ?Sized>(xen: &H) -> Result<Resumed, Errno> {
    let mut arg = sched::Shutdown { reason: sched::SUSPEND };
    match command(xen, number::SCHED_OP, sched::SHUTDOWN, &mut arg)? {
        0 => Ok(Resumed::NewDomain),
        _ => Ok(Resumed::Cancelled),
    }
}

/// Ends the domain (`xen_abi::sched::POWEROFF`, `REBOOT`, `CRASH`). Returns only if Xen refuses.
///
/// # Errors
/// Xen's error.
pub fn shutdown<H: Hypercall + ?Sized>(xen: &H, reason: u32) -> Result<(), Errno> {
    command(xen, number::SCHED_OP, sched::SHUTDOWN, &mut sched::Shutdown { reason }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ptr::with_exposed_provenance_mut;

    use super::*;

    /// Answers hypercalls from a function that sees number, command and the address of the structure.
    struct Fake<F: Fn(u32, u64, u64) -> i64> {
        answer: F,
        log: RefCell<Vec<(u32, u64)>>,
    }

    fn fake<F: Fn(u32, u64, u64) -> i64>(answer: F) -> Fake<F> {
        Fake { answer, log: RefCell::default() }
    }

    impl<F: Fn(u32, u64, u64) -> i64> Hypercall for Fake<F> {
        fn call(&self, op: u32, args: [u64; 5]) -> i64 {
            self.log.borrow_mut().push((op, args[0]));
            (self.answer)(op, args[0], args[1])
        }
    }

    /// Changes the structure that a wrapper has passed.
    fn change<T>(address: u64, how: impl FnOnce(&mut T)) {
        // SAFETY: the wrapper under test passes the exposed address of its own `T` and does not touch it meanwhile.
        how(unsafe { &mut *with_exposed_provenance_mut::<T>(address as usize) });
    }

    #[test]
    fn errors_are_named() {
        let xen = fake(|_, _, _| -38);
        assert_eq!(event_send(&xen, 3), Err(Errno::ENOSYS));
        assert_eq!(xen.log.take(), [(32, 4)]);
        assert_eq!(suspend(&fake(|_, _, _| -1_000_000)), Err(Errno::EIO));
        assert_eq!(suspend(&fake(|_, _, _| 0)), Ok(Resumed::NewDomain));
        assert_eq!(suspend(&fake(|_, _, _| 1)), Ok(Resumed::Cancelled));
    }

    #[test]
    fn results_come_back_through_the_structure() {
        let xen = fake(|op, command, address| {
            match (op, command) {
                (number::HVM_OP, 1) => change(address, |param: &mut hvm::Param| {
                    assert_eq!((param.domid, param.index), (DOMID_SELF, hvm::PARAM_STORE_PFN));
                    param.value = 0xFEFFC;
                }),
                (number::EVENT_CHANNEL_OP, 6) => change(address, |arg: &mut event::AllocUnbound| {
                    assert_eq!((arg.dom, arg.remote_dom), (DOMID_SELF, 4));
                    arg.port = 12;
                }),
                (number::GRANT_TABLE_OP, 6) => change(address, |arg: &mut grant::QuerySize| {
                    (arg.nr_frames, arg.max_nr_frames) = (4, 64);
                }),
                other => panic!("{other:?}"),
            }
            0
        });
        assert_eq!(get_param(&xen, hvm::PARAM_STORE_PFN), Ok(0xFEFFC));
        assert_eq!(event_alloc_unbound(&xen, 4), Ok(12));
        assert_eq!(grant_query_size(&xen), Ok((4, 64)));
    }

    #[test]
    fn a_passing_shortage_is_waited_out_and_other_errors_are_not() {
        let calls = RefCell::new(0);
        let count = || *calls.borrow_mut() += 1;
        let mut left = 3;
        let outcome = insist(|| {
            count();
            left -= 1;
            if left == 0 { Ok(7) } else { Err(Errno::ENOMEM) }
        });
        assert_eq!((outcome, calls.take()), (Ok(7), 3));
        let refused = insist(|| {
            count();
            Err::<(), _>(Errno::EINVAL)
        });
        assert_eq!((refused, calls.take()), (Err(Errno::EINVAL), 1));
        let lasting = insist(|| {
            count();
            Err::<(), _>(Errno::EBUSY)
        });
        assert_eq!((lasting, calls.take()), (Err(Errno::EBUSY), TRIES));
    }

    #[test]
    fn a_reservation_never_claims_more_than_was_asked_for() {
        let xen = fake(|_, _, address| {
            change(address, |arg: &mut Reservation| {
                change(arg.extent_start, |gfn: &mut u64| assert_eq!(*gfn, 0x100));
                assert_eq!((arg.extent_count, arg.extent_order), (2, 0));
            });
            7
        });
        assert_eq!(decrease_reservation(&xen, &mut [0x100, 0x101]), Ok(2));
        assert_eq!(populate_physmap(&xen, &mut [0x100, 0x101]), Ok(2));
    }

    #[test]
    fn a_reset_keeps_the_toolstacks_channels() {
        let store = RefCell::new(1_u64);
        let xen = fake(|op, command, address| {
            match (op, command as u32) {
                (number::HVM_OP, hvm::GET_PARAM) => change(address, |param: &mut hvm::Param| {
                    param.value = if param.index == hvm::PARAM_STORE_EVTCHN { *store.borrow() } else { 0 };
                }),
                (number::HVM_OP, hvm::SET_PARAM) => change(address, |param: &mut hvm::Param| {
                    assert_eq!(param.index, hvm::PARAM_STORE_EVTCHN);
                    *store.borrow_mut() = param.value;
                }),
                (number::EVENT_CHANNEL_OP, event::STATUS) => change(address, |arg: &mut event::Status| {
                    assert_eq!(arg.port, 1);
                    (arg.status, arg.detail, arg.remote_port) = (event::STATUS_INTERDOMAIN, 0xABCD_0000, 44);
                }),
                (number::EVENT_CHANNEL_OP, event::RESET) => {}
                (number::EVENT_CHANNEL_OP, event::BIND_INTERDOMAIN) => {
                    change(address, |arg: &mut event::BindInterdomain| {
                        assert_eq!((arg.remote_dom, arg.remote_port), (0, 44));
                        arg.local_port = 9;
                    });
                }
                other => panic!("{other:?}"),
            }
            0
        });
        event_reset(&xen).unwrap();
        assert_eq!(*store.borrow(), 9);
    }
}
