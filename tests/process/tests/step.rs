//! Single steps: instructions of drivers are counted, copies are seen, and preemption between instructions changes
//! nothing that a request promises.

mod common;

use common::{in_child, run};
use nt::disk::{Buffer, Operation};
use process::{BenchConfig, Ctx, Outcome};

fn with_disk(stepping: bool, body: impl FnOnce(&Ctx, &std::sync::Arc<nt::disk::Disk>)) {
    let Some(drivers) = common::dist() else { return };
    let outcome = run(BenchConfig { drivers, stepping, ..BenchConfig::default() }, |ctx| {
        ctx.xen(|xen| xen.attach_disk(xen_model::DiskSpec::new(51776, xen_model::MemoryBacking::new(1 << 12))));
        let packages = ctx.packages().expect("the folder is readable");
        nt::pnp::boot::boot(nt::pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
        let disk = (0..500).find_map(|_| {
            ctx.sleep_ms(20);
            nt::disk::disks().into_iter().next()
        });
        body(ctx, &disk.expect("a disk"));
    });
    if let Outcome::Stopped(stop) = outcome {
        panic!("{}", stop.report);
    }
}

#[test]
fn instructions_and_copies_are_counted() {
    in_child("instructions_and_copies_are_counted", || {
        with_disk(false, |ctx, disk| {
            for (offset, copied) in [(0, 0), (4, 4096)] {
                let buffer = Buffer::of(&[0x5a; 4096], offset).expect("memory");
                ctx.watch(&[(buffer.address() as usize, 4096)]);
                ctx.count_instructions();
                let (outcome, _buffer) = disk.run(Operation::Write { offset: 8192, fua: false }, Some(buffer));
                ctx.stop_counting();
                assert!(outcome.good, "{outcome:?}");
                let steps = ctx.counted();
                assert!((500..50_000).contains(&steps.instructions()["xenvbd.sys"]), "{steps:?}");
                assert!(steps.calls.contains_key("StorPortNotification"), "{steps:?}");
                assert_eq!(steps.read + steps.written, copied, "with a buffer at {offset}");
            }
            let before = ctx.counted().instructions();
            assert!(disk.write(0, &[1; 4096]).good);
            assert_eq!(ctx.counted().instructions(), before, "nothing is counted after the end of counting");
        });
    });
}

#[test]
fn data_survives_preemption_between_instructions() {
    in_child("data_survives_preemption_between_instructions", || {
        with_disk(true, |_, disk| {
            for round in 0..20_u8 {
                assert!(disk.write(4096 * u64::from(round), &[round; 16384]).good);
                let mut back = [0; 16384];
                assert!(disk.read(4096 * u64::from(round), &mut back).good);
                assert!(back == [round; 16384], "round {round}");
            }
        });
    });
}
