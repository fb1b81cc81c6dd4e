//! Boots the bench with the packages of a folder and shows what came of each device and driver:
//! `cargo run -p process --example drivers -- DIR [SECONDS]`. Exit code 1: the machine was stopped.

use process::{Bench, BenchConfig, Outcome};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(drivers) = args.next() else {
        eprintln!("usage: drivers DIR [SECONDS]");
        return ExitCode::from(2);
    };
    let seconds = args.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let config = BenchConfig { drivers: drivers.into(), verbose: true, ..BenchConfig::default() };
    let run = Bench::new(config).and_then(|bench| {
        bench.run(|ctx| {
            let packages = ctx.packages()?;
            ctx.xen(|xen| xen.attach_disk(xen_model::DiskSpec::new(51776, xen_model::MemoryBacking::new(1 << 16))));
            nt::pnp::boot::boot(nt::pnp::boot::BootConfig { packages, ..Default::default() })
                .map_err(|error| anyhow::anyhow!("{error}"))?;
            ctx.sleep_ms(1000 * seconds);
            nt::pnp::settle();
            for node in nt::pnp::tree() {
                let indent = "  ".repeat(node.depth);
                let problem = node.problem.map(|problem| format!(", {problem:?}")).unwrap_or_default();
                println!("{indent}{}: {:?}{problem} {:?}", node.instance, node.state, node.stack);
            }
            println!("drivers: {}", nt::io::driver::loaded().join(", "));
            for disk in nt::disk::disks() {
                let info = disk.info();
                let read = disk.read(0, &mut [0; 4096]);
                println!(
                    "disk {:?}, {} bytes, read {}",
                    info.serial,
                    info.bytes(),
                    if read.good { "good" } else { "bad" }
                );
            }
            anyhow::Ok(())
        })
    });
    match run {
        Ok(Outcome::Done(Ok(()))) => ExitCode::SUCCESS,
        Ok(Outcome::Done(Err(error))) | Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Ok(Outcome::Stopped(stop)) => {
            println!("{}", stop.report);
            ExitCode::FAILURE
        }
    }
}
