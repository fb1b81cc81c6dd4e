//! Accesses to shared pages: each is a preemption point while they are watched, stores are delayed, and nothing that a
//! request promises changes.

mod common;

use common::{in_child, run};
use process::{BenchConfig, Outcome, Touches, Watch};

fn touches(watch: Watch) -> Option<Touches> {
    let drivers = common::dist()?;
    let outcome = run(BenchConfig { drivers, watch, ..BenchConfig::default() }, |ctx| {
        ctx.xen(|xen| xen.attach_disk(xen_model::DiskSpec::new(51776, xen_model::MemoryBacking::new(1 << 12))));
        let packages = ctx.packages().expect("the folder is readable");
        nt::pnp::boot::boot(nt::pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
        let disk = (0..500).find_map(|_| {
            ctx.sleep_ms(20);
            nt::disk::disks().into_iter().next()
        });
        let disk = disk.expect("a disk");
        for round in 0..20_u8 {
            assert!(disk.write(4096 * u64::from(round), &[round; 16384]).good);
            let mut back = [0; 16384];
            assert!(disk.read(4096 * u64::from(round), &mut back).good);
            assert!(back == [round; 16384], "round {round}");
        }
        ctx.touches()
    });
    match outcome {
        Outcome::Done(touches) => Some(touches),
        Outcome::Stopped(stop) => panic!("{}", stop.report),
    }
}

#[test]
fn watched_accesses_are_preemption_points() {
    in_child("watched_accesses_are_preemption_points", || {
        if let Some(touches) = touches(Watch::Always) {
            // A request alone is 14 words of a slot, and 40 requests were made.
            assert!(touches.accesses > 40 * 14, "{touches:?}");
            assert!((1..touches.accesses).contains(&touches.delayed), "{touches:?}");
        }
    });
}

#[test]
fn nothing_is_watched_unasked() {
    in_child("nothing_is_watched_unasked", || {
        if let Some(touches) = touches(Watch::Never) {
            assert_eq!(touches, Touches::default());
        }
    });
}
