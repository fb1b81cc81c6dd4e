//! Frontends that Windows has no use for: the null driver takes them.

use alloc::format;
use alloc::vec::Vec;

use nt::pnp::{self, State};

use crate::case::{Case, Ctx, Failure, Setup};
use crate::check;

/// The cases.
pub const CASES: &[Case] = &[Case {
    name: "stub/frontends",
    summary: "vfb, vkbd and console start with the null driver, come, go and come again",
    quick: true,
    timeout_s: 60,
    setup: |_| Setup::default(),
    run: frontends,
}];

const CLASSES: [&str; 3] = ["vfb", "vkbd", "console"];
/// Not those that the toolstack makes by itself.
const ID: u32 = 7;

/// The states of the nodes, as far as there are any.
fn nodes() -> Vec<State> {
    let instance = |class: &str| format!(r"XENPV\{}&REV_01\{ID}", class.to_ascii_uppercase());
    let wanted: Vec<_> = CLASSES.map(instance).into();
    let all = pnp::tree().into_iter().filter(|node| wanted.contains(&node.instance));
    all.filter(|node| node.service.as_deref() == Some("xenstub")).map(|node| node.state).collect()
}

fn wait(ctx: &Ctx<'_>, what: &str, done: impl Fn(&[State]) -> bool) -> Result<(), Failure> {
    let reached = (0..3_000).any(|_| {
        let there = done(&nodes());
        if !there {
            ctx.world.sleep_ms(10);
        }
        there
    });
    check!(reached, "{what}: half a minute later the nodes are {:?}", nodes());
    Ok(())
}

fn frontends(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    const ROUNDS: u64 = 10;
    for _ in 0..ROUNDS {
        for class in CLASSES {
            let front = format!("{}/device/{class}/{ID}", ctx.world.home());
            ctx.world.store_write(&format!("{front}/backend"), &format!("/local/domain/0/backend/{class}/1/{ID}"));
            ctx.world.store_write(&format!("{front}/backend-id"), "0");
            ctx.world.store_write(&format!("{front}/state"), "1");
        }
        wait(ctx, "arrival", |nodes| {
            nodes.len() == CLASSES.len() && nodes.iter().all(|state| *state == State::Started)
        })?;
        for class in CLASSES {
            ctx.world.store_remove(&format!("{}/device/{class}/{ID}", ctx.world.home()));
        }
        wait(ctx, "departure", <[State]>::is_empty)?;
        ctx.count("rounds", 1);
    }
    ctx.want("rounds", ROUNDS);
    Ok(())
}
