//! `serial='pty'`: what the drivers say reaches dom0.

use crate::{log, world};
use alloc::string::String;
use suites::case::{Case, Ctx, Failure, Setup};
use suites::cases::load::{Load, Shape};
use suites::check;
use suites::guest::Disk;

use super::case;

/// The cases.
pub const CASES: &[Case] = &[case(
    "lab/serial",
    "Every line of the drivers arrives on the pty of dom0, in order",
    |_| Setup::one_disk(4),
    arrives,
)];

/// Whether a driver said it.
fn of_a_driver(line: &str) -> bool {
    ["xenpci: ", "xenvbd: ", "xenhide: ", "xenstub: ", "xennet: "].iter().any(|name| line.starts_with(name))
}

fn arrives(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 20)?;
    load.verify_all(ctx)?;
    let said = log::lines();
    let mut waited = 0;
    loop {
        let text = String::from_utf8_lossy(&world::serial()).into_owned();
        let mut arrived = text.lines();
        let lost = said.iter().filter(|line| of_a_driver(line)).find(|line| !arrived.any(|other| other == **line));
        let Some(lost) = lost else { break };
        check!(waited < 10_000, "this line is not on the pty, or not in its place: {lost}");
        ctx.world.sleep_ms(100);
        waited += 100;
    }
    for driver in ["xenpci: ", "xenhide: "] {
        let count = said.iter().filter(|line| line.starts_with(driver)).count();
        check!(count > 0, "no line of `{driver}` was said");
        ctx.count("lines", count as u64);
    }
    ctx.want("lines", 3);
    Ok(())
}
