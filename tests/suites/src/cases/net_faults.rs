//! Each allocation and each hypercall fails in turn on a machine with a network interface.
//!
//! A run with one failure must end in order: the adapter is there or it is not, a transfer comes through whole or fails,
//! nothing leaks, nothing crashes. The runner walks through the numbers until a run in which the failure did not come up.

use crate::case::{Case, Ctx, Failure, Fault, Setup};
use crate::cases::net_load::{download, network, upload};
use crate::check;
use crate::net_guest::Nic;

/// The cases: the seed is the number of the call that fails.
pub const CASES: &[Case] = &[
    Case {
        name: "faults/net-allocation",
        summary: "The n-th allocation of a driver fails (n = the seed), with a network interface",
        quick: false,
        timeout_s: 60,
        setup: |seed| Setup { fault: Some(Fault::Allocation(seed)), stepping: false, ..Setup::one_vif() },
        run: survive,
    },
    Case {
        name: "faults/net-hypercall",
        summary: "The n-th hypercall of a driver fails (n = the seed), with a network interface",
        quick: false,
        timeout_s: 60,
        setup: |seed| Setup { fault: Some(Fault::Hypercall(seed)), stepping: false, ..Setup::one_vif() },
        run: survive,
    },
];

/// Milliseconds in which an adapter that the toolstack takes away is gone.
const LEAVE_MS: u64 = 60_000;

fn survive(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    if let Ok(nic) = Nic::find_within(ctx, 0, 5_000) {
        if nic.wait_link(ctx, true, 5_000).is_ok() {
            if let Ok(stack) = nic.stack(&nic.config(ctx.seed)) {
                upload(ctx, &stack, nic.host_v4(), 20_000)?;
                download(ctx, &stack, nic.host_v6(), 20_000)?;
                ctx.world.suspend(false);
                ctx.world.sleep_ms(2_000);
                if nic.wait_link(ctx, true, 5_000).is_ok() {
                    upload(ctx, &stack, nic.host_v4(), 20_000)?;
                    download(ctx, &stack, nic.host_v4(), 20_000)?;
                    ctx.count("suspends survived", 1);
                }
            } else {
                ctx.count("no endpoint", 1);
            }
        } else {
            ctx.count("no link", 1);
        }
        drop(nic);
        // The device goes and its driver is unloaded, which finds what either forgot to give back.
        network(ctx)?.detach_vif(0);
        let mut waited = 0;
        while Nic::present(0) {
            check!(waited < LEAVE_MS, "{waited} ms after the detach Windows still has the adapter");
            ctx.world.sleep_ms(100);
            waited += 100;
        }
        ctx.count("adapters that left in order", 1);
    } else {
        ctx.count("no adapter", 1);
    }
    ctx.set("fault fired", u64::from(ctx.world.fault_fired()));
    Ok(())
}
