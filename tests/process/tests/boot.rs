//! The built drivers are installed from their INF and start; a disk that is attached appears and moves data.

mod common;

use common::{in_child, run};
use process::{BenchConfig, Ctx, Outcome};

fn boot(body: impl FnOnce(&Ctx)) {
    let Some(dist) = common::dist() else { return };
    let verbose = std::env::var_os("PROCESS_TEST_VERBOSE").is_some();
    let outcome = run(BenchConfig { drivers: dist, verbose, ..BenchConfig::default() }, |ctx| {
        let packages = ctx.packages().expect("the folder is readable");
        nt::pnp::boot::boot(nt::pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
        body(ctx);
        println!("trace {:#x}, {:?}", ctx.trace_hash(), nt::verifier::figures());
    });
    if let Outcome::Stopped(stop) = outcome {
        panic!("{}", stop.report);
    }
}

#[test]
fn the_bus_driver_starts() {
    in_child("the_bus_driver_starts", || {
        boot(|ctx| {
            let node = nt::pnp::tree().into_iter().find(|node| node.service.as_deref() == Some("xenpci"));
            assert!(node.is_some_and(|node| node.state == nt::pnp::State::Started), "{:#?}", ctx.log());
        });
    });
}

#[test]
fn a_disk_appears_and_moves_data() {
    in_child("a_disk_appears_and_moves_data", || {
        boot(|ctx| {
            let backing = xen_model::MemoryBacking::new(1 << 16);
            ctx.xen(|xen| xen.attach_disk(xen_model::DiskSpec::new(51776, backing)));
            ctx.sleep_ms(2000);
            nt::pnp::settle();
            let disks = nt::disk::disks();
            assert_eq!(disks.len(), 1, "{:#?}", ctx.log());
            let data: Vec<u8> = (0..65536_u32).map(|n| ((n * 7) >> 3) as u8).collect();
            println!("{:?}", disks[0].write(4096, &data));
            let mut back = vec![0; data.len()];
            println!("{:?}", disks[0].read(4096, &mut back));
            assert!(back == data, "what was read is not what was written");
        });
    });
}
